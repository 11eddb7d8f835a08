"""Files of statistics keep everything, and what is wrong with them is said."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from feature_sets import COUNT, everything

from golden import assert_close
from score_sde.errors import UserError
from score_sde.files import read_npz
from score_sde.metrics.measures import measure, notes
from score_sde.metrics.statistics import Statistics, load_statistics, save_statistics


@pytest.fixture(scope="module")
def whole() -> Statistics:
    return everything(batch_size=COUNT)


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
    with zipfile.ZipFile(path) as file:  # features of many images would take long to compress
        assert {each.compress_type for each in file.infolist()} == {zipfile.ZIP_STORED}
    save_statistics(path, found)  # in place, and again the same
    assert load_statistics(path).provenance == found.provenance


def test_others_can_read_ours(whole: Statistics, tmp_path: Path) -> None:
    save_statistics(tmp_path / "s.npz", whole)
    with np.load(tmp_path / "s.npz", allow_pickle=False) as file:
        np.testing.assert_allclose(
            file["mu"], whole.features.mean(axis=0, dtype=np.float64), rtol=1e-9
        )
        expected = np.cov(whole.features.astype(np.float64), rowvar=False)
        np.testing.assert_allclose(file["sigma"], expected, rtol=1e-9, atol=1e-12)


def test_foreign_files(whole: Statistics, tmp_path: Path) -> None:
    """Their distance to our own statistics is 0, and the notes say what could not be checked."""
    pool = whole.features.astype(np.float64)
    mu, sigma = pool.mean(axis=0), np.cov(pool, rowvar=False)
    files = {
        "pytorch_fid": ({"mu": mu, "sigma": sigma}, None),
        "guided_diffusion": (
            {"mu": mu, "sigma": sigma, "mu_s": mu[:2], "arr_0": np.zeros(3)},
            None,
        ),
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
        assert (
            f"{path} does not say its extractor: only the 9 dimensions could be checked"
            in notes(whole, found)
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
        ({"mu": np.full(9, -1e300)}, "`mu` in .* beyond 1e.30"),
        ({"sigma": 1e300 * D9}, "`sigma` in .* beyond 1e.30"),
        ({"features": np.full((COUNT, 9), 1e35, np.float32)}, "203 of 203 .* beyond 1e.30"),
        ({"scores_entropy": np.full(10, np.nan)}, "sums of the Inception score in .*s.npz"),
        ({"scores_probability": np.zeros(10)}, "sums of the Inception score in .*s.npz"),
        ({"scores_count": np.asarray(["x"] * 10)}, "sums of the Inception score in .*s.npz"),
        ({"sigma": D9 + np.triu(np.ones((9, 9)))}, "no covariance: it must be symmetric"),
        ({"sigma": -D9}, "no covariance"),
        ({"mu": np.zeros(8)}, r"shapes \(d,\) and \(d, d\); they have \(8,\) and \(9, 9\)"),
        ({"sigma": np.full((9, 9), "x")}, "must be numbers"),
        ({"n": np.asarray(1)}, "damaged `provenance` or `n`"),
        ({"n": np.asarray(np.inf)}, "damaged `provenance` or `n`"),
        ({"provenance": np.asarray("[" * 100_000)}, "damaged `provenance` or `n`"),
        ({"n": None}, "lacks n; make it anew"),
        ({"provenance": np.asarray("{")}, "damaged `provenance` or `n`"),
        ({"provenance": np.asarray("[]")}, "damaged `provenance` or `n`"),
        (
            {"features": np.zeros((3, 9), np.float32)},
            r"`features` in .* shape \(3, 9\); mu and n say \(203, 9\)",
        ),
        (
            {"features": np.full((COUNT, 9), np.nan, np.float32)},
            "features of 203 of 203 images .* not finite",
        ),
        ({"mu": None, "provenance": None}, "holds no statistics: .*it holds sigma, n, "),
        ({"pool_3": np.zeros(3), "provenance": None}, r"must be floating-point \(n, d\)"),
        (
            {"pool_3": np.zeros((5, 3)), "logits": np.zeros((4, 3)), "provenance": None},
            "features of 5 images and logits of 4",
        ),
    ],
)  # fmt: skip
def test_files_with_nonsense(
    whole: Statistics, tmp_path: Path, changes: dict, message: str
) -> None:
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
        with pytest.raises(
            UserError, match=r"s.npz is no readable npz file: empty, damaged or cut off"
        ):
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


def test_provenance_is_readable_json(whole: Statistics, tmp_path: Path) -> None:
    save_statistics(tmp_path / "s.npz", whole)
    assert json.loads(str(read_npz(tmp_path / "s.npz")["provenance"])) == whole.provenance
