"""What can be compared, by which measures, and what is said of the numbers."""

from pathlib import Path

import numpy as np
import pytest
from feature_sets import ABOUT, COUNT, everything, images, made

from score_sde.errors import UserError
from score_sde.metrics.measures import (
    COLUMNS,
    MEASURES,
    check_comparable,
    measure,
    need_features,
    notes,
    table,
)
from score_sde.metrics.statistics import Statistics, load_statistics
from score_sde.metrics.weights import PUBLISHED_PREFIX
from score_sde.parallel.features import Images, collect


@pytest.fixture(scope="module")
def whole() -> Statistics:
    return everything(batch_size=COUNT)


def changed(whole: Statistics, **changes) -> Statistics:
    kept = {key: value for key, value in (whole.provenance | changes).items() if value is not None}
    return Statistics(whole.moments, kept, whole.scores, whole.features)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"extractor": "inception"},
            "noise test and noise test have different extractors: linear and inception",
        ),
        ({"checksum": "5"}, r"different weights of the extractor \(SHA-256\): 1234 and 5"),
        ({"preprocessing": "none"}, "different preprocessing"),
        (
            {"shape": [5, 4, 1]},
            r"different shapes of images \(height, width, channels\): \[4, 5, 1\] and \[5, "
            r"4, 1\]",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_compared(whole: Statistics, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_comparable(whole, changed(whole, **changes))
    with pytest.raises(UserError):
        measure(["fid"], changed(whole, **changes), whole)


def test_what_may_differ(whole: Statistics) -> None:
    check_comparable(
        whole, changed(whole, data="digits", split="train", images=5, levels=256, version="0")
    )


def test_dimensions_are_checked_where_nothing_else_is_known(
    whole: Statistics, tmp_path: Path
) -> None:
    np.savez(tmp_path / "other.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(
        UserError, match=r"features of 9 dimensions and .*other.npz of 3: they are of different"
    ):
        check_comparable(whole, load_statistics(tmp_path / "other.npz"))


def test_every_measure(whole: Statistics) -> None:
    other = collect(made(), Images(lambda i: images(i + 10_000), 300, ABOUT), keep_features=True)
    found = measure(list(MEASURES), whole, other)
    assert list(found) == ["is", "fid", "kid", "precision", "recall", "density", "coverage"]
    assert whole.scores is not None
    assert (found["is"]["value"], found["is"]["standard_deviation"]) == whole.scores.score()
    assert abs(found["kid"]["value"]) < 4 * found["kid"]["standard_error"]
    for name in ("precision", "recall", "coverage"):
        assert found[name]["value"] > 0.8
    assert "+-" in table(found) and f"fid       {found['fid']['value']:.6g}" in table(found)
    near = Statistics(
        whole.moments, whole.provenance, None, np.repeat(other.features[:1], COUNT, axis=0)
    )
    assert (narrow := measure(["pr", "dc"], near, other))["precision"]["value"] == 1
    assert narrow["recall"]["value"] < 0.1 and narrow["coverage"]["value"] < 0.1


def test_measures_that_lack_something(whole: Statistics) -> None:
    bare = Statistics(whole.moments, whole.provenance)
    for names, reference, message in (
        (["fid", "foo"], whole, "no measure is called 'foo'; there are fid, is, kid, pr, dc"),
        ([], whole, "no measure is called ''"),
        (["fid"], None, "fid: needs a second set"),
        (["is"], None, "no class probabilities"),
        (
            ["kid", "pr"],
            whole,
            "kid, pr: needs the features of every image, and noise test holds only sums",
        ),
    ):
        with pytest.raises(UserError, match=message):
            measure(names, bare, reference)
    assert measure(["is"], whole, None)["is"]["value"] > 1


def test_notes(whole: Statistics) -> None:
    first = (
        "not comparable with published numbers: 203 samples, published numbers are of 50,000 or "
        "more"
    )
    assert notes(whole, whole) == [f"{first}; features of 'linear', published ones are Inception's"]
    published = {"extractor": "inception", "checksum": PUBLISHED_PREFIX + "00"}
    assert notes(changed(whole, **published), None) == [first]
    assert notes(changed(whole, **published, images=50_000), whole) == []
    assert "49,999 samples" in notes(changed(whole, **published, images=49_999), whole)[0]
    other = changed(whole, images=50_000, extractor="inception")
    assert notes(other, None) == [
        "not comparable with published numbers: Inception's weights are not the published ones"
    ]


def test_the_table_says_what_each_measure_gives(whole: Statistics) -> None:
    """Its columns, whether more is better, the least and greatest value, and what it needs."""
    other = collect(made(), Images(lambda i: images(i + 10_000), 300, ABOUT), keep_features=True)
    for name, row in MEASURES.items():
        found = measure([name], whole, other)
        assert list(found) == list(row.columns)
        for column, values in found.items():
            least, most = COLUMNS[column].range
            assert least <= values["value"] <= most
    better = {name for name, column in COLUMNS.items() if column.higher}
    assert better == {"is", "precision", "recall", "density", "coverage"}
    assert [name for name in MEASURES if need_features([name])] == ["kid", "pr", "dc"]
    assert need_features(["fid", "dc"]) and not need_features(["fid", "is"])
