"""Draw samples: samples.npz, grid.png; with frames reverse_diffusion.gif, intermediate.png.

With config.sampling.files=png also images/00000.png, ...
"""

from pathlib import Path

from score_sde.devices import say
from score_sde.workdir.drawing import Asked, draw_samples
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which


def main(run: Run, checkpoint: Which | None = None, classes: tuple[int, ...] | None = None) -> Path:
    """Draw config.sampling.num_samples images from the averaged weights.

    `classes` are those of the samples, in turn; () is all of them, None lets the model choose. See
    `workdir.drawing.draw_samples`.
    """
    folder, told = draw_samples(run, checkpoint, Asked(classes))
    say(f"{told}: {folder}")
    return folder
