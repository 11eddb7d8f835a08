"""Figure 5.1: that the example runs, and that its measure of roughness is right."""

import importlib.util

import jax
import numpy as np
import pytest

from golden import REPOSITORY


@pytest.fixture
def example():
    path = REPOSITORY / "examples" / "manifold.py"
    spec = importlib.util.spec_from_file_location("manifold", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_roughness_by_hand(example):
    # The last third is 2, 4, 2, 4: steps of 2 around a median of 3.
    assert example.roughness(np.array([9.0] * 8 + [2, 4, 2, 4])) == pytest.approx(2 / 3)
    assert example.roughness(-np.ones(30)) == 0


@pytest.mark.slow
def test_runs(example, tmp_path):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        curves = example.main(["--steps", "20", "--nf", "4", "--output", str(tmp_path)])
    for losses in curves.values():
        assert losses.shape == (20,) and np.isfinite(losses).all()
        assert losses[-3:].mean() < losses[:3].mean()
    assert (curves["no noise"] != curves["noise N(0, 0.0001)"]).all()
    assert (tmp_path / "manifold.png").read_bytes()[:4] == b"\x89PNG"
