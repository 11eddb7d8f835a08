"""config.training.objective: every name for every recipe, and the pairs that cannot be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small import RECIPES, settings

from score_sde import objectives, parameterize
from score_sde.build.assemble import build
from score_sde.build.network import build_parameterization
from score_sde.build.objective import ENERGIES, OBJECTIVES, build_objective
from score_sde.build.process import build_process
from score_sde.errors import UserError


def made(recipe, *overrides):
    found = settings(recipe, *overrides)
    process = build_process(found.sde)
    return build_objective(found, process, build_parameterization(found, process)), process


def overrides(name):
    """What else must be set for an objective."""
    found = [f"training.objective={name}"]
    if name == "sliced_optimal":
        found.append("training.projection_kind=gaussian")
    if name in ENERGIES:
        found += ["model.prediction=energy", "training.weight=likelihood"]
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_every_objective(recipe):
    """With the times, weight and reduction that denoising score matching has there."""
    usual, process = made(recipe)
    for name in OBJECTIVES:
        found, _ = made(recipe, *overrides(name))
        assert type(found.times) is type(usual.times) and found.reduce == usual.reduce, name
        t = jnp.asarray([0.3 * process.t_max])
        if name not in ENERGIES:
            np.testing.assert_allclose(found.weight(t), usual.weight(t), rtol=1e-6)
        assert isinstance(found, objectives.PerturbedData) != name.startswith("denoising")


def test_entries_reach_the_objective():
    found, process = made(
        "ve",
        "training.objective=finite_difference",
        "training.projections=3",
        "training.projection_kind=sphere",
        "training.difference_step=0.2",
    )
    assert found.process == process and found.objective.projections == 3
    assert found.objective.kind == "sphere" and found.objective.form == "score"
    t = jnp.asarray([0.1, 0.9])
    np.testing.assert_allclose(found.objective.step(t), 0.2 * process.marginal(t)[1], rtol=1e-6)
    for name, beta in (("sliced", False), ("sliced_vr", True), ("sliced_optimal", "optimal")):
        sliced = made("ve", *overrides(name))[0].objective
        assert sliced.variance_reduced == beta and type(sliced.variance_reduced) is type(beta)
    assert made("vp", "training.objective=denoising_vr")[0].variance_reduced
    assert not made("vp")[0].variance_reduced


def test_energies_divided_by_sigma():
    """The score of |y - F|^2/(2 sigma) with y = 2 x - 1, against differentiation by hand."""
    found = settings("ve", "model.prediction=energy")
    process = build_process(found.sde)
    model = build_parameterization(found, process)
    assert model.form == "distance" and model.centre
    x, t = jnp.asarray([[[[0.3]], [[0.8]]]]), jnp.asarray([0.5])
    score = model.score_fn(lambda y, label: 0.5 * y)(x, t)
    y, sigma = 2 * x - 1, float(process.marginal(t)[1][0])
    np.testing.assert_allclose(score, -0.25 * y * 2 / sigma, rtol=1e-5)
    product = build_parameterization(settings("vp", "model.prediction=energy_product"), process)
    assert product.form == "product" and product.sigma is None and not product.centre
    # -E = y . F = y . y/2 has the gradient y.
    np.testing.assert_allclose(product.score_fn(lambda y, label: 0.5 * y)(x, t), x, rtol=1e-6)


def test_every_objective_of_an_energy_model_has_the_same_mean():
    """A Gaussian with the energy's own gradient: E lambda |s|^2/2 less twice that, by each."""
    process = build_process(settings("vp").sde)
    exact = parameterize.EnergyScore(lambda x, t: -0.5 * jnp.sum(x**2, axis=(1, 2, 3)))
    x = jax.random.normal(jax.random.key(0), (3000, 2, 2, 1))
    for name in OBJECTIVES[2:]:
        found, _ = made("vp", *overrides(name))
        losses = jax.jit(lambda keys, x, found=found: found(keys, exact, x))(jax.random.key(1), x)
        t, _, _ = found.draw(jax.random.key(1), x)
        # 2/D lambda (|s|^2/2 + tr J) with |s|^2 = D on average
        expected = -float(jnp.mean(process.marginal(t)[1] ** 2))
        error = float(jnp.std(losses)) / len(x) ** 0.5
        assert float(jnp.mean(losses)) == pytest.approx(expected, abs=4 * error + 0.01), name


@pytest.mark.parametrize(
    ("recipe", "values", "message"),
    [
        ("vp", "objective=slice", r"training.objective: unknown name 'slice'; known: denoising,"),
        ("vp", "projections=3", r"projections=3 is for the objectives sliced, .*denoising has no"),
        ("ve", "objective=exact projection_kind=sphere", r"projection_kind=sphere is for"),
        ("vp", "objective=sliced difference_step=0.2", r"difference_step=0.2 is for"),
        (
            "vp",
            "objective=sliced_optimal",
            r"config.training: variance_reduced='optimal'.*gaussian",
        ),
        ("vp", "objective=shifted_nce", r"compares log-densities.*got model.prediction=noise"),
        ("ve", "objective=sliced_vr uncertainty=True", r"uncertainty=True .*sliced_vr is negative"),
        ("smld", "objective=sliced likelihood_weighting=1.0", r"a discrete chain is trained with"),
        (
            "ve",
            "objective=sliced model.prediction=energy model.activation=relu",
            r"integrates by parts.*model.activation=relu",
        ),
        ("edm", "model.prediction=energy weight=output", r"it becomes an energy"),
    ],
)
def test_impossible_pairs_are_refused(recipe, values, message):
    changes = [v if v.startswith("model.") else f"training.{v}" for v in values.split()]
    with pytest.raises(UserError, match=message):
        made(recipe, *changes)


def test_exact_score_matching_of_large_images_is_refused():
    changes = ("training.objective=exact", "data.image_size=40")
    with pytest.raises(UserError, match=r"each of 1600 pixel values .*more than 1024"):
        build(settings("vp", *changes))
