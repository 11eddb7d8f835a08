"""Measure images as config.inverse says: measurements.npz and measurements.png."""

from pathlib import Path

import numpy as np

from score_sde import viz
from score_sde.devices import leads
from score_sde.files import write_npz, writing
from score_sde.workdir.folder import result_folder
from score_sde.workdir.measured import measured
from score_sde.workdir.run import Run


def main(
    run: Run,
    input: list[Path] | None = None,
    output: Path | None = None,
    mask: str | None = None,
) -> Path:
    """Write a file that --mode reconstruct takes as --input.

    `input`: image files, folders, npz files with `images`; by default the first
    config.inverse.images of config.eval.split. measurements.npz has `y` (n, ...) and `y_std`
    (n,) for images in [0, 1], `names`, `originals`, the entries of config.inverse as JSON, and
    `known` where pixels were measured. A row of the picture: A^+ y and the image.
    """
    found, section = measured(run, input, mask), run.settings.inverse
    folder = result_folder(output, run.folder, "measurements", "samples")
    if leads():
        with writing(folder):
            write_npz(folder / "measurements.npz", found.arrays(section))
            y = found.measurement.y
            columns = [np.clip(np.asarray(found.measurement.operator.pinv(y)), 0.0, 1.0)]
            columns += [] if found.originals is None else [found.originals]
            rows = np.stack(columns, axis=1)[:16]
            grid = viz.image_grid(rows.reshape(-1, *rows.shape[2:]), columns=len(columns))
            viz.save_png(folder / "measurements.png", grid)
        print(f"{section.task} of {len(y)} images measured, noise {section.std:g}: {folder}")
    return folder
