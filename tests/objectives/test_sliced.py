"""Sliced score matching: reference values, exact values and moments, its minimiser."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import mixture_2d, reference_mixture, reference_network

from golden import assert_close, groups, load
from score_sde.arrays import sample_keys
from score_sde.objectives import SlicedScoreMatching
from score_sde.sde import VE

CLEAN = VE(1e-12, 1.0)
KINDS = ("rademacher", "gaussian", "sphere")


@pytest.fixture
def stored(x64):
    return {k: jnp.asarray(v) if k != "meta" else v for k, v in load("math/losses_ssm").items()}


def energy_score(p):
    """-grad of |a|^2/2 + v softplus(W a + b), over a batch."""

    def log_prob(a):
        return -(0.5 * a @ a + p["v"] @ jax.nn.softplus(p["W"] @ a + p["b"]))

    return lambda x, t: jax.vmap(jax.grad(log_prob))(x)


def network_score(p):
    return lambda x, t: jnp.tanh(x @ p["W"].T + p["b"][None]) @ p["W2"].T + p["b2"][None] - x


def loss_and_gradients(objective, score, parameters, x, v):
    def loss(parameters):
        return jnp.mean(objective.at(score(parameters), x, jnp.zeros(()), v))

    return jax.value_and_grad(loss)(parameters)


def losses_like(pattern):
    """The losses of the file of reference values whose names match."""
    found = groups("math/losses_ssm", "__loss")
    return [name for name in found if not isinstance(name, str) or re.fullmatch(pattern, name)]


class TestReferenceValues:
    @pytest.mark.parametrize("case", losses_like(r"ss[em]_(vr_)?p\d+"))
    def test_losses_and_gradients(self, case, stored):
        reduced, m = "_vr_" in case, int(case.rpartition("_p")[2])
        score, names = {"sse": (network_score, "W b W2 b2"), "ssm": (energy_score, "W b v")}[
            case[:3]
        ]
        # The published vectors on a sphere have length 1, not sqrt(D).
        factor = 1 if reduced else stored["x"].shape[1]
        kind = "gaussian" if reduced else "sphere"
        objective = SlicedScoreMatching(m, kind, variance_reduced=reduced)
        v = objective.vectors(stored[f"gauss_p{m}"].reshape(m, *stored["x"].shape))
        parameters = {k: stored[k] for k in names.split()}
        loss, gradients = loss_and_gradients(objective, score, parameters, stored["x"], v)
        assert_close(loss, factor * stored[f"{case}__loss"], 1e-12)
        for k, gradient in gradients.items():
            assert_close(gradient, factor * stored[f"{case}__grad_{k}"], 1e-11, k)

    @pytest.mark.parametrize("case", losses_like("single_ssm_.*_energy"))
    def test_single_projections(self, case, stored):
        reduced, kind = "_vr_" in case, case.split("_")[-2]
        objective = SlicedScoreMatching(kind=kind, variance_reduced=reduced)
        v = objective.vectors(stored["gauss_n"][None])
        parameters = {k: stored[k] for k in ("W", "b", "v")}
        loss, gradients = loss_and_gradients(objective, energy_score, parameters, stored["x"], v)
        assert_close(loss, stored[f"{case}__loss"], 1e-12)
        for k, gradient in gradients.items():
            assert_close(gradient, stored[f"{case}__grad_{k}"], 1e-11, k)
        mixture = reference_mixture(stored).score_fn(CLEAN)
        loss = jnp.mean(objective.at(mixture, stored["x"], jnp.zeros(()), v))
        assert_close(loss, stored[f"{case.removesuffix('energy')}gmm__loss"], 1e-9)

    def test_unit_vectors_give_the_exact_objective(self, stored):
        # sum over e_i sqrt(D) of D terms, divided by D: the trace itself, so exact score matching
        # (eq. 5.1).
        x, d, now = stored["x"], stored["x"].shape[1], jnp.zeros(())
        v = jnp.broadcast_to((d**0.5 * jnp.eye(d))[:, None], (d, *x.shape))
        for reduced in (False, True):
            objective = SlicedScoreMatching(d, variance_reduced=reduced)
            per_sample = objective.at(energy_score(stored), x, now, v)
            assert_close(per_sample, stored["exact_sm__per_sample"], 1e-12)
            per_sample = objective.at(reference_mixture(stored).score_fn(CLEAN), x, now, v)
            assert_close(per_sample, stored["exact_sm_gmm__per_sample"], 1e-9)

    @pytest.mark.parametrize("case", groups("math/losses_ncsn", "_vectors"))
    def test_annealed(self, case, x64):
        arrays = load("math/losses_ncsn")
        stored = {k: jnp.asarray(v) for k, v in arrays.items() if k != "meta"}
        sigma = stored["sigmas"][stored["labels"]]
        x = stored["x"] + sigma[:, None, None, None] * stored["noise"]
        m = len(stored[f"{case}_vectors"]) // len(x)
        v = stored[f"{case}_vectors"].reshape(m, *x.shape)
        objective = SlicedScoreMatching(m, "gaussian")
        labels = stored["labels"].astype(x.dtype)
        loss = objective.at(reference_network(stored), x, labels, v)
        assert_close(jnp.mean(sigma**2 * loss), stored[f"{case}_loss"], 1e-12)


class TestRandomProjections:
    @pytest.mark.parametrize("kind", KINDS)
    def test_second_moment_is_the_identity(self, kind):
        gauss = jax.random.normal(jax.random.key(0), (1, 40_000, 3))
        v = np.asarray(SlicedScoreMatching(kind=kind).vectors(gauss))[0]
        np.testing.assert_allclose(v.T @ v / len(v), np.eye(3), atol=0.04)
        lengths = np.linalg.norm(v, axis=1)
        assert (np.std(lengths) < 1e-5) == (kind != "gaussian")

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("reduced", [False, True])
    @pytest.mark.parametrize("projections", [1, 3])
    def test_mean_and_time(self, kind, reduced, projections):
        # score = t A x at one x: mean t tr A + t^2 |A x|^2 / 2.
        a, x, n = jnp.asarray([[1.0, 2.0], [0.5, -3.0]]), jnp.asarray([0.7, -0.4]), 60_000
        objective = SlicedScoreMatching(projections, kind, reduced, time=0.5)
        losses = objective(
            jax.random.key(1), lambda x, t: t[:, None] * x @ a.T, jnp.tile(x[None], (n, 1))
        )
        expected = 0.5 * -2.0 + 0.25 * float(jnp.sum((a @ x) ** 2)) / 2
        assert float(jnp.mean(losses)) == pytest.approx(
            expected, abs=5 * float(jnp.std(losses)) / n**0.5 + 1e-6
        )
        assert losses.shape == (n,)

    def test_variance(self):
        x = jnp.tile(jnp.asarray([[0.7, -0.4, 1.0]]), (20_000, 1))

        def variance(**options):
            return float(
                jnp.var(
                    SlicedScoreMatching(kind="gaussian", **options)(
                        jax.random.key(2), lambda x, t: -x, x
                    )
                )
            )

        # |x|^2 = 1.65: Var(v.v) = 2 D, Var((v.x)^2/2) = |x|^4/2, their covariance |x|^2.
        assert variance() == pytest.approx(6, rel=0.1)
        assert variance(projections=4) == pytest.approx(6 / 4, rel=0.1)
        assert variance(variance_reduced=False) == pytest.approx(
            6 + 1.65**2 / 2 - 2 * 1.65, rel=0.1
        )

    @pytest.mark.parametrize("kind", KINDS)
    def test_keys_of_examples(self, kind):
        """An example depends on its own key alone, and its projections are different ones."""
        objective = SlicedScoreMatching(3, kind, variance_reduced=False)
        x, keys = jnp.ones((20_000, 3)), sample_keys(jax.random.key(1), jnp.arange(20_000))

        @jax.jit
        def losses(keys, x):
            return objective(keys, lambda x, t: jnp.sin(x * jnp.asarray([[1.0, 2.0, 3.0]])), x)

        whole, one = losses(keys, x), losses(jax.random.key(2), x)
        np.testing.assert_allclose(losses(keys[4:6], x[4:6]), whole[4:6], rtol=1e-5)
        np.testing.assert_allclose(jnp.mean(whole), jnp.mean(one), atol=0.05)
        np.testing.assert_allclose(jnp.var(whole), jnp.var(one), rtol=0.1)

    def test_images(self):
        x = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
        losses = SlicedScoreMatching()(jax.random.key(1), lambda x, t: -2 * x, x)
        np.testing.assert_allclose(
            losses, -2 * 32 + 2 * np.sum(np.asarray(x) ** 2, axis=(1, 2, 3)), rtol=1e-5
        )

    def test_refuses(self):
        with pytest.raises(ValueError, match="projections must be at least 1"):
            SlicedScoreMatching(0)
        with pytest.raises(ValueError, match="kind must be"):
            SlicedScoreMatching(kind="sign")  # pyright: ignore


def test_exact_score_minimises(x64):
    """Around the exact score the loss grows by half the mean square of what is added."""
    data = mixture_2d()
    x = data.sample(jax.random.key(0), 50_000, jnp.float64)
    exact, objective = data.score_fn(CLEAN), SlicedScoreMatching()

    def added(x):
        return x + jnp.stack([jnp.sin(2 * x[:, 0]), x[:, 0] * x[:, 1]], axis=1)

    def loss(factor, c):
        return objective(jax.random.key(1), lambda x, t: factor * exact(x, t) + c * added(x), x)

    square = float(jnp.mean(jnp.sum(added(x) ** 2, axis=1)))
    for factor in (1.0, 0.8):
        low, middle, high = (loss(factor, c) for c in (-0.5, 0.0, 0.5))
        assert float(jnp.mean(high + low - 2 * middle)) == pytest.approx(0.25 * square, rel=1e-9)
        off = abs(float(jnp.mean(high - low))) / (float(jnp.std(high - low)) / len(x) ** 0.5)
        assert (off < 4) == (factor == 1), (
            f"{off} standard errors at {factor} times the exact score"
        )
