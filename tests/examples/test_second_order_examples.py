"""Figures 4.1, 4.5, 4.6 and tables 4.1, 4.3, reduced: what the programs print, and their parts."""

import importlib.util
import sys
from argparse import Namespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import REPOSITORY
from score_sde.metrics import effective_sample_size


def load(name):
    folder = str(REPOSITORY / "examples")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def loose():
    """Flax's own arithmetic and optax mix ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def is_picture(path):
    return path.read_bytes()[:4] == b"\x89PNG"


def test_slopes_of_gradient_variances(loose):
    """The band of figure 4.1 holds already for fresh networks and few examples."""
    example = load("second_order")
    variances = example.gradient_variances(jax.random.key(0), 200)
    slopes = {name: example.slope(values) for name, values in variances.items()}
    expected = {"DSM": -2, "D2SM": -4, "DSM-VR": 0, "D2SM-VR": 0}
    assert slopes == pytest.approx(expected, abs=0.2)


@pytest.mark.slow
def test_variance_figure(tmp_path, capsys, loose):
    example = load("second_order")
    results = example.main(["--figure", "variance", "--quick", "--output", str(tmp_path)])
    assert list(results["variances"]) == ["DSM", "D2SM", "DSM-VR", "D2SM-VR"]
    assert results["errors"]["VR"].shape == (1, 3, 2)
    assert "reduced: 1 seed(s)" in capsys.readouterr().out
    assert is_picture(tmp_path / "variance.png")


@pytest.mark.slow
def test_accuracy_figure(tmp_path, capsys, loose):
    example = load("second_order")
    results = example.main(["--figure", "accuracy", "--quick", "--output", str(tmp_path)])
    table, best = results["normal, 100"]
    assert table["s2, r = 15"].shape == (1, 2) and np.isfinite(table["s2, r = 15"]).all()
    assert table["s2, r = 15"][0, 0] > best["s2, r = 15"] > 0
    text = capsys.readouterr().out
    assert "7.12" in text and "reduced: 1 seed(s)" in text
    assert is_picture(tmp_path / "accuracy.png")


def test_the_normal_distribution_of_table_4_1():
    example = load("second_order_accuracy")
    problem, s2 = example.normal()
    x = np.asarray(problem.sample(jax.random.key(0), 20_000))
    precision = np.linalg.inv(np.cov(x.T) + example.SIGMA**2 * np.eye(100))
    assert np.abs(-precision - s2).max() < 0.15
    # c I - B B^T: but for c, rank 40.
    values = np.sort(np.linalg.eigvalsh(s2))
    assert np.ptp(values[:60]) < 1e-4 < values[60] - values[59]


def test_best_possible():
    """0 where the matrix has that rank, else by hand: of the identity and diag(2, 1) nothing."""
    example = load("second_order_accuracy")
    rng = np.random.default_rng(0)
    root = rng.normal(size=(12, 2))
    matrix = root @ root.T - 3 * np.eye(12)
    assert example.best_possible(matrix, 2, 2000) < 1e-6
    assert example.best_possible(matrix, 1, 200) > 0.1


def test_ozaki_example(tmp_path, capsys):
    example = load("ozaki")
    flags = ["--quick", "--output", str(tmp_path)]
    results = example.main(flags)["two modes"]
    assert list(results) == ["Langevin", "Ozaki"]
    assert all(found[0].off <= 0.05 for found in results.values())
    assert results["Ozaki"][0].sample_size > 1.5 * results["Langevin"][0].sample_size
    text = capsys.readouterr().out
    assert "band >= 1.5: holds" in text and "reduced: 1 seed(s), 32 chains" in text
    assert is_picture(tmp_path / "ozaki.png")


def test_densities_have_the_stated_moments():
    densities = load("ozaki").DENSITIES
    covariances = {name: data.covariance() for name, data in densities.items()}
    np.testing.assert_allclose(covariances["two modes"], np.diag([1.25, 0.25]), atol=1e-12)
    np.testing.assert_allclose(covariances["ring of 8"], 0.59 * np.eye(2), atol=1e-12)
    narrow = np.diag([1.3025, 0.01])
    np.testing.assert_allclose(covariances["narrow modes"], narrow, atol=1e-12)
    turn = np.asarray([[1.0, -1.0], [1.0, 1.0]]) / 2**0.5
    np.testing.assert_allclose(
        covariances["tilted narrow modes"], turn @ narrow @ turn.T, atol=1e-12
    )


def test_the_best_step_keeps_the_variances():
    """Independent draws twice as wide have more effective samples, and are refused."""
    example = load("ozaki")
    data = example.DENSITIES["two modes"]
    right = np.asarray(data.sample(jax.random.key(0), 4000)).reshape(4, 1000, 2)
    slow = np.repeat(right[:, :500], 2, axis=1)
    sizes, states = np.asarray([0.1, 0.2, 0.3]), np.stack([slow, right, 2 * right])
    found = example.best(data, sizes, states)
    assert found.step == 0.2 and found.off < 0.05
    assert found.sample_size == pytest.approx(
        float(effective_sample_size(right, (data.mean(), np.diag(data.covariance()))).min()) / 4
    )
    assert example.best(data, sizes[2:], states[2:]).off > 1
    assert example.best(data, sizes[:1], np.full((1, 4, 10, 2), np.nan)) is None


def test_a_wrong_narrow_direction_is_seen_at_any_angle():
    """Four times the variance across a tilted mode is 2.3% of the variance of a coordinate."""
    example = load("ozaki")
    data = example.DENSITIES["tilted narrow modes"]
    x = np.asarray(data.sample(jax.random.key(0), 40_000)).reshape(4, 10_000, 2)
    across = np.asarray([1.0, -1.0]) / 2**0.5
    wide = x + (x @ across)[..., None] * across
    assert np.abs(wide.var(axis=(0, 1)) / np.diag(data.covariance()) - 1).max() < 0.05
    assert example.best(data, np.asarray([0.1]), x[None]).off < 0.05
    assert example.best(data, np.asarray([0.1]), wide[None]).off == pytest.approx(3, abs=0.2)


def test_the_width_of_a_mode_counts_where_asked():
    """Modes half as wide again: 5% of the variance of the ring, and more than twice the width."""
    example = load("ozaki")
    data = example.DENSITIES["sparse ring of 8"]
    wider = example._ring(8, 0.21)
    x = np.asarray(wider.sample(jax.random.key(0), 40_000)).reshape(1, 4, 10_000, 2)
    assert example.best(data, np.asarray([0.1]), x).off < 0.07
    assert example.best(data, np.asarray([0.1]), x, within=True).off > 0.5


def test_langevin_of_the_example_by_hand():
    """x + epsilon s + sqrt(2 epsilon) z, for two steps at once."""
    example = load("ozaki")
    data, sizes = example.DENSITIES["two modes"], np.asarray([1e-6, 0.05])
    options = Namespace(chains=3, steps=1, burn_in=0)
    states = example.chains(data, "Langevin", sizes, jax.random.key(0), options)
    assert states.shape == (2, 3, 1, 2)
    start = data.sample(jax.random.split(jax.random.key(0))[0], 3)
    score = data.score(example.CLEAN, start, example.NOW)
    z = (states[0, :, 0] - start) / np.sqrt(2e-6)
    expected = start + 0.05 * score + jnp.sqrt(jnp.float32(0.1)) * z
    np.testing.assert_allclose(states[1, :, 0], expected, atol=2e-3)
