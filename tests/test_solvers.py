"""The table of solvers: ends, rows, options, refusals, evaluations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inverse.dense import Dense
from mathcases import SDES, mixture_16d

from golden import assert_close
from score_sde import grids, guidance, inverse, steppers
from score_sde.arrays import sample_keys
from score_sde.errors import UserError
from score_sde.inverse import restoration
from score_sde.sampling import Sampler
from score_sde.solvers import SOLVERS

SDE, DATA, EVENT = SDES["vp"], mixture_16d(), (4, 4, 1)
SCORE = DATA.score_fn(SDE)
SAMPLER = Sampler(SDE, steppers.Ancestral(SDE), grids.uniform(SDE, 6, 1e-2))
PC = dataclasses.replace(
    SAMPLER, stepper=steppers.chain(SAMPLER.stepper, steppers.AnnealedLangevin(SDE, 0.1))
)
OPTIONS = {
    "mmps": {"steps": 2},
    "repaint": {"jump": 2, "resample": 2},
    "langevin": {"n_steps": 1},
    "langevin_projection": {"n_steps": 1},
}
EXACT = ("imputation", "projection", "langevin_projection", "ddnm", "ddrm", "diffpir", "repaint")
"""Those that meet a measurement without noise."""
KEYS = sample_keys(jax.random.key(5), jnp.arange(3))
MASKS = np.random.default_rng(6).uniform(size=(3, *EVENT)) < 0.5
X = np.random.default_rng(7).normal(size=(3, *EVENT)).astype(np.float32)


def measured(operator, std):
    """Of X; the noise is not drawn."""
    return inverse.measure(operator, operator.forward(jnp.asarray(X)), std)


def runs(names, sampler_of):
    """A jitted function (keys, measurement) -> samples by name."""
    made = {name: SOLVERS[name](**OPTIONS.get(name, {})) for name in names}

    def run(keys, given):
        found = {}
        for name, solver in made.items():
            sampler, score_fn = solver(solver.prepare(sampler_of(name)), SCORE, given)
            found[name] = sampler(keys, score_fn, given.y.shape[:1] + EVENT).x
        return found

    return jax.jit(run)


@pytest.mark.parametrize(
    "operator",
    [inverse.inpainting(EVENT, MASKS), inverse.block_mean(EVENT, 2)],
    ids=["known pixels", "block mean"],
)
def test_measurements_without_noise_are_met(operator):
    """|A x - y| <= 1e-5 |y|, for predictors and correctors."""
    given = measured(operator, 0.0)
    sampler_of = {"projection": PC, "imputation": PC}
    found = runs(EXACT, lambda name: sampler_of.get(name, SAMPLER))(KEYS, given)
    size = np.linalg.norm(np.asarray(given.y).reshape(3, -1), axis=1)
    for name, x in found.items():
        rest = np.asarray(operator.forward(x) - given.y).reshape(3, -1)
        assert np.all(np.linalg.norm(rest, axis=1) <= 1e-5 * size), name
        assert np.abs(np.asarray(x) - X).max() > 0.1, name
        if isinstance(operator, inverse.Masked):
            np.testing.assert_array_equal(np.asarray(x)[MASKS], X[MASKS])


def test_samples_do_not_depend_on_their_batch():
    """Each row has its own mask, y and std. A batch of another size rounds otherwise."""
    noisy = [name for name in SOLVERS if name not in ("imputation", "repaint")]
    given = measured(inverse.inpainting(EVENT, MASKS), [0.5, 0.1, 0.02])
    run = runs(noisy, lambda name: SAMPLER)
    whole = run(KEYS, given)
    part = run(KEYS[1:2], jax.tree.map(lambda rows: rows[1:2], given))
    other = run(KEYS, dataclasses.replace(given, std=jnp.asarray([0.5, 1.0, 0.02])))
    for name, x in whole.items():
        assert_close(part[name], x[1:2], 1e-3, name)
        np.testing.assert_array_equal(other[name][::2], x[::2])
        ignores = name in (
            "projection",
            "langevin_projection",
            "dps_published",
        )  # what they do with std is said there
        changed = float(jnp.max(jnp.abs(other[name][1] - x[1])))
        assert (changed == 0) if ignores else (changed > 1e-3), name


@pytest.mark.parametrize("name", ["dps", "pigdm", "mmps", "tmpd"])
def test_guidances_are_those_of_the_module(name):
    options = {"dps": {"data_std": 0.5}, "pigdm": {"data_std": 0.5}, "mmps": {"steps": 2}}
    chosen = options.get(name, {})
    given, t = measured(inverse.block_mean(EVENT, 2), 0.1), jnp.full(3, 0.4)
    solver = SOLVERS[name](**chosen)
    sampler, score_fn = solver(SAMPLER, SCORE, given)
    assert sampler is SAMPLER and solver.prepare(SAMPLER).steps == SAMPLER.steps
    guided = getattr(guidance, name)(SCORE, SDE, given, **chosen)
    x = jnp.asarray(X)
    assert_close(*jax.jit(lambda: (score_fn(x, t), guided(x, t)))(), 1e-6)
    assert solver.cost == guidance.cost(name, chosen.get("steps", 1))


def test_steppers_have_their_options():
    """The published numbers are the defaults."""
    given = measured(inverse.block_mean(EVENT, 2), 0.0)
    stepper = {
        name: SOLVERS[name](**options)(SAMPLER, SCORE, given)[0].stepper
        for name, options in {
            "ddnm": {},
            "ddrm": {"eta_b": 0.5},
            "diffpir": {"zeta": 0.2},
            "dps_published": {"zeta": 0.4},
        }.items()
    }
    assert isinstance(stepper["ddnm"], restoration.DDNM) and stepper["ddnm"].eta == 0.85
    assert (stepper["ddrm"].eta, stepper["ddrm"].eta_b) == (0.85, 0.5)
    assert (stepper["diffpir"].weight, stepper["diffpir"].zeta) == (7.0, 0.2)
    assert stepper["dps_published"].zeta == 0.4
    assert stepper["dps_published"].stepper is SAMPLER.stepper


def test_evaluations():
    """Those of the sampler, but for RePaint, whose grid is longer; costs of VJPs are beside."""
    given = measured(inverse.block_mean(EVENT, 2), 0.0)
    for name, make in SOLVERS.items():
        solver = make(**OPTIONS.get(name, {}))
        sampler = solver.prepare(SAMPLER)
        # 6 steps are 2 + 2 + 1 + 1; two stretches are made twice.
        steps = {"repaint": 6 + 2 * 2 + 2}.get(name, 6)
        assert sampler.steps == steps, name
        evaluations = solver(sampler, SCORE, given)[0].evaluations
        assert evaluations == {"repaint": 6 + 2 * 2}.get(name, 6) + 1, name
    assert SOLVERS["dps_published"]().cost == guidance.Cost(1, 1)
    assert SOLVERS["ddnm"]().cost == guidance.Cost(1, 0)
    own = [name for name, make in SOLVERS.items() if make().own_steps]
    assert own == ["langevin_projection", "langevin", "ddnm", "ddrm", "diffpir"]


def test_what_is_refused():
    dense = Dense(jnp.ones((1, 2, 16)), EVENT)
    free, noisy = measured(dense, 0.0), measured(dense, [0.1, 0.0, 0.2])
    for name in ("imputation", "repaint"):
        with pytest.raises(UserError, match=f"{name} is for .* 2 of 3 have std > 0"):
            SOLVERS[name]().check(noisy)
    for name, given in (("ddrm", free), ("ddnm", noisy)):
        with pytest.raises(UserError, match="Dense has no cheap singular value decomposition"):
            SOLVERS[name]().check(given)
    with pytest.raises(UserError, match="data_std=0 divides by the noise"):
        SOLVERS["dps"](data_std=0.0).check(noisy)
    for name in SOLVERS:
        SOLVERS[name]().check(measured(inverse.block_mean(EVENT, 2), 0.0))
        if name != "ddrm":
            SOLVERS[name]().check(free)
    uniform = dataclasses.replace(SAMPLER, uniform=(0.0, 1.0))
    for name in ("imputation", "ddrm", "repaint"):
        with pytest.raises(ValueError, match="starts from the prior"):
            SOLVERS[name]()(uniform, SCORE, measured(inverse.block_mean(EVENT, 2), 0.0))
    with pytest.raises(ValueError, match="Separable does not say"):
        published = SOLVERS["imputation"](published=True)
        published(SAMPLER, SCORE, measured(inverse.block_mean(EVENT, 2), 0.0))
    with pytest.raises(ValueError, match="DPS shares one score"):
        SOLVERS["dps_published"]()(PC, SCORE, free)
    with pytest.raises(TypeError):
        SOLVERS["ddnm"](zeta=1.0)
