"""Latents of images by the probability-flow ODE, and how exactly they decode again."""

from pathlib import Path

from score_sde.data.inputs import join
from score_sde.devices import say
from score_sde.workdir.inputs import read_given, split_images
from score_sde.workdir.latents import encode
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which


def main(
    run: Run,
    checkpoint: Which | None = None,
    input: list[Path] | None = None,
    output: Path | None = None,
) -> Path:
    """Write latents.npz, encode.json and round_trip.png; see `workdir.latents.encode`.

    `input`: image files, folders, npz files with `images`; by default the images of
    config.eval.split.
    """
    given = join(read_given(run, input, ["images"]) if input else split_images(run))
    folder, told = encode(run, given, checkpoint, output)
    say(told)
    return folder
