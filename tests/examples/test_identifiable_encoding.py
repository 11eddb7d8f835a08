"""The example of identifiable encodings: it runs, and says what is so of known codes."""

import importlib.util

import jax
import numpy as np
import pytest

from golden import REPOSITORY


@pytest.fixture
def example():
    path = REPOSITORY / "examples" / "identifiable_encoding.py"
    spec = importlib.util.spec_from_file_location("identifiable_encoding", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_comparison_of_known_codes(example):
    a, noise = np.random.default_rng(0).normal(size=(2, 200, 64))
    result = example.compare(a, 0.8 * a + 0.6 * noise)
    expected = [0.8, 0.0, np.sqrt(0.4), np.sqrt(2)]  # E(a - b)^2 = 2 - 2 correlation
    np.testing.assert_allclose(list(result.values()), expected, atol=0.04)
    assert example.compare(a, a)["difference"] == 0


@pytest.mark.slow
def test_runs(example, tmp_path):
    tiny = [
        "model.nf=32",
        "model.ch_mult=(1,)",
        "model.attn_resolutions=(99,)",
        "training.batch_size=8",
    ]
    tiny += ["eval.batch_size=8", "eval.num_examples=8"]
    arguments = ["--steps", "2", "--images", "4", "--output", str(tmp_path), *tiny]
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        result = example.main(arguments)
    assert all(np.isfinite(value) for value in result.values())
    assert 0 < result["difference"] < result["difference, different images"]
    assert (tmp_path / "encodings.png").read_bytes()[:4] == b"\x89PNG"
