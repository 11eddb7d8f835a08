"""What distances between sets of images are computed from, with its provenance, in npz files."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from score_sde.errors import UserError
from score_sde.files import npz_names, read_npz, write_npz, writing
from score_sde.metrics.frechet import Moments
from score_sde.metrics.inception_score import ScoreSums, split_of

STATISTICS_KEYS = ("mu", "pool_3", "feats")
"""Entries of npz files that are statistics or features; see `load_statistics`."""
LARGEST = 1e30
"""No feature is larger. Squares of larger ones leave float32, and products float64."""


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Sums over the features of a set of images.

    Args:
        moments: of the features. A file may not say its number of images: then n is 2, so that
            the covariance is the file's, and provenance["images"] is None.
        provenance: data, split, images (number), shape (height, width, channels), levels,
            extractor, checksum, preprocessing, version (of this library), where known; file, where
            they were read from one.
        scores: sums for the Inception score, of an extractor with classes.
        features: (n, d), in the order of the images; None unless asked for.
    """

    moments: Moments
    provenance: dict[str, Any]
    scores: ScoreSums | None = None
    features: Float32[np.ndarray, "n d"] | None = None


def save_statistics(path: Path, statistics: Statistics) -> None:
    """Write statistics as an npz file, whole or not at all.

    pytorch-fid and clean-fid can read its `mu` and `sigma`. The entries: mu, sigma, n, provenance
    (JSON), and where known the sums of the Inception score (scores_NAME) and `features`.
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
        arrays |= {
            f"scores_{f.name}": np.asarray(getattr(statistics.scores, f.name)) for f in fields
        }
    if statistics.features is not None:
        arrays["features"] = statistics.features
    with writing(path, "make room there, or name another place"):
        write_npz(path, arrays, compress=False)


def load_statistics(path: Path) -> Statistics:
    """Read statistics: files of `save_statistics`, or of another code.

    The others say nothing of their provenance. pytorch-fid and clean-fid: mu, sigma; clean-fid for
    KID: feats; score_sde: pool_3, perhaps logits; reference batches of guided-diffusion: mu, sigma,
    and others.

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
            scores = ScoreSums.of(logits, split_of(np.arange(n), n, 10), 10)
        return Statistics(moments, unknown | {"images": moments.n}, scores, features)
    if not {"mu", "sigma"} <= entries.keys():
        raise UserError(
            f"{path} holds no statistics: entries `mu` and `sigma` (pytorch-fid, clean-fid, "
            "guided-diffusion), `pool_3` (score_sde) or `feats` (clean-fid) are looked for; it "
            f"holds {', '.join(npz_names(path)) or 'nothing'}"
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
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"{path} has a damaged `provenance` or `n` ({error}); make it anew"
        ) from error
    moments = _moments(path, entries["mu"], entries["sigma"], n)
    scores = None
    if set(score_names) <= entries.keys():
        scores = _scores(path, [entries[name] for name in score_names])
    features = entries.get("features")
    if features is not None:
        features = _features(path, features, "features").astype(np.float32)
        if features.shape != (n, len(moments.mean)):
            raise UserError(
                f"`features` in {path} have shape {features.shape}; mu and n say "
                f"{(n, len(moments.mean))}. Make it anew"
            )
    return Statistics(moments, provenance | {"file": str(path)}, scores, features)


def _moments(path: Path, mu: np.ndarray, sigma: np.ndarray, n: int) -> Moments:
    if mu.ndim != 1 or sigma.shape != (mu.size, mu.size) or not mu.size:
        raise UserError(
            f"`mu` and `sigma` in {path} must have shapes (d,) and (d, d); they have {mu.shape} "
            f"and {sigma.shape}"
        )
    if mu.dtype.kind not in "fiu" or sigma.dtype.kind not in "fiu":
        raise UserError(
            f"`mu` and `sigma` in {path} must be numbers; they are {mu.dtype} and {sigma.dtype}"
        )
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    for name, values in (("mu", mu), ("sigma", sigma)):
        if not (np.abs(values) <= LARGEST).all():  # also NaN
            raise UserError(
                f"`{name}` in {path} is not finite, or beyond {LARGEST:g}: the file is damaged, or "
                "was made of such features. Make it anew"
            )
    scale = np.abs(sigma).max()
    if np.abs(sigma - sigma.T).max() > 1e-5 * scale or (np.diag(sigma) < -1e-5 * scale).any():
        raise UserError(
            f"`sigma` in {path} is no covariance: it must be symmetric, with variances on its "
            "diagonal"
        )
    return Moments(n, mu, (sigma + sigma.T) * ((n - 1) / 2))


def _scores(path: Path, sums: list[np.ndarray]) -> ScoreSums:
    count, probability, entropy = sums
    splits = count.shape
    shapes = len(splits) == 1 and probability.shape[:1] == splits == entropy.shape
    numbers = all(array.dtype.kind in "fiu" for array in sums)
    if not (shapes and probability.ndim == 2 and numbers) or not all(
        ((array >= 0) & (array <= LARGEST)).all() for array in sums
    ):
        raise UserError(
            f"the sums of the Inception score in {path} are no such sums: numbers of 0 or more, "
            "(splits,), (splits, classes) and (splits,). Make the file anew"
        )
    return ScoreSums(*(array.astype(np.float64) for array in sums))


def _features(path: Path, features: np.ndarray, name: str = "features") -> np.ndarray:
    if (
        features.ndim != 2
        or min(features.shape) < 1
        or len(features) < 2
        or features.dtype.kind != "f"
    ):
        raise UserError(
            f"{name} in {path} must be floating-point (n, d) with n of 2 or more; they are "
            f"{features.dtype} {features.shape}"
        )
    bad = int((~(np.abs(features) <= LARGEST)).any(axis=1).sum())
    if bad:
        raise UserError(
            f"{name} of {bad} of {len(features)} images in {path} are not finite, or beyond "
            f"{LARGEST:g}. Make the file anew"
        )
    return features
