"""Operators against their dense matrices."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from operatorcases import OPERATORS, HalfFourier, probe, row

from score_sde import inverse
from score_sde.arrays import left_broadcast
from score_sde.errors import UserError
from score_sde.inverse.operators import Composed, conjugate_gradients, inner, largest_eigenvalue

pytestmark = pytest.mark.usefixtures("x64")
SHIFTS = np.array([0.05, 2.0, 0.0, 0.3])
"""A shift of 0 is compared on the range of A alone."""


ITERATED = ("valid blur", "blur, then block means", "blur, then a mask")
"""They have no decomposition, so that conjugate gradients and Lanczos' method do the work."""


@pytest.fixture(scope="module")
def probes() -> dict:
    return {}


@pytest.fixture(params=OPERATORS)
def found(request, probes) -> dict[str, np.ndarray]:
    """Dense matrices of an operator's last row, made once for all tests of this file."""
    name = request.param
    if name not in probes:
        operator = row(OPERATORS[name](), -1)
        m = int(np.prod(operator.measured))
        shifts = np.resize(SHIFTS, m)
        arrays = jax.device_get(probe(operator, jnp.asarray(shifts)))
        probes[name] = {key: np.atleast_1d(value) for key, value in arrays.items()}
        probes[name] |= {"shifts": shifts, "steps": np.asarray(operator.steps)}
    return probes[name]


@jax.jit
def products(operator, x, y):
    """<A x, y>, <x, A^T y> and |A x||y| of each row."""
    ax = operator.forward(x)
    size = jnp.sqrt(inner(ax, ax) * inner(y, y))
    return inner(ax, y), inner(x, operator.adjoint(y)), size


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_in_single_precision(name: str) -> None:
    """To 1e-5; in double precision the dense matrices say more."""
    operator, rng = OPERATORS[name](), np.random.default_rng(2)
    rows = max(operator.rows, 2)
    x = rng.normal(size=(rows, *operator.event)).astype(np.float32)
    y = rng.normal(size=(rows, *operator.measured)).astype(np.float32)
    left, right, size = products(operator, x, y)
    assert left.dtype == right.dtype == jnp.float32
    assert np.all(np.abs(left - right) <= 1e-5 * size) and np.all(size > 0)


def test_adjoint_and_derivative_are_the_transpose(found) -> None:
    assert np.abs(found["adjoint"] - found["forward"].T).max() < 1e-14
    assert np.abs(found["vjp"] - found["adjoint"]).max() < 1e-14


def test_pinv(found) -> None:
    a, pinv = found["forward"], found["pinv"]
    assert np.abs(a @ pinv @ a - a).max() < 1e-8
    assert np.abs(pinv @ a @ pinv - pinv).max() < 1e-8 * np.abs(pinv).max()
    for projection in (a @ pinv, pinv @ a):
        assert np.abs(projection - projection.T).max() < 1e-8


def test_solve(found) -> None:
    a, shifts = found["forward"], found["shifts"]
    eigenvalues, vectors = np.linalg.eigh(a @ a.T)
    eigenvalues = np.where(eigenvalues < 1e-12 * eigenvalues.max(), 0, eigenvalues)
    for j, shift in enumerate(shifts):
        inverse_values = 1 / np.where(eigenvalues + shift > 0, eigenvalues + shift, np.inf)
        wanted = vectors @ (inverse_values * vectors[j])
        got, scale = found["solve"][:, j], max(1, np.abs(wanted).max())
        if shift == 0:  # unit vectors outside the range have no solution; with A^T applied, all do
            wanted, got = a.T @ wanted, a.T @ got
            if "values" not in found and np.abs(a @ wanted - np.eye(len(a))[j]).max() > 1e-9:
                continue
        assert np.abs(got - wanted).max() < 1e-8 * scale, (j, shift)


def test_norm(found) -> None:
    largest = np.linalg.norm(found["forward"], 2)
    assert found["norm"][0] == pytest.approx(largest, rel=1e-6)
    assert found["norm"][0] <= largest * (1 + 1e-12)


@pytest.mark.parametrize(
    "found", [name for name in OPERATORS if name not in ITERATED], indirect=True
)
def test_spectrum_rebuilds_the_matrix(found) -> None:
    a, s, v, u = (found[key] for key in ("forward", "values", "to_x", "to_y"))
    n, m = a.shape[1], a.shape[0]
    assert np.abs(u @ np.diag(s) @ v.T - a).max() < 1e-12
    assert np.abs(v.T @ v - np.eye(n)).max() < 1e-12
    assert np.abs(u @ u.T - np.eye(m)).max() < 1e-12
    assert np.abs(found["from_x"] - v.T).max() < 1e-12
    assert np.abs(found["from_y"] - u.T).max() < 1e-12
    assert s.min() >= 0
    assert np.sort(s)[::-1][:m] == pytest.approx(np.linalg.svd(a, compute_uv=False), abs=1e-12)


@pytest.mark.parametrize("name", ITERATED)
def test_operators_without_a_spectrum_say_so(name: str) -> None:
    with pytest.raises(UserError, match="no cheap singular value decomposition"):
        OPERATORS[name]().spectrum()


@pytest.mark.parametrize("name", ["inpainting, a mask a row", "circular blur, a kernel a row"])
def test_each_row_has_its_own_operator_and_nothing_is_compiled_anew(name: str) -> None:
    operator = OPERATORS[name]()
    x = np.random.default_rng(3).normal(size=(operator.rows, *operator.event))
    shifts = np.array([0.1, 1.0, 0.0])[: operator.rows]

    traces = []

    @jax.jit
    def both(operator, x, shifts):
        traces.append(len(x))
        y = operator.forward(x)
        return y, operator.solve(y, shifts), operator.norm()

    together = both(operator, x, shifts)
    assert together[2].shape == (operator.rows,)
    turned = jax.tree.map(lambda leaf: leaf[::-1], operator)
    for one, other in zip(together, both(turned, x[::-1], shifts[::-1])):
        np.testing.assert_allclose(one, other[::-1], rtol=1e-12, atol=1e-14)
    assert traces == [operator.rows]
    for i in range(operator.rows):
        alone = both(row(operator, i), x[i : i + 1], shifts[i : i + 1])
        for one, all_of_them in zip(alone, together):
            np.testing.assert_allclose(one[0], all_of_them[i], rtol=1e-12, atol=1e-14)
    assert traces == [operator.rows, 1]


def test_complex_data_and_an_operator_that_only_has_forward() -> None:
    operator, rng = HalfFourier((5, 4, 1)), np.random.default_rng(4)
    assert operator.measured == (3, 4, 1)
    x = rng.normal(size=(2, 5, 4, 1))
    y = rng.normal(size=(2, 3, 4, 1)) + 1j * rng.normal(size=(2, 3, 4, 1))
    left, right, _ = products(operator, x, y)
    np.testing.assert_allclose(left, right, rtol=1e-12)
    a = jnp.asarray([0.1, 3.0])

    @jax.jit
    def both_ways(x, y):
        seen, r = operator.forward(x), operator.solve(y, a)
        back = operator.forward(operator.adjoint(r)) + left_broadcast(a, r).astype(r.dtype) * r
        dense = operator.forward(jnp.eye(20).reshape(20, 5, 4, 1)).reshape(20, -1)
        return seen, operator.forward(operator.pinv(seen)), back, operator.norm(), dense

    seen, again, back, norm, dense = both_ways(x, y)
    np.testing.assert_allclose(again, seen, atol=1e-12)
    np.testing.assert_allclose(back, y, atol=1e-12)
    parts = np.concatenate([dense.real, dense.imag], axis=1)
    assert norm[0] == pytest.approx(np.linalg.norm(parts, 2), rel=1e-9)


def test_conjugate_gradients_stop_where_nothing_is_left() -> None:
    """A thousand steps more than needed change nothing, also of a singular matrix."""
    rng = np.random.default_rng(5)
    q, _ = np.linalg.qr(rng.normal(size=(12, 12)))
    values = np.array([*np.geomspace(1e-3, 10, 7), *np.zeros(5)])
    matrix = jnp.asarray(q @ np.diag(values) @ q.T)
    x = np.stack([q[:, :7] @ rng.normal(size=7), np.zeros(12), 1e8 * q[:, 3]])
    solve = jax.jit(lambda r: conjugate_gradients(lambda v: v @ matrix, r, steps=1000))
    solved = solve(jnp.asarray(x) @ matrix)
    np.testing.assert_allclose(solved[0], x[0], atol=1e-8)
    np.testing.assert_array_equal(solved[1], 0)
    np.testing.assert_allclose(solved[2], x[2], rtol=1e-8, atol=1)


def test_conjugate_gradients_end_when_all_rows_have_stopped() -> None:
    """Three eigenvalues take three steps, and one to see it; easier rows wait for the hardest."""
    calls, values = [], jnp.array([[1.0, 2.0, 5.0, 5.0]])

    def apply(v):
        if not isinstance(v, jax.core.Tracer):
            calls.append(1)
        return values * v

    rows = jnp.array([[0.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    with jax.disable_jit():
        for count, most in ((1, 1), (2, 2), (3, 4)):
            calls.clear()
            found = conjugate_gradients(apply, rows[:count], steps=50)
            np.testing.assert_allclose(found, rows[:count] / values)
            assert len(calls) == most


def test_steps_are_what_conjugate_gradients_take() -> None:
    full = inverse.blur((5, 6, 1), np.ones((2, 2)), "valid")
    y = jnp.asarray(np.random.default_rng(6).normal(size=(1, 4, 5, 1)))
    pinv = jax.jit(lambda operator, y: operator.pinv(y))
    first = pinv(dataclasses.replace(full, steps=1), y) / full.adjoint(y)
    np.testing.assert_allclose(first, np.full_like(first, first[0, 0, 0, 0]), rtol=1e-10)
    np.testing.assert_allclose(full.forward(pinv(full, y)), y, atol=1e-10)


def test_lanczos_keeps_what_norm_promises() -> None:
    """Eigenvalues close to one another are the worst case."""
    spread = np.array([[1e-3], [1e-1], [1.0]])
    values = jnp.asarray(1 - spread * np.linspace(0, 1, 3000) ** 2)
    start = jnp.asarray(np.random.default_rng(7).normal(size=(3, 3000)))
    largest = jax.jit(lambda start: largest_eigenvalue(lambda v: values * v, start))(start)
    assert np.all(largest > 0.98) and np.all(largest <= 1 + 1e-12)


def test_composed_operators_must_fit() -> None:
    inner_operator = inverse.block_mean((6, 8, 1), 2)
    with pytest.raises(UserError, match=r"\(3, 4, 1\).*\(6, 8, 3\)"):
        inverse.compose(inverse.colorization((6, 8, 3)), inner_operator)


@pytest.mark.parametrize("name", ["inpainting", "colorization", "circular blur"])
def test_images_of_another_shape_are_refused(name: str) -> None:
    operator = OPERATORS[name]()
    h, w, c = operator.event
    with pytest.raises(ValueError, match="x has shape"):
        operator.forward(jnp.zeros((2, w, h, c)))
    with pytest.raises(ValueError, match="y has shape"):
        operator.adjoint(jnp.zeros((2, *operator.measured[:2], 7)))


def test_rows_may_be_mapped_and_arrays_replaced_by_what_describes_them() -> None:
    kernels, mask = np.random.default_rng(8).normal(size=(2, 2, 3)), np.arange(32) % 3 > 0
    kept = inverse.Masked(inverse.Identity((4, 4, 1)), mask.reshape(2, 4, 4, 1))
    operator = inverse.compose(kept, inverse.blur((5, 6, 1), kernels, "valid"))
    x = np.random.default_rng(9).normal(size=(2, 5, 6, 1))

    def one(operator, x):
        return jax.tree.map(lambda leaf: leaf[None], operator).forward(x[None])[0]

    mapped = jax.jit(jax.vmap(one))(operator, x)
    np.testing.assert_allclose(mapped, jax.jit(Composed.forward)(operator, x), atol=1e-13)
    assert jax.tree.leaves(jax.tree.map(lambda leaf: "a word", operator)) == ["a word"] * 2
