"""Denoising score matching against the published values: losses, gradients, importance sampling."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import (
    affine_network,
    kind_of,
    reference_chain,
    reference_mixture,
    reference_network,
    stored_sde,
)

from golden import assert_close, groups, load, names
from score_sde.objectives import (
    DenoisingScoreMatching,
    LogSNRUniform,
    UniformIndex,
    UniformTime,
    likelihood_weight,
    variance_weight,
)
from score_sde.parameterize import (
    index_label,
    network_score,
    noise_prediction,
    reversed_index_label,
)
from score_sde.sde import DiscreteChain, GaussianSDE

FILES = names("math/losses_dsm_*")


def _weight(name, sde):
    return variance_weight(sde) if name == "plain" else likelihood_weight(sde)


@dataclasses.dataclass(frozen=True)
class Switched(GaussianSDE):
    """ScoreFlow's marginals at small times: alpha = 1 - B/2, sigma = B^power (VP 1/2, sub-VP 1)."""

    sde: GaussianSDE
    power: float
    t_min: float = 1e-5
    t_max: float = 1.0
    prior_std = 1.0

    def marginal(self, t):
        integral = t * (self.sde.beta_min + 0.5 * t * (self.sde.beta_max - self.sde.beta_min))
        small = integral / 2 <= 1e-3
        alpha, sigma = self.sde.marginal(t)
        return jnp.where(small, 1 - integral / 2, alpha), jnp.where(
            small, integral**self.power, sigma
        )


def _published_flow(kind, sde):
    """ScoreFlow's process: VE as it is, VP and sub-VP with switched marginals."""
    return sde if kind == "ve" else Switched(sde, {"vp": 0.5, "subvp": 1.0}[kind], sde.t_min)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("file", FILES)
def test_published_losses_and_gradients(file, precision, request):
    if precision == "float64":
        request.getfixturevalue("x64")
    stored, tol = load(file), 1e-8 if precision == "float64" else 1e-4
    sde, data = stored_sde(stored), reference_mixture(stored)
    names = ("x", "t", "z", "affine_A", "affine_b")
    x, t, z, a, b = (jnp.asarray(stored[k], precision) for k in names)
    assert_close(sde.perturb(x, t, z), stored["perturbed"], tol)
    assert_close(sde.t_min + (sde.t_max - sde.t_min) * stored["u"], stored["t"], 1e-12)
    flow = _published_flow(kind_of(stored), sde)
    start = "loss_affine_"
    cases = [k.removeprefix(start).split("_") for k in stored if k.startswith(start)]
    assert cases

    @jax.jit
    def evaluate(a, b):
        results = {}
        for reduce, weight in cases:
            suffix = f"{reduce}_{weight}"
            objective, switched = (
                DenoisingScoreMatching(process, UniformTime(sde), _weight(weight, process), reduce)
                for process in (sde, flow)
            )

            def loss(a, b, objective=objective):
                per_sample = objective.at(affine_network(a, b, float(stored["affine_c"])), x, t, z)
                return jnp.mean(per_sample), per_sample

            (value, per_sample), (da, db) = jax.value_and_grad(loss, (0, 1), has_aux=True)(a, b)
            exact = objective.at(data.score_fn(sde), x, t, z)
            results |= {
                f"loss_affine_{suffix}": value,
                f"per_sample_affine_{suffix}": per_sample,
                f"grad_affine_A_{suffix}": da,
                f"grad_affine_b_{suffix}": db,
                f"per_sample_gmm_{suffix}": exact,
                f"loss_gmm_{suffix}": jnp.mean(exact),
                f"flow_loss_affine_{suffix}": loss(a, b, switched)[0],
            }
        return results

    for key, value in evaluate(a, b).items():
        assert_close(value, stored[key], tol, key)


@pytest.mark.parametrize("file", FILES)
def test_published_importance_sampled_likelihood_loss(file, x64):
    """The reference leaves out Z/(t_max - t_min), which our w has, and switches marginals."""
    stored = load(file)
    start = "flow_iw_Z__eps"
    found = [key.removeprefix(start) for key in stored if key.startswith(start)]
    if not found:
        pytest.skip(f"{file} has no importance sampling, as the published code has none for it")
    for eps in found:
        _check_importance_sampling(stored, eps)


def _check_importance_sampling(stored, eps):
    def get(key):
        return stored[f"flow_iw_{key}__eps{eps}"]

    sde = stored_sde(stored, t_min=float(eps))
    switched = _published_flow(kind_of(stored), sde)
    x, z, t = jnp.asarray(stored["x"]), jnp.asarray(stored["z"]), jnp.asarray(get("t"))
    sampler = LogSNRUniform(sde)
    start = sde.log_snr(jnp.asarray(sde.t_min))
    our_t, w = sampler.at((start - sde.log_snr(t)) / sampler.normalizer(jnp.float64))
    np.testing.assert_allclose(our_t, t, rtol=1e-9)
    scale = float(sampler.normalizer(jnp.float64)) / (sde.t_max - sde.t_min)
    np.testing.assert_allclose(get("Z"), scale * (sde.t_max - sde.t_min), rtol=1e-4)
    late = np.asarray(-0.5 * jnp.log(sde.marginal(t)[0] ** 2)) > 1e-3  # where nothing was switched
    a, b = jnp.asarray(stored["affine_A"]), jnp.asarray(stored["affine_b"])
    reductions = [r for r in ("mean", "sum") if f"flow_iw_loss_affine_{r}__eps{eps}" in stored]
    assert reductions
    for reduce in reductions:

        def per_sample(a, b, process, weight, reduce=reduce):
            network = affine_network(a, b, float(stored["affine_c"]))
            return DenoisingScoreMatching(process, sampler, weight, reduce).at(network, x, t, z)

        ours = w * per_sample(a, b, sde, likelihood_weight(sde)) / scale
        if late.any():
            published = get(f"per_sample_affine_{reduce}")[late]
            assert_close(np.asarray(ours)[late], published, 1e-8)
        assert_close(ours, get(f"per_sample_affine_{reduce}"), 2e-3)

        def loss(a, b, per_sample=per_sample):
            return jnp.mean(per_sample(a, b, switched, variance_weight(switched)))

        value, (da, db) = jax.jit(jax.value_and_grad(loss, (0, 1)))(a, b)
        assert_close(value, get(f"loss_affine_{reduce}"), 1e-8)
        assert_close(da, get(f"grad_affine_A_{reduce}"), 1e-8)
        assert_close(db, get(f"grad_affine_b_{reduce}"), 1e-8)


@pytest.mark.parametrize("case", groups("math/losses_discrete", "__labels"))
def test_published_discrete_losses(case, x64):
    stored = load("math/losses_discrete")

    def get(key):
        return stored[f"{case}__{key}"]

    smld = f"{case}__sigmas_used" in stored
    low, high, n = get("p")
    keys = ("sigma_min", "sigma_max", "N") if smld else ("beta_min", "beta_max", "N")
    chain = reference_chain("ve" if smld else "vp", dict(zip(keys, (low, high, n))))
    labels = jnp.asarray(get("labels"), float)
    if smld:
        t, wrap = n - 1 - labels, network_score(reversed_index_label(chain))
        assert_close(chain.marginal(t)[1], get("sigmas_used"), 1e-12)
    else:
        t, wrap = labels, noise_prediction(chain, index_label)
        assert_close(chain.marginal(t)[0], get("sqrt_acp_used"), 1e-12)
        assert_close(chain.marginal(t)[1], get("sqrt_1macp_used"), 1e-12)
    reductions = [r for r in ("mean", "sum") if f"{case}__{r}_loss" in stored]
    assert reductions
    for reduce in reductions:
        objective = DenoisingScoreMatching(
            chain, UniformIndex(chain), variance_weight(chain), reduce
        )

        def loss(a, b, objective=objective):
            network = affine_network(a, b, float(stored["affine_c"]))
            score_fn = wrap.score_fn(lambda x, label: network(x, label / n))
            x, z = jnp.asarray(get("x")), jnp.asarray(get("z"))
            per_sample = objective.at(score_fn, x, t, z)
            return jnp.mean(per_sample), per_sample

        gradient = jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))
        parameters = jnp.asarray(stored["affine_A"]), jnp.asarray(stored["affine_b"])
        (value, per_sample), (da, db) = gradient(*parameters)
        results = {"loss": value, "per_sample": per_sample, "grad_A": da, "grad_b": db}
        for key, result in results.items():
            assert_close(result, get(f"{reduce}_{key}"), 1e-8, key)


def test_published_annealed_losses(x64):
    """NCSN: 1/2 |score + z/sigma|^2 sigma^p at levels sigma given by their labels."""
    stored = load("math/losses_ncsn")
    sigmas = stored["sigmas"][::-1]
    chain = DiscreteChain(np.ones_like(sigmas), sigmas)
    x, z = jnp.asarray(stored["x"]), jnp.asarray(stored["noise"])
    t, network = chain.t_max - jnp.asarray(stored["labels"], float), reference_network(stored)
    scores = {
        "affine": lambda x, t: network(x, chain.t_max - t),
        "gmm": reference_mixture(stored).score_fn(chain),
    }
    start = "anneal_dsm_per_sample_"
    cases = [k.removeprefix(start).split("_power") for k in stored if k.startswith(start)]
    assert cases
    for score, power in cases:
        objective = DenoisingScoreMatching(
            chain, UniformIndex(chain), lambda t, p=power: chain.marginal(t)[1] ** float(p), "sum"
        )
        losses = objective.at(scores[score], x, t, z)
        assert_close(losses, stored[f"{start}{score}_power{power}"], 1e-8)
        assert_close(jnp.mean(losses), stored[f"anneal_dsm_{score}_power{power}"], 1e-8)
