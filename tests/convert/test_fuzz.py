"""A thousand damaged and hostile files.

Each gives an error of ours or the same content, runs nothing, and stays small.
"""

import collections
import contextlib
import json
import os
import pickle
import random
import resource
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from convert import crafted

from golden import REPOSITORY, golden
from score_sde.convert import read_file
from score_sde.errors import UserError

SEEDS = {
    "zip": "nets/score_sde_pytorch/ncsnpp_ve_discrete/checkpoint_8.pth",
    "pickle": "nets/ncsn/cond_refinenet_deeper_dilated/checkpoint.pth",
    "msgpack": "nets/score_sde_jax/ncsnpp_ve_discrete/checkpoint_12",
}
ALLOWANCE = 200 * 10**6  # bytes of memory beside twice the file

# What must not happen while a file is read: look-ups of the standard unpickler, and programs.
FORBIDDEN = {
    "pickle.find_class",
    "os.system",
    "subprocess.Popen",
    "os.posix_spawn",
    "os.exec",
    "ctypes.dlopen",
}


# How often the bytes of a large file may be in memory when they have been read.
COPIES = {"a large tensor": 1, "a large array": 1, "the other byte order": 2}


def alone(call: str) -> Any:
    """What a function of this module prints as JSON in a process of its own.

    There the library runs as it does for users: the checks of annotations, which the other tests
    run with, take longer than all the reading, and what they allocate would be counted too.
    """
    paths = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", f"from convert import test_fuzz; test_fuzz.{call}"],
        env=os.environ | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def peak() -> int:
    """Bytes of memory that this process has had at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


AT_START = peak()


def watch() -> list[str]:
    """The forbidden events of this process from now on, as they come."""
    events: list[str] = []
    sys.addaudithook(lambda event, _: events.append(event) if event in FORBIDDEN else None)
    return events


def flatten(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, leaf) of nested containers, the empty ones and the kinds of all of them too."""
    if isinstance(tree, (dict, list, tuple)):
        yield path, type(tree).__name__
        pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
        for key, value in pairs:
            yield from flatten(value, f"{path}/{key!r}")
    elif isinstance(tree, (np.ndarray, np.generic)):
        yield path, (str(tree.dtype), tree.shape, tree.tobytes())
    else:
        yield path, (type(tree).__name__, repr(tree))


def outcome(path: Path, data: bytes) -> dict[str, Any] | None:
    """What is read of a file with these bytes, None if it is refused; memory is checked."""
    path.write_bytes(data)
    try:
        tree = read_file(path)[1]
    except UserError as error:
        assert str(path) in str(error)
        tree = None
    assert peak() - AT_START < 2 * len(data) + ALLOWANCE
    return None if tree is None else dict(flatten(tree))


def mutations(seed: bytes, rng: random.Random) -> Iterator[tuple[str, bytes]]:
    """(kind, damaged file) without end; half of the places lie near an end, where structure is."""
    sizes = (2**31 - 1, 2**31, 2**32 - 1, 0, 1, 2**16, 2**24)
    while True:
        size = len(seed)
        at = rng.choice(
            (
                rng.randrange(size),
                rng.randrange(min(size, 600)),
                size - 1 - rng.randrange(min(size, 600)),
            )
        )
        yield "flip", seed[:at] + bytes([seed[at] ^ (1 << rng.randrange(8))]) + seed[at + 1 :]
        yield "byte", seed[:at] + bytes([rng.randrange(256)]) + seed[at + 1 :]
        yield "cut", seed[:at]
        length = rng.randrange(1, 40)
        yield "removed", seed[:at] + seed[at + length :]
        yield "doubled", seed[: at + length] + seed[at:]
        yield "noise", seed[:at] + rng.randbytes(length) + seed[at + length :]
        order = rng.choice("<>")
        code = rng.choice("IQ")
        yield (
            "size",
            seed[:at]
            + struct.pack(order + code, rng.choice(sizes))
            + seed[at + struct.calcsize(code) :],
        )


def damaged(files: dict[str, bytes], count: int) -> Iterator[tuple[str, str, bytes]]:
    """(container, kind, damaged file), `count` of each container."""
    for container, seed in files.items():
        found = mutations(seed, random.Random(f"{container} {len(seed)}"))
        for _, (kind, data) in zip(range(count), found):
            yield container, kind, data


def crafted_files(command: str) -> Iterator[tuple[str, bytes]]:
    """Every hostile file of `crafted`, pickles in each container they may come in."""
    for name, content in (crafted.runnable(command) | crafted.refused_pickles()).items():
        for container, wrap in crafted.WRAPPED.items():
            yield f"{name} ({container})", wrap(content)
    for group in (
        crafted.refused_zips,
        crafted.refused_streams,
        crafted.refused_msgpacks,
        crafted.refused_others,
    ):
        for name, content in group().items():
            yield f"{group.__name__}: {name}", content


def read_crafted(folder: str) -> None:
    """Read every crafted file; each must be refused. Prints how many there are."""
    path, canary = Path(folder, "checkpoint"), Path(folder, "canary")
    events, count = watch(), 0
    for name, data in crafted_files(f"touch {canary}"):
        assert outcome(path, data) is None, f"read: {name}"
        assert not canary.exists() and not events, f"executed: {name} {events}"
        count += 1
    print(json.dumps(count))


def read_damaged(folder: str, seeds: dict[str, str], count: int) -> None:
    """Read damaged copies of files (container -> path) and judge each.

    Prints [container, kind, what happened, how often].
    """
    path, events = Path(folder, "checkpoint"), watch()
    files = {container: Path(seed).read_bytes() for container, seed in seeds.items()}
    intact = {container: outcome(path, data) for container, data in files.items()}
    assert None not in intact.values()
    counts: collections.Counter = collections.Counter()
    for container, kind, data in damaged(files, count):
        found = outcome(path, data)
        if found is None:
            counts[container, kind, "refused"] += 1
        elif found == intact[container]:
            counts[container, kind, "same"] += 1
        else:
            # Only a zip file has checksums: in others a number or a name may change unnoticed.
            assert container != "zip" and kind != "cut", (
                f"read as something else: {container}, {kind}"
            )
            counts[container, kind, "other"] += 1
    assert not events
    print(json.dumps([[*key, n] for key, n in counts.items()]))


def test_crafted_files_are_refused(tmp_path: Path) -> None:
    assert alone(f"read_crafted({str(tmp_path)!r})") >= 500


def test_damaged_files(tmp_path: Path) -> None:
    seeds = {}
    for container, data in crafted.small_files().items():
        seeds[container] = str(tmp_path / container)
        Path(seeds[container]).write_bytes(data)
    counts = alone(f"read_damaged({str(tmp_path)!r}, {seeds!r}, 200)")
    assert sum(n for *_, n in counts) == 600
    for container in seeds:
        refused = {
            kind: n for where, kind, what, n in counts if where == container and what == "refused"
        }
        assert set(refused) == {"flip", "byte", "cut", "removed", "doubled", "noise", "size"}
        assert refused["cut"] == sum(
            n for where, kind, _, n in counts if (where, kind) == (container, "cut")
        )
        assert sum(refused.values()) >= {"zip": 150, "pickle": 100, "msgpack": 80}[container]


def test_damaged_published_files(tmp_path: Path) -> None:
    seeds = {container: str(golden(name)) for container, name in SEEDS.items()}
    counts = alone(f"read_damaged({str(tmp_path)!r}, {seeds!r}, 21)")
    assert sum(n for *_, n in counts) == 63
    assert sum(n for _, _, what, n in counts if what == "refused") >= 30


def test_hostile_pickles_are_hostile(tmp_path: Path) -> None:
    """The standard unpickler, given the same bytes, runs the command: the canary can sing."""
    canary = tmp_path / "canary"
    for name, content in crafted.runnable(f"touch {canary}").items():
        with contextlib.suppress(Exception):  # the command comes first
            pickle.loads(content)
        assert canary.exists(), name
        canary.unlink()


def peaks(*paths: str) -> None:
    """Prints [bytes that reading each file added to a process at its peak, if it was refused]."""
    result = []
    for path in paths:
        reading, writing = os.pipe()
        if os.fork() == 0:  # a new process starts with the memory it has as its peak
            before = peak()
            tree, refused = None, False
            try:
                tree = read_file(path)[1]
                for leaf in jax.tree.leaves(tree):
                    _ = leaf.sum() if isinstance(leaf, np.ndarray) else None
            except UserError:
                refused = True
            added = peak() - before
            os.write(writing, json.dumps([added, refused]).encode())
            os._exit(0)
        os.close(writing)
        result.append(json.loads(os.read(reading, 100)))
        os.close(reading)
        os.wait()
    print(json.dumps(result))


def test_memory_of_heavy_files(tmp_path: Path) -> None:
    """Peak memory of a process, started anew for each file; those that can be read are."""
    emoji = "\U0001f600".encode()
    word = b"\xd9\xc8" + emoji + b"a" * 191
    big = 10 * 10**6
    block = crafted.PROTO + crafted.tensor((big,), (1,), block=crafted.storage(count=big)) + b"."
    view = crafted.TENSOR + b"q\x01(" + crafted.storage() + b"q\x00K\x00))\x89NtR"
    views = b"".join(
        b"h\x01(h\x00K\x00K\x01\x85" + crafted.number(i) + b"\x85\x89NtR" for i in range(40_000)
    )
    heavy = {name: crafted.torch_stream(data, {}) for name, data in crafted.heavy_pickles().items()}
    large = {
        "containers": crafted.torch_zip(crafted.PROTO + b"](" + b"}q\x00q\x01" * 160_000 + b"e."),
        "texts": crafted.torch_stream(
            crafted.PROTO
            + b"]("
            + (b"X" + struct.pack("<I", 900_004) + emoji + b"a" * 900_000) * 9
            + b"e.",
            {},
        ),
        "views": crafted.torch_zip(crafted.PROTO + b"](" + view + views + b"e."),
        "a large tensor": crafted.torch_zip(block, {"0": bytes(4 * big)}),
        "the other byte order": crafted.torch_zip(block, {"0": bytes(4 * big)}, b"big"),
        "names": b"\xdf\x00\x00\xc0\x00" + b"".join(word + b"%05d\x80" % i for i in range(0xC000)),
        "a large array": b"\x81\xa1a\xc9" + struct.pack(">I", 4 * big + 20) + b"\x01\x93\x91\xce"
        + struct.pack(">I", big) + b"\xa7float32\xc6" + struct.pack(">I", 4 * big) + bytes(4 * big),
    }  # fmt: skip
    files = heavy | large
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    measured = alone(f"peaks(*{[str(tmp_path / name) for name in files]!r})")
    for (name, data), (added, refused) in zip(files.items(), measured, strict=True):
        print(f"{name}: {len(data):,} bytes, {added:,} added, {'refused' if refused else 'read'}")
        assert added < 2 * len(data) + ALLOWANCE, name
        assert refused == (name in heavy), name
        if name in COPIES:
            assert added < (COPIES[name] + 0.3) * len(data), name
