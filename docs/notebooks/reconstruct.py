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
# # A phantom from eight views, and how sure that is
#
# Few line integrals do not determine an image: many images fit them. A prior says which of these
# are likely. Here the prior is a mixture of Gaussians fitted to drawn phantoms, so the posterior of
# a measurement is known, and every number of a solver can be checked.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from score_sde import VE, GaussianMixture, Sampler, grids, steppers
from score_sde.data.phantoms import KINDS, phantom
from score_sde.inverse import fbp, measure, parallel_beam, simulate
from score_sde.solvers import SOLVERS

SIZE, COUNT, COPIES, NOISE = 16, 400, 32, 0.02
means, covariances = [], []
for kind in range(len(KINDS)):
    numbers = range(kind, len(KINDS) * COUNT, len(KINDS))
    drawn = 2 * np.stack([phantom(i).draw(SIZE) for i in numbers])[..., None] - 1
    means.append(drawn.mean(axis=0))
    covariances.append(np.cov(drawn.reshape(COUNT, -1).T) + 1e-4 * np.eye(SIZE**2))
data = GaussianMixture.full([1 / 3] * 3, np.stack(means), np.stack(covariances))

# %% [markdown]
# ## Measure
#
# Images are in [-1, 1]. Eight views of an image of the mixture, with a little noise. Filtered
# back-projection has streaks where the views say nothing.

# %%
beam = parallel_beam((SIZE, SIZE, 1), 8)
truth = data.sample(jax.random.key(1), 4)
views = simulate(beam, truth, NOISE, jax.random.key(2))
black = measure(beam, views.y - beam.forward(-jnp.ones_like(truth)), NOISE)
streaks = fbp(beam, black.y) - 1

# %% [markdown]
# ## Draw images that fit
#
# MMPS guides the score by the measurement: grad log p(y | x_t), with the covariance of Tweedie's
# formula. Each image gets 32 samples of the posterior, all in one batch.

# %%
process = VE(sigma_min=0.01, sigma_max=20.0)
sampler = Sampler(
    process, steppers.EulerMaruyama(process), grids.log_snr_uniform(process, n=200, t_end=1e-3)
)
rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, COPIES, axis=0), views.rows(len(truth)))
mmps = SOLVERS["mmps"]
solver = mmps(steps=4)


@jax.jit
def draw(key, rows):
    conditioned, guided = solver(sampler, data.score_fn(process), rows)
    return conditioned(key, guided, (len(truth) * COPIES, SIZE, SIZE, 1)).x


samples = np.asarray(draw(jax.random.key(3), rows)).reshape(len(truth), COPIES, SIZE, SIZE)
posteriors = [data.condition(beam, np.asarray(y), NOISE) for y in views.y]
best = np.stack([one.mean().reshape(SIZE, SIZE) for one in posteriors])
images, mean, spread = np.asarray(truth)[..., 0], samples.mean(axis=1), samples.std(axis=1, ddof=1)


# %% [markdown]
# ## Look
#
# The mean of the samples is nearly as good as the exact mean, which no method can beat. Where the
# samples differ, the mean errs. MMPS knows the posterior roughly, so its intervals of 90 percent
# have a little less of the true values.


# %%
def psnr(x):
    return float(np.mean(10 * np.log10(4 / np.mean((x - images) ** 2, axis=(1, 2)))))


error = np.abs(mean - images)
inside = np.mean(error < 1.645 * spread * np.sqrt(1 + 1 / COPIES))
print(f"back-projection: {psnr(np.asarray(streaks)[..., 0]):.1f} dB")
print(f"mean of samples: {psnr(mean):.1f} dB")
print(f"exact mean: {psnr(best):.1f} dB")
print(f"spread and error correlate: {np.corrcoef(spread.ravel(), error.ravel())[0, 1]:.2f}")
print(f"inside intervals of 90 percent: {100 * inside:.0f}")

columns = {
    "truth": images,
    "back-projection": np.asarray(streaks)[..., 0],
    "a sample": samples[:, 0],
    "another": samples[:, 1],
    "mean of 32": mean,
    "exact mean": best,
    "spread x 8": 16 * spread - 1,
    "error x 8": 16 * error - 1,
}
figure, axes = plt.subplots(len(truth), len(columns), figsize=(11, 6))
for (name, column), place in zip(columns.items(), axes.T, strict=True):
    place[0].set_title(name, fontsize=9)
    for image, axis in zip(column, place, strict=True):
        axis.imshow(image, cmap="gray", vmin=-1, vmax=1)
        axis.axis("off")
figure.tight_layout()
figure.savefig("reconstruct.png", dpi=120)
