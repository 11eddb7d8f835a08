"""Statistics do not depend on batches, devices and processes."""

from pathlib import Path

import numpy as np
import pytest
from feature_sets import ABOUT, COUNT, SET, everything, images, made
from processes import JOIN, run_two

from golden import assert_close
from score_sde.errors import UserError
from score_sde.files import read_npz
from score_sde.metrics import Moments
from score_sde.metrics.features import Extractor, Features
from score_sde.metrics.inception_score import ScoreSums, split_of
from score_sde.metrics.measures import measure
from score_sde.metrics.statistics import Statistics, load_statistics
from score_sde.parallel import features
from score_sde.parallel.features import Images, collect


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
    expected_scores = ScoreSums.of(found.logits, split_of(np.arange(COUNT), COUNT, 10), 10)
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
    same(
        collect(made(compiled=False), SET, keep_features=True, batch_size=10),
        whole,
    )


def same(found: Statistics, whole: Statistics) -> None:
    assert found.moments.n == whole.moments.n == COUNT
    assert_close(found.moments.mean, whole.moments.mean, 1e-6)
    scale = np.abs(whole.moments.scatter).max()
    assert_close(found.moments.scatter / scale, whole.moments.scatter / scale, 1e-6)
    assert_close(found.features, whole.features, 1e-5)
    assert found.scores is not None and whole.scores is not None
    assert_close(found.scores.score(), whole.scores.score(), 1e-6)
    other = collect(made(), Images(lambda i: images(i + 10_000), COUNT, ABOUT), batch_size=50)
    one, two = (measure(["fid"], each, other)["fid"]["value"] for each in (found, whole))
    assert_close(one, two, 1e-5)


def test_one_shape_is_compiled_and_each_image_is_read_once() -> None:
    """But for those that fill up the last batch."""
    shapes, read = set(), []

    def fn(batch):
        shapes.add(batch.shape)
        return made().fn(batch)

    def reader(numbers):
        read.append(numbers)
        return images(numbers)

    collect(Extractor("linear", "", "", fn), Images(reader, 20, {}), batch_size=16)
    assert shapes == {(16, 4, 5, 1)}
    assert np.concatenate(read)[:20].tolist() == list(range(20))
    assert [len(numbers) for numbers in read] == [16, 16]


def test_float64_is_kept() -> None:
    """Features far from 0: sums of float32 squares would lose the variance."""

    def fn(batch):
        return Features(1e4 + (batch.reshape(len(batch), -1)[:, :2] / 255).astype(np.float32))

    found = collect(
        Extractor("far", "", "", fn, compiled=False), Images(images, COUNT, {}), batch_size=8
    )
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
        rf"features of {len(bad)} of {COUNT} images of noise are not finite "
        rf"\(images \[{bad[0]}, {bad[1]},"
    )
    with pytest.raises(UserError, match=message):
        collect(Extractor("bad", "", "", fn, compiled=False), SET, batch_size=16)


def test_too_few_images() -> None:
    with pytest.raises(UserError, match="at least 2 images; noise has 1"):
        collect(made(), Images(images, 1, ABOUT))


def test_processes_without_images_wait_for_the_others(monkeypatch) -> None:
    """Two images in four processes: process 0 and 2 have none."""
    parts, whole = [], []

    def exchange(mine):
        parts.append(mine)
        return whole or [mine]

    monkeypatch.setattr(features, "_everywhere", exchange)
    few = Images(images, 2, ABOUT)
    for process in range(4):
        monkeypatch.setattr(features, "processes", lambda process=process: (process, 4))
        if process % 2:
            collect(made(), few, keep_features=True)
        else:
            with pytest.raises(TypeError):  # nothing to add up, where no other process has any
                collect(made(), few)
    assert [part[2] is None for part in parts] == [True, False, True, False]
    whole += parts
    found = collect(made(), few, keep_features=True)
    assert found.moments.n == 2
    assert_close(found.features, made(compiled=False)(images(np.arange(2))).pool, 1e-5)


SHARE = """
import sys, jax
sys.path.insert(0, "tests")
from pathlib import Path
from feature_sets import ABOUT, COUNT, SET, images, made
from score_sde.errors import UserError
from score_sde.parallel.features import Images, collect
from score_sde.metrics.statistics import save_statistics

def broken(numbers):
    if jax.process_index() == 1:
        raise UserError("image 150 is broken")
    return images(numbers)

try:
    collect(made(), Images(broken, COUNT, ABOUT), batch_size=64)
except UserError as error:
    print("both:", error)
try:
    collect(made(checksum=str(jax.process_index())), SET, batch_size=64)
except UserError as error:
    print("weights:", error)
found = collect(made(), SET, batch_size=30, keep_features=True)
save_statistics(Path(sys.argv[1]) / f"{jax.process_index()}.npz", found)
assert collect(made(), Images(images, 3, ABOUT)).moments.n == 3
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
    # Sums in float32 would be wrong by 1e-7: these agree to float64 with those of the same
    # features.
    assert_close(found.moments.scatter, Moments.of(found.features).scatter, 1e-13)
