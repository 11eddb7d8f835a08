"""Speed of Inception's features.

    python benchmarks/inception.py [--batches 4,16,64] [--weights FILE]

Images/s of our extractor on the device at hand. Where torch-fidelity is installed, its extractor
runs in the same process, in turns. Without --weights they are random: the speed is the same. What
each number means: README.md.
"""

import argparse
import functools
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import common
import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "metrics"))
import inception_reference as reference

from score_sde.convert import write_torch
from score_sde.metrics.inception import inception

try:
    import torch
    import torch_fidelity
except ImportError:
    torch = None


def published(path: Path) -> tuple[Any, str]:
    """torch-fidelity's extractor of numpy images, and where it runs.

    That is the accelerator, if there is one.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    extractor = reference.published(["2048", "logits_unbiased"], path).to(device)

    def call(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            tensor = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(device)
            return [found.cpu().numpy() for found in extractor(tensor)]

    return (
        call,
        f"torch-fidelity {torch_fidelity.__version__}, torch {torch.__version__} on {device}",
    )


def measure(
    path: Path, batches: list[int], size: int, rounds: int
) -> tuple[list[common.Row], dict[str, Any]]:
    """Rows and values."""
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are to be measured
    extractors = {"ours": inception(path)}
    rows = [("images", f"{size} x {size} x 3, uint8, from the host and back")]
    if torch is not None:
        extractors["torch-fidelity"], text = published(path)
        rows.append(("compared with", text))
    values: dict[str, Any] = {"size": size}
    for batch in batches:
        images = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
        calls = {name: functools.partial(call, images) for name, call in extractors.items()}
        first = {name: common.timed(call)[1] for name, call in calls.items()}
        clocks = {name: common.clock(call) for name, call in calls.items()}
        seconds = common.in_turns(clocks, rounds)
        found = {name: float(batch / np.median(each)) for name, each in seconds.items()}
        values[f"batch {batch}"] = {"images_per_s": found, "first_call_s": first["ours"]}
        text = ", ".join(f"{name} {rate:,.1f} images/s" for name, rate in found.items())
        rows.append((f"batch {batch}", f"{text} (our first call: {first['ours']:.1f} s)"))
        if torch is not None:
            faster = common.ratio(seconds["torch-fidelity"], seconds["ours"])
            values[f"batch {batch}"]["times_faster"] = faster
            text = f"{faster['median']:.2f} times their speed (fastest {faster['fastest']:.2f}, "
            rows.append(("", text + f"rounds {faster['lowest']:.2f} .. {faster['highest']:.2f})"))
    memory, of = common.peak_memory()
    rows.append(("peak memory", f"{common.mebibytes(memory)} ({of})"))
    return rows, values | {"peak_bytes": memory, "peak_of": of}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--batches", default="4,16,64", help="images at a time, separated by commas"
    )
    parser.add_argument("--size", type=int, default=32, help="height and width of the images")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of measurement")
    parser.add_argument("--weights", type=Path, help="file of weights")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = args.weights or Path(folder) / "random.pth"
        if not args.weights:
            write_torch(path, reference.weights(reference.layout()))
        rows, values = measure(
            path, [int(b) for b in args.batches.split(",")], args.size, args.repeats
        )
    where = {
        "device": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
    }
    rows.append(
        (
            "measured on",
            f"{where['device']}, jax {where['jax']}, medians of {args.repeats} rounds in turns",
        )
    )
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name:<{width}}  {text}")
    print(
        json.dumps(values | where | {"python": platform.python_version(), "repeats": args.repeats})
    )


if __name__ == "__main__":
    main()
