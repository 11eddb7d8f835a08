"""Distances between sets of images from their statistics, by name, and what is said of them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from score_sde.errors import UserError
from score_sde.metrics.features import Extractor
from score_sde.metrics.frechet import Moments, frechet_distance
from score_sde.metrics.kernel import kernel_distance
from score_sde.metrics.manifold import density_coverage, precision_recall
from score_sde.metrics.statistics import Statistics
from score_sde.metrics.weights import PUBLISHED_PREFIX

Values = dict[str, dict[str, float]]
"""{"kid": {"value": ..., "standard_error": ...}, ...}."""


class Column(NamedTuple):
    """A number that a measure gives.

    label: in words. higher: whether more is better. range: least and greatest value it can have.
    """

    label: str
    higher: bool = False
    range: tuple[float, float] = (0.0, math.inf)


class Measure(NamedTuple):
    """A measure of samples.

    compute: (samples, reference) -> its columns with their values. columns: what is known of them.
    needs: "sums" over features, "features" of every image, or "scores", class probabilities of the
    samples alone.
    """

    compute: Callable[[Statistics, Statistics], Values]
    columns: dict[str, Column]
    needs: str = "features"


def _frechet(samples: Statistics, reference: Statistics) -> Values:
    return {"fid": {"value": frechet_distance(samples.moments, reference.moments)}}


def _inception_score(samples: Statistics, reference: Statistics) -> Values:
    assert samples.scores is not None
    value, deviation = samples.scores.score()
    return {"is": {"value": value, "standard_deviation": deviation}}


def _features(samples: Statistics, reference: Statistics) -> tuple[np.ndarray, np.ndarray]:
    assert samples.features is not None and reference.features is not None
    return samples.features, reference.features


def _kernel(samples: Statistics, reference: Statistics) -> Values:
    found = kernel_distance(*_features(samples, reference))
    return {"kid": {"value": found.value, "standard_error": found.standard_error}}


def _precision_recall(samples: Statistics, reference: Statistics) -> Values:
    generated, real = _features(samples, reference)
    precision, recall = precision_recall(real, generated)
    return {"precision": {"value": precision}, "recall": {"value": recall}}


def _density_coverage(samples: Statistics, reference: Statistics) -> Values:
    generated, real = _features(samples, reference)
    density, coverage = density_coverage(real, generated)
    return {"density": {"value": density}, "coverage": {"value": coverage}}


def _share(name: str) -> Column:
    return Column(name, higher=True, range=(0.0, 1.0))


MEASURES = {
    "fid": Measure(_frechet, {"fid": Column("FID")}, needs="sums"),
    "is": Measure(
        _inception_score,
        {"is": Column("Inception score", higher=True, range=(1.0, math.inf))},
        needs="scores",
    ),
    # An unbiased estimate of 0 may be negative.
    "kid": Measure(_kernel, {"kid": Column("KID", range=(-math.inf, math.inf))}),
    "pr": Measure(
        _precision_recall, {"precision": _share("precision"), "recall": _share("recall")}
    ),
    "dc": Measure(
        _density_coverage,
        {"density": Column("density", higher=True), "coverage": _share("coverage")},
    ),
}
"""Measures of samples by name; a new one is a row here."""
COLUMNS = {name: known for each in MEASURES.values() for name, known in each.columns.items()}
"""All their columns."""


def need_features(names: Iterable[str]) -> bool:
    """Whether one of these measures needs the features of every image, not sums over them."""
    return any(MEASURES[name].needs == "features" for name in names)


PUBLISHED_COUNT = 50_000
"""Samples that published FIDs are of."""


def check_provenance(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raises UserError where images and extractors of these provenances cannot be compared.

    That is all that can be said before features are computed.
    """
    for key, (words, advice) in IDENTITY.items():
        if key in a and key in b and a[key] != b[key]:
            raise UserError(
                f"{_named(a)} and {_named(b)} have different {words}: {a[key]} and {b[key]}. "
                f"Distances between them mean nothing; {advice}"
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
    """Raises UserError where distances between `a` and `b` mean nothing.

    That is so for different extractors, weights, or sizes of images. What a file of another code
    does not say cannot be checked; `notes` says so.
    """
    check_provenance(a.provenance, b.provenance)
    if a.moments.mean.shape != b.moments.mean.shape:
        raise UserError(
            f"{_called(a)} has features of {a.moments.mean.size} dimensions and {_called(b)} of "
            f"{b.moments.mean.size}: they are of different extractors. Make the statistics of both "
            "with one"
        )


def check_names(names: Sequence[str]) -> None:
    """Raises UserError unless all are measures, and there is one."""
    unknown = [name for name in names if name not in MEASURES]
    if unknown or not names:
        raise UserError(
            f"no measure is called {', '.join(map(repr, unknown)) or repr('')}; there are "
            f"{', '.join(MEASURES)}"
        )


def measure(names: Sequence[str], samples: Statistics, reference: Statistics | None) -> Values:
    """Measures by name: first "is", which is of the samples alone.

    The others need a comparable reference.

    Args:
        names: of `MEASURES`: "fid", "is", "kid", "pr" (precision, recall), "dc" (density,
            coverage).
        samples, reference: of generated and of real images.

    Returns:
        {"fid": {"value"}, "is": {"value", "standard_deviation"}, "kid": {"value",
        "standard_error"}, "precision": {"value"}, "recall": ..., "density": ..., "coverage": ...}.

    Raises UserError for unknown names, statistics that lack what a measure needs, and as
    `check_comparable`.
    """
    check_names(names)
    if "is" in names and samples.scores is None:
        raise UserError(
            f"{_called(samples)} has no class probabilities, which the Inception score needs; "
            "use an extractor with classes"
        )
    comparing = [name for name in names if MEASURES[name].needs != "scores"]
    if comparing and reference is None:
        raise UserError(f"{', '.join(comparing)}: needs a second set to compare with")
    if comparing and reference is not None:
        check_comparable(samples, reference)
        wanted = [name for name in comparing if need_features([name])]
        for each in (samples, reference):
            _check_features(each, wanted)
    result: Values = {}
    for name, row in sorted(MEASURES.items(), key=lambda each: each[1].needs != "scores"):
        if name in names:
            result |= row.compute(samples, samples if reference is None else reference)
    return result


def _check_features(statistics: Statistics, wanted: list[str]) -> None:
    if wanted and statistics.features is None:
        raise UserError(
            f"{', '.join(wanted)}: needs the features of every image, and {_called(statistics)} "
            "holds only sums; give the images themselves, or statistics made together with these "
            "measures"
        )


def promised(names: Sequence[str], about: Mapping[str, Any], extractor: Extractor) -> Statistics:
    """Statistics without sums: what is known of those that `extractor` will make.

    They are of images of about["shape"]. What jax can compile is only traced.

    Raises:
        UserError: it has no classes for the Inception score, and that is in `names`.
    """
    images = np.zeros((2, *about["shape"]), np.uint8)
    found = jax.eval_shape(extractor.fn, images) if extractor.compiled else extractor.fn(images)
    if "is" in names and found.logits is None:
        raise UserError(
            f"is: extractor {extractor.name!r} has no classes, which the Inception score needs; "
            "leave `is` out, or choose another extractor (--config.quality.extractor, --extractor)"
        )
    moments = Moments.of(np.zeros((0, found.pool.shape[1])))
    return Statistics(moments, dict(about) | extractor.identity)


def notes(samples: Statistics, reference: Statistics | None) -> list[str]:
    """What a reader of the numbers should know.

    Whether they can be compared with published ones, and what was not checked.
    """
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
                f"{_called(each)} does not say its extractor: only the {each.moments.mean.size} "
                "dimensions could be checked"
            )
    return found


def table(measures: Mapping[str, Mapping[str, float]]) -> str:
    """Measures in words, one a line: the value, and +- its standard error or deviation."""
    lines = []
    for name, row in measures.items():
        spread = [f" +- {row[key]:.3g} ({words})" for key, words in SPREADS.items() if key in row]
        lines.append(f"{name:<10}{row['value']:.6g}{''.join(spread)}")
    return "\n".join(lines)


SPREADS = {
    "standard_error": "standard error",
    "standard_deviation": "standard deviation over splits",
}


def _called(statistics: Statistics) -> str:
    return _named(statistics.provenance)


def _named(provenance: Mapping[str, Any]) -> str:
    found = " ".join(str(provenance[key]) for key in ("data", "split") if provenance.get(key))
    file = provenance.get("file")
    return f"{file} (of {found})" if file and found else file or found or "a set of images"
