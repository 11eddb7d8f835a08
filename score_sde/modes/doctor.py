"""Look for what is wrong with images and with a run: findings, each with what to do."""

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np

from score_sde.build.data import build_pixel_range, image_shape, open_source
from score_sde.build.settings import Data, Settings
from score_sde.data import Source, classes, health, take
from score_sde.data.folders import UnusableImages
from score_sde.data.health import Finding, Images, Split
from score_sde.devices import leads, say
from score_sde.files import writing
from score_sde.noise_scales import random_subset
from score_sde.report.page import Report, environment
from score_sde.viz import image_grid, png_bytes
from score_sde.workdir.capacity import capacity
from score_sde.workdir.documents import write_document
from score_sde.workdir.folder import result_folder
from score_sde.workdir.health import run_findings

MOST = 20_000
"""Images of a split that are looked at."""
BYTES = 2**31
"""Of the images of a split, at most."""


def main(settings: Settings, folder: Path, output: Path | None = None) -> list[Finding]:
    """The findings; doctor.json and doctor.html in `output`, by default in the run's folder.

    Of large data sets 20,000 images of a split are looked at, drawn at random; the page says so.
    Files that cannot be used are a finding, and the others are looked at.

    Raises:
        UserError: there are no images to look at, or nothing can be written.
    """
    output = result_folder(output, folder, "doctor", ".")
    data, unusable = _without_unusable(settings.data)
    shape, data = image_shape(data)
    sources = [open_source(data, train) for train in (True, False)]
    pixels, images = build_pixel_range(data), _images(sources, _count(shape))
    found = unusable + [one for check in health.CHECKS for one in check(images)]
    sigma_max = settings.sde.get("sigma_max")
    if sigma_max is not None:
        unit = (pixels.high - pixels.low) / (pixels.levels - 1)
        found += health.noise_scale(images, float(sigma_max), unit)
    if (folder / "config.json").exists():
        found += run_findings(settings, folder, images.train.images)
    costs, unfit = capacity(settings, shape)
    found += unfit
    numbers = {"images": _numbers(sources, images), "training": costs}
    _tell(output, settings, numbers, found, images)
    return found


def _without_unusable(data: Data) -> tuple[Data, list[Finding]]:
    """The section for the files that can be used, and a finding of the others."""
    data = dataclasses.replace(data, in_memory=False, skip_bad=False)  # files have names then
    try:
        open_source(data, train=True)
    except UnusableImages as error:
        advice = (
            "mend or remove them: training refuses the folder as it is, and leaves them out with "
            "--config.data.skip_bad=True"
        )
        finding = Finding("images that cannot be used", error.problems, advice)
        return dataclasses.replace(data, skip_bad=True), [finding]
    return data, []


def _count(shape: tuple[int, ...]) -> int:
    """How many images of a shape are looked at."""
    return min(MOST, max(1, BYTES // (2 * int(np.prod(shape)))))


def _images(sources: list[Source], most: int) -> Images:
    splits = []
    for split, source in zip(("training", "held-out"), sources, strict=True):
        chosen = random_subset(len(source), most)
        batch, files = take(source, chosen), getattr(source, "files", None)
        names = [str(files[i]) if files else f"{split} image {i}" for i in chosen]
        splits.append(Split(batch["image"], batch["label"], names))
    return Images(splits[0], splits[1], sources[0].levels, classes(sources[0]))


def _numbers(sources: list[Source], images: Images) -> dict[str, str]:
    """What there is, in words."""
    told = {"shape of an image": str(images.train.images.shape[1:]), "levels": f"{images.levels:,}"}
    for split, source, part in zip(("training", "held-out"), sources, images[:2], strict=True):
        values = part.images / (images.levels - 1)
        seen = f", {len(values):,} of them looked at" if len(values) < len(source) else ""
        told[f"{split} images"] = f"{len(source):,}{seen}"
        means = ", ".join(f"{v:.3f}" for v in values.mean(axis=(0, 1, 2)))
        told[f"{split}: mean of the channels, 0 black and 1 white"] = means
        told[f"{split}: standard deviation"] = f"{values.std():.3f}"
    if images.classes > 1:
        counts = Counter(images.train.labels.tolist())
        told["training images of a class"] = (
            f"{min(counts.values())} to {max(counts.values())}, {images.classes} classes"
        )
    return told


def _tell(
    output: Path,
    settings: Settings,
    numbers: dict[str, dict[str, str]],
    found: list[Finding],
    images: Images,
) -> None:
    """Print the findings, and write them."""
    for name, text in numbers["training"].items():
        say(f"{name}: {text}")
    for finding in found:
        say(f"{finding.name}: {finding.what}\n  {finding.do}")
        for example in finding.examples:
            say(f"    {example}")
    say(f"{len(found)} findings" if found else "nothing was found to be wrong")
    if not leads():
        return
    page = Report(f"Doctor: {settings.name}", "Images and run, and what to do about them.")
    page.summary({"findings": len(found)})
    for finding in found:
        page.heading(finding.name).text(f"{finding.what}.").text(f"What to do: {finding.do}.")
        if finding.examples:
            page.table([(str(i + 1), text) for i, text in enumerate(finding.examples)])
    shown = images.train.images[:64] / (images.levels - 1)
    page.heading("Images").table(numbers["images"])
    page.picture(png_bytes(image_grid(shown)), "Training images, drawn at random.")
    if numbers["training"]:
        page.heading("Training on this device").table(numbers["training"])
    page.heading("Made with").table(environment())
    rows = [finding._asdict() for finding in found]
    with writing(output):
        write_document(output / "doctor.json", numbers | {"findings": rows})
        page.write(output / "doctor.html")
    print(f"doctor: {output / 'doctor.html'}")
