"""Uncertainty of denoised images against exact posteriors of a Gaussian, and its calibration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import VP, GaussianMixture
from score_sde.curvature import tweedie_covariance
from score_sde.data import PixelRange
from score_sde.devices import Placement
from score_sde.parallel import uncertainty
from score_sde.parallel.uncertainty import Uncertainty, calibration
from score_sde.sde import time_at_noise

SHAPE, NOISE = (2, 3, 1), 0.3
PIXELS, PROCESS = PixelRange(65536, -1.0, 1.0), VP()
TIME = time_at_noise(PROCESS, NOISE)


def gaussian() -> tuple[GaussianMixture, np.ndarray]:
    root = np.random.default_rng(3).normal(size=(6, 3)) * 0.15
    covariance = root @ root.T + np.diag([0.01, 0.02, 0.03, 0.01, 0.02, 0.03])
    return GaussianMixture.full([1.0], np.zeros((1, *SHAPE)), covariance[None]), covariance


def measured(covariance_fn=None, count: int = 240, size: int = 240, k: int = 3) -> dict:
    data, _ = gaussian()
    images = PIXELS.decode(np.asarray(data.sample(jax.random.key(1), 240)))[:count]
    measure = Uncertainty(
        PROCESS,
        lambda params: data.score_fn(PROCESS),
        covariance_fn,
        PIXELS,
        False,
        k,
        Placement.of(),
        size,
    )
    return measure((), jax.random.key(2), images, TIME)


def exact_covariance(params):
    hessian = gaussian()[0].hessian_fn(PROCESS)
    return lambda x, t: tweedie_covariance(PROCESS, hessian(x, t), t)


@pytest.fixture(scope="module")
def found() -> dict:
    return measured()


def test_it_is_that_of_the_posterior(found: dict) -> None:
    """(C^-1 + I/nu^2)^-1, by derivatives of the score; noise of this level was added."""
    covariance = gaussian()[1]
    posterior = np.linalg.inv(np.linalg.inv(covariance) + np.eye(6) / NOISE**2)
    alpha, sigma = (float(v) for v in PROCESS.marginal(jnp.asarray(TIME)))
    scaled = found["noisy"].reshape(-1, 6) / alpha
    np.testing.assert_allclose(
        found["mean"].reshape(-1, 6), scaled @ posterior / NOISE**2, atol=1e-3
    )
    added = (found["noisy"] - alpha * found["clean"]) / sigma
    assert abs(added.std() - 1) < 0.06 and abs(added.mean()) < 0.1
    expected = np.broadcast_to(np.diag(posterior).reshape(SHAPE), found["variance"].shape)
    np.testing.assert_allclose(found["variance"], expected, rtol=2e-3)
    values, vectors = np.linalg.eigh(posterior)
    np.testing.assert_allclose(found["values"][0], values[:-4:-1], rtol=2e-3)
    along = found["vectors"][0].reshape(3, 6) @ vectors[:, :-4:-1]
    np.testing.assert_allclose(np.abs(along), np.eye(3), atol=0.02)
    assert found["residuals"].max() < 1e-3


def test_it_is_of_the_right_size(found: dict) -> None:
    """A covariance that is twice as large has ratios of 2; ratios have the errors they say."""
    made = calibration(found, 2)
    assert len(made["directions"]) == 2
    for row in (made["whole"], *made["directions"]):
        assert abs(row["ratio"] - 1) < 4 * row["standard_error"] and row["standard_error"] < 0.15
        assert row["ratio"] == pytest.approx(row["predicted"] / row["true"])
    error = (found["clean"] - found["mean"]).astype(float).reshape(-1, 6)
    assert made["whole"]["true"] == pytest.approx((error**2).sum(axis=1).mean())
    doubled = calibration({**found, "variance": 2 * found["variance"]}, 2)
    assert doubled["whole"]["ratio"] == pytest.approx(2 * made["whole"]["ratio"])
    means = [calibration({n: v[i::6] for n, v in found.items()})["whole"] for i in range(6)]
    spread = np.std([row["ratio"] for row in means], ddof=1) / np.sqrt(6)
    assert 0.3 < spread / made["whole"]["standard_error"] < 3
    alone = calibration({name: values[:1] for name, values in found.items()})
    assert alone["whole"]["standard_error"] is None


def test_large_images_and_networks_agree_with_whole_matrices(found: dict, monkeypatch) -> None:
    """Products and subspace iteration; a covariance that is given; another batch size."""
    given = measured(exact_covariance, count=10, size=8)
    monkeypatch.setattr(uncertainty, "WHOLE", 2)
    assert uncertainty.largest_count(6) == 2
    few = measured(count=10, size=16, k=2)
    for columns in (given, few):
        k = columns["values"].shape[1]
        np.testing.assert_allclose(columns["noisy"], found["noisy"][:10], rtol=1e-5)
        np.testing.assert_allclose(columns["values"], found["values"][:10, :k], rtol=0.01)
    np.testing.assert_allclose(given["variance"], found["variance"][:10], rtol=2e-3)
    np.testing.assert_allclose(few["variance"].mean(0), found["variance"][0], rtol=0.15)
