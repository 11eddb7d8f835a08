"""Statistics do not depend on batches, devices and processes; files keep them, and refuse what cannot be compared."""

import json
from pathlib import Path

import numpy as np
import pytest
from processes import JOIN, run_two

from golden import assert_close
from score_sde.errors import UserError
from score_sde.files import read_npz
from score_sde.metrics import Moments
from score_sde.metrics.features import Extractor, Features
from score_sde.metrics.inception_score import ScoreSums
from score_sde.metrics.statistics import (
    METRICS,
    Statistics,
    _split,
    check_comparable,
    collect,
    load_statistics,
    measure,
    notes,
    save_statistics,
    table,
)
from score_sde.metrics.weights import PUBLISHED_PREFIX

COUNT = 203
ABOUT = {"data": "noise", "split": "test", "levels": 17}


def images(numbers: np.ndarray) -> np.ndarray:
    """Image i is drawn with seed i."""
    return np.stack([np.random.default_rng(int(i)).integers(0, 256, (4, 5, 1), np.uint8) for i in numbers])


def made(compiled: bool = True, seed: int = 0, checksum: str = "1234") -> Extractor:
    """Random linear features, and classes."""
    matrix = np.random.default_rng(seed).normal(size=(20, 9)).astype(np.float32)

    def fn(batch):
        pool = (batch.reshape(len(batch), -1) / 255).astype(np.float32) @ matrix
        return Features(pool, 3 * pool[:, :4])

    return Extractor("linear", checksum, "as they are", fn, compiled)


def everything(**options) -> Statistics:
    return collect(made(), images, COUNT, ABOUT, keep_features=True, **options)


@pytest.fixture(scope="module")
def whole() -> Statistics:
    return everything(batch_size=COUNT)


def test_collect_is_what_all_features_at_once_give(whole: Statistics) -> None:
    found = made(compiled=False)(images(np.arange(COUNT)))
    expected = Moments.of(found.pool)
    assert whole.moments.n == COUNT
    assert_close(whole.moments.mean, expected.mean, 1e-6)
    assert_close(whole.moments.scatter, expected.scatter, 1e-5)
    assert_close(whole.features, found.pool, 1e-5)
    assert whole.scores is not None
    expected_scores = ScoreSums.of(found.logits, _split(np.arange(COUNT), COUNT, 10), 10)
    assert_close(whole.scores.score(), expected_scores.score(), 1e-5)


def test_provenance(whole: Statistics) -> None:
    version = whole.provenance.pop("version")
    try:
        assert whole.provenance == {
            "data": "noise",
            "split": "test",
            "images": COUNT,
            "shape": [4, 5, 1],
            "levels": 17,
            "extractor": "linear",
            "checksum": "1234",
            "preprocessing": "as they are",
        }
    finally:
        whole.provenance["version"] = version
    assert version.count(".") == 2


@pytest.mark.parametrize("batch_size", [7, 64, 1000])
def test_batches_do_not_matter(whole: Statistics, batch_size: int) -> None:
    """On 8 devices: 7 becomes 8, and the last batch is filled up."""
    found = everything(batch_size=batch_size)
    same(found, whole)


def test_devices_do_not_matter(whole: Statistics) -> None:
    """A function that is not compiled runs as it is, in one place."""
    same(collect(made(compiled=False), images, COUNT, ABOUT, keep_features=True, batch_size=10), whole)


def same(found: Statistics, whole: Statistics) -> None:
    assert found.moments.n == whole.moments.n == COUNT
    assert_close(found.moments.mean, whole.moments.mean, 1e-6)
    scale = np.abs(whole.moments.scatter).max()
    assert_close(found.moments.scatter / scale, whole.moments.scatter / scale, 1e-6)
    assert_close(found.features, whole.features, 1e-5)
    assert found.scores is not None and whole.scores is not None
    assert_close(found.scores.score(), whole.scores.score(), 1e-6)
    other = collect(made(), lambda i: images(i + 10_000), COUNT, ABOUT, batch_size=50)
    one, two = (measure(["fid"], each, other)["fid"]["value"] for each in (found, whole))
    assert_close(one, two, 1e-5)


def test_one_shape_is_compiled_and_each_image_is_read_once() -> None:
    shapes, read = set(), []

    def fn(batch):
        shapes.add(batch.shape)
        return made().fn(batch)

    def reader(numbers):
        read.extend(dict.fromkeys(numbers.tolist()))
        return images(numbers)

    collect(Extractor("linear", "", "", fn), reader, 20, {}, batch_size=16)
    assert shapes == {(16, 4, 5, 1)}
    assert read == list(range(20))


def test_float64_is_kept() -> None:
    """Features far from 0: sums of float32 squares would lose the variance."""

    def fn(batch):
        return Features(1e4 + (batch.reshape(len(batch), -1)[:, :2] / 255).astype(np.float32))

    found = collect(Extractor("far", "", "", fn, compiled=False), images, COUNT, {}, batch_size=8)
    exact = fn(images(np.arange(COUNT))).pool.astype(np.float64)
    assert_close(np.cov(exact, rowvar=False), found.moments.covariance, 1e-9)
    assert found.scores is None and found.features is None


@pytest.mark.parametrize("which", ["pool", "logits"])
def test_features_that_are_not_finite_are_counted(which: str) -> None:
    def fn(batch):
        found = made().fn(batch)
        bad = batch[:, :1, 0, 0] > 200
        return found._replace(**{which: np.where(bad, np.float32("nan"), getattr(found, which))})

    bad = np.flatnonzero(images(np.arange(COUNT))[:, 0, 0, 0] > 200)
    message = (
        rf"features of {len(bad)} of {COUNT} images of noise are not finite \(images \[{bad[0]}, {bad[1]},"
    )
    with pytest.raises(UserError, match=message):
        collect(Extractor("bad", "", "", fn, compiled=False), images, COUNT, ABOUT, batch_size=16)


def test_too_few_images() -> None:
    with pytest.raises(UserError, match="at least 2 images; noise has 1"):
        collect(made(), images, 1, ABOUT)


SHARE = """
import sys, jax
sys.path.insert(0, "tests")
from pathlib import Path
from metrics.test_statistics import ABOUT, COUNT, images, made
from score_sde.errors import UserError
from score_sde.metrics.statistics import collect, save_statistics

def broken(numbers):
    if jax.process_index() == 1:
        raise UserError("image 150 is broken")
    return images(numbers)

try:
    collect(made(), broken, COUNT, ABOUT, batch_size=64)
except UserError as error:
    print("both:", error)
try:
    collect(made(checksum=str(jax.process_index())), images, COUNT, ABOUT, batch_size=64)
except UserError as error:
    print("weights:", error)
found = collect(made(), images, COUNT, ABOUT, batch_size=30, keep_features=True)
save_statistics(Path(sys.argv[1]) / f"{jax.process_index()}.npz", found)
assert collect(made(), images, 3, ABOUT).moments.n == 3
"""


def test_two_processes_give_what_one_gives(whole: Statistics, tmp_path: Path) -> None:
    outputs = run_two(["-c", JOIN + SHARE, tmp_path])
    for out in outputs:
        assert "both: image 150 is broken" in out
        assert "weights: the processes have different weights of extractor 'linear' (0, 1)" in out
    first, second = (read_npz(tmp_path / f"{i}.npz") for i in range(2))
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key])
    found = load_statistics(tmp_path / "0.npz")
    same(found, whole)
    # Sums in float32 would be wrong by 1e-7: these agree to float64 with those of the same features.
    assert_close(found.moments.scatter, Moments.of(found.features).scatter, 1e-13)


# Files


def test_files_keep_everything(whole: Statistics, tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.npz"
    save_statistics(path, whole)
    found = load_statistics(path)
    assert found.provenance == whole.provenance | {"file": str(path)}
    np.testing.assert_array_equal(found.features, whole.features)
    assert found.moments.n == COUNT
    assert_close(found.moments.scatter, whole.moments.scatter, 1e-14)
    assert found.scores is not None and whole.scores is not None
    assert found.scores.score() == whole.scores.score()
    assert [p.name for p in path.parent.iterdir()] == ["s.npz"]
    save_statistics(path, found)  # in place, and again the same
    assert load_statistics(path).provenance == found.provenance


def test_others_can_read_ours(whole: Statistics, tmp_path: Path) -> None:
    save_statistics(tmp_path / "s.npz", whole)
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        np.testing.assert_allclose(file["mu"], whole.features.mean(axis=0, dtype=np.float64), rtol=1e-9)
        expected = np.cov(whole.features.astype(np.float64), rowvar=False)
        np.testing.assert_allclose(file["sigma"], expected, rtol=1e-9, atol=1e-12)


def test_foreign_files(whole: Statistics, tmp_path: Path) -> None:
    """Their distance to our own statistics is 0, and the notes say what could not be checked."""
    pool = whole.features.astype(np.float64)
    mu, sigma = pool.mean(axis=0), np.cov(pool, rowvar=False)
    files = {
        "pytorch_fid": ({"mu": mu, "sigma": sigma}, None),
        "guided_diffusion": ({"mu": mu, "sigma": sigma, "mu_s": mu[:2], "arr_0": np.zeros(3)}, None),
        "score_sde": ({"pool_3": whole.features, "logits": 3 * whole.features[:, :4]}, COUNT),
        "clean_fid": ({"feats": whole.features}, COUNT),
    }
    for name, (arrays, number) in files.items():
        path = tmp_path / f"{name}.npz"
        np.savez(path, **arrays)
        found = load_statistics(path)
        assert found.provenance["images"] == number
        assert abs(measure(["fid"], found, whole)["fid"]["value"]) < 1e-6, name
        assert (found.features is not None) == (number is not None)
        assert f"{path} does not say its extractor: only the 9 dimensions could be checked" in notes(
            whole, found
        )
        assert (found.scores is not None) == (name == "score_sde")
    scores = load_statistics(tmp_path / "score_sde.npz").scores
    assert scores is not None and whole.scores is not None
    assert_close(scores.score(), whole.scores.score(), 1e-5)


def write(path: Path, whole: Statistics, **changes) -> Path:
    save_statistics(path, whole)
    arrays = read_npz(path) | changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


D9 = np.eye(9)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mu": np.full(9, np.nan)}, "is not finite"),
        ({"sigma": np.full((9, 9), np.inf)}, "is not finite"),
        ({"sigma": D9 + np.triu(np.ones((9, 9)))}, "no covariance: it must be symmetric"),
        ({"sigma": -D9}, "no covariance"),
        ({"mu": np.zeros(8)}, r"shapes \(d,\) and \(d, d\); they have \(8,\) and \(9, 9\)"),
        ({"sigma": np.full((9, 9), "x")}, "must be numbers"),
        ({"n": np.asarray(1)}, "damaged `provenance` or `n`"),
        ({"n": None}, "lacks n; make it anew"),
        ({"provenance": np.asarray("{")}, "damaged `provenance` or `n`"),
        ({"provenance": np.asarray("[]")}, "damaged `provenance` or `n`"),
        ({"features": np.zeros((3, 9), np.float32)}, r"`features` in .* shape \(3, 9\); mu and n say \(203, 9\)"),
        ({"features": np.full((COUNT, 9), np.nan, np.float32)}, "features of 203 of 203 images .* not finite"),
        ({"mu": None, "provenance": None}, "holds no statistics: .*it holds sigma, n, "),
        ({"pool_3": np.zeros(3), "provenance": None}, r"must be floating-point \(n, d\)"),
        (
            {"pool_3": np.zeros((5, 3)), "logits": np.zeros((4, 3)), "provenance": None},
            "features of 5 images and logits of 4",
        ),
    ],
)  # fmt: skip
def test_files_with_nonsense(whole: Statistics, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_statistics(write(tmp_path / "s.npz", whole, **changes))


def test_files_that_are_none(whole: Statistics, tmp_path: Path) -> None:
    path = tmp_path / "s.npz"
    save_statistics(path, whole)
    good = path.read_bytes()
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 255
    for data in (b"", b"hello", good[: len(good) // 2], good[:-30], bytes(flipped)):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"s.npz is no readable npz file: empty, damaged or cut off"):
            load_statistics(path)
    np.savez(path, mu=np.asarray([object()]), sigma=D9)
    with pytest.raises(UserError, match="no readable npz file"):
        load_statistics(path)
    with pytest.raises(UserError, match="does not exist"):
        load_statistics(tmp_path / "none.npz")
    with pytest.raises(UserError, match="is a folder"):
        load_statistics(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        save_statistics(tmp_path / "file" / "s.npz", whole)


# Comparing


def changed(whole: Statistics, **changes) -> Statistics:
    kept = {key: value for key, value in (whole.provenance | changes).items() if value is not None}
    return Statistics(whole.moments, kept, whole.scores, whole.features)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"extractor": "inception"}, "noise test and noise test have different extractors: linear and inception"),
        ({"checksum": "5"}, r"different weights of the extractor \(SHA-256\): 1234 and 5"),
        ({"preprocessing": "none"}, "different preprocessing"),
        ({"shape": [5, 4, 1]}, r"different shapes of images \(height, width, channels\): \[4, 5, 1\] and \[5, 4, 1\]"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared(whole: Statistics, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_comparable(whole, changed(whole, **changes))
    with pytest.raises(UserError):
        measure(["fid"], changed(whole, **changes), whole)


def test_what_may_differ(whole: Statistics) -> None:
    check_comparable(whole, changed(whole, data="digits", split="train", images=5, levels=256, version="0"))


def test_dimensions_are_checked_where_nothing_else_is_known(whole: Statistics, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", mu=np.zeros(3), sigma=np.eye(3))
    with pytest.raises(
        UserError, match=r"features of 9 dimensions and .*other.npz of 3: they are of different"
    ):
        check_comparable(whole, load_statistics(tmp_path / "other.npz"))


def test_every_measure(whole: Statistics) -> None:
    other = collect(made(), lambda i: images(i + 10_000), 300, ABOUT, keep_features=True)
    found = measure(METRICS, whole, other)
    assert list(found) == ["is", "fid", "kid", "precision", "recall", "density", "coverage"]
    assert whole.scores is not None
    assert (found["is"]["value"], found["is"]["standard_deviation"]) == whole.scores.score()
    assert abs(found["kid"]["value"]) < 4 * found["kid"]["standard_error"]
    for name in ("precision", "recall", "coverage"):
        assert found[name]["value"] > 0.8
    assert "+-" in table(found) and f"fid       {found['fid']['value']:.6g}" in table(found)
    near = Statistics(whole.moments, whole.provenance, None, np.repeat(other.features[:1], COUNT, axis=0))
    assert (narrow := measure(["pr", "dc"], near, other))["precision"]["value"] == 1
    assert narrow["recall"]["value"] < 0.1 and narrow["coverage"]["value"] < 0.1


def test_measures_that_lack_something(whole: Statistics) -> None:
    bare = Statistics(whole.moments, whole.provenance)
    for names, reference, message in (
        (["fid", "foo"], whole, "no measure is called 'foo'; there are fid, is, kid, pr, dc"),
        ([], whole, "no measure is called ''"),
        (["fid"], None, "fid: needs a second set"),
        (["is"], None, "no class probabilities"),
        (["kid", "pr"], whole, "kid, pr: needs the features of every image, and noise test holds only sums"),
    ):
        with pytest.raises(UserError, match=message):
            measure(names, bare, reference)
    assert measure(["is"], whole, None)["is"]["value"] > 1


def test_notes(whole: Statistics) -> None:
    first = "not comparable with published numbers: 203 samples, published numbers are of 50,000 or more"
    assert notes(whole, whole) == [f"{first}; features of 'linear', published ones are Inception's"]
    published = {"extractor": "inception", "checksum": PUBLISHED_PREFIX + "00"}
    assert notes(changed(whole, **published), None) == [first]
    assert notes(changed(whole, **published, images=50_000), whole) == []
    assert "49,999 samples" in notes(changed(whole, **published, images=49_999), whole)[0]
    other = changed(whole, images=50_000, extractor="inception")
    assert notes(other, None) == [
        "not comparable with published numbers: Inception's weights are not the published ones"
    ]


def test_provenance_is_readable_json(whole: Statistics, tmp_path: Path) -> None:
    save_statistics(tmp_path / "s.npz", whole)
    assert json.loads(str(read_npz(tmp_path / "s.npz")["provenance"])) == whole.provenance


def test_splits_of_the_inception_score_end_where_published_ones_do() -> None:
    """numpy.array_split has other ends; chunks i n/s .. (i + 1) n/s are those of the published code."""
    for count, splits in ((10, 3), (7, 7), (1001, 10), (50_000, 10)):
        wanted = np.concatenate(
            [np.full((i + 1) * count // splits - i * count // splits, i) for i in range(splits)]
        )
        np.testing.assert_array_equal(_split(np.arange(count), count, splits), wanted)
