"""config.inverse: operators and solvers by name; guidance stops where it would be rough."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from score_sde import guidance, inverse
from score_sde.analytic import GaussianMixture
from score_sde.build.inverse import (
    KINDS,
    OPTIONS,
    TASK_ENTRIES,
    TASKS,
    build_operator,
    build_solver,
)
from score_sde.build.sampler import build_sampler
from score_sde.build.sections import InverseSettings
from score_sde.build.settings import Sampling
from score_sde.data import PixelRange
from score_sde.sde import VP

EVENT = (4, 4, 1)


def test_the_tables_fit_the_settings() -> None:
    names = {field.name for field in dataclasses.fields(InverseSettings)}
    own = {entry for table in (OPTIONS, TASK_ENTRIES) for row in table.values() for entry in row}
    assert own == names - {"task", "std", "solver"}
    assert TASK_ENTRIES.keys() == TASKS.keys() and OPTIONS.keys() <= KINDS.keys()


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
