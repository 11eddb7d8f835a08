"""Second-order denoising score matching: published values, exact minimizers, cost and variance."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import mixture_2d, reference_mixture, slope

from golden import assert_close, groups, load
from score_sde.curvature import Dense, LowRank
from score_sde.objectives import (
    DenoisingScoreMatching,
    HighOrderDenoising,
    JointDenoising,
    SecondOrderDenoising,
    UniformIndex,
    UniformTime,
    curvature_weight,
)
from score_sde.sde import VE, VP, DiscreteChain

FILE = "math/losses_highorder"
CASES = groups(FILE, "__points")


# Published values


def one_level(sigma):
    return DiscreteChain(np.ones(1), np.asarray([sigma]))


def published_points(stored):
    x, step = stored["x"], float(stored["sigma"]) * stored["z"]
    return {"plus": x + step, "minus": x - step, "center": x}


def looked_up(points, values):
    """x -> the stored value of the point that x is."""

    def value(x):
        found = jax.tree.map(lambda v: jnp.full_like(v, jnp.nan), next(iter(values.values())))
        for name, stored in values.items():
            here = jnp.max(jnp.abs(x - points[name])) < 1e-12
            found = jax.tree.map(lambda new, old, at=here: jnp.where(at, new, old), stored, found)
        return found

    return value


def second_order_values(stored, form, names, factored):
    """The stored s2 at the named points, as a curvature."""
    if form == "lowrank" and factored:
        keys = {p: (f"lowrank_diag_{p}", f"lowrank_U_{p}") for p in names}
        return {p: LowRank(*(jnp.asarray(stored[k]) for k in keys[p])) for p in names}
    s2 = {p: jnp.asarray(stored[f"s2_{form}_{p}"]) for p in names}
    return {p: LowRank(v) if v.ndim == 2 else Dense(v) for p, v in s2.items()}


def evaluate(stored, names, s2, form, reduced):
    """Our mean loss without its constant, in the published normalization, and its gradients."""
    sigma, points = float(stored["sigma"]), published_points(stored)
    chain, (n, d) = one_level(sigma), stored["x"].shape
    objective = SecondOrderDenoising(
        chain,
        UniformIndex(chain),
        lambda t: jnp.full_like(t, 1.0 if reduced else 0.5),
        form,
        reduced,
        detach_first=False,
    )
    z = jnp.asarray(stored["z"])
    target = jnp.eye(d)[None] - z[:, :, None] * z[:, None, :]
    square = jnp.sum(target**2, axis=(1, 2)), d * (d + 1)
    if form == "diagonal":
        square = jnp.sum((1 - z**2) ** 2, axis=1), 2 * d
    constant = square[1] if reduced else 0.5 * jnp.mean(square[0])

    def loss(s1, s2):
        models = (lambda x, t: looked_up(points, s1)(x), lambda x, t: looked_up(points, s2)(x))
        return jnp.mean(objective.at(models, jnp.asarray(stored["x"]), jnp.zeros(n), z))

    s1 = {p: jnp.asarray(stored[f"s1_{p}"]) for p in names}
    value, gradients = jax.value_and_grad(loss, (0, 1))(s1, s2)
    return value - constant / sigma**4, *gradients


@pytest.mark.parametrize("case", CASES)
def test_published_losses_and_gradients(case, x64):
    stored = load(FILE)
    names, form = [str(p) for p in stored[f"{case}__points"]], case.split("_")[-1]
    reduced = "vr" in case.split("_")
    s2 = second_order_values(stored, form, names, factored=False)
    value, ds1, ds2 = evaluate(stored, names, s2, "full", reduced)
    assert_close(value, stored[f"{case}__loss"], 1e-11)
    for point in names:
        assert_close(ds1[point], stored[f"{case}__grad_s1_{point}"], 1e-11)
        (leaf,) = jax.tree.leaves(ds2[point])
        assert_close(leaf, stored[f"{case}__grad_s2_{point}"], 1e-11)


@pytest.mark.parametrize("case", [c for c in CASES if "full" not in str(c)])
def test_published_values_by_the_factored_path(case, x64):
    stored = load(FILE)
    names, form = [str(p) for p in stored[f"{case}__points"]], case.split("_")[-1]
    reduced = "vr" in case.split("_")
    s2 = second_order_values(stored, form, names, factored=True)
    value, ds1, ds2 = evaluate(stored, names, s2, "lowrank", reduced)
    assert_close(value, stored[f"{case}__loss"], 1e-11)
    for point in names:
        assert_close(ds1[point], stored[f"{case}__grad_s1_{point}"], 1e-11)
        g = stored[f"{case}__grad_s2_{point}"]
        if form == "diag":
            assert_close(ds2[point].diagonal_part, g, 1e-11)
            continue
        assert_close(ds2[point].diagonal_part, np.einsum("bii->bi", g), 1e-11)
        along = np.einsum("bij,bjr->bir", g + g.swapaxes(1, 2), stored[f"lowrank_U_{point}"])
        assert_close(ds2[point].factor, along, 1e-11)


@pytest.mark.parametrize("name", ["diag_only", "diag_only_vr"])
def test_published_diagonal_alone(name, x64):
    stored = load(FILE)
    reduced = name.endswith("vr")
    names = ["plus", "minus", "center"] if reduced else ["plus"]
    s2 = second_order_values(stored, "diag", names, factored=False)
    value, _, _ = evaluate(stored, names, s2, "diagonal", reduced)
    assert_close(value, stored[f"derived_{name}_loss"], 1e-11)


@pytest.mark.parametrize(("form", "factor"), [("diag", 1), ("lowrank", 10)])
@pytest.mark.parametrize("kind", ["dsm", "vr"])
def test_published_joint_losses(form, factor, kind, x64):
    """factor dsm_vr/sigma^2 + hosm: published dsm has no 1/2, so gamma is twice the factor."""
    stored = load(FILE)
    sigma, points = float(stored["sigma"]), published_points(stored)
    reduced, (n, d) = kind == "vr", stored["x"].shape
    names, chain = list(points), one_level(sigma)
    s2 = second_order_values(stored, form, names, factored=True)
    s1 = {p: jnp.asarray(stored[f"s1_{p}"]) for p in names}
    times = UniformIndex(chain)
    weight = 1.0 if reduced else 0.5
    joint = JointDenoising(
        DenoisingScoreMatching(chain, times, jnp.ones_like, "sum", variance_reduced=True),
        SecondOrderDenoising(
            chain, times, lambda t: jnp.full_like(t, weight), variance_reduced=reduced
        ),
        gamma=2 * factor / sigma**2,
    )
    models = (lambda x, t: looked_up(points, s1)(x), lambda x, t: looked_up(points, s2)(x))
    x, z = jnp.asarray(stored["x"]), jnp.asarray(stored["z"])
    lengths = jnp.sum(z**2, axis=1)
    constant = d * (d + 1) if reduced else 0.5 * jnp.mean(d - 2 * lengths + lengths**2)
    constant = constant / sigma**4 + factor * d / sigma**4
    value = jnp.mean(joint.at(models, x, jnp.zeros(n), z)) - constant
    assert_close(value, stored[f"joint_{form}_{kind}_config"], 1e-11)


def test_published_hessians(x64):
    stored = load(FILE)
    chain, data = one_level(float(stored["sigma"])), reference_mixture(stored)
    for name, x in published_points(stored).items():
        matrix = data.hessian(chain, jnp.asarray(x), jnp.asarray(0.0)).matrix
        assert_close(matrix, stored[f"true_hessian_{name}"], 1e-11)


# Minimizers (theorems 4.2 and 4.4)

PROCESSES = {"ve": VE(0.02, 8.0), "vp": VP()}


def posterior_rule(data, process, y, t, nodes=4):
    """(x_0, weights): a rule for E[f(x_0) | x_t = y], exact for polynomials of degree 7."""
    posterior = data.posterior(process, y, t)
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    grid = np.asarray(list(itertools.product(points, repeat=2)))
    mass = np.prod(list(itertools.product(weights / weights.sum(), repeat=2)), axis=1)
    x0 = posterior.means[:, None] + np.einsum("kij,nj->kni", posterior._roots(), grid)
    return x0.reshape(-1, 2), (posterior.weights[:, None] * mass).ravel()


def true_scores(data, process):
    """s1, s2, s3 of the mixture, s3 by differentiating the exact Hessian."""

    def third(x, t):
        def hessian(one, t):
            return data.hessian(process, one[None], t).matrix[0]

        return jax.vmap(jax.jacfwd(hessian))(x, t)

    return data.score_fn(process), lambda x, t: data.hessian(process, x, t).matrix, third


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_the_truth_is_stationary_at_every_point(process, x64):
    """Given x_t the mean gradient vanishes at the true score of each order, in each form."""
    data, y, t = mixture_2d(), np.asarray([0.4, -0.3]), 0.5 * process.t_max
    x0, weights = posterior_rule(data, process, y, t)
    alpha, sigma = (float(v) for v in process.marginal(jnp.asarray(t)))
    x0, z, times = jnp.asarray(x0), jnp.asarray((y - alpha * x0) / sigma), jnp.full(len(x0), t)
    s1, s2, s3 = true_scores(data, process)
    clock = UniformTime(process)

    def elements(score, k):
        """The entries (i, ..., i)."""
        return lambda x, t: jnp.einsum(f"z{'a' * k}->za", score(x, t))

    def shifted(score, delta):
        return lambda x, t: score(x, t) + delta[None]

    def second(form, target="noise"):
        at = SecondOrderDenoising(process, clock, curvature_weight(process), form, target=target).at
        return lambda delta: at((s1, lambda x, t: Dense(shifted(s2, delta)(x, t))), x0, times, z)

    def high(order, elementwise=False):
        weight = lambda t: process.marginal(t)[1] ** (2 * order)  # noqa: E731
        at = HighOrderDenoising(process, clock, weight, order, elementwise).at
        scores = (s1, s2, s3)[:order]
        if elementwise:
            scores = tuple(elements(score, k) for k, score in enumerate(scores, 1))
        return lambda delta: at((*scores[:-1], shifted(scores[-1], delta)), x0, times, z)

    cases = [
        (second("full"), (2, 2)),
        (second("diagonal"), (2, 2)),
        (second("full", "residual"), (2, 2)),
        (second("diagonal", "residual"), (2, 2)),
        (high(1), (2,)),
        (high(2), (2, 2)),
        (high(3), (2, 2, 2)),
        (high(3, elementwise=True), (2,)),
    ]
    for loss, shape in cases:
        mean = jax.value_and_grad(
            lambda delta, loss=loss: jnp.sum(jnp.asarray(weights) * loss(delta))
        )
        _, gradient = mean(jnp.zeros(shape))
        assert jnp.max(jnp.abs(gradient)) < 1e-9
        assert jnp.max(jnp.abs(mean(jnp.full(shape, 0.1))[1])) > 1e-5


@pytest.mark.parametrize("target", ["noise", "residual"])
def test_what_an_error_of_the_score_does(target, x64):
    """With s1 + d the least mean is at s2 + d d^T for residuals, else at s2 - s1 d^T - ..."""
    process, data, t = VP(), mixture_2d(), 0.4
    y, d = jnp.asarray([[0.4, -0.3]]), jnp.asarray([0.2, -0.1])
    x0, weights = posterior_rule(data, process, y[0], t)
    alpha, sigma = (float(v) for v in process.marginal(jnp.asarray(t)))
    x0, z, times = jnp.asarray(x0), (y - alpha * x0) / sigma, jnp.full(len(x0), t)
    s1, s2, _ = true_scores(data, process)
    score, both = s1(y, times[:1])[0], jnp.outer(d, d)
    least = {"noise": -jnp.outer(score, d) - jnp.outer(d, score) - both, "residual": both}
    objective = SecondOrderDenoising(
        process, UniformTime(process), curvature_weight(process), "full", target=target
    )

    def mean(shift):
        def moved(x, t):
            return Dense(s2(x, t) + shift[None])

        return jnp.asarray(weights) @ objective.at(
            (lambda x, t: s1(x, t) + d[None], moved), x0, times, z
        )

    gradients = {name: jax.grad(mean)(shift) for name, shift in least.items()}
    assert jnp.max(jnp.abs(gradients.pop(target))) < 1e-9
    assert jnp.max(jnp.abs(gradients.popitem()[1])) > 1e-3


def toy_models(parameters):
    """s1 and s2 that are polynomials of x, in the plane."""
    a, b, c = parameters

    def s1(x, t):
        return -x @ a.T + 0.3 * x**2

    def s2(x, t):
        return LowRank(x * b[None] + 0.2 * x**2, jnp.sin(c)[None] * x[:, :, None] + c[None])

    return s1, s2


def toy_parameters():
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.normal(size=s)) for s in ((2, 2), (2,), (2, 3)))


@pytest.mark.parametrize("target", ["noise", "residual"])
@pytest.mark.parametrize("form", ["lowrank", "full", "diagonal"])
def test_variance_reduction_keeps_mean_and_gradient(form, target, x64):
    """By a rule that is exact for the polynomials in z: the constants count as well."""
    process = VP()
    points, weights = np.polynomial.hermite_e.hermegauss(8)
    z = jnp.asarray(list(itertools.product(points, repeat=2)))
    mass = jnp.asarray(np.prod(list(itertools.product(weights / weights.sum(), repeat=2)), axis=1))
    x0, t = jnp.broadcast_to(jnp.asarray([[0.7, -0.4]]), z.shape), jnp.full(len(z), 0.3)

    def mean(parameters, reduced):
        objective = SecondOrderDenoising(
            process, UniformTime(process), curvature_weight(process), form, reduced, False, target
        )
        return jnp.sum(mass * objective.at(toy_models(parameters), x0, t, z))

    plain, reduced = (
        jax.jit(jax.value_and_grad(mean), static_argnums=1)(toy_parameters(), r)
        for r in (False, True)
    )
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-12), plain, reduced)
    assert max(float(jnp.max(jnp.abs(g))) for g in plain[1]) > 1e-2


@pytest.mark.parametrize("target", ["noise", "residual"])
@pytest.mark.parametrize("reduced", [False, True])
def test_forms_agree(reduced, target, x64):
    """All three on samples that are images, where the last is the first of a diagonal problem."""
    process, rng = VP(), np.random.default_rng(1)
    x0, z = (jnp.asarray(rng.normal(size=(3, 2, 2, 1))) for _ in range(2))
    t = jnp.asarray([0.1, 0.4, 0.9])
    a, c = jnp.asarray(rng.normal(size=(2, 2, 1))), jnp.asarray(rng.normal(size=(2, 2, 1, 2)))
    models = (
        lambda x, t: jnp.tanh(a[None] * x),
        lambda x, t: LowRank(jnp.cos(x) - a[None], c[None] * x[..., None]),
    )

    def losses(form):
        return SecondOrderDenoising(
            process, UniformTime(process), curvature_weight(process), form, reduced, target=target
        ).at(models, x0, t, z)

    assert_close(losses("lowrank"), losses("full"), 1e-12)
    if not reduced and target == "noise":
        elementwise = HighOrderDenoising(
            process, UniformTime(process), curvature_weight(process), 2, elementwise=True
        )
        scores = (models[0], lambda x, t: models[1](x, t).diagonal)
        assert_close(losses("diagonal"), elementwise.at(scores, x0, t, z), 1e-12)


def test_first_order_is_frozen_or_trained(x64):
    process, z = VP(), jnp.asarray([[0.3, -1.1]])
    x0, t = jnp.asarray([[0.7, -0.4]]), jnp.full(1, 0.3)

    def gradient(detach):
        objective = SecondOrderDenoising(
            process, UniformTime(process), curvature_weight(process), detach_first=detach
        )
        return jax.grad(lambda p: objective.at(toy_models(p), x0, t, z)[0])(toy_parameters())

    frozen, trained = gradient(True), gradient(False)
    assert not frozen[0].any() and trained[0].any()
    jax.tree.map(lambda a, b: assert_close(a, b, 1e-12), frozen[1:], trained[1:])


def test_losses_do_not_depend_on_the_batch():
    process = VE(0.02, 8.0)
    times = UniformTime(process)
    objective = JointDenoising(
        DenoisingScoreMatching(process, times, lambda t: process.marginal(t)[1] ** 2, "sum"),
        SecondOrderDenoising(process, times, curvature_weight(process), variance_reduced=True),
    )
    x0 = jax.random.normal(jax.random.key(0), (3, 2))
    keys = jax.random.split(jax.random.key(1), 3)
    models = toy_models(jax.tree.map(lambda p: p.astype(jnp.float32), toy_parameters()))
    losses = jax.jit(lambda keys, x0: objective(keys, models, x0))
    together = losses(keys, x0)
    alone = jnp.concatenate([losses(keys[i : i + 1], x0[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-4)


# Cost and variance


def largest_array(jaxpr):
    """Entries of the largest array that a program makes."""
    largest = 0
    for equation in jaxpr.eqns:
        largest = max([largest, *(math.prod(v.aval.shape) for v in equation.outvars)])
        for inner in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda p: hasattr(p, "jaxpr")
        ):
            if hasattr(inner, "jaxpr"):
                largest = max(largest, largest_array(inner.jaxpr))
    return largest


@pytest.mark.parametrize("reduced", [False, True])
def test_no_matrix_in_the_factored_path(reduced):
    """D = 3072, r = 50: loss and gradient hold (D, r + 1) and (r + 1, r + 1) at most."""
    process, d, r = VE(0.02, 8.0), 3072, 50
    objective = SecondOrderDenoising(
        process, UniformTime(process), curvature_weight(process), variance_reduced=reduced
    )

    def loss(parameters, x0, t, z):
        a, c = parameters
        models = (lambda x, t: a * x, lambda x, t: LowRank(a * x, c[None] * x[:, :, None]))
        return jnp.sum(objective.at(models, x0, t, z))

    x = jax.ShapeDtypeStruct((1, d), jnp.float32)
    shapes = (
        (x, jax.ShapeDtypeStruct((d, r), jnp.float32)),
        x,
        jax.ShapeDtypeStruct((1,), x.dtype),
        x,
    )
    program = jax.make_jaxpr(jax.grad(loss))(*shapes)
    assert d * r <= largest_array(program.jaxpr) <= d * (r + 1)


def test_variance_of_gradients_at_small_noise(x64):
    """The slopes in sigma: -2 and -4 without, 0 with variance reduction (figure 4.1)."""
    sigmas, n = (1e-3, 1e-2, 1e-1), 4000
    chain = DiscreteChain(np.ones(3), np.asarray(sigmas))
    times, rng = UniformIndex(chain), np.random.default_rng(0)
    x0, z = (jnp.asarray(rng.normal(size=(n, 2))) for _ in range(2))

    def variance(objective, models):
        @jax.jit
        def of_level(level):
            def loss(theta, x0, z):
                return objective.at(models(theta), x0[None], level[None], z[None])[0]

            return jnp.var(jax.vmap(jax.grad(loss), (None, 0, 0))(1.0, x0, z))

        return slope(sigmas, [of_level(jnp.asarray(float(i))) for i in range(3)])

    def first(theta):
        return lambda x, t: -theta * x + jnp.sin(x)

    def both(theta):
        return lambda x, t: -x, lambda x, t: LowRank(theta * jnp.cos(x), theta * x[:, :, None])

    for reduced, expected in ((False, (-2, -4)), (True, (0, 0))):
        one = DenoisingScoreMatching(chain, times, jnp.ones_like, "sum", reduced)
        assert variance(one, first) == pytest.approx(expected[0], abs=0.2)
        for target in ("noise", "residual"):
            two = SecondOrderDenoising(
                chain, times, jnp.ones_like, variance_reduced=reduced, target=target
            )
            band = 0.2 if reduced else 0.3
            assert variance(two, both) == pytest.approx(expected[1], abs=band)


# What is refused


def test_what_is_refused():
    process = VE(0.02, 8.0)
    times, weight = UniformTime(process), curvature_weight(process)
    with pytest.raises(ValueError, match="form"):
        SecondOrderDenoising(process, times, weight, "other")
    with pytest.raises(ValueError, match="target"):
        SecondOrderDenoising(process, times, weight, target="other")
    second = SecondOrderDenoising(process, times, weight)
    with pytest.raises(ValueError, match="Dense"):
        x = jnp.zeros((1, 2))
        second.at((lambda x, t: x, lambda x, t: Dense(jnp.zeros((1, 2, 2)))), x, jnp.ones(1), x)
    first = DenoisingScoreMatching(process, times, weight)
    with pytest.raises(ValueError, match="gamma"):
        JointDenoising(first, second, 0.0)
    with pytest.raises(ValueError, match="process"):
        JointDenoising(DenoisingScoreMatching(VP(), UniformTime(VP()), weight), second)
