"""Weights of diffusers for tests: made of their names and shapes, so that no file has to hold them.

NumPy is all that this needs: `make_diffusers.py` runs it where diffusers is installed.
"""

import json
import math
import zlib
from pathlib import Path

import numpy as np

FIXTURES = Path(__file__).parent / "diffusers"
CASES = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())


def numbers(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [-1, 1) with 24 bits that depend on the name, the same on every machine.

    They are outputs of splitmix64 (Steele et al. 2014).
    """
    index = np.arange(math.prod(shape), dtype=np.uint64)
    z = (index + np.uint64(zlib.crc32(name.encode()) << 32)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = (z ^ (z >> np.uint64(31))) >> np.uint64(40)
    return (bits.astype(np.float64) / 2**23 - 1).reshape(shape).astype(np.float32)


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """An array of a state dict: kernels keep the variance, scales are near 1."""
    found = numbers(name, shape)
    if name == "time_proj.weight":
        return 4 * found
    if len(shape) > 1:
        return found * np.float32(math.sqrt(3 / math.prod(shape[1:])))
    return 0.2 * found + np.float32(name.endswith("weight"))


def weights(case: str) -> dict[str, np.ndarray]:
    """The state dict of a case."""
    shapes = json.loads((FIXTURES / case / "shapes.json").read_text())
    return {name: weight(name, tuple(shape)) for name, shape in shapes.items()}
