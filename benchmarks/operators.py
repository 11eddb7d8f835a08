"""Tomography beside scikit-image and astra-toolbox: times in turns on the same image.

    python benchmarks/operators.py [--peer_python FILE] [--size 128] [--views 180] [--repeats 9]

FILE is a Python that has scikit-image or astra-toolbox, or both. Each side is a process that waits
until it is asked, so one alone works at a time. A row has the median and the fastest time of ours
and of each peer, and the ratio of the fastest.
"""

import argparse
import functools
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import worker

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))


def ours(size: int, views: int) -> dict[str, worker.Work]:
    """This library, in float32."""
    import jax

    from score_sde.inverse import FanBeam, fbp, parallel_beam

    beam = parallel_beam((size, size, 1), views)
    turn = tuple(np.arange(views) * 2 * np.pi / views)
    far = {"source_axis": 2.0 * size, "source_detector": 3.3 * size}
    fan = FanBeam((size, size, 1), turn, beam.bins, 1.7, **far)
    x = jax.numpy.asarray(phantom(size)[None, :, :, None], jax.numpy.float32)
    works = {}
    for name, operator in (("", beam), ("fan ", fan)):
        forward = jax.jit(operator.forward)
        y = forward(x)
        calls = {
            "forward": (forward, x),
            "adjoint": (jax.jit(operator.adjoint), y),
            "fbp": (jax.jit(functools.partial(fbp, operator)), y),
        }
        for work, (call, argument) in calls.items():
            works[name + work] = functools.partial(_wait, call, argument)
    return works


def _wait(call, argument) -> int:
    call(argument).block_until_ready()
    return 1


def scikit_image(size: int, views: int) -> dict[str, worker.Work]:
    """`radon` and `iradon`, which know neither an adjoint nor a fan."""
    from skimage.transform import iradon, radon

    x, theta = phantom(size).astype(np.float32), np.arange(views) * 180 / views
    y = radon(x, theta, circle=False)
    return {
        "forward": lambda: radon(x, theta, circle=False) is not None,
        "fbp": lambda: iradon(y, theta, circle=False) is not None,
    }


def astra_toolbox(size: int, views: int) -> dict[str, worker.Work]:
    """The projector "linear" on a CPU; for fans "line_fanflat"."""
    import astra

    x, bins = phantom(size).astype(np.float32), int(np.ceil(np.sqrt(2) * size))
    volume, works = astra.create_vol_geom(size, size), {}
    angles = np.arange(views) * np.pi / views
    away = (2.0 * size, 1.3 * size)
    geometries = {
        "": ("linear", ("parallel", 1.0, bins, angles)),
        "fan ": ("line_fanflat", ("fanflat", 1.7, bins, 2 * angles, *away)),
    }
    for name, (kind, geometry) in geometries.items():
        projector = astra.create_projector(kind, astra.create_proj_geom(*geometry), volume)
        made, y = astra.create_sino(x, projector)
        works[name + "forward"] = functools.partial(_astra, astra.create_sino, x, projector)
        back = functools.partial(_astra, astra.create_backprojection, y, projector)
        works[name + "adjoint"] = back
        if not name:
            settings = astra.astra_dict("FBP")
            image = astra.data2d.create("-vol", volume)
            settings |= {"ProjectorId": projector, "ProjectionDataId": made}
            settings["ReconstructionDataId"] = image
            works["fbp"] = functools.partial(_run, astra, astra.algorithm.create(settings))
    return works


def _astra(call, data, projector) -> int:
    import astra

    astra.data2d.delete(call(data, projector)[0])
    return 1


def _run(astra, algorithm) -> int:
    astra.algorithm.run(algorithm)
    return 1


def phantom(size: int) -> np.ndarray:
    """A picture with edges; times do not depend on it."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    return (x**2 + (1.3 * y) ** 2 < 0.2) - 0.5 * ((x - 0.1) ** 2 + y**2 < 0.02)


SIDES = {"ours": ours, "scikit-image": scikit_image, "astra": astra_toolbox}


def main() -> None:
    """Start the sides, measure in turns, and print a table and one JSON line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer_python", default=sys.executable)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--views", type=int, default=180)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--side", choices=list(SIDES), help="be one of the processes")
    options = parser.parse_args()
    if options.side:
        works = SIDES[options.side](options.size, options.views)
        worker.serve({"works": list(works)}, works)
        return
    sides = {name: _start(name, options) for name in SIDES}
    sides = {name: side for name, side in sides.items() if side}
    values: dict[str, dict[str, list[float]]] = {}
    for work in next(iter(sides.values()))[1]:
        those = {name: side for name, (side, works) in sides.items() if work in works}
        seconds: dict[str, list[float]] = {name: [] for name in those}
        for turn in range(options.repeats + 1):
            for name in list(those)[:: -1 if turn % 2 else 1]:
                found = _ask(those[name], work)["seconds"]
                if turn:  # the first turn warms up
                    seconds[name].append(found)
        values[work] = seconds
        text = ", ".join(
            f"{name} {1e3 * np.median(s):.1f} (fastest {1e3 * min(s):.1f}) ms"
            for name, s in seconds.items()
        )
        ratios = ", ".join(
            f"ours/{name} {min(seconds['ours']) / min(s):.2f}"
            for name, s in seconds.items()
            if name != "ours"
        )
        print(f"{work:<12} {text}; {ratios}", flush=True)
    print(json.dumps(values))
    for side, _ in sides.values():
        side.stdin.close()
        side.wait()


def _start(name: str, options: argparse.Namespace):
    """(process, its works), or None where the peer is not installed."""
    python = sys.executable if name == "ours" else options.peer_python
    sizes = ["--size", str(options.size), "--views", str(options.views)]
    command = [python, str(HERE / "operators.py"), "--side", name, *sizes]
    pipe = subprocess.PIPE
    side = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    line = side.stdout.readline()
    if not line:
        print(f"{name} is left out: it did not start with {python}")
        return None
    return side, json.loads(line)["works"]


def _ask(side, work: str) -> dict:
    side.stdin.write(work + "\n")
    side.stdin.flush()
    answer = json.loads(side.stdout.readline())
    time.sleep(0.01)
    if "error" in answer:
        raise SystemExit(f"error: {work} failed: {answer['error']}")
    return answer


if __name__ == "__main__":
    main()
