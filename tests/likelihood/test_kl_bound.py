"""The bound on the divergence of theorem 9.1 against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mathcases import mixture_2d, mixture_16d

from score_sde.analytic import GaussianMixture
from score_sde.likelihood import kl_bound
from score_sde.sde import EDM, VE, VP, SubVP


def _kl(mean, variance, other_mean, other_variance):
    """D_KL between two Gaussians with diagonal covariances."""
    ratio = variance / other_variance
    return 0.5 * np.sum(ratio - 1 - np.log(ratio) + (mean - other_mean) ** 2 / other_variance)


SHORT = {  # the prior is wrong by some tenths of a nat, but for the first
    "vp": VP(),
    "vp_short": VP(t_min=1e-3, t_max=0.2),
    "subvp": SubVP(t_min=1e-2, t_max=0.3),
    "ve": VE(0.1, 0.8),
    "edm": EDM(0.05, 0.8),
}


class TestKLBound:
    """Theorem 9.1 against divergences in closed form.

    These know nothing of f, g or times between the ends.
    """

    @staticmethod
    def _law(data, sde, t):
        alpha, sigma = (float(v) for v in sde.marginal(jnp.asarray(t)))
        return alpha * data.means[0], alpha**2 * data.variances[0] + sigma**2

    def _prior_term(self, data, sde):
        mean, variance = self._law(data, sde, sde.t_max)
        return _kl(mean, variance, np.zeros_like(mean), np.full_like(mean, sde.prior_std**2))

    @pytest.mark.parametrize("name", SHORT)
    def test_scores_of_gaussians(self, name):
        """The right score leaves D_KL(p_T || pi).

        Another's adds D_KL(p || q) - D_KL(p_T || q_T).
        """
        sde = SHORT[name]
        data = GaussianMixture.isotropic([1.0], np.asarray([[0.5, -0.3]]), 0.4)
        other = GaussianMixture.isotropic([1.0], np.asarray([[-0.2, 0.1]]), 0.6)
        prior = self._prior_term(data, sde)
        price = _kl(*self._law(data, sde, sde.t_min), *self._law(other, sde, sde.t_min))
        price -= _kl(*self._law(data, sde, sde.t_max), *self._law(other, sde, sde.t_max))
        assert price > 0.2 and (prior < 1e-4 if name == "vp" else prior > 0.1)
        for model, expected in ((data, prior), (other, prior + price)):
            value, error = kl_bound(jax.random.key(0), sde, data, model.score_fn(sde), 100_000)
            assert 4 * error < 0.1 * max(expected, 0.01)
            assert abs(value - expected) < 4 * error + 1e-6, (value, expected, error)

    def test_mixtures(self):
        """As in theorem 9.2, D_KL(p || q) at t_min being an average over samples."""
        sde, data = VP(t_min=1e-3), mixture_2d()
        other = GaussianMixture.full(
            [0.3, 0.3, 0.4], data.means + 0.1, np.tile(0.1 * np.eye(2), (3, 1, 1))
        )
        value, error = kl_bound(jax.random.key(0), sde, data, other.score_fn(sde), 40000)
        start = jnp.asarray(sde.t_min)
        x = data.sample_at(jax.random.key(1), sde, start, 40000)
        ratios = np.asarray(data.log_prob(sde, x, start) - other.log_prob(sde, x, start))
        total = np.hypot(float(error), ratios.std() / 200)
        assert 4 * total < 0.1 * ratios.mean()
        assert abs(value - ratios.mean()) < 4 * total

    def test_standard_error(self):
        """That of values over keys; images keep their shape."""
        sde, data = VP(), mixture_16d()
        score_fn = lambda x, t: 0.9 * data.score(sde, x, t)  # noqa: E731
        call = jax.jit(lambda key: kl_bound(key, sde, data, score_fn, 256))
        values, errors = (
            np.asarray(v) for v in jax.lax.map(call, jax.random.split(jax.random.key(0), 200))
        )
        assert abs(values.std() / errors.mean() - 1) < 0.25
