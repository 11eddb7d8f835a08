"""Figure 6.2: annealed Langevin dynamics reaches all images only from large noise scales."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import REPOSITORY
from score_sde.analytic import GaussianMixture
from score_sde.noise_scales import suggest
from score_sde.sde import DiscreteChain


@pytest.fixture
def example():
    path = REPOSITORY / "examples" / "image_mixture.py"
    spec = importlib.util.spec_from_file_location("image_mixture", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_score_is_that_of_the_mixture(example):
    images = np.random.default_rng(0).uniform(size=(7, 2, 3, 1)).astype(np.float32)
    chain = DiscreteChain.smld(0.05, 2.0, 5)
    exact = GaussianMixture.isotropic(np.full(7, 1 / 7), images, 0.0).score_fn(chain)
    x, t = jax.random.uniform(jax.random.key(0), (10, 2, 3, 1)), jnp.arange(10.0) % 5
    np.testing.assert_allclose(
        example.mixture_score(jnp.asarray(images), chain)(x, t), exact(x, t), rtol=1e-3, atol=1e-3
    )


def test_small_scale_misses_the_far_image(example):
    # Starts are 1 from the first image on average, and 24 from the second.
    images = np.stack([np.full((8, 8, 1), 0.5), np.full((8, 8, 1), 3.5)]).astype(np.float32)
    for sigma_max, least, most in ((1.0, 0, 0), (24.0, 0.3, 0.7)):
        x = example.sample(jax.random.key(0), images, suggest(sigma_max, 64), 200)
        far = x.mean(axis=(1, 2, 3)) > 2
        assert least <= far.mean() <= most
        np.testing.assert_allclose(
            x, images[far.astype(int)], atol=1e-3
        )  # denoised: the images themselves


def test_mean_distance_by_hand(example):
    assert example.mean_distance(np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 8.0]])) == pytest.approx(
        (5 + 5 + 8) / 3
    )
    many = np.random.default_rng(0).normal(size=(1500, 2))
    exact = np.linalg.norm(many[:, None] - many[None], axis=2).sum() / (1500 * 1499)
    assert example.mean_distance(many) == pytest.approx(exact, rel=1e-9)


def test_runs(example, tmp_path, capsys):
    result = example.main(["--components", "300", "--samples", "32", "--output", str(tmp_path)])
    assert result["data"][1] == 300
    assert result["largest_distance"][0] == pytest.approx(result["data"][0], rel=0.1)
    assert f"small: sigma_1={result['data'][0] / 17.78:.4g}, " in capsys.readouterr().out
    for name in ("data", "small", "largest_distance"):
        assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
