"""Snapshots of the power-function averages during training, and other averages made of them.

One file holds one average: STEP and STD are in its name. A number takes 16 bits: it is a whole
number times a scale of its array. The files stay for good.
"""

import re
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from score_sde.errors import UserError
from score_sde.files import opened, write_npz, writing
from score_sde.training.posthoc import coefficients

MISFIT = 0.1
"""Largest misfit of a profile that is accepted."""
NEGLIGIBLE = 1e-9
"""Coefficients below it change nothing in single precision; their files are not read."""
LARGEST = 32767


class Snapshot(NamedTuple):
    """The average of width `std` at `step`, in the file `path`."""

    step: int
    std: float
    path: Path


def save_snapshot(folder: Path, step: int, std: float, average: PyTree) -> None:
    """Write an average, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    arrays, scales = {}, []
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(average)):
        values = np.asarray(leaf, np.float64)
        largest = np.abs(values).max(initial=0.0)
        scale = (largest / LARGEST or 1.0) if np.isfinite(largest) else np.nan
        with np.errstate(invalid="ignore"):  # weights that are not finite come back as nan
            arrays[jax.tree_util.keystr(path)] = np.rint(values / scale).astype(np.int16)
        scales.append(scale)
    file = folder / f"step_{step}_power_{std}.npz"
    with writing(file, "make room there; the same command goes on from the last checkpoint"):
        write_npz(file, arrays | {"scales": np.asarray(scales)}, compress=False)


def snapshots(folder: Path) -> list[Snapshot]:
    """All snapshots in a folder, by step and std; none where there is no folder."""
    found = []
    for path in folder.glob("step_*.npz"):
        name = re.fullmatch(r"step_([0-9]+)_power_([0-9]+(?:\.[0-9]+)?(?:e-[0-9]+)?)", path.stem)
        if name:
            found.append(Snapshot(int(name[1]), float(name[2]), path))
    return sorted(found)


def snapshot_step(folder: Path, step: int | None = None) -> int:
    """`step` if it has snapshots, the last that has if it is None.

    Raises:
        UserError: there are none, or none of this step.
    """
    steps = sorted({found.step for found in snapshots(folder)})
    if not steps:
        raise UserError(
            f"{folder} holds no snapshots, which phema needs. Train with "
            "--config.training.averages=power:0.05,power:0.10 and a "
            "--config.training.snapshot_every of a hundredth of the steps or so"
        )
    if step is not None and step not in steps:
        raise UserError(f"{folder} holds no snapshot of step {step}; there are {steps}")
    return steps[-1] if step is None else step


def reconstruct(folder: Path, step: int, std: float, like: PyTree) -> tuple[PyTree, float]:
    """(the average of width `std` at `step`, misfit of its profile), of the snapshots until then.

    Karras et al. 2024, algorithm 3. Sums are in double precision, one array of one snapshot at a
    time.

    Args:
        folder: of the snapshots.
        step: that of some snapshots.
        std: in (0, 0.29).
        like: the weights, or their shapes.

    Raises:
        UserError: no snapshots of this step, too few for this profile, or a damaged one.
        ValueError: std out of range.
    """
    step = snapshot_step(folder, step)
    known = [snapshot for snapshot in snapshots(folder) if snapshot.step <= step]
    found, misfit = coefficients([(one.step, one.std) for one in known], (step, std))
    if not misfit <= MISFIT:
        widths = sorted({one.std for one in known})
        raise UserError(
            f"the {len(known)} snapshots in {folder} until step {step} give the profile of std "
            f"{std} with an error of {misfit:.0%}; {MISFIT:.0%} is accepted. Take a std nearer "
            f"to theirs ({', '.join(map(str, widths))}), a later step, or train with a smaller "
            "config.training.snapshot_every"
        )
    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape), like)
    for weight, snapshot in zip(found, known, strict=True):
        if abs(weight) > NEGLIGIBLE:
            _add(total, weight, snapshot.path)
    return total, misfit


def _add(total: PyTree, weight: float, path: Path) -> None:
    """Add `weight` times a snapshot to the arrays of `total`, in place."""
    leaves = jax.tree_util.tree_leaves_with_path(total)
    try:
        with opened(path) as file:
            names = [jax.tree_util.keystr(where) for where, _ in leaves]
            if {*names, "scales"} != set(file.files) or file["scales"].shape != (len(names),):
                raise ValueError("its arrays are not those of this network")
            for name, scale, (_, leaf) in zip(names, file["scales"], leaves, strict=True):
                values = file[name]
                if values.shape != leaf.shape:
                    raise ValueError(f"{name} has shape {values.shape}, not {leaf.shape}")
                leaf += weight * scale * values
    except UserError as error:
        raise UserError(
            f"{error}. If it is damaged, remove it: the other snapshots then serve without it"
        ) from error
