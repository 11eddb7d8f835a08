"""Give grey images colours: `reconstruct` with config.inverse.task=colorize."""

from pathlib import Path

from score_sde.workdir.measured import measured, with_task
from score_sde.workdir.reconstruct import Wanted, reconstruct
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which


def main(
    run: Run,
    checkpoint: Which | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
    copies: int = 8,
    shard: tuple[int, int] = (0, 1),
) -> Path:
    """Draw `copies` colourings of each image, whose grey values come back as they were.

    `input`: grey or coloured image files, folders, npz files with `images`; of coloured ones the
    grey values are taken (the mean of the channels), and the result is compared with the image. By
    default the first config.inverse.images of config.eval.split.
    """
    run = with_task(run, "colorize")
    wanted = Wanted("colorize", output, copies, shard)
    return reconstruct(run, measured(run, input, None), checkpoint, wanted)
