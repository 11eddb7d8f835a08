"""What distances between sets of images are computed from, collected batch by batch, with its provenance, in npz files."""

import dataclasses
import functools
import json
import operator
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float32, Int, UInt8
from tqdm import tqdm

from score_sde.errors import UserError
from score_sde.files import npz_names, read_npz, write_npz
from score_sde.metrics.features import Extractor
from score_sde.metrics.frechet import Moments, frechet_distance
from score_sde.metrics.inception_score import ScoreSums
from score_sde.metrics.kernel import kernel_distance
from score_sde.metrics.manifold import density_coverage, precision_recall
from score_sde.metrics.weights import PUBLISHED_PREFIX

METRICS = ("fid", "is", "kid", "pr", "dc")
FEATURE_METRICS = ("kid", "pr", "dc")
"""Those that need the features of every image, not sums over them."""
STATISTICS_KEYS = ("mu", "pool_3", "feats")
"""Entries of npz files that are statistics or features; see `load_statistics`."""
PUBLISHED_COUNT = 50_000
"""Samples that published FIDs are of."""

Read = Callable[[Int[np.ndarray, "n"]], UInt8[np.ndarray, "n h w c"]]


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Sums over the features of a set of images.

    Args:
        moments: of the features. Those of a file that does not say its number of images are written as n = 2, so that their
            covariance is the file's; provenance["images"] is None then.
        provenance: data, split, images (number), shape (height, width, channels), levels, extractor, checksum,
            preprocessing, version (of this library), where known; file, where they were read from one.
        scores: sums for the Inception score, of an extractor with classes.
        features: (n, d), in the order of the images; None unless asked for.
    """

    moments: Moments
    provenance: dict[str, Any]
    scores: ScoreSums | None = None
    features: Float32[np.ndarray, "n d"] | None = None


def collect(
    extractor: Extractor,
    read: Read,
    count: int,
    provenance: dict[str, Any],
    *,
    batch_size: int = 64,
    splits: int = 10,
    keep_features: bool = False,
    title: str = "",
) -> Statistics:
    """Statistics of images 0 .. count - 1, in memory that does not grow with their number unless features are kept.

    Batches have one shape: the last is filled up, and the filling left out. Local devices share a batch. Of several
    processes each takes consecutive images; the sums, in float64, are added in the order of the processes, so all have the
    same result. Split j of the Inception score has images
    floor(j count/splits) .. floor((j + 1) count/splits) - 1, as published.

    Args:
        extractor: images -> features.
        read: numbers of images -> these images, levels 0 .. 255.
        count: number of images, at least 2.
        provenance: what is known of them: data, split, levels; the rest is added.
        batch_size: images at a time in each process, rounded up to a multiple of its devices.
        splits: of the Inception score.
        keep_features: needed for KID, precision and recall, density and coverage.
        title: of the progress bar.

    Raises:
        UserError: fewer than 2 images, unreadable ones, images or features that are not finite.
    """
    data = provenance.get("data") or "the set"
    if count < 2:
        raise UserError(f"statistics need at least 2 images; {data} has {count}")
    process, processes = jax.process_index(), jax.process_count()
    mine = np.arange(process * count // processes, (process + 1) * count // processes)
    part, problem = None, ""
    try:
        part = _sum(extractor, read, mine, count, batch_size, splits, keep_features, title)
    except UserError as error:  # told to the other processes, which would wait for ever
        problem = str(error)
    said, checksums, found = zip(*_everywhere((problem, extractor.checksum, part)), strict=True)
    if any(said):
        raise UserError(next(filter(None, said)))
    if len(set(checksums)) > 1:
        raise UserError(
            f"the processes have different weights of extractor {extractor.name!r} ({', '.join(sorted(set(checksums)))}); "
            "copy one process's file to the others"
        )
    parts: list[_Part] = [each for each in found if each is not None]
    bad = np.concatenate([each.bad for each in parts])
    if len(bad):
        raise UserError(
            f"the features of {len(bad)} of {count} images of {data} are not finite (images {bad[:5].tolist()}"
            f"{' ...' if len(bad) > 5 else ''}), so no statistics were made; check the extractor and its weights"
        )
    known = {"data": "", "split": "", "images": count, "shape": list(parts[0].shape), "levels": 256}
    version = sys.modules["score_sde"].__version__  # imported from here it would be a circle
    moments = functools.reduce(operator.add, [each.moments for each in parts])
    scores = [each.scores for each in parts if each.scores is not None]
    return Statistics(
        moments,
        known | provenance | {"images": count} | extractor.identity | {"version": version},
        functools.reduce(operator.add, scores) if scores else None,
        np.concatenate([each.features for each in parts]) if keep_features else None,
    )


@dataclasses.dataclass
class _Part:
    """Sums over some images; bad: numbers of those whose features are not finite."""

    moments: Moments
    scores: ScoreSums | None
    features: np.ndarray | None
    bad: np.ndarray
    shape: tuple[int, ...]


def _sum(extractor, read, numbers, count, batch_size, splits, keep_features, title) -> _Part | None:
    """Sums over images of these numbers; None for none."""
    devices = jax.local_devices() if extractor.compiled else jax.local_devices()[:1]
    size = -(-min(batch_size, max(len(numbers), 1)) // len(devices)) * len(devices)
    sharding = NamedSharding(Mesh(np.asarray(devices), ("data",)), PartitionSpec("data"))
    moments, scores, kept, bad, shape = None, None, [], [], ()
    bar = tqdm(total=len(numbers), unit="image", desc=title or None, dynamic_ncols=True, disable=not title)
    with bar:
        for some, images in _batches(read, numbers, size):
            shape = images.shape[1:]
            found = extractor(jax.device_put(images, sharding) if extractor.compiled else images)
            pool = found.pool[: len(some)]
            finite = np.isfinite(pool).all(axis=1)
            if found.logits is not None:
                finite &= np.isfinite(found.logits[: len(some)]).all(axis=1)
            bad.append(some[~finite])
            more = Moments.of(pool[finite])
            moments = more if moments is None else moments + more
            if found.logits is not None:
                logits = found.logits[: len(some)][finite]
                sums = ScoreSums.of(logits, _split(some[finite], count, splits), splits)
                scores = sums if scores is None else scores + sums
            if keep_features:
                kept.append(pool)
            bar.update(len(some))
    if moments is None:
        return None
    return _Part(moments, scores, np.concatenate(kept) if kept else None, np.concatenate(bad), shape)


def _split(numbers: np.ndarray, count: int, splits: int) -> np.ndarray:
    """Which of `splits` consecutive parts of 0 .. count-1 each number is in."""
    ends = np.arange(1, splits) * count // splits
    return np.searchsorted(ends, numbers, side="right")


def _batches(read: Read, numbers: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(numbers, `size` images, the last batch filled up), read in a thread while the batch before is in use."""
    parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
    with ThreadPoolExecutor(1) as thread:
        coming = [thread.submit(read, np.resize(part, size)) for part in parts[:1]]
        for part, after in zip(parts, [*parts[1:], None], strict=True):
            images = np.asarray(coming.pop().result())
            if after is not None:
                coming.append(thread.submit(read, np.resize(after, size)))
            yield part, images


def _everywhere(mine: Any) -> list[Any]:
    """What each process has, in their order, in all processes; as bytes, because jax would round float64 to float32."""
    if jax.process_count() == 1:
        return [mine]
    data = np.frombuffer(pickle.dumps(mine), np.uint8)
    lengths = multihost_utils.process_allgather(np.asarray([len(data)], np.int32)).reshape(-1)
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(data)] = data
    rows = multihost_utils.process_allgather(padded)
    return [pickle.loads(row[:length].tobytes()) for row, length in zip(rows, lengths, strict=True)]


# Files


def save_statistics(path: Path, statistics: Statistics) -> None:
    """Write statistics as an npz file, whole or not at all; pytorch-fid and clean-fid can read its `mu` and `sigma`.

    mu, sigma, n, provenance (JSON), and where known the sums of the Inception score (scores_NAME) and `features`.
    """
    moments = statistics.moments
    provenance = {key: value for key, value in statistics.provenance.items() if key != "file"}
    arrays = {
        "mu": moments.mean,
        "sigma": moments.covariance,
        "n": np.asarray(moments.n),
        "provenance": np.asarray(json.dumps(provenance, sort_keys=True)),
    }
    if statistics.scores is not None:
        fields = dataclasses.fields(statistics.scores)
        arrays |= {f"scores_{f.name}": np.asarray(getattr(statistics.scores, f.name)) for f in fields}
    if statistics.features is not None:
        arrays["features"] = statistics.features
    write_npz(path, arrays)


def load_statistics(path: Path) -> Statistics:
    """Read statistics: files of `save_statistics`, or of another code, which say nothing of their provenance.

    pytorch-fid and clean-fid: mu, sigma; clean-fid for KID: feats; score_sde: pool_3, perhaps logits; reference batches of
    guided-diffusion: mu, sigma, and others.

    Raises UserError for files that are damaged, hold no statistics, or impossible ones.
    """
    ours = [f"scores_{field.name}" for field in dataclasses.fields(ScoreSums)]
    names = ["mu", "sigma", "n", "provenance", "features", "pool_3", "feats", "logits", *ours]
    entries = read_npz(path, names)
    if "provenance" in entries:
        return _ours(path, entries, ours)
    unknown: dict[str, Any] = {"file": str(path), "data": "", "split": "", "images": None}
    features = next((entries[name] for name in STATISTICS_KEYS[1:] if name in entries), None)
    if features is not None:
        moments, features = Moments.of(_features(path, features)), features.astype(np.float32)
        scores = None
        if "logits" in entries:
            logits, n = _features(path, entries["logits"], "logits"), len(features)
            if len(logits) != n:
                raise UserError(f"{path} has features of {n} images and logits of {len(logits)}")
            scores = ScoreSums.of(logits, _split(np.arange(n), n, 10), 10)
        return Statistics(moments, unknown | {"images": moments.n}, scores, features)
    if not {"mu", "sigma"} <= entries.keys():
        raise UserError(
            f"{path} holds no statistics: entries `mu` and `sigma` (pytorch-fid, clean-fid, guided-diffusion), `pool_3` "
            f"(score_sde) or `feats` (clean-fid) are looked for; it holds {', '.join(npz_names(path)) or 'nothing'}"
        )
    return Statistics(_moments(path, entries["mu"], entries["sigma"], 2), unknown)


def _ours(path: Path, entries: dict[str, np.ndarray], score_names: list[str]) -> Statistics:
    missing = {"mu", "sigma", "n"} - entries.keys()
    if missing:
        raise UserError(f"{path} lacks {', '.join(sorted(missing))}; make it anew")
    try:
        provenance, n = json.loads(str(entries["provenance"])), int(entries["n"])
        if not isinstance(provenance, dict) or n < 2:
            raise ValueError(f"n={n}, provenance {provenance}")
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} has a damaged `provenance` or `n` ({error}); make it anew") from error
    moments = _moments(path, entries["mu"], entries["sigma"], n)
    scores = None
    if set(score_names) <= entries.keys():
        scores = ScoreSums(*(entries[name] for name in score_names))
    features = entries.get("features")
    if features is not None:
        features = _features(path, features, "features").astype(np.float32)
        if features.shape != (n, len(moments.mean)):
            raise UserError(
                f"`features` in {path} have shape {features.shape}; mu and n say {(n, len(moments.mean))}. Make it anew"
            )
    return Statistics(moments, provenance | {"file": str(path)}, scores, features)


def _moments(path: Path, mu: np.ndarray, sigma: np.ndarray, n: int) -> Moments:
    if mu.ndim != 1 or sigma.shape != (mu.size, mu.size) or not mu.size:
        raise UserError(
            f"`mu` and `sigma` in {path} must have shapes (d,) and (d, d); they have {mu.shape} and {sigma.shape}"
        )
    if mu.dtype.kind not in "fiu" or sigma.dtype.kind not in "fiu":
        raise UserError(f"`mu` and `sigma` in {path} must be numbers; they are {mu.dtype} and {sigma.dtype}")
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise UserError(f"`mu` or `sigma` in {path} is not finite: the file is damaged, or was made of NaN")
    scale = np.abs(sigma).max()
    if np.abs(sigma - sigma.T).max() > 1e-5 * scale or (np.diag(sigma) < -1e-5 * scale).any():
        raise UserError(
            f"`sigma` in {path} is no covariance: it must be symmetric, with variances on its diagonal"
        )
    return Moments(n, mu, (sigma + sigma.T) * ((n - 1) / 2))


def _features(path: Path, features: np.ndarray, name: str = "features") -> np.ndarray:
    if features.ndim != 2 or min(features.shape) < 1 or len(features) < 2 or features.dtype.kind != "f":
        raise UserError(
            f"{name} in {path} must be floating-point (n, d) with n of 2 or more; they are {features.dtype} {features.shape}"
        )
    bad = int((~np.isfinite(features)).any(axis=1).sum())
    if bad:
        raise UserError(f"{name} of {bad} of {len(features)} images in {path} are not finite")
    return features


# Numbers


def check_provenance(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raises UserError where images and extractors of these provenances cannot be compared: all that can be said beforehand."""
    for key, (words, advice) in IDENTITY.items():
        if key in a and key in b and a[key] != b[key]:
            raise UserError(
                f"{_named(a)} and {_named(b)} have different {words}: {a[key]} and {b[key]}. Distances between them mean "
                f"nothing; {advice}"
            )


IDENTITY = {
    "extractor": ("extractors", "make both with one (--extractor, config.quality.extractor)"),
    "checksum": (
        "weights of the extractor (SHA-256)",
        "make both with the same weights file (--weights, config.quality.weights)",
    ),
    "preprocessing": ("preprocessing", "make both with one version of the library"),
    "shape": ("shapes of images (height, width, channels)", "make both from images of one size"),
}
"""What must be the same in two provenances: in words, and what to do."""


def check_comparable(a: Statistics, b: Statistics) -> None:
    """Raises UserError where distances between `a` and `b` mean nothing: other extractor, weights, or size of images.

    What a file of another code does not say cannot be checked; `notes` says so.
    """
    check_provenance(a.provenance, b.provenance)
    if a.moments.mean.shape != b.moments.mean.shape:
        raise UserError(
            f"{_called(a)} has features of {a.moments.mean.size} dimensions and {_called(b)} of {b.moments.mean.size}: "
            "they are of different extractors. Make the statistics of both with one"
        )


def check_names(names: Sequence[str]) -> None:
    """Raises UserError unless all are measures, and there is one."""
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise UserError(
            f"no measure is called {', '.join(map(repr, unknown)) or repr('')}; there are {', '.join(METRICS)}"
        )


def measure(
    names: Sequence[str], samples: Statistics, reference: Statistics | None
) -> dict[str, dict[str, float]]:
    """Measures by name; "is" is of the samples alone, the others need a comparable reference.

    Args:
        names: of `METRICS`: "fid", "is", "kid", "pr" (precision, recall), "dc" (density, coverage).
        samples, reference: of generated and of real images.

    Returns:
        {"fid": {"value"}, "is": {"value", "standard_deviation"}, "kid": {"value", "standard_error"}, "precision": {"value"},
        "recall": ..., "density": ..., "coverage": ...}.

    Raises UserError for unknown names, statistics that lack what a measure needs, and as `check_comparable`.
    """
    check_names(names)
    result: dict[str, dict[str, float]] = {}
    if "is" in names:
        if samples.scores is None:
            raise UserError(
                f"{_called(samples)} has no class probabilities, which the Inception score needs; use an extractor with classes"
            )
        value, deviation = samples.scores.score()
        result["is"] = {"value": value, "standard_deviation": deviation}
    if set(names) <= {"is"}:
        return result
    if reference is None:
        raise UserError(f"{', '.join(n for n in names if n != 'is')}: needs a second set to compare with")
    check_comparable(samples, reference)
    if "fid" in names:
        result["fid"] = {"value": frechet_distance(samples.moments, reference.moments)}
    wanted = [name for name in names if name in FEATURE_METRICS]
    if not wanted:
        return result
    generated, real = (_all_features(each, wanted) for each in (samples, reference))
    if "kid" in names:
        found = kernel_distance(generated, real)
        result["kid"] = {"value": found.value, "standard_error": found.standard_error}
    if "pr" in names:
        precision, recall = precision_recall(real, generated)
        result |= {"precision": {"value": precision}, "recall": {"value": recall}}
    if "dc" in names:
        density, coverage = density_coverage(real, generated)
        result |= {"density": {"value": density}, "coverage": {"value": coverage}}
    return result


def _all_features(statistics: Statistics, wanted: list[str]) -> np.ndarray:
    if statistics.features is None:
        raise UserError(
            f"{', '.join(wanted)}: needs the features of every image, and {_called(statistics)} holds only sums; give the "
            "images themselves, or statistics made together with these measures"
        )
    return statistics.features


def notes(samples: Statistics, reference: Statistics | None) -> list[str]:
    """What a reader of the numbers should know: whether they can be compared with published ones, and what was not checked."""
    found, why = [], []
    count = samples.provenance.get("images")
    if count is not None and count < PUBLISHED_COUNT:
        why.append(f"{count:,} samples, published numbers are of {PUBLISHED_COUNT:,} or more")
    extractor = samples.provenance.get("extractor")
    if extractor is not None and extractor != "inception":
        why.append(f"features of {extractor!r}, published ones are Inception's")
    elif extractor and not str(samples.provenance.get("checksum")).startswith(PUBLISHED_PREFIX):
        why.append("Inception's weights are not the published ones")
    if why:
        found.append(f"not comparable with published numbers: {'; '.join(why)}")
    for each in (samples, reference):
        if each is not None and "extractor" not in each.provenance:
            found.append(
                f"{_called(each)} does not say its extractor: only the {each.moments.mean.size} dimensions could be checked"
            )
    return found


def table(measures: Mapping[str, Mapping[str, float]]) -> str:
    """Measures in words, one a line: the value, and +- its standard error or deviation."""
    lines = []
    for name, row in measures.items():
        spread = [f" +- {row[key]:.3g} ({words})" for key, words in SPREADS.items() if key in row]
        lines.append(f"{name:<10}{row['value']:.6g}{''.join(spread)}")
    return "\n".join(lines)


SPREADS = {"standard_error": "standard error", "standard_deviation": "standard deviation over splits"}


def _called(statistics: Statistics) -> str:
    return _named(statistics.provenance)


def _named(provenance: Mapping[str, Any]) -> str:
    found = " ".join(str(provenance[key]) for key in ("data", "split") if provenance.get(key))
    file = provenance.get("file")
    return f"{file} (of {found})" if file and found else file or found or "a set of images"
