"""Random weights and images, and what torch-fidelity's Inception makes of them.

Run it by `python tests/metrics/inception_reference.py`. The command (it needs torch and
torch-fidelity) writes `inception_reference.npz` beside this file: the layout of the weights file,
and some features and logits of `IMAGES`. Weights and images are drawn again from seeds by NumPy's
legacy generator, whose uniform numbers are the same in all versions.
"""

import json
import sys
import tempfile
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

PATH = Path(__file__).with_name("inception_reference.npz")
IMAGES = ((8, 8, 3), (28, 28, 1), (32, 32, 3), (64, 48, 3), (299, 299, 3), (400, 300, 3))
"""Shapes of the images."""
CHOSEN = 64
"""Entries of each vector that are kept, beside its mean and its mean square."""
Layout = dict[str, list[int]]
VARIANCES = 0.003, 0.03
RANGES = {
    "bn.running_mean": (-0.03, 0.03),
    "bn.running_var": VARIANCES,
    "bn.weight": (0.8, 1.2),
    "bias": (-0.3, 0.3),
    "fc.weight": (-0.05, 0.05),
}


def layout() -> Layout:
    """Name -> shape of every array in the weights file."""
    with np.load(PATH) as file:
        return json.loads(str(file["layout"]))


def uniform(name: str, shape: Any, low: float, high: float) -> np.ndarray:
    """Numbers that depend on the name only, in single precision."""
    draw = np.random.RandomState(zlib.crc32(name.encode())).random_sample(shape)
    return (low + (high - low) * draw).astype(np.float32)


def weights(shapes: Layout) -> dict[str, np.ndarray]:
    """A state dict whose activations neither vanish nor explode.

    A convolution gives its channels the variances that their normalization then divides by, small
    ones, so that what is added to them (1e-3) matters; each array is drawn by itself.
    """
    state: dict[str, np.ndarray] = {}
    for name, shape in shapes.items():
        norm = name.replace(".conv.weight", ".bn.running_var")
        if name.endswith(".num_batches_tracked"):
            state[name] = np.asarray(7, np.int64)
        elif name.endswith(".conv.weight"):
            variance = uniform(norm, shapes[norm], *VARIANCES) + 1e-3
            bound = np.sqrt(6 * variance / np.prod(shape[1:]))[
                :, None, None, None
            ]  # He et al. 2015
            state[name] = uniform(name, shape, -1, 1) * bound.astype(np.float32)
        else:
            state[name] = uniform(
                name, shape, *RANGES[next(end for end in RANGES if name.endswith(end))]
            )
    return state


def images() -> list[np.ndarray]:
    """One image of each shape, (1, height, width, channels): noise on a gradient."""
    return [image(shape) for shape in IMAGES]


def image(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    """Noise on a gradient, uint8."""
    height, width, _ = shape
    noise = np.random.RandomState(seed + height * width).randint(0, 128, shape)
    slope = (
        np.arange(height)[:, None, None] * 64 // height
        + np.arange(width)[None, :, None] * 63 // width
    )
    return (noise + slope).astype(np.uint8)[None]


def summary(vector: np.ndarray) -> np.ndarray:
    """CHOSEN entries at equal distances, the mean and the mean square."""
    wide = vector.astype(np.float64)
    chosen = wide[:: len(wide) // CHOSEN][:CHOSEN]
    return np.append(chosen, [wide.mean(), np.square(wide).mean()])


def published(names: list[str], path: Path | None = None) -> Any:
    """torch-fidelity's extractor, with weights from a file, or without."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    if path is not None:
        return FeatureExtractorInceptionV3(
            "inception", names, feature_extractor_weights_path=str(path)
        )
    with (
        mock.patch("torch.load"),
        mock.patch.object(FeatureExtractorInceptionV3, "load_state_dict"),
    ):
        return FeatureExtractorInceptionV3(
            "inception", names, feature_extractor_weights_path="none"
        )


def published_outputs(extractor: Any, image: np.ndarray) -> list[np.ndarray]:
    """Its features of images (n, height, width, 1 or 3)."""
    import torch

    colour = np.repeat(image, 3 // image.shape[-1], axis=-1).transpose(0, 3, 1, 2)
    with torch.no_grad():
        return [
            found.numpy() for found in extractor(torch.from_numpy(np.ascontiguousarray(colour)))
        ]


def main() -> None:
    """Write the reference."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    import torch

    names = ["2048", "logits_unbiased", "logits"]
    shapes = {name: list(value.shape) for name, value in published(names).state_dict().items()}
    state = {name: torch.from_numpy(value) for name, value in weights(shapes).items()}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / "weights.pth")
        extractor = published(names, Path(folder) / "weights.pth")
    found = [published_outputs(extractor, image) for image in images()]
    pools = np.concatenate([each[0] for each in found])
    print(f"a feature differs by {pools.std(axis=0).mean():.2f} between images")
    values = np.stack([[summary(vector[0]) for vector in each] for each in found])
    np.savez_compressed(PATH, layout=json.dumps(shapes), values=values)


if __name__ == "__main__":
    main()
