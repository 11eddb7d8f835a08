"""Losses per noise level: closed forms, memorizing scores, and what they must not depend on."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import SDES
from training.tiny import SHAPE, model

from score_sde.analytic import GaussianMixture
from score_sde.data import ArraySource, PixelRange
from score_sde.devices import Placement
from score_sde.errors import UserError
from score_sde.parallel.levels import LevelLosses, Levels, level_times
from score_sde.sde import DiscreteChain, Perturbation
from score_sde.workdir.levels import load_levels, save_levels

KEY = jax.random.key(4)
FINE = PixelRange(65536, -6.0, 6.0)
"""So many levels that images are as good as real numbers."""
COARSE = PixelRange(17, -1.0, 1.0)


def exact(
    mixture: GaussianMixture, process: Perturbation, pixels: PixelRange = FINE, size=64, **settings
):
    """Losses of the exact score; its "parameters" are not used."""
    place = Placement.of()
    return LevelLosses(
        lambda params: mixture.score_fn(process), process, pixels, place, size, **settings
    )


def gaussian_images(n: int, variances: np.ndarray, seed: int) -> ArraySource:
    """Draws from N(0.3, diag(variances)) as levels of `FINE`."""
    values = 0.3 + np.sqrt(variances) * np.random.default_rng(seed).standard_normal(
        (n, len(variances))
    )
    return ArraySource(np.asarray(FINE.decode(values)).reshape(n, 8, 8, 1), levels=FINE.levels)


@pytest.mark.parametrize("name", [*SDES, "smld", "ddpm"])
def test_exact_score_of_a_gaussian_has_the_exact_loss(name: str) -> None:
    """For N(mu, diag(v)): the mean of alpha^2 v/(alpha^2 v + sigma^2) over the dimensions."""
    chains = {"smld": DiscreteChain.smld(0.02, 8.0, 100), "ddpm": DiscreteChain.ddpm(n=100)}
    process = chains[name] if name in chains else SDES[name]
    variances = np.repeat([0.04, 0.25, 1.0, 2.25], 16)
    gaussian = GaussianMixture(np.ones(1), np.full((1, 8, 8, 1), 0.3), variances[None])
    sources = gaussian_images(300, variances, 0), gaussian_images(300, variances, 1)
    found = exact(gaussian, process).compare(None, KEY, sources, images=300)
    rows = found.rows()
    assert len(rows) == 12 and found.train.shape == (300, 12)
    noise = [row["sigma"] / row["alpha"] for row in rows]
    assert noise == sorted(noise)
    for row in rows:
        signal = row["alpha"] ** 2 * variances
        exactly = (signal / (signal + row["sigma"] ** 2)).mean()
        for part in ("train", "heldout"):
            assert abs(row[part] - exactly) < 5 * row[f"{part}_error"] + 1e-6, (part, row, exactly)
            assert 0 < row[f"{part}_error"] < 0.02 * exactly + 1e-5
        assert abs(row["gap"]) < 5 * row["gap_error"] + 1e-6
        assert row["gap"] == pytest.approx(row["heldout"] - row["train"], abs=1e-12)


def test_score_zero_gives_one() -> None:
    process = SDES["vp"]
    losses = LevelLosses(
        lambda params: lambda x, t: jnp.zeros_like(x), process, FINE, Placement.of(), 64
    )
    sources = gaussian_images(250, np.ones(64), 0), gaussian_images(200, np.ones(64), 1)
    rows = losses.compare(None, KEY, sources).rows()
    for row in rows:
        assert abs(row["train"] - 1) < 5 * row["train_error"]
        # The same noise in both sets, and other noise at each level.
        assert row["gap"] == row["gap_error"] == 0
    assert len({row["train"] for row in rows}) == 12


def test_standard_errors_are_those_of_means_over_images() -> None:
    rng = np.random.default_rng(0)
    train, heldout = rng.random((50, 2)), rng.random((50, 2)) + 1
    ones = np.ones(2)
    row = Levels(ones, ones, 3 * ones, train, heldout).rows()[1]
    assert row["sigma"] == 3 and row["train"] == pytest.approx(train[:, 1].mean())
    for name, values in (("train", train), ("heldout", heldout), ("gap", heldout - train)):
        assert row[f"{name}_error"] == pytest.approx(np.std(values[:, 1], ddof=1) / np.sqrt(50))
    single = Levels(ones, ones, ones, train[:1], heldout[:1]).rows()[0]
    assert single["train_error"] is None and single["gap"] > 0


@pytest.mark.parametrize("name", ["ve", "vp"])
def test_a_memorized_training_set_is_seen(name: str) -> None:
    """The exact score of the training points: at little noise it knows them, and no others."""
    process, rng = SDES[name], np.random.default_rng(3)
    images = rng.integers(0, 17, (40, *SHAPE))
    train, heldout = (ArraySource(part, levels=17) for part in np.split(images, 2))
    points = COARSE.encode(np.asarray(train.images))
    mixture = GaussianMixture.isotropic(np.full(20, 1 / 20), points, 0.0)
    rows = exact(mixture, process, COARSE, 24).compare(None, KEY, (train, heldout), levels=8).rows()
    assert rows[0]["train"] < 1e-4 and rows[0]["heldout"] > 100
    assert rows[0]["gap"] > 5 * rows[0]["gap_error"]
    assert abs(rows[-1]["gap"]) < 0.05  # in much noise all images are alike
    swapped = (
        exact(mixture, process, COARSE, 24).compare(None, KEY, (heldout, train), levels=8).rows()
    )
    assert swapped[0]["gap"] < 0


def tiny(batch_size: int, devices: int = 8, **settings) -> LevelLosses:
    place = Placement.of(jax.devices()[:devices])
    return LevelLosses(model().score_fn, SDES["vp"], COARSE, place, batch_size, **settings)


@pytest.mark.parametrize("dequantize", [False, True])
def test_batches_devices_and_filling_change_nothing(dequantize: bool) -> None:
    params = model().init(jax.random.key(0), SHAPE)
    rng = np.random.default_rng(1)
    train = ArraySource(rng.integers(0, 17, (31, *SHAPE)), levels=17)
    heldout = ArraySource(rng.integers(0, 17, (21, *SHAPE)), levels=17)
    sources, done = (train, heldout), []
    settings = {"images": 13, "levels": 3}
    whole = tiny(16, dequantize=dequantize).compare(params, KEY, sources, **settings)
    parts = tiny(4, devices=2, dequantize=dequantize).compare(
        params, KEY, sources, **settings, update=done.append
    )
    assert whole.train.shape == (13, 3) and sum(done) == 2 * 13 * 3
    for name in ("train", "heldout"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-4)
    other = tiny(16, dequantize=dequantize).compare(params, jax.random.key(5), sources, **settings)
    assert (other.train != whole.train).all()
    smooth = tiny(16, dequantize=not dequantize).compare(params, KEY, sources, **settings)
    assert (smooth.train != whole.train).any()


def test_images_are_evenly_spaced_and_as_many_of_either() -> None:
    values = np.broadcast_to(np.arange(17)[:, None, None, None], (17, *SHAPE)).copy()
    taken: list[np.ndarray] = []

    class Watched(ArraySource):
        def take(self, indices):
            taken.append(np.asarray(indices))
            return super().take(indices)

    train, heldout = Watched(values, levels=17), Watched(values[:5], levels=17)
    tiny(8).compare(model().init(jax.random.key(0), SHAPE), KEY, (train, heldout), 100, 2)
    np.testing.assert_array_equal(taken[0][:5], [0, 4, 8, 12, 16])
    np.testing.assert_array_equal(taken[1][:5], [0, 1, 2, 3, 4])


def test_levels_are_evenly_spaced() -> None:
    for process in SDES.values():
        times = level_times(process, 7)
        snr = np.asarray(process.log_snr(jnp.asarray(times)), np.float64)
        np.testing.assert_allclose(np.diff(snr), (snr[-1] - snr[0]) / 6, rtol=2e-2)
        np.testing.assert_allclose(times[[0, -1]], [process.t_min, process.t_max], rtol=1e-3)
    np.testing.assert_array_equal(level_times(DiscreteChain.ddpm(n=1000), 4), [0, 333, 666, 999])
    np.testing.assert_array_equal(level_times(DiscreteChain.smld(n=10)), np.arange(10))


def test_file_keeps_the_rows(tmp_path: Path) -> None:
    ones, losses = np.ones(2), np.random.default_rng(0).random((3, 2))
    rows = Levels(ones, ones, ones, losses, np.where(losses > 2, 0, np.nan)).rows()
    assert load_levels(tmp_path, 20) is None
    path = save_levels(tmp_path, 20, rows, {"images": 3, "seed": 1})
    assert path == tmp_path / "eval" / "levels_step_20.json"
    found = load_levels(tmp_path, 20)
    assert found is not None and found["levels"] == rows
    assert found["levels"][0]["heldout"] is None and found["images"] == 3 and found["step"] == 20
    path.write_text(json.dumps({"step": 20}))
    with pytest.raises(UserError, match="--mode eval makes it again"):
        load_levels(tmp_path, 20)
