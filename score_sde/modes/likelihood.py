"""Bits/dim of images by the probability-flow ODE, or a bound.

There is one Parquet row for each image and pass.
"""

from pathlib import Path

from score_sde.workdir.bits import evaluate_bits
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which


def main(run: Run, checkpoint: Which | None = None, shard: tuple[int, int] = (0, 1)) -> Path:
    """Bits/dim of the averaged weights of a checkpoint, or of one shard of the images."""
    params, step = run.weights(checkpoint)
    return evaluate_bits(run, params, step, shard)
