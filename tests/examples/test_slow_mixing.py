"""Figure 5.3: annealed Langevin dynamics recovers the weights of two modes, plain does not."""

import importlib.util

import jax
import numpy as np
import pytest

from golden import REPOSITORY
from score_sde.analytic import GaussianMixture
from score_sde.sde import DiscreteChain


@pytest.fixture
def example():
    path = REPOSITORY / "examples" / "slow_mixing.py"
    spec = importlib.util.spec_from_file_location("slow_mixing", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_weights(example, tmp_path, capsys):
    samples = example.main(["--output", str(tmp_path)])
    assert abs(example.deviation(samples["exact"])) < 3
    assert abs(example.deviation(samples["annealed Langevin"])) < 3
    for name in ("Langevin", "Langevin, 10 T"):
        # Uniform starts split evenly between the modes, and stay.
        assert example.weight(samples[name]) == pytest.approx(0.5, abs=0.07)
        assert example.deviation(samples[name]) > 15
    for name in ("Langevin", "annealed Langevin", "annealed, as released"):
        assert example.spread(samples[name]) == pytest.approx(1, abs=0.06)
    assert np.isnan(example.weight(samples["annealed, as printed"]))
    assert all(x.shape == (1280, 2) for x in samples.values())
    lines = {line[:22].strip(): line[22:] for line in capsys.readouterr().out.splitlines()}
    assert lines["Langevin"].split()[0] == f"{example.weight(samples['Langevin']):.3f},"
    assert lines["annealed, as printed"].split() == ["diverged"]
    assert (tmp_path / "slow_mixing.png").read_bytes()[:4] == b"\x89PNG"


def test_measures_by_hand(example):
    samples = np.array([[-5.0, -6.0], [5.0, 4.0], [6.0, 5.0], [5.0, 5.0], [-4.0, 8.0]])
    assert example.weight(samples) == 0.2
    assert example.deviation(samples) == pytest.approx(0)
    assert example.deviation(samples[:1]) == pytest.approx(2)  # (1 - 0.2)/0.4
    assert example.spread(samples[:4]) == pytest.approx(np.sqrt(3 / 8))


def test_one_step_by_hand(example):
    # At the largest scale 2 of the chain {1, 2}, with one component at the origin:
    # x + eps sigma^2/2 score + sqrt(eps sigma^2) z.

    point = GaussianMixture.isotropic([1.0], np.zeros((1, 2)), 0.0)
    chain = DiscreteChain(np.ones(1), np.full(1, 2.0))

    x = example.langevin(jax.random.key(0), point, chain, 1, 0.5, 40_000)
    # (1 - eps/2)^2 64/3 of the uniform start, and eps sigma^2.
    assert np.var(x) == pytest.approx(0.75**2 * 64 / 3 + 0.5 * 4, rel=0.02)
