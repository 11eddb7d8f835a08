"""Three real scans by a model of phantoms, beside what needs no model: one picture.

A slice of a spine by 16 views, a slice of a brain by a quarter of k-space, and the k-space of a
head from 8 coils, of which a third is kept. The prior has seen ellipses, heads and trunks that are
drawn, so real scans are out of its distribution. From the repository root:

    python main.py --config configs/ve/ncsnpp_cont.py:phantoms --mode train --workdir runs/phantoms
    python examples/real_scans.py --workdir runs/phantoms --images FOLDER

FOLDER has test_images_256.npz (`ct_small`, 256 x 256 in [0, 1]), icbm152_t1_axial_slices.npz
(`slices`, 256 x 256 in 8 bits) and brain_mr_8coil_kspace.npz (`kspace`, coils x 230 x 180, complex,
frequency 0 in the middle).

Nothing is measured with the pixels of the model. Views are line integrals of the 256 x 256 slice.
k-space is the centre of that of the large image. It is compared with what all of that centre gives;
of coils that is SENSE with the maps that its central lines give. Phases belong to these maps, so
the image is real. `--quick` draws 2 samples in 20 steps.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from score_sde import inverse, run_lib
from score_sde.files import write_npz
from score_sde.inverse.ct import parallel_beam
from score_sde.viz import image_grid, save_png

VIEWS, SPACING, LINES = 16, 3, 8
"""Views of the spine; every third column of k-space, and the central ones, are kept of the head."""


def spine(folder: Path, size: int) -> dict[str, np.ndarray]:
    """Views of the large slice, and its block means."""
    image = np.load(folder / "test_images_256.npz")["ct_small"][None, ..., None]
    factor = image.shape[1] // size
    beam = parallel_beam((size, size, 1), VIEWS)
    fine = dataclasses.replace(beam, event=image.shape[1:], pixel=beam.pixel / factor)
    blocks = image.reshape(1, size, factor, size, factor, 1).mean(axis=(2, 4))
    return {"y": np.asarray(fine.forward(jnp.asarray(image))), "originals": blocks}


def transformed(image: np.ndarray, back: bool = False) -> np.ndarray:
    """The centred unitary Fourier transform of the last two axes, or its inverse."""
    change, axes = np.fft.ifft2 if back else np.fft.fft2, (-2, -1)
    return np.fft.fftshift(change(np.fft.ifftshift(image, axes), norm="ortho"), axes)


def centre(k: np.ndarray, size: int) -> np.ndarray:
    """The central k-space of a smaller image of the same brightness."""
    top, left = (n // 2 - size // 2 for n in k.shape[-2:])
    scale = size / np.sqrt(k.shape[-2] * k.shape[-1])
    return scale * k[..., top : top + size, left : left + size]


def brain(folder: Path, size: int) -> dict[str, np.ndarray]:
    """A quarter of the columns, as fastMRI picks them."""
    slices = np.load(folder / "icbm152_t1_axial_slices.npz")["slices"]
    k = centre(transformed(slices[len(slices) // 2] / 255), size)
    known = inverse.fastmri_equispaced(size, size, 4.0, 0.08)
    image = np.clip(transformed(k, back=True).real, 0, 1)
    return _arrays((k * known)[None, ..., None], known, image)


def head(folder: Path, size: int) -> dict[str, np.ndarray]:
    """Every third column and the centre, of each coil; maps from the centre."""
    k = np.load(folder / "brain_mr_8coil_kspace.npz")["kspace"]
    coils = transformed(k, back=True)
    more = max(coils.shape[1:]) - np.asarray(coils.shape[1:])
    square = np.pad(coils, [(0, 0), *((n // 2, n - n // 2) for n in more)])
    k = centre(transformed(square), size)
    maps = inverse.estimate_maps(k, LINES)
    image = np.sum(np.conj(maps) * transformed(k, back=True), axis=0).real
    white = np.quantile(image, 0.995)
    columns = np.arange(size)
    known = (columns % SPACING == 0) | (np.abs(columns - size // 2 + 0.5) < LINES / 2)
    known = np.broadcast_to(known, (size, size))
    arrays = _arrays((k * known / white)[None, ..., None], known, np.clip(image / white, 0, 1))
    return arrays | {"maps": maps.astype(np.complex64)}


def _arrays(y: np.ndarray, known: np.ndarray, image: np.ndarray) -> dict[str, np.ndarray]:
    return {"y": y, "known": known[..., None], "originals": image[None, ..., None]}


SCANS = {
    "spine": (spine, {"task": "ct", "views": str(VIEWS)}, ("fbp", "tv", "diffpir")),
    "brain": (brain, {"task": "mri", "kspace": "mask"}, ("pinv", "tv", "ddnm")),
    "head": (
        head,
        {"task": "mri", "kspace": "mask", "coils": "8", "std": "0.02"},
        ("cgls", "tv", "diffpir"),
    ),
}
"""What is measured, entries of config.inverse, and solvers: the last one has the model.

cgls for coils is SENSE. The noise of the head is about that of the outermost k-space."""
OPTIONS = {
    "spine": {
        "tv": {"tv_weight": "0.3"},
        "diffpir": {"model_std": "0.1", "weight": "1", "zeta": "1"},
    },
    "brain": {"tv": {"tv_weight": "0.01"}},
    "head": {"tv": {"tv_weight": "0.01"}},
}
"""Entries of config.inverse for a scan and a solver. Views of a finer image have a model_std."""


def reconstructed(
    options: argparse.Namespace, name: str, entries: dict[str, str], solver: str
) -> dict[str, np.ndarray]:
    """The arrays of a reconstruction by the command line."""
    entries = entries | {"solver": solver} | OPTIONS[name].get(solver, {})
    overrides = [(f"inverse.{entry}", value) for entry, value in entries.items()]
    overrides.append(("sampling.steps", "20" if options.quick else "100"))
    output = options.output / f"{name}_{solver}"
    flags = {"input": [options.output / f"{name}.npz"], "output": output}
    flags["copies"] = 2 if options.quick else 8
    run_lib.run("reconstruct", overrides=overrides, workdirs=[str(options.workdir)], options=flags)
    with np.load(output / "reconstruction.npz") as file:
        return dict(file)


def main() -> None:
    """Write picture.png; each row: a scan, baselines, a sample, the mean, twice std and error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, required=True, help="of a model of phantoms")
    parser.add_argument("--images", type=Path, required=True, help="folder with the three files")
    parser.add_argument("--output", type=Path, default=Path("runs/real_scans"))
    parser.add_argument("--size", type=int, default=32, help="pixels of the model's images")
    parser.add_argument("--quick", action="store_true", help="few samples and steps")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    tiles = []
    for name, (make, entries, solvers) in SCANS.items():
        write_npz(options.output / f"{name}.npz", make(options.images, options.size))
        found = [reconstructed(options, name, entries, solver) for solver in solvers]
        truth, model = found[0]["originals"][0], found[-1]
        error = np.abs(model["mean"][0] - truth)
        row = [truth, *(one["mean"][0] for one in found[:-1]), model["images"][0, 0]]
        row += [model["mean"][0], 2 * model["std"][0], 2 * error]
        tiles += [np.clip(tile, 0, 1) for tile in row]
    picture = options.output / "picture.png"
    save_png(picture, image_grid(np.stack(tiles), columns=len(tiles) // len(SCANS)))
    print(f"a row for each of {', '.join(SCANS)}: the image, two baselines, a sample, the mean of")
    print(f"the samples, twice their spread, twice the error of the mean: {picture}")


if __name__ == "__main__":
    main()
