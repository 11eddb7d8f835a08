"""Tomography: projectors against their transposes and against ellipses in closed form."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.data import ellipses
from score_sde.errors import UserError
from score_sde.inverse import FanBeam, Operator, ParallelBeam, parallel_beam
from score_sde.inverse.operators import inner

RNG = np.random.default_rng(0)
ANY = tuple(RNG.uniform(-7, 7, 7))
FAN = {"source_axis": 30.0, "source_detector": 52.0}

OPERATORS: dict[str, Operator] = {
    "even": parallel_beam((8, 8, 1), 6),
    "odd, two channels, any angles": ParallelBeam((9, 13, 2), ANY, 23),
    "wide, shifted, coarse bins": ParallelBeam((6, 21, 1), ANY, 9, 3.1, offset=-2.3, pixel=1.7),
    "fan, full": FanBeam((8, 8, 1), tuple(np.arange(8) * np.pi / 4), 16, 1.4, **FAN),
    "fan, shifted, any angles": FanBeam((9, 13, 2), ANY, 23, 1.9, **FAN, offset=1.3),
    "arc, fine": FanBeam((17, 6, 1), ANY, 40, 0.7, **FAN, curved=True),
    "arc, cut": FanBeam((8, 9, 1), ANY, 4, 2.1, **FAN, offset=-3.0, curved=True),
}


forward = jax.jit(lambda operator, x: operator.forward(x))


@jax.jit
def products(operator, x, y):
    """<A x, y>, <x, A^T y> and |A x||y| of each row."""
    ax = operator.forward(x)
    return inner(ax, y), inner(x, operator.adjoint(y)), jnp.sqrt(inner(ax, ax) * inner(y, y))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint(name: str) -> None:
    """To 1e-10 in double precision and 1e-5 in single precision."""
    operator, rng = OPERATORS[name], np.random.default_rng(1)
    single = ((np.float32, 1e-6),) if "any angles" in name else ()
    for dtype, tolerance in ((np.float64, 1e-14), *single):
        x = rng.normal(size=(2, *operator.event)).astype(dtype)
        y = rng.normal(size=(2, *operator.measured)).astype(dtype)
        left, right, size = products(operator, x, y)
        assert left.dtype == right.dtype == dtype and np.all(size > 0)
        assert np.all(np.abs(left - right) <= tolerance * size)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["odd, two channels, any angles", "fan, shifted, any angles"])
def test_derivatives_are_the_adjoint(name: str) -> None:
    """First and second, in reverse and forward mode, and mapped."""
    operator, rng = OPERATORS[name], np.random.default_rng(2)
    x, v = rng.normal(size=(2, 2, *operator.event))
    y = rng.normal(size=(2, *operator.measured))

    @jax.jit
    def all_of_them(x, v, y):
        half_square = jax.grad(lambda x: jnp.sum(operator.forward(x) ** 2) / 2)
        mapped = jax.vmap(lambda x: operator.forward(x[None])[0])
        return {
            "vjp": (jax.vjp(operator.forward, x)[1](y)[0], operator.adjoint(y)),
            "jvp": (jax.jvp(operator.forward, (x,), (v,))[1], operator.forward(v)),
            "Hessian": (
                jax.jvp(half_square, (x,), (v,))[1],
                operator.adjoint(operator.forward(v)),
            ),
            "vmap": (mapped(x), operator.forward(x)),
        }

    for what, (one, other) in all_of_them(x, v, y).items():
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12, err_msg=what)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["even", "arc, cut"])
def test_pinv(name: str) -> None:
    """A A^+ A = A, and A^+ of the singular value decomposition."""
    operator = dataclasses.replace(OPERATORS[name], steps=200)
    n = int(np.prod(operator.event))
    unit = jnp.eye(n).reshape(n, *operator.event)
    dense = np.asarray(jax.jit(operator.forward)(unit)).reshape(n, -1).T
    y = np.random.default_rng(3).normal(size=(2, *operator.measured))
    found = np.asarray(jax.jit(operator.pinv)(y)).reshape(2, -1)
    wanted = y.reshape(2, -1) @ np.linalg.pinv(dense, rcond=1e-10).T
    np.testing.assert_allclose(dense @ found.T, dense @ wanted.T, atol=1e-8)
    np.testing.assert_allclose(jax.jit(operator.norm)()[0], np.linalg.norm(dense, 2), rtol=1e-3)


@pytest.mark.usefixtures("x64")
def test_columns_rows_and_right_angles() -> None:
    x = np.random.default_rng(4).normal(size=(1, 7, 7, 1))
    views = forward(ParallelBeam((7, 7, 1), (0, np.pi / 2, np.pi, -np.pi / 2), 7), x)[0, ..., 0]
    columns, rows = x[0, :, :, 0].sum(0), x[0, ::-1, :, 0].sum(1)
    for got, wanted in zip(views, (columns, rows, columns[::-1], rows[::-1])):
        np.testing.assert_allclose(got, wanted, atol=1e-13)
    angles = np.array([0.1, 0.7, np.pi / 4, 2.0, 3.0])
    here = forward(ParallelBeam((7, 7, 1), angles, 11), x)
    turned = np.rot90(x, axes=(1, 2)).copy()
    there = forward(ParallelBeam((7, 7, 1), angles + np.pi / 2, 11), turned)
    np.testing.assert_allclose(here, there, atol=1e-12)
    fan = FanBeam((7, 7, 1), tuple(angles), 30, 0.9, **FAN)
    again = dataclasses.replace(fan, angles=tuple(angles + np.pi / 2))
    np.testing.assert_allclose(forward(fan, x), forward(again, turned), atol=1e-12)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(("spacing", "pixel"), [(0.4, 1.0), (2.7, 1.3)])
def test_the_sum_over_bins_is_that_over_pixels(spacing: float, pixel: float) -> None:
    x = np.random.default_rng(5).random((1, 9, 12, 1))
    bins = int(18 * pixel / spacing) + 2
    y = forward(ParallelBeam((9, 12, 1), ANY, bins, spacing, pixel=pixel), x)
    np.testing.assert_allclose(spacing * y.sum((2, 3)), pixel**2 * x.sum(), rtol=1e-12)


PAIR = np.array([[1.0, 0.6, 0.4, 0.1, -0.2, 0.5], [0.5, 0.2, 0.3, -0.2, 0.1, 1.0]])
"""Two ellipses in the unit square, not symmetric in any way."""


def _beam(kind: str, n: int, views: int = 25) -> ParallelBeam | FanBeam:
    turn = tuple(np.arange(views) * 2 * np.pi / views + 0.1)
    if kind == "parallel":
        return ParallelBeam((n, n, 1), turn, int(1.5 * n), offset=0.3)
    far = {"source_axis": 1.5 * n, "source_detector": 2.5 * n}
    return FanBeam((n, n, 1), turn, 2 * n, 1.5, **far, offset=0.3, curved=kind == "arc")


def _error(kind: str, n: int) -> float:
    beam, table = _beam(kind, n), ellipses.scaled(PAIR, n / 2)
    image = ellipses.picture(table, (n, n), 1.0)[None, :, :, None]
    got = np.asarray(forward(beam, image.astype(np.float32)))[0, ..., 0]
    wanted = ellipses.line_integrals(table, *beam.rays())
    return float(np.linalg.norm(got - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("kind", ["parallel", "arc"])
def test_ellipses(kind: str) -> None:
    small, large = _error(kind, 24), _error(kind, 64)
    assert large < 0.02 and large < 0.7 * small


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parallel", "flat", "arc"])
def test_ellipses_at_256_pixels(kind: str) -> None:
    assert _error(kind, 256) < 0.01


def test_a_narrow_fan_from_afar_is_parallel() -> None:
    x = np.random.default_rng(6).random((1, 12, 10, 1)).astype(np.float32)
    parallel = ParallelBeam((12, 10, 1), ANY, 20)
    fan = FanBeam((12, 10, 1), ANY, 20, 1.0, 1e5, 1e5)
    one, other = forward(parallel, x), forward(fan, x)
    assert np.linalg.norm(one - other) < 0.02 * np.linalg.norm(one)


def test_views_are_dropped_before_they_are_computed() -> None:
    x = np.random.default_rng(7).random((1, 8, 8, 1)).astype(np.float32)
    for beam in (_beam("parallel", 8, 9), _beam("arc", 8, 9)):
        some = beam.views([5, 0])
        assert some.measured[0] == 2
        np.testing.assert_allclose(forward(some, x), forward(beam, x)[:, [5, 0]], atol=1e-5)


EVENT = (8, 8, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ParallelBeam(EVENT, (), 8), "at least one"),
        (lambda: ParallelBeam(EVENT, (0.0, np.nan), 8), "finite"),
        (lambda: ParallelBeam(EVENT, (0.0, 90.0), 8), "degrees"),
        (lambda: ParallelBeam(EVENT, (0.0,), 0), "one bin"),
        (lambda: ParallelBeam(EVENT, (0.0,), 8, spacing=0.0), "spacing"),
        (lambda: parallel_beam(EVENT, 0), "views"),
        (lambda: FanBeam(EVENT, (0.0,), 8, 1.0, 5.0, 50.0), "outside"),
        (lambda: FanBeam(EVENT, (0.0,), 80, 1.0, 30.0, 20.0, curved=True), "pi/2"),
    ],
)
def test_geometries_that_are_none(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_line_and_strip_integrals_and_transforms_of_ellipses_agree() -> None:
    """A projection's Fourier transform is a slice of the picture's; strips are means of lines."""
    s = np.linspace(-1.2, 1.2, 4801)
    frequency = np.array([0.0, 0.7, 3.0])
    for theta in (0.0, 0.6, 2.5):
        lines = ellipses.line_integrals(PAIR, np.array(theta), s)
        wave = np.exp(-2j * np.pi * frequency[:, None] * s)
        got = ellipses.fourier_transform(PAIR, frequency * np.cos(theta), frequency * np.sin(theta))
        np.testing.assert_allclose(got, (wave * lines).sum(1) * (s[1] - s[0]), atol=1e-4)
        strips = ellipses.strip_integrals(PAIR, np.array(theta), s[100:-100:50], 0.02)
        around = np.lib.stride_tricks.sliding_window_view(lines, 41)[80:-80:50]
        np.testing.assert_allclose(strips, around.mean(1), atol=6e-3)
    area = (np.pi * PAIR[:, 0] * PAIR[:, 1] * PAIR[:, 2]).sum()
    assert ellipses.fourier_transform(PAIR, np.zeros(1), np.zeros(1))[0] == pytest.approx(area)
    assert ellipses.picture(PAIR, (64, 48), 1 / 24).sum() / 24**2 == pytest.approx(area, rel=1e-3)
