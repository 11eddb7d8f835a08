"""Fill in what a mask leaves unknown: chains by annealed Langevin dynamics (algorithm B.2).

With continuous processes it is `reconstruct` with config.inverse.task=inpaint.
"""

from pathlib import Path

from score_sde.workdir.completion import complete
from score_sde.workdir.reconstruct import Wanted
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
    """Draw `copies` completions of each image; see `workdir.completion.complete`."""
    return complete(run, input, mask, checkpoint, Wanted("inpaint", output, copies, shard))
