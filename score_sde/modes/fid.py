"""Measures of the images `a` against `b`, without a model; `output` keeps the statistics of `a`."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from score_sde.data.image_sets import KEYS as IMAGE_KEYS
from score_sde.data.image_sets import ImageSet, labelled_images, open_images
from score_sde.devices import leads, say
from score_sde.errors import UserError
from score_sde.files import npz_names, writing
from score_sde.metrics.extractors import make_extractor
from score_sde.metrics.features import Extractor
from score_sde.metrics.measures import (
    check_comparable,
    check_names,
    check_provenance,
    measure,
    need_features,
    notes,
    promised,
    table,
)
from score_sde.metrics.statistics import (
    STATISTICS_KEYS,
    Statistics,
    load_statistics,
    save_statistics,
)
from score_sde.parallel.features import Images, collect
from score_sde.workdir.folder import check_writable

Given = Mapping[Path, ImageSet | Statistics]


def main(
    a: Path | None = None,
    b: Path | None = None,
    metrics: tuple[str, ...] = ("fid",),
    extractor: str = "inception",
    weights: Path | None = None,
    output: Path | None = None,
) -> dict[str, dict[str, float]]:
    """Compare two sets.

    `a`, `b`: folders of images, npz files of images, or of statistics (ours, or those of
    pytorch-fid, clean-fid, score_sde, guided-diffusion).
    """
    if a is None:
        raise UserError("--mode fid needs the images to measure: --a FOLDER, or an npz file")
    check_names(metrics)
    _check_output(b, metrics, output)
    given = {path: open_set(path, metrics, extractor) for path in (a, b) if path is not None}
    if output is not None and isinstance(given[a], Statistics):
        raise UserError(
            f"--output keeps statistics of images, and {a} holds statistics already; leave out "
            "--output"
        )
    network = _network(given, metrics, extractor, weights)
    found = {}
    for path, each in given.items():
        if isinstance(each, ImageSet):
            assert network is not None
            title = f"features of {each.count} images" if leads() else ""
            images, keep = Images(each.read, each.count, each.provenance), need_features(metrics)
            each = collect(network, images, keep_features=keep, title=title)
        found[path] = each
        if path == a and output is not None and leads():
            save_statistics(output, each)
            print(f"statistics of {a}: {output}")
    reference = None if b is None else found[b]
    asked = [name for name in metrics if b is not None or name == "is"]
    measures = measure(asked, found[a], reference) if asked else {}
    for line in (*notes(found[a], reference), *([table(measures)] if measures else [])):
        say(line)
    return measures


def _check_output(b: Path | None, metrics: tuple[str, ...], output: Path | None) -> None:
    if b is None and output is None and set(metrics) != {"is"}:
        raise UserError(
            "--mode fid compares two sets: name the second with --b, or a file for the statistics "
            "of --a with --output"
        )
    if output is None:
        return
    if output.suffix != ".npz":
        raise UserError(f"--output must be an .npz file; got {output}")
    with writing(output):
        check_writable(output.parent)


def _network(
    given: Given, metrics: tuple[str, ...], extractor: str, weights: Path | None
) -> Extractor | None:
    """The extractor, where there are images; what cannot be compared is refused before the work."""
    sets, name = list(given.values()), {} if ".py:" in extractor else {"extractor": extractor}
    check_provenance(*known_of(sets, name))  # before weights are fetched, or a classifier trained
    if not any(isinstance(each, ImageSet) for each in sets):
        return None
    network = make_extractor(extractor, weights, labelled_images)
    check_provenance(*known_of(sets, network.identity))
    coming = [
        each if isinstance(each, Statistics) else promised(metrics, each.provenance, network)
        for each in sets
    ]
    check_comparable(coming[0], coming[-1])
    return network


def open_set(path: Path, metrics: tuple[str, ...], extractor: str) -> ImageSet | Statistics:
    """What --a or --b names.

    A file with both, as guided-diffusion has them, counts as statistics for FID with Inception.
    """
    npz = os.path.isfile(path) and path.suffix.lower() == ".npz"
    names = set(npz_names(path)) if npz else set()
    if names and not names & {*IMAGE_KEYS, *STATISTICS_KEYS}:
        raise UserError(
            f"{path} holds neither images (an entry {' or '.join(IMAGE_KEYS)}) nor statistics "
            f"({', '.join(STATISTICS_KEYS)}); its entries are {', '.join(sorted(names))}"
        )
    sums_do = "mu" in names and set(metrics) == {"fid"} and extractor == "inception"
    if names and (sums_do or not names & set(IMAGE_KEYS)):
        return load_statistics(path)
    return open_images(path)


def known_of(given: Iterable[ImageSet | Statistics], identity: dict) -> tuple[dict, dict]:
    """Provenance of the first and of the last, or that they will have with such an extractor."""
    known = [
        each.provenance if isinstance(each, Statistics) else each.provenance | identity
        for each in given
    ]
    return known[0], known[-1]
