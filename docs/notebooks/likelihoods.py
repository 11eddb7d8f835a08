# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Likelihoods and latents, on a mixture
#
# The probability-flow ODE maps data to latents, one to one. So it gives a latent for each example,
# an example for each latent, and log p by the change of variables. Here the data are points in
# four dimensions from a mixture whose log p is known: every number can be checked.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from score_sde import VP, GaussianMixture
from score_sde.flow import Flow
from score_sde.likelihood import ODELikelihood

rng = np.random.default_rng(0)
data = GaussianMixture.isotropic([0.2, 0.3, 0.5], rng.normal(size=(3, 4)), std=0.3)
process = VP()
score_fn = data.score_fn(process)
x = data.sample(jax.random.key(0), 200)

# %% [markdown]
# ## Latents
#
# Encode, then decode. What comes back is what went in, to the tolerance of the solver.

# %%
flow = Flow(process, rtol=1e-4, atol=1e-4)
there = jax.jit(lambda x: flow.encode(score_fn, x))(x)
back = jax.jit(lambda z: flow.decode(score_fn, z))(there.state)
error = float(jnp.abs(back.state - x).max())
print(f"round trip: largest error {error:.1e}, {int(there.nfe.mean())} evaluations of the score")
print(f"latents: mean {float(there.state.mean()):.3f}, std {float(there.state.std()):.3f}")

# %% [markdown]
# ## Likelihoods
#
# log p(x) is log p of the latent plus the integral of the divergence along the path. The exact
# trace (`probes=0`) takes a derivative for each dimension. Hutchinson's estimate takes one random
# direction, and is right on average.

# %%
truth = data.log_prob(process, x, jnp.full(len(x), process.t_min))
exact = jax.jit(lambda x: ODELikelihood(flow, probes=0)(jax.random.key(1), score_fn, x))(x)
estimate = jax.jit(lambda x: ODELikelihood(flow, probes=4)(jax.random.key(1), score_fn, x))(x)
trace_error = np.asarray(exact.logp - truth)
probe_error = np.asarray(estimate.logp - truth)
print(f"exact trace: median error {np.median(np.abs(trace_error)):.1e} nats")
print(f"four probes: mean error {probe_error.mean():.3f}, spread {probe_error.std():.3f} nats")
print(f"entropy of the data: {-float(truth.mean()):.3f} nats")

# %% [markdown]
# ## Between two examples
#
# A straight line between the centres of two modes leaves the data for most of the way. The image of
# a line between their latents jumps: it leaves one mode late, and is soon in the other.

# %%
a, b = jnp.asarray(data.means[0], jnp.float32), jnp.asarray(data.means[2], jnp.float32)
share = jnp.linspace(0, 1, 41)[:, None]
straight = (1 - share) * a + share * b
ends = flow.encode(score_fn, jnp.stack([a, b])).state
through = flow.decode(score_fn, (1 - share) * ends[0] + share * ends[1]).state
early = jnp.full(len(share), process.t_min)
inside = [
    float(jnp.mean(data.log_prob(process, line, early) > truth.mean()))
    for line in (straight, through)
]
print(f"more likely than examples are on average: straight {inside[0]:.0%} of the way,")
print(f"by latents {inside[1]:.0%}")

figure, axes = plt.subplots(1, 2, figsize=(9, 4))
axes[0].scatter(truth, exact.logp, s=8, label="exact trace")
axes[0].scatter(truth, estimate.logp, s=8, label="four probes")
axes[0].set(xlabel="log p", ylabel="log p by the ODE")
axes[0].legend()
axes[1].plot(share, data.log_prob(process, straight, early), label="straight")
axes[1].plot(share, data.log_prob(process, through, early), label="by latents")
axes[1].set(xlabel="share of the way", ylabel="log p")
axes[1].legend()
figure.tight_layout()
figure.savefig("likelihoods.png", dpi=120)
