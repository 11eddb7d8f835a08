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
# # A tour of processes, on a mixture
#
# A process turns data into noise. Here the data are numbers from a mixture of two Gaussians. Its
# density and its score are known at every time, so no network is needed.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from score_sde import VE, VP, GaussianMixture, Sampler, StraightPath, grids, steppers

data = GaussianMixture.isotropic(weights=[0.3, 0.7], means=[[-1.0], [1.0]], std=0.2)
processes = {
    "VE": VE(sigma_min=0.01, sigma_max=10.0),
    "VP": VP(),
    "straight path": StraightPath(),
}

# %% [markdown]
# ## How much signal, how much noise
#
# At time t a number x_0 has become x_t = alpha(t) x_0 + sigma(t) z.

# %%
for name, process in processes.items():
    alpha, sigma = process.marginal(jnp.asarray([process.t_min, 0.5, process.t_max]))
    print(f"{name:14} alpha {np.round(alpha, 3)}  sigma {np.round(sigma, 3)}")

# %% [markdown]
# ## Back to data
#
# Two ways lead back. The probability flow is an ODE: `eta=0`. The reverse SDE adds noise on the
# way: `eta=1`. Both use the score alone, and both have the same density at every time.


# %%
def draw(process, eta, n=2000, steps=200):
    """n samples, and their paths from noise to data."""
    grid = grids.log_snr_uniform(process, n=steps, t_end=1e-3)
    sampler = Sampler(process, steppers.EulerMaruyama(process, eta=eta), grid)
    score_fn = data.score_fn(process)
    found = jax.jit(lambda key: sampler(key, score_fn, (n, 1), frames=steps))(jax.random.key(0))
    return np.asarray(found.x[:, 0]), np.asarray(found.trajectory[..., 0]), grid


shares = {}
drawn = {}
for name, process in processes.items():
    for way, eta in (("flow", 0.0), ("SDE", 1.0)):
        drawn[name, way] = draw(process, eta)
        shares[name, way] = float(np.mean(drawn[name, way][0] > 0))
        print(f"{name:14} {way:5} share of the right mode {shares[name, way]:.3f}  (0.7)")

# %% [markdown]
# ## The picture
#
# Grey: the density of x_t, scaled to a width of its own. Lines: 12 paths.

# %%
figure, axes = plt.subplots(2, 3, figsize=(11, 6), sharex=True, sharey=True)
for column, (name, process) in enumerate(processes.items()):
    for row, way in enumerate(("flow", "SDE")):
        _, paths, grid = drawn[name, way]
        alpha, sigma = (np.asarray(v) for v in process.marginal(jnp.asarray(grid)))
        width = np.sqrt(alpha**2 + sigma**2)
        y = np.linspace(-3, 3, 200)
        x = jnp.asarray(y[:, None, None] * width[None, :, None], jnp.float32).reshape(-1, 1)
        t = jnp.asarray(np.tile(grid, len(y)), jnp.float32)
        density = np.exp(data.log_prob(process, x, t)).reshape(len(y), -1) * width
        order = np.arange(len(grid))
        axes[row, column].pcolormesh(order, y, density, cmap="Greys", shading="nearest")
        axes[row, column].plot(order, paths[: len(grid), :12] / width[:, None], lw=0.8)
        axes[row, column].set_title(f"{name}, {way}")
figure.supxlabel("step: from noise to data")
figure.supylabel("x_t / sqrt(alpha^2 + sigma^2)")
figure.tight_layout()
figure.savefig("tour.png", dpi=120)

# %% [markdown]
# The flow keeps paths in order: none crosses another. The SDE mixes them. Next:
# [likelihoods and latents](likelihoods.py).
