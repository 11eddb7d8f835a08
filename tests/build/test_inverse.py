"""config.inverse: operators and solvers by name; guidance stops where it would be rough."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from score_sde import guidance, inverse
from score_sde.analytic import GaussianMixture
from score_sde.build.baselines import BASELINES
from score_sde.build.inverse import (
    KINDS,
    KSPACE,
    OPTIONS,
    TASK_ENTRIES,
    TASKS,
    build_operator,
    build_simulator,
    build_solver,
)
from score_sde.build.sampler import build_sampler
from score_sde.build.sections import InverseSettings
from score_sde.build.settings import Sampling
from score_sde.data import PixelRange
from score_sde.data.masks import named_mask
from score_sde.errors import UserError
from score_sde.sde import VP
from score_sde.solvers import SOLVERS

EVENT = (4, 4, 1)


def test_the_tables_fit_the_settings() -> None:
    names = {field.name for field in dataclasses.fields(InverseSettings)}
    own = {entry for table in (OPTIONS, TASK_ENTRIES) for row in table.values() for entry in row}
    assert own == names - {"task", "std", "images", "solver"}
    assert TASK_ENTRIES.keys() == TASKS.keys() and OPTIONS.keys() <= KINDS.keys()


@pytest.mark.parametrize("kind", [*KSPACE, "published"])
def test_kspace_is_that_many_times_fewer(kind: str) -> None:
    section = InverseSettings(task="mri", kspace=kind, acceleration=4.0)
    mask = np.asarray(build_operator(section, (32, 32, 1), np.ones((32, 32, 1), bool)).mask)
    assert mask.mean() == pytest.approx(1 / 4, abs=1 / 16)
    # The published formula has no central columns with so few of them.
    assert mask[..., 16, 16, :].all() == (kind != "published")


def test_tomography_sees_half_a_turn() -> None:
    """As many views as asked for, from 0 on, equally far apart; finer pixels are smaller."""
    section = InverseSettings(task="ct", views=4, finer=2)
    operator = build_operator(section, (8, 6, 1), np.ones((8, 6, 1), bool))
    np.testing.assert_allclose(operator.angles, [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4])
    simulator = build_simulator(section, operator)
    assert (simulator.event, simulator.pixel) == ((16, 12, 1), 0.5)
    assert simulator.measured == operator.measured and simulator.spacing == operator.spacing
    one = np.ones((1, 8, 6, 1), np.float32)
    fine = one.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_allclose(
        simulator.forward(jnp.asarray(fine))[0, [0, 2]],
        operator.forward(jnp.asarray(one))[0, [0, 2]],
        atol=1e-4,
    )


@pytest.mark.parametrize("rays", ["parallel", "curved"])
def test_rays_through_metal_are_left_out(rays: str) -> None:
    """Whatever is where metal is, the data are the same; the other bins are those of the beam."""
    section = InverseSettings(task="mar", views=5, rays=rays, finer=2)
    known = named_mask("implants:0.1", 10, 12)[..., None]
    operator = build_operator(section, (10, 12, 1), known)
    x = np.random.default_rng(0).random((2, 10, 12, 1)).astype(np.float32)
    y = np.asarray(operator.forward(jnp.asarray(x)))
    other = np.asarray(operator.forward(jnp.asarray(np.where(known, x, 7))))
    np.testing.assert_allclose(other, y, atol=1e-5)
    seen = np.asarray(operator.operator.forward(jnp.asarray(~known[None], jnp.float32)))[0] > 0
    assert 0.1 < seen.mean() < 0.9 and not y[:, seen].any()
    whole = np.asarray(operator.operator.forward(jnp.asarray(x)))
    np.testing.assert_allclose(y[:, ~seen], whole[:, ~seen], atol=1e-5)
    fine = jnp.asarray(x.repeat(2, axis=1).repeat(2, axis=2))
    finer = np.asarray(build_simulator(section, operator).forward(fine))
    assert not finer[:, seen].any() and finer[:, ~seen].any()
    with pytest.raises(UserError, match="views see metal in all bins"):
        build_operator(section, (10, 12, 1), np.zeros((10, 12, 1), bool))


@pytest.mark.parametrize("rays", ["flat", "curved"])
def test_a_fan_sees_the_whole_image_in_a_whole_turn(rays: str) -> None:
    """Every pixel, the corners too, in each of the views; finer pixels are smaller."""
    section = InverseSettings(task="ct", views=6, rays=rays, finer=2)
    operator = build_operator(section, (8, 6, 1), np.ones((8, 6, 1), bool))
    assert operator.curved == (rays == "curved") and operator.source_axis == 16
    np.testing.assert_allclose(operator.angles, np.arange(6) * np.pi / 3)
    weights = operator.views([1]).adjoint(jnp.ones((1, 1, operator.bins, 1)))
    assert float(weights.min()) > 0.3 and operator.bins < 16
    x = np.random.default_rng(0).random((1, 8, 6, 1)).astype(np.float32)
    fine = jnp.asarray(x.repeat(2, axis=1).repeat(2, axis=2))
    one, other = operator.forward(jnp.asarray(x)), build_simulator(section, operator).forward(fine)
    assert float(jnp.linalg.norm(one - other) / jnp.linalg.norm(one)) < 0.05


def test_coils_are_simulated() -> None:
    """As many as asked for, whose squares add up to 1; real images."""
    section = InverseSettings(task="mri", kspace="mask", coils=3)
    known = np.random.default_rng(0).random((6, 8, 1)) < 0.5
    operator = build_operator(section, (6, 8, 1), known)
    x = np.random.default_rng(1).random((2, 6, 8, 1)).astype(np.float32)
    y = np.asarray(operator.forward(jnp.asarray(x)))
    assert y.shape == (2, 3, 6, 8, 1) and not y[:, :, ~known].any()
    whole = build_operator(section, (6, 8, 1), np.ones((6, 8, 1), bool))
    power = np.sum(np.abs(np.asarray(whole.forward(jnp.asarray(x)))) ** 2)
    np.testing.assert_allclose(power, np.sum(x**2), rtol=1e-5)


def test_coils_have_maps_of_their_own() -> None:
    """F S_i x of each coil, maps of all images or of each; others are refused."""
    section = InverseSettings(task="mri", kspace="mask", coils=2)
    rng = np.random.default_rng(0)
    known = rng.random((6, 8, 1)) < 0.5
    maps = inverse.normalized_maps(rng.normal(size=(3, 2, 6, 8)) + 1j * rng.normal(size=(2, 6, 8)))
    x = rng.random((3, 6, 8, 1))
    for given in (maps[0], maps):
        y = np.asarray(build_operator(section, (6, 8, 1), known, given).forward(jnp.asarray(x)))
        images = np.fft.ifftshift(given * x[:, None, ..., 0], (2, 3))
        k = np.fft.fftshift(np.fft.fft2(images, norm="ortho"), (2, 3))
        np.testing.assert_allclose(y[..., 0], k * known[..., 0], atol=1e-5)
    for values, bad, message in (
        ({"coils": 3}, maps[0], "coils=3 is not the first axis"),
        ({"task": "ct", "kspace": "equispaced", "coils": 1}, maps[0], "mean nothing to task=ct"),
        ({}, 2 * maps[0], "squared maps sum to 4"),
    ):
        other = dataclasses.replace(section, **values)
        with pytest.raises(UserError, match=message):
            build_operator(other, (6, 8, 1), known, bad)


def test_baselines_take_their_entries() -> None:
    values = {"window": "hann", "iterations": 3, "tv_weight": 0.2}
    section = InverseSettings(task="ct", views=6, **values)
    operator = build_operator(section, (8, 8, 1), np.ones((8, 8, 1), bool))
    x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1))
    measured = inverse.simulate(operator, x, 0.1, jax.random.key(1))
    wanted = {
        "pinv": operator.pinv(measured.y),
        "fbp": inverse.fbp(operator, measured.y, "hann"),
        "cgls": inverse.cgls(operator, measured.y, 3),
        "tv": inverse.fista_tv(operator, measured.y, 0.2)[0],
    }
    assert wanted.keys() == BASELINES.keys() - {"li"}
    for name, image in wanted.items():
        own = {entry: values[entry] for entry in OPTIONS.get(name, ())}
        one = InverseSettings(task="ct", views=6, solver=name, **own)
        found = build_solver(runs.load("vp/ddpmpp_cont:digits").change("inverse", **vars(one)))(
            measured
        )
        np.testing.assert_allclose(found, image, atol=1e-6)
        usual = BASELINES[name](InverseSettings(task="ct", views=6), measured)
        assert (name == "pinv") == bool(np.allclose(found, usual, atol=1e-4))


def test_the_trace_of_metal_is_filled_by_lines() -> None:
    """Only for metal; filtered back-projection alone would take the trace for zeros."""
    known = named_mask("implants:0.1", 10, 12)[..., None]
    section = InverseSettings(task="mar", views=6, solver="li", window="hann")
    operator = build_operator(section, (10, 12, 1), known)
    x = jax.random.uniform(jax.random.key(0), (2, 10, 12, 1))
    measured = inverse.simulate(operator, x, 0.0, jax.random.key(1))
    found = BASELINES["li"](section, measured)
    trace = jnp.broadcast_to(~operator.mask, measured.y.shape)
    filled = inverse.interpolate_trace(operator.operator.forward(x), trace)
    np.testing.assert_allclose(found, inverse.fbp(operator.operator, filled, "hann"), atol=1e-5)
    with pytest.raises(UserError, match=r"task=mar\. Take li"):
        BASELINES["fbp"](section, measured)
    with pytest.raises(UserError, match="fills the trace of metal"):
        BASELINES["li"](InverseSettings(task="ct"), measured)


def test_operators_are_those_of_their_entries() -> None:
    known = np.ones((8, 8, 1), bool)

    def made(**values):
        return build_operator(InverseSettings(**values), (8, 8, 1), known)

    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    for settings, operator in (
        ({"task": "superresolve", "scale": 4}, inverse.block_mean((8, 8, 1), 4)),
        ({"task": "superresolve", "filter": "bicubic"}, inverse.bicubic((8, 8, 1), 2)),
        (
            {"task": "deblur", "kernel": "motion", "width": 3.0, "angle": 90.0, "edges": "valid"},
            inverse.blur((8, 8, 1), inverse.motion_kernel(3.0, np.pi / 2), "valid"),
        ),
    ):
        np.testing.assert_array_equal(made(**settings).forward(x), operator.forward(x))


@pytest.mark.parametrize("most", [0.5, 2.0])
def test_guidance_stops_above_a_noise_level(most: float) -> None:
    """PiGDM with c = data.std below it, the plain score above."""
    means = np.asarray([-0.5, 0.5])[:, None, None, None] * np.ones(EVENT)
    data = GaussianMixture.isotropic([0.5, 0.5], means, 0.3)
    values = {"inverse.solver": "pigdm", "inverse.guided_below": most, "data.std": 0.4}
    solver = build_solver(runs.load("vp/ddpmpp_cont:digits", values))
    process, x = VP(), jax.random.normal(jax.random.key(1), (6, *EVENT))
    operator = inverse.block_mean(EVENT, 2)
    given = inverse.simulate(operator, x / 2, 0.1, jax.random.key(2)).rows(6)
    sampler = build_sampler(Sampling(), process, PixelRange(levels=17))
    plain = data.score_fn(process)
    _, found = solver(sampler, plain, given)
    t = process.time_at_log_snr(-2 * jnp.log(jnp.asarray([0.1, 0.4, 0.6, 1.9, 2.1, 9.0])))
    inside = jnp.asarray([0.1, 0.4, 0.6, 1.9, 2.1, 9.0]) <= most
    whole = guidance.pigdm(plain, process, given, 0.4)(x, t)
    wanted = jnp.where(inside[:, None, None, None], whole, plain(x, t))
    np.testing.assert_allclose(found(x, t), wanted, rtol=1e-4, atol=1e-4)
    assert np.abs(whole - plain(x, t)).max(axis=(1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize(
    ("name", "values", "options"),
    [
        ("langevin", {"rate": 2.0, "snr": 0.3}, {"rate": 2.0, "snr": 0.3}),
        ("langevin_projection", {"strength": 0.5, "snr": 0.0}, {"strength": 0.5}),
        ("score_sde", {"rate": 0.0}, {}),
        ("diffpir", {"weight": 3.0, "zeta": 0.0}, {"weight": 3.0}),
    ],
)
def test_entries_reach_the_solver_and_zero_is_published(
    name: str, values: dict, options: dict, monkeypatch
) -> None:
    seen = {}
    monkeypatch.setitem(KINDS, name, lambda **given: seen.update(given) or SOLVERS[name](**given))
    section = InverseSettings(solver=name, **values)
    build_solver(runs.load("vp/ddpmpp_cont:digits").change("inverse", **vars(section)))
    assert seen == options
