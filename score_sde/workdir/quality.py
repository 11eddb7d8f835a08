"""Quality of a checkpoint's samples.

They are drawn by the thousand, kept, and measured against the training images.
"""

import dataclasses
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from scipy.special import stdtrit

from score_sde import __version__
from score_sde.arrays import sample_keys
from score_sde.build.metrics import extractor_of
from score_sde.build.settings import Settings, depends
from score_sde.build.sizes import check_fits
from score_sde.data import Source, fingerprint
from score_sde.data.image_sets import source_set, to_bytes
from score_sde.devices import leads, say, wait_for_all
from score_sde.errors import UserError, command
from score_sde.metrics.features import Extractor
from score_sde.metrics.measures import (
    COLUMNS,
    check_comparable,
    measure,
    need_features,
    notes,
    promised,
)
from score_sde.metrics.statistics import Statistics, load_statistics, save_statistics
from score_sde.parallel.features import Images, collect
from score_sde.parallel.samples import Generator
from score_sde.workdir.classes import Scores, in_turn, of_network, with_curvature
from score_sde.workdir.folder import IN_RUN
from score_sde.workdir.lock import hold
from score_sde.workdir.objects import make_generator
from score_sde.workdir.run import Run
from score_sde.workdir.store import SampleStore
from score_sde.workdir.which import Which, in_name, record_of, weights_checksum

Measured = dict[str, dict[str, float]]
"""Of one set of samples: {"fid": {"value": 3.1}, "kid": {"value": ..., "standard_error": ...}}."""


PACKED = 20
"""Images take at least this part of their bytes on the disk."""
FINGERPRINT = 1000
"""Training images that are compared with those a kept reference was made of."""


def tag(settings: Mapping[str, Any]) -> str:
    """Eight hex digits that name a way of sampling."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:8]


def over_seeds(found: Sequence[Measured]) -> Measured:
    """Means over seeds with standard error and 95% interval by Student's t.

    Of one seed: what is known of it alone. Intervals are cut off where no value can be. Sets of
    samples of different seeds are the independent units; the reference is the same for all.
    """
    if len(found) == 1:
        return found[0]
    result: Measured = {}
    for name in found[0]:
        values = np.asarray([measured[name]["value"] for measured in found])
        mean, error = float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
        radius = float(stdtrit(len(values) - 1, 0.975)) * error
        least, most = COLUMNS[name].range
        low, high = max(mean - radius, least), min(mean + radius, most)
        result[name] = {"value": mean, "standard_error": error, "low": low, "high": high}
    return result


@dataclasses.dataclass(frozen=True, eq=False)
class Quality:
    """What the samples of a run are measured with.

    Args:
        names: of `measures.MEASURES`.
        extractor: features of images.
        reference: statistics of the training images, or of those that config.quality.reference
            describes.
    """

    names: Sequence[str]
    extractor: Extractor
    reference: Statistics

    def of(self, images: Images, title: str) -> tuple[Measured, list[str]]:
        """(measures of images, what has to be said of them)."""
        about = dataclasses.replace(images, provenance=images.provenance | self.extractor.identity)
        keep = need_features(self.names)
        found = collect(self.extractor, about, keep_features=keep, title=title)
        return measure(self.names, found, self.reference), notes(found, self.reference)


def make_quality(run: Run, names: Sequence[str]) -> Quality:
    """As config.quality says; the reference is made once and kept: eval/reference_EXTRACTOR.npz.

    Raises:
        UserError: the extractor or the reference is not at hand, or cannot be compared with.
    """
    section, extractor = run.settings.quality, extractor_of(run.settings)
    about = {"data": "the samples", "shape": list(run.experiment.shape)}
    samples, keep = promised(names, about, extractor), need_features(names)
    if section.reference:
        reference = _given_statistics(Path(section.reference).expanduser())
    else:
        reference = _training_statistics(run, extractor, keep)
    check_comparable(samples, reference)  # before anything is drawn
    if keep and reference.features is None:
        needing = ", ".join(name for name in names if need_features([name]))
        raise UserError(
            f"{section.reference} holds no features, which {needing} need. Make it anew from its "
            "images: --mode fid --a DIR --output FILE --metrics kid; or leave "
            "config.quality.reference out"
        )
    return Quality(names, extractor, reference)


def _given_statistics(path: Path) -> Statistics:
    try:
        return load_statistics(path)
    except UserError as error:
        make = command(f"--mode fid --a DIR --output {path.stem}.npz")
        raise UserError(
            f"config.quality.reference: {error}. Statistics of a folder of images are made by "
            f"{make}"
        ) from error


def _training_statistics(run: Run, extractor: Extractor, keep: bool) -> Statistics:
    source: Source = run.source(train=True)
    name = re.sub(r"[^A-Za-z0-9]+", "_", extractor.name)  # of a file: PATH.py:FUNCTION
    path, images = run.folder / "eval" / f"reference_{name}.npz", source_set(source, "train")
    about = {"fingerprint": fingerprint(source, FINGERPRINT), "version": __version__}
    provenance = images.provenance | about | extractor.identity
    if path.exists():
        found = load_statistics(path)
        same = found.provenance | provenance == found.provenance
        if same and (found.features is not None or not keep):
            return found
    title = f"{extractor.name} features of the training images"
    given = Images(images.read, images.count, provenance)
    found = collect(extractor, given, keep_features=keep, title=title)
    if leads():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_statistics(path, found)
    return found


def measure_samples(
    run: Run, quality: Quality, params: PyTree, step: Which
) -> tuple[Measured, dict[str, Any]]:
    """(measures of config.quality.num_samples samples for each seed, what they depend on).

    The samples lie in eval/samples/step_N_HOW/seed_S, HOW naming the way of sampling. Those that
    are there are not drawn again. Seeds are config.seed, config.seed + 1, ...: the first draws what
    --mode sample draws, with --classes=all where classes mean something.
    """
    settings, experiment = run.settings, run.experiment
    count, seeds = settings.quality.num_samples, settings.quality.seeds
    check_fits("quality.num_samples", count, 16)  # numbers and random keys
    packed = math.prod(experiment.shape) / PACKED
    check_fits("quality.num_samples", count, packed, shutil.disk_usage(run.folder).free)
    scores = with_curvature(run, in_turn(run, params, count), step)
    draw = make_generator(run, settings.sampling.batch_size, score_fn=scores.score_fn)
    how = depends(settings.sampling, "samples") | scores.about
    evaluations = draw.sampler.evaluations * scores.cost.evaluations
    how |= {"evaluations": evaluations, "dtype": settings.model.dtype}
    how |= {"classes": "all"} if scores.given else {}
    whose = record_of(step) | {"weights": weights_checksum(params)}
    folder = run.folder / "eval" / "samples" / f"step_{in_name(step)}_{tag(how)}"
    found: list[Measured] = []
    said: list[str] = []
    about = {
        "data": f"{settings.name}, checkpoint {step}",
        "images": count,
        "shape": list(experiment.shape),
    }
    for seed in range(settings.seed, settings.seed + seeds):
        depends_on = how | whose | {"seed": seed}
        hold(folder / f"seed_{seed}", advice=IN_RUN)
        store = SampleStore(folder / f"seed_{seed}", depends_on, experiment.pixel_range.levels)
        key = run.keys(seed=seed)["sample"]
        fill(store, draw, scores, (key, count), f"checkpoint {step}, seed {seed}")
        measured, said = quality.of(Images(store.read, count, about), f"features, seed {seed}")
        found.append(measured)
    for text in said:
        say(f"note: {text}")
    against = _identity(quality.reference)
    known = {"samples": count, "seeds": seeds, "seed": settings.seed, "sampling": tag(how)}
    return over_seeds(found), known | quality.extractor.identity | {"reference": against}


def _identity(reference: Statistics) -> dict[str, Any]:
    """What tells a reference from others.

    Where a file of another code says nothing, its numbers do.
    """
    known, moments = reference.provenance, reference.moments
    checksum = hashlib.sha256(moments.mean.tobytes() + moments.scatter.tobytes())
    told = {name: known.get(name) for name in ("data", "split", "images")}
    return told | {"fingerprint": known.get("fingerprint") or checksum.hexdigest()[:16]}


def fill(
    store: SampleStore, draw: Generator, scores: Scores, wanted: tuple[Any, int], title: str
) -> None:
    """Draw and keep those of samples 0 .. count-1 that are missing.

    Args:
        store: keeps them.
        draw: draws them.
        scores: what they are drawn with.
        wanted: (random key of the samples, count).
        title: of the progress bar.

    Raises:
        UserError: samples are not finite; it names them, and what was drawn before stays.
    """
    key, count = wanted
    missing = store.missing(count)
    if not len(missing):
        return
    keys = sample_keys(key, jnp.asarray(missing))
    given = jax.tree.map(lambda rows: rows[missing], scores.given)
    for part, drawn in draw.batches(scores.params, keys, given, title):
        images = drawn.images
        bad = missing[part][~np.isfinite(images).all(axis=(1, 2, 3))]
        if len(bad):
            raise UserError(
                f"{len(bad)} samples are not finite (numbers {bad[:5].tolist()}), so nothing is "
                f"measured; those drawn before are kept in {store.folder}. Try another "
                "--checkpoint, more config.sampling.steps or a smaller config.sampling.snr."
            )
        if leads():
            store.write(missing[part], np.asarray(draw.pixel_range.decode(images)))
    wait_for_all("samples are written")


def small_sample_settings(settings: Settings) -> str:
    """Tag of what the measure during training depends on beside the weights."""
    how = depends(settings.sampling, "samples")
    how |= {n: getattr(settings.quality, n) for n in ("extractor", "weights", "reference")}
    return tag(how | {"samples": settings.training.quality_samples})


def train_measure(run: Run) -> Callable[[PyTree, int], float | None]:
    """(averaged weights, step) -> Frechet distance of config.training.quality_samples samples.

    The noise is the same each time. None where samples are not finite. It is for following a
    training run; the number is not that of many samples.
    """
    quality, settings, pixels = make_quality(run, ["fid"]), run.settings, run.experiment.pixel_range
    count = settings.training.quality_samples
    scores = of_network(run, None, count)
    draw = make_generator(run, settings.sampling.batch_size, score_fn=scores.score_fn)
    keys = sample_keys(run.keys()["sample"], jnp.arange(count))
    about = {"data": settings.name, "images": count, "shape": list(run.experiment.shape)}

    def distance(params: PyTree, step: int) -> float | None:
        parts = []  # as bytes, a quarter of the memory
        title = f"samples at step {step}"
        for _, drawn in draw.batches(params, keys, scores.given, title):
            if not np.isfinite(drawn.images).all():
                say(f"step {step}: samples are not finite, no Frechet distance")
                return None
            parts.append(to_bytes(np.asarray(pixels.decode(drawn.images)), pixels.levels))
        read = np.concatenate(parts).__getitem__
        return quality.of(Images(read, count, about), "features")[0]["fid"]["value"]

    return distance
