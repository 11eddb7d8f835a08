"""Figure 5.2: the estimated score is right near the modes and wrong between them."""

import importlib.util

import jax
import numpy as np
import pytest

from golden import REPOSITORY


@pytest.fixture
def example():
    path = REPOSITORY / "examples" / "score_field.py"
    spec = importlib.util.spec_from_file_location("score_field", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_errors_by_region(example, tmp_path, capsys):
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        result = example.main(["--steps", "2000", "--output", str(tmp_path)])
    near, far = result["within 1 of (5, 5)"], result["within 2 of (0, 0)"]
    assert near[0] < 0.2 * near[1]
    assert far[0] > 30 * near[0]
    # The loss of the exact score is -E|score|^2/2, nearly -1.
    loss = float(capsys.readouterr().out.splitlines()[0].split()[-1])
    assert loss == pytest.approx(-1, abs=0.15)
    assert (tmp_path / "score_field.png").read_bytes()[:4] == b"\x89PNG"


def test_errors_of_known_fields(example):
    exact = example.DATA.score_fn(example.CLEAN)
    assert all(error < 1e-10 for error, _ in example.errors(exact).values())
    doubled = example.errors(lambda x, t: 2 * exact(x, t))
    for error, size in doubled.values():
        assert error == pytest.approx(size, rel=1e-5)
    # |x - mean|^2 over a unit disk is 1/2 on average.
    assert doubled["within 1 of (5, 5)"][1] == pytest.approx(0.5, abs=0.02)


def test_grid(example):
    np.testing.assert_array_equal(example.grid(3)[[0, 1, 3]], [[-8, -8], [0, -8], [-8, 0]])
