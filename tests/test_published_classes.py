"""Class-conditional sampling of the published code, number for number."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pccases import follow, published_sampler, with_stored_noise

from golden import assert_close, cases, load
from score_sde import guidance

CONTROLLED = cases("math/control_classcond_*.npz")


def published_classifier(stored, sde):
    """The classifier of a stored run: affine in pixels, its logits divided by 1 + sigma(t)."""
    matrix, bias, mean, std = (jnp.asarray(stored[f"clf_{k}"]) for k in ("W", "b", "mean", "std"))

    def logits(x, t):
        scaled = (x - mean[None, None, None]) / std[None, None, None]
        affine = scaled.reshape(len(x), -1) @ matrix.T + bias[None]
        return affine / (1 + sde.marginal(t)[1])[:, None]

    return logits


class TestPublishedClasses:
    """Class-conditional sampling of the published code (B.34, B.35)."""

    @pytest.mark.parametrize("case", CONTROLLED)
    def test_gradients(self, case, x64):
        """At states whose noise levels are stored; the time is found from the level."""
        stored = load(case)
        sde = published_sampler(stored)[0].process
        names = sorted(key for key in stored if key.startswith("clf_grad_"))
        assert names
        labels = jnp.asarray(stored["labels"])

        def zero(x, t):
            return jnp.zeros_like(x)

        guided = jax.jit(guidance.classifier(zero, published_classifier(stored, sde), labels))
        for name in names:
            i = name.removeprefix("clf_grad_")
            scale = jnp.asarray(stored[f"clf_scale_{i}"])
            t = time_at_sigma(sde, scale)
            assert_close(sde.marginal(t)[1], scale, 1e-12)
            got = guided(jnp.asarray(stored[f"clf_x_{i}"]), t)
            assert_close(got, stored[name], 1e-8, name)

    @pytest.mark.parametrize("case", CONTROLLED)
    def test_run(self, case, x64):
        stored = load(case)
        sampler, score_fn = published_sampler(stored)
        logits = published_classifier(stored, sampler.process)
        guided = guidance.classifier(score_fn, logits, jnp.asarray(stored["labels"]))
        assert_close(np.asarray(sampler.times)[:, 0], stored["timesteps"], 1e-12)
        x_init = sampler.process.prior_std * stored["prior_noise"].astype(float)
        sampler = with_stored_noise(stored, sampler)
        end = follow(stored, sampler, guided, sampler.start(jnp.asarray(x_init)), 1e-8)
        assert_close(sampler.finish(guided, end), stored["final"], 1e-8, "final")


def time_at_sigma(sde, sigma):
    """t with sigma(t) = sigma, by bisection."""
    low, high = jnp.zeros_like(sigma), jnp.full_like(sigma, sde.t_max)
    for _ in range(80):
        middle = (low + high) / 2
        below = sde.marginal(middle)[1] < sigma
        low, high = jnp.where(below, middle, low), jnp.where(below, high, middle)
    return high
