"""Images from linear measurements of them: inpainting, colorization, super-resolution, deblurring.

Writes reconstruction.npz, metrics.parquet, summary.json and grid.png.
"""

from pathlib import Path

from score_sde.workdir.measured import measured
from score_sde.workdir.reconstruct import Wanted, reconstruct
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which


def main(
    run: Run,
    checkpoint: Which | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
    mask: str | None = None,
    copies: int = 8,
    shard: tuple[int, int] = (0, 1),
) -> Path:
    """Measure images as config.inverse says, and draw `copies` images that fit each measurement.

    `input`: image files, folders, npz files with `images`, or the file of --mode measure; by
    default the first config.inverse.images of config.eval.split. `mask`: known pixels of the task
    inpaint, by default the left half.

    Raises:
        UserError: see `workdir.measured.measured` and `workdir.reconstruct.reconstruct`.
    """
    wanted = Wanted("reconstruct", output, copies, shard)
    return reconstruct(run, measured(run, input, mask), checkpoint, wanted)
