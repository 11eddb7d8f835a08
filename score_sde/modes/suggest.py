"""Print noise scales and step size for the training images; --output makes a configuration."""

import dataclasses
import math
from pathlib import Path

from score_sde import noise_scales
from score_sde.build.assemble import build
from score_sde.build.data import build_pixel_range, image_shape, open_source
from score_sde.build.published import refinenet_for
from score_sde.build.settings import Settings
from score_sde.data import take
from score_sde.devices import leads, say
from score_sde.errors import UserError, command, quoted
from score_sde.files import writing
from score_sde.workdir import config as configurations


def main(settings: Settings, output: Path | None = None) -> None:
    """What techniques 6.1 to 6.5 say (dissertation, chapter 6), beside published values.

    In `output` an NCSN gets the variant for the size of the images too, which a recipe for `folder`
    cannot know. sigma_min and the Langevin steps at each level (the budget) are the settings'.
    """
    process, levels = settings.sde, settings.sampling.grid == "levels"
    _check(settings, output)
    steps = settings.sampling.corrector_steps if levels else None
    known = noise_scales.PUBLISHED
    name = next((name for name in known if settings.name.endswith(f"_{name}")), "")
    row, (shape, data) = known.get(name), image_shape(settings.data)
    if row and levels:
        say(f"{name}, at the published sigma_max:")
        dimension = row.settings.dimension
        say(noise_scales.comparison(row.settings.sigma_max, dimension, published=row) + "\n")
    source, pixels = open_source(data, train=True), build_pixel_range(data)
    images = take(source, noise_scales.random_subset(len(source)))["image"]
    unit = (pixels.high - pixels.low) / (pixels.levels - 1)
    distance = noise_scales.largest_distance(images)[0] * unit
    same = row if row and math.prod(shape) == row.settings.dimension else None
    say(
        f"from {len(images):,} of {len(source):,} training images of shape {shape} in "
        f"[{pixels.low:g}, {pixels.high:g}]:"
    )
    smallest, size = process["sigma_min"], math.prod(shape)
    say(noise_scales.comparison(distance, size, smallest, steps, same))
    found = noise_scales.suggest(float(f"{distance:.4g}"), size, smallest, steps=steps)
    if output is None or not leads():
        return
    new = dataclasses.replace(settings, data=data).change("sde", sigma_max=found.sigma_max)
    if levels:
        new = new.change("sde", n=found.n).change("training", ema_rate=found.ema_rate)
        sampling = {"steps": found.n, "corrector_steps": found.steps, "snr": found.snr}
        new = new.change("sampling", **sampling)
    new = refinenet_for(new, shape)
    build(new, shape)
    with writing(output.parent):
        output.parent.mkdir(parents=True, exist_ok=True)
        configurations.save(new, output)
    what = (
        "noise scales, step size, ema_rate and the network's variant"
        if levels
        else "sigma_max alone (the rest is annealed Langevin dynamics')"
    )
    print(f"{output} has {what}. Train: {command(f'--mode train --config {quoted(output)}')}")


def _check(settings: Settings, output: Path | None) -> None:
    if "sigma_max" not in settings.sde:
        raise UserError(
            f"config.sde.name={settings.sde['name']} has no noise scales to choose; --mode suggest "
            "is for recipes with sde.sigma_max, as ncsnv2/ncsnv2"
        )
    if output is not None and output.suffix != ".json":
        raise UserError(f"--output must be a .json file, which --config then takes; got {output}")
    if output is not None and output.exists():
        raise UserError(f"{output} exists already; choose another --output")
