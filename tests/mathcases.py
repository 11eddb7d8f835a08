"""What the tests of the mathematical core share: reference models, exact propagation, distances."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from golden import meta
from score_sde.analytic import GaussianMixture
from score_sde.sde import EDM, VE, VP, CosineVP, DiscreteChain, StraightPath, SubVP

SDES = {
    "ve": VE(0.02, 8.0),
    "vp": VP(),
    "subvp": SubVP(),
    "edm": EDM(t_max=10.0),
    "cosine": CosineVP(),
}
PROCESSES = SDES | {"straight": StraightPath()}
"""Reverse diffusion takes too many steps for the last, whose alpha falls fast near t_max."""


def reference_sde(name, arrays, t_min=1e-5):
    """The SDE whose parameters a reference file states."""
    if name == "ve":
        return VE(float(arrays["sigma_min"]), float(arrays["sigma_max"]), t_min)
    return {"vp": VP, "subvp": SubVP}[name](
        float(arrays["beta_min"]), float(arrays["beta_max"]), t_min
    )


def kind_of(arrays):
    """The process of a reference file, "ve", "vp" or "subvp", as its `meta` says."""
    return meta(arrays)["sde"]


def stored_sde(arrays, t_min=None):
    """The SDE of a reference file: kind and parameters are the file's, t_min its `eps`."""
    if t_min is None:
        t_min = float(arrays.get("eps", 1e-5))
    return reference_sde(kind_of(arrays), arrays, t_min)


def reference_chain(name, arrays):
    """The discretisation of that SDE by N noise levels."""
    if name == "ve":
        return DiscreteChain.smld(
            float(arrays["sigma_min"]), float(arrays["sigma_max"]), int(arrays["N"])
        )
    return DiscreteChain.ddpm(
        float(arrays["beta_min"]), float(arrays["beta_max"]), int(arrays["N"])
    )


def reference_methods(arrays):
    """(moments, methods) of a file of single steps: its keys are `moment__method__x`."""
    parts = [key.split("__") for key in arrays if key.count("__") == 2 and key.endswith("__x")]
    return sorted({moment for moment, _, _ in parts}), sorted({method for _, method, _ in parts})


def reference_mixture(arrays):
    """The Gaussian mixture of a reference file."""
    return GaussianMixture.isotropic(arrays["gmm_weights"], arrays["gmm_means"], arrays["gmm_std"])


def published_noise(stored, stepper):
    """(steps, draws, batch, ...): the stored noise in the order in which the stepper takes it."""
    settings, noise = meta(stored), [np.zeros((int(stored["N"]), 0, *stored["prior_noise"].shape))]
    if settings["corrector"] != "none":
        noise.append(stored["noise_corrector"])
    if settings["predictor"] != "none":
        noise.append(stored["noise_predictor"][:, None])
    noise = np.concatenate(noise, axis=1)
    assert noise.shape[:2] == (int(stored["N"]), stepper.draws)
    return noise


def affine_network(matrix, bias, constant):
    """n(x, l) = -(A vec(x) + b l)/(c + l), the network of the reference files."""

    def network(x, labels):
        labels = labels[:, None]
        return (
            -(x.reshape(len(x), -1) @ matrix.T + bias[None] * labels) / (constant + labels)
        ).reshape(x.shape)

    return network


def reference_network(arrays):
    """`affine_network` with the stored parameters."""
    return affine_network(*(jnp.asarray(arrays[f"affine_{name}"]) for name in "Abc"))


def mixture_2d():
    """Three unequal, correlated modes in the plane."""
    covariances = [
        [[0.09, 0.05], [0.05, 0.06]],
        [[0.04, 0.0], [0.0, 0.12]],
        [[0.05, -0.03], [-0.03, 0.05]],
    ]
    return GaussianMixture.full(
        [0.5, 0.3, 0.2], [[-0.8, 0.3], [0.7, 0.6], [0.3, -0.9]], covariances
    )


def mixture_16d():
    """Two modes in 16 dimensions, kept as 4 x 4 x 1 images."""
    means = np.random.default_rng(0).uniform(-0.7, 0.7, (2, 4, 4, 1))
    return GaussianMixture.isotropic([0.6, 0.4], means, [0.2, 0.3])


def one_step(stepper, score_fn, x, t, s, z):
    """(x, mean) after a first step with the draws z, (draws, batch, ...).

    Further draws are NaN.
    """
    z = jnp.asarray(z)

    def noise(j):
        return z.at[j].get(mode="fill", fill_value=jnp.nan)

    return stepper(score_fn, x, t, s, noise, stepper.init(x))[:2]


def with_noise(sampler, z):
    """The sampler with z[i, j] as draw j of step i; further draws are NaN."""
    z = jnp.asarray(z)
    return dataclasses.replace(
        sampler, noise=lambda keys, i, j, x: z.at[i, j].get(mode="fill", fill_value=jnp.nan)
    )


def propagate(stepper, score_fn, pairs, mean, covariance):
    """Mean and covariance after the steps `pairs`, exactly.

    The score is affine in x (Gaussian data). Each step is then an affine map x' = A x + c + B z,
    whose parts are read off at unit vectors.
    """
    d, draws = len(mean), stepper.draws
    x = jnp.concatenate([jnp.zeros((1, d)), jnp.eye(d), jnp.zeros((draws * d, d))])
    units = jnp.eye(draws * d).reshape(draws, d, draws * d).swapaxes(1, 2)
    z = jnp.concatenate([jnp.zeros((draws, 1 + d, d)), units], axis=1)

    def step(carry, pair):
        mean, covariance = carry
        y, _ = one_step(stepper, score_fn, x, pair[0], pair[1], z)
        offset = y[0]
        a, b = (y[1 : 1 + d] - offset[None]).T, (y[1 + d :] - offset[None]).T
        return (a @ mean + offset, a @ covariance @ a.T + b @ b.T), None

    (mean, covariance), _ = jax.lax.scan(
        step, (jnp.asarray(mean), jnp.asarray(covariance)), jnp.asarray(pairs)
    )
    return mean, covariance


def slope(sizes, errors):
    """Slope of log(error) over log(size): the measured order."""
    return float(np.polyfit(np.log(np.asarray(sizes)), np.log(np.abs(np.asarray(errors))), 1)[0])


@jax.jit
def energy_distance(x, y):
    """2 E|X-Y| - E|X-X'| - E|Y-Y'| (unbiased): 0 if and only if the distributions agree."""
    x, y = x.reshape(len(x), -1), y.reshape(len(y), -1)

    def distances(a, b):
        squares = jnp.sum(a**2, 1)[:, None] + jnp.sum(b**2, 1)[None] - 2 * a @ b.T
        return jnp.sqrt(jnp.maximum(squares, 0.0))

    def within(a):
        d = distances(a, a) * (1 - jnp.eye(len(a)))
        return jnp.sum(d) / (len(a) * (len(a) - 1))

    return 2 * jnp.mean(distances(x, y)) - within(x) - within(y)
