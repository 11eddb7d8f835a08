"""Quality of a checkpoint's samples: drawn by the thousand and kept, measured against the training images."""

import dataclasses
import functools
import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int, Integer, PyTree, UInt8
from scipy.special import stdtrit

from score_sde import __version__
from score_sde.build import Experiment, open_source
from score_sde.data import Source, fingerprint
from score_sde.data.image_sets import KEYS as IMAGE_KEYS
from score_sde.data.image_sets import ImageSet, labelled_images, open_images, source_set, to_bytes
from score_sde.errors import UserError
from score_sde.files import npz_names, read_npz, write_whole
from score_sde.generate import Generator
from score_sde.likelihood.rows import claim_settings
from score_sde.metrics.extractors import make_extractor
from score_sde.metrics.features import Extractor
from score_sde.metrics.frechet import Moments
from score_sde.metrics.statistics import (
    FEATURE_METRICS,
    STATISTICS_KEYS,
    Statistics,
    check_comparable,
    collect,
    load_statistics,
    measure,
    notes,
    save_statistics,
)
from score_sde.metrics.weights import inception_file
from score_sde.session import draw_batches, make_generator, run_keys
from score_sde.types import sample_keys

Measured = dict[str, dict[str, float]]
"""{"fid": {"value": 3.1}, "kid": {"value": ..., "standard_error": ...}, ...}: of one set of samples."""


FINGERPRINT = 1000
"""Training images that are compared with those a kept reference was made of."""


LEFT_OUT = ("num_samples", "batch_size", "frames")
"""Entries of config.sampling that a sample does not depend on."""


BOUNDS = {
    "fid": (0.0, math.inf),
    "is": (1.0, math.inf),
    "precision": (0.0, 1.0),
    "recall": (0.0, 1.0),
    "density": (0.0, math.inf),
    "coverage": (0.0, 1.0),
}
"""Least and greatest value that a measure can have; the unbiased estimate of KID may be negative."""


class SampleStore:
    """Samples number 0, 1, 2, ... in a folder of npz files, each written whole or not at all.

    Drawing that was killed goes on with the numbers that are missing, in batches of any size.

    Args:
        folder: where they lie; made when the first are written.
        settings: what the samples depend on. A folder written with other settings is refused.
        levels: of a pixel.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], levels: int):
        self.folder, self.levels = folder, levels
        self._settings = claim_settings(folder, settings)
        self._last: tuple[Path, np.ndarray] | None = None

    def missing(self, count: int) -> Int[np.ndarray, "n"]:
        """Those of 0 .. count-1 that are not there yet, ascending."""
        have = np.zeros(count, bool)
        for first, end, _ in self._pieces():
            have[first:end] = True
        return np.flatnonzero(~have)

    def write(self, numbers: Int[np.ndarray, "n"], images: Integer[np.ndarray, "n h w c"]) -> None:
        """Add the samples with these ascending numbers."""
        if not (self.folder / "settings.json").exists():
            write_whole(self.folder / "settings.json", lambda path: path.write_text(self._settings))
        for part in np.split(np.arange(len(numbers)), np.flatnonzero(np.diff(numbers) != 1) + 1):
            name = f"samples_{numbers[part[0]]:07d}_{numbers[part[-1]] + 1:07d}.npz"
            write_whole(self.folder / name, functools.partial(_save, images=images[part], levels=self.levels))

    def read(self, numbers: Int[np.ndarray, "n"]) -> UInt8[np.ndarray, "n h w c"]:
        """The samples with these numbers, 0 .. 255; raises UserError where a file is damaged or a number missing."""
        found: dict[int, np.ndarray] = {}
        for first, end, path in self._pieces():
            for number in numbers[(numbers >= first) & (numbers < end)].tolist():
                if number not in found:
                    found[number] = self._load(path, end - first)[number - first]
        lost = [number for number in numbers.tolist() if number not in found]
        if lost:
            raise UserError(f"{self.folder} lacks samples {lost[:5]} ...; the same command draws them")
        return to_bytes(np.stack([found[number] for number in numbers.tolist()]), self.levels)

    def _pieces(self) -> list[tuple[int, int, Path]]:
        """(first, end, file), ascending."""
        named = ((re.fullmatch(r"samples_(\d+)_(\d+)\.npz", p.name), p) for p in self.folder.glob("*.npz"))
        return sorted((int(name[1]), int(name[2]), path) for name, path in named if name)

    def _load(self, path: Path, count: int) -> np.ndarray:
        if self._last is None or self._last[0] != path:
            try:
                images = read_npz(path, ["images"])["images"]
                if len(images) != count:
                    raise ValueError(f"{len(images)} images")
            except (ValueError, KeyError) as error:
                raise UserError(
                    f"{path} is damaged ({error}). Remove it; the same command draws its samples again."
                ) from error
            self._last = path, images
        return self._last[1]


def _save(path: Path, images: np.ndarray, levels: int) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, images=images, levels=levels)


def weights_checksum(params: PyTree) -> str:
    """SHA-256 (16 hex digits) of all weights with their names: which checkpoint samples are of, whatever its step."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def tag(settings: Mapping[str, Any]) -> str:
    """Eight hex digits that name a way of sampling."""
    return hashlib.sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:8]


def over_seeds(found: Sequence[Measured]) -> Measured:
    """Means over seeds with standard error and 95% interval by Student's t, cut off where no value can be; of one seed what
    is known of it alone.

    Sets of samples of different seeds are the independent units; the reference is the same for all.
    """
    if len(found) == 1:
        return found[0]
    result: Measured = {}
    for name in found[0]:
        values = np.asarray([measured[name]["value"] for measured in found])
        mean, error = float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))
        radius = float(stdtrit(len(values) - 1, 0.975)) * error
        least, most = BOUNDS.get(name, (-math.inf, math.inf))
        low, high = max(mean - radius, least), min(mean + radius, most)
        result[name] = {"value": mean, "standard_error": error, "low": low, "high": high}
    return result


@dataclasses.dataclass(frozen=True, eq=False)
class Quality:
    """What the samples of a run are measured with: an extractor, and the statistics of the images to compare with.

    Args:
        names: of `METRICS`.
        extractor: features of images.
        reference: of the training images, or of those that config.quality.reference describes.
    """

    names: Sequence[str]
    extractor: Extractor
    reference: Statistics

    def of(self, read, count: int, about: Mapping[str, Any], title: str) -> tuple[Measured, list[str]]:
        """Measures of the images 0 .. count-1 that `read` gives (0 .. 255), and what has to be said of them."""
        keep = bool(set(FEATURE_METRICS) & set(self.names))
        provenance = dict(about) | self.extractor.identity
        found = collect(self.extractor, read, count, provenance, keep_features=keep, title=title)
        return measure(self.names, found, self.reference), notes(found, self.reference)


def make_quality(
    config: ml_collections.ConfigDict, shape: tuple[int, int, int], workdir: Path, names: Sequence[str]
) -> Quality:
    """As config.quality says, for images of `shape`; the reference is made once and kept: eval/reference_EXTRACTOR.npz."""
    section, extractor = config.quality, open_extractor(config)
    about = {"data": "the samples", "shape": list(shape)}
    samples = promised(names, about, extractor)
    keep = bool(set(FEATURE_METRICS) & set(names))
    if section.reference:
        reference = _given_statistics(Path(section.reference).expanduser())
    else:
        reference = _training_statistics(open_source(config.data, train=True), extractor, workdir, keep)
    check_comparable(samples, reference)  # before anything is drawn
    if keep and reference.features is None:
        needing = ", ".join(name for name in names if name in FEATURE_METRICS)
        raise UserError(
            f"{section.reference} holds no features, which {needing} need. Make it anew "
            "from its images: --mode fid --a DIR --output FILE --metrics kid; or leave config.quality.reference out"
        )
    return Quality(names, extractor, reference)


def promised(names: Sequence[str], about: Mapping[str, Any], extractor: Extractor) -> Statistics:
    """Statistics without sums: what is known of those that `extractor` will make of images of about["shape"].

    What jax can compile is only traced. Raises UserError where it has no classes for the Inception score, if that is in `names`.
    """
    images = np.zeros((2, *about["shape"]), np.uint8)
    found = jax.eval_shape(extractor.fn, images) if extractor.compiled else extractor.fn(images)
    if "is" in names and found.logits is None:
        raise UserError(
            f"is: extractor {extractor.name!r} has no classes, which the Inception score needs; leave `is` out, or choose "
            "another extractor (--config.quality.extractor, --extractor)"
        )
    return Statistics(Moments.of(np.zeros((0, found.pool.shape[1]))), dict(about) | extractor.identity)


def _given_statistics(path: Path) -> Statistics:
    try:
        return load_statistics(path)
    except UserError as error:
        raise UserError(
            f"config.quality.reference: {error}. Statistics of a folder of images are made by "
            f"--mode fid --a DIR --output {path.stem}.npz"
        ) from error


def open_extractor(config: ml_collections.ConfigDict) -> Extractor:
    """The one of config.quality, fetched or trained if it is not there yet."""
    data_dir = config.data.path or None if config.data.source == "mnist" else None
    load_data = functools.partial(labelled_images, data_dir=data_dir)
    return make_extractor(config.quality.extractor, _weights(config), load_data)


def extractor_at_hand(config: ml_collections.ConfigDict) -> Extractor | None:
    """The same, or None where it would have to be fetched or trained first, or takes long: Inception on CPUs."""
    weights = _weights(config)
    if config.quality.extractor == "inception" and (
        jax.default_backend() == "cpu" or (weights is None and not inception_file().exists())
    ):
        return None

    def load_data(name: str):
        raise LookupError(name)

    try:
        return make_extractor(config.quality.extractor, weights, load_data)
    except LookupError:
        return None


def _weights(config: ml_collections.ConfigDict) -> Path | None:
    return Path(config.quality.weights).expanduser() if config.quality.weights else None


def _training_statistics(source: Source, extractor: Extractor, workdir: Path, keep: bool) -> Statistics:
    name = re.sub(r"[^A-Za-z0-9]+", "_", extractor.name)  # of a file: PATH.py:FUNCTION
    path, images = workdir / "eval" / f"reference_{name}.npz", source_set(source, "train")
    about = images.provenance | {"fingerprint": fingerprint(source, FINGERPRINT), "version": __version__}
    provenance = about | extractor.identity
    if path.exists():
        found = load_statistics(path)
        if found.provenance | provenance == found.provenance and (found.features is not None or not keep):
            return found
    title = f"{extractor.name} features of the training images"
    found = collect(extractor, images.read, images.count, provenance, keep_features=keep, title=title)
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_statistics(path, found)
    return found


def open_set(path: Path, metrics: tuple[str, ...], extractor: str) -> ImageSet | Statistics:
    """What --a or --b names. A file with both, as guided-diffusion has them, counts as statistics for FID with Inception."""
    names = set(npz_names(path)) if path.is_file() and path.suffix.lower() == ".npz" else set()
    if names and not names & {*IMAGE_KEYS, *STATISTICS_KEYS}:
        raise UserError(
            f"{path} holds neither images (an entry {' or '.join(IMAGE_KEYS)}) nor statistics ({', '.join(STATISTICS_KEYS)}); "
            f"its entries are {', '.join(sorted(names))}"
        )
    sums_do = "mu" in names and set(metrics) == {"fid"} and extractor == "inception"
    if names and (sums_do or not names & set(IMAGE_KEYS)):
        return load_statistics(path)
    return open_images(path)


def known_of(given: Iterable[ImageSet | Statistics], identity: dict) -> tuple[dict, dict]:
    """Provenance that statistics of the first and of the last have, or will have with an extractor of this identity."""
    known = [
        each.provenance if isinstance(each, Statistics) else each.provenance | identity for each in given
    ]
    return known[0], known[-1]


def measure_checkpoint(
    quality: Quality, experiment: Experiment, config: ml_collections.ConfigDict, mesh, params, step, workdir
) -> tuple[Measured, dict[str, Any]]:
    """Measures of config.quality.num_samples samples for each of config.quality.seeds seeds, and what they depend on.

    The samples lie in eval/samples/step_N_HOW/seed_S, HOW naming the way of sampling; those that are there are not drawn again.
    Seeds are config.seed, config.seed + 1, ...: the first draws what --mode sample draws.
    """
    count, seeds = experiment.quality["num_samples"], experiment.quality["seeds"]
    draw = make_generator(experiment, mesh, min(experiment.sampling["batch_size"], count))
    how = {name: value for name, value in config.sampling.to_dict().items() if name not in LEFT_OUT}
    how |= {"evaluations": draw.sampler.nfe, "dtype": config.model.dtype}
    whose = {"step": step, "weights": weights_checksum(params)}
    folder = workdir / "eval" / "samples" / f"step_{step}_{tag(how)}"
    found: list[Measured] = []
    said: list[str] = []
    for seed in range(experiment.seed, experiment.seed + seeds):
        store = SampleStore(
            folder / f"seed_{seed}", how | whose | {"seed": seed}, experiment.pixel_range.levels
        )
        key = run_keys(dataclasses.replace(experiment, seed=seed))["sample"]
        fill(store, draw, params, key, count, f"checkpoint {step}, seed {seed}")
        about = {
            "data": f"{experiment.name}, checkpoint {step}",
            "images": count,
            "shape": list(experiment.shape),
        }
        measured, said = quality.of(store.read, count, about, f"features, seed {seed}")
        found.append(measured)
    if jax.process_index() == 0:
        print("".join(f"note: {text}\n" for text in said), end="")
    against = _identity(quality.reference)
    depends = {"samples": count, "seeds": seeds, "seed": experiment.seed, "sampling": tag(how)}
    return over_seeds(found), depends | quality.extractor.identity | {"reference": against}


def _identity(reference: Statistics) -> dict[str, Any]:
    """What tells a reference from others: files of other codes say nothing of themselves, so their numbers do."""
    known = reference.provenance
    checksum = hashlib.sha256(reference.moments.mean.tobytes() + reference.moments.scatter.tobytes())
    told = {name: known.get(name) for name in ("data", "split", "images")}
    return told | {"fingerprint": known.get("fingerprint") or checksum.hexdigest()[:16]}


def fill(store: SampleStore, draw: Generator, params: PyTree, key, count: int, title: str) -> None:
    """Draw and keep those of samples 0 .. count-1 that are missing.

    Raises UserError, naming them, where samples are not finite; what was drawn before stays.
    """
    missing = store.missing(count)
    if not len(missing):
        return
    for part, images in draw_batches(draw, params, sample_keys(key, jnp.asarray(missing)), None, title):
        bad = missing[part][~np.isfinite(images).all(axis=(1, 2, 3))]
        if len(bad):
            raise UserError(
                f"{len(bad)} samples are not finite (numbers {bad[:5].tolist()}), so nothing is measured; those drawn before are "
                f"kept in {store.folder}. Try another --checkpoint, more config.sampling.steps or a smaller config.sampling.snr."
            )
        if jax.process_index() == 0:
            store.write(missing[part], np.asarray(draw.pixel_range.decode(images)))
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("samples are written")


def small_sample_settings(config: ml_collections.ConfigDict) -> str:
    """Tag of what `small_sample_distance` depends on beside the weights."""
    sampling, quality = config.sampling.to_dict(), config.quality.to_dict()
    how = {name: value for name, value in sampling.items() if name not in LEFT_OUT}
    how |= {name: quality[name] for name in ("extractor", "weights", "reference")}
    return tag(how | {"samples": config.training.quality_samples})


def small_sample_distance(experiment: Experiment, quality: Quality, mesh):
    """(averaged weights, step) -> Frechet distance of config.training.quality_samples samples, the same noise each time.

    None where samples are not finite. For following a training run; the number is not that of many samples.
    """
    count, levels = experiment.training["quality_samples"], experiment.pixel_range.levels
    draw = make_generator(experiment, mesh, min(experiment.sampling["batch_size"], count))
    keys = sample_keys(run_keys(experiment)["sample"], jnp.arange(count))
    about = {"data": experiment.name, "images": count, "shape": list(experiment.shape)}

    def distance(params: PyTree, step: int) -> float | None:
        parts = []  # as bytes, a quarter of the memory
        for _, images in draw_batches(draw, params, keys, None, f"samples at step {step}"):
            if not np.isfinite(images).all():
                if jax.process_index() == 0:
                    print(f"step {step}: samples are not finite, no Frechet distance")
                return None
            parts.append(to_bytes(np.asarray(draw.pixel_range.decode(images)), levels))
        read = np.concatenate(parts).__getitem__
        return quality.of(read, count, about, "features")[0]["fid"]["value"]

    return distance
