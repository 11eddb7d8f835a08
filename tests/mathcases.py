"""What the tests of the mathematical core share: reference models, exact propagation, distances."""

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.analytic import GaussianMixture
from score_sde.sde import EDM, VE, VP, CosineVP, DiscreteChain, SubVP

SDES = {
    "ve": VE(0.02, 8.0),
    "vp": VP(),
    "subvp": SubVP(),
    "edm": EDM(t_max=10.0),
    "cosine": CosineVP(),
}


def reference_sde(name, arrays, t_min=1e-5):
    """The SDE whose parameters a reference file states."""
    if name == "ve":
        return VE(float(arrays["sigma_min"]), float(arrays["sigma_max"]), t_min)
    return {"vp": VP, "subvp": SubVP}[name](float(arrays["beta_min"]), float(arrays["beta_max"]), t_min)


def reference_chain(name, arrays):
    """The discretisation of that SDE by N noise levels."""
    if name == "ve":
        return DiscreteChain.smld(float(arrays["sigma_min"]), float(arrays["sigma_max"]), int(arrays["N"]))
    return DiscreteChain.ddpm(float(arrays["beta_min"]), float(arrays["beta_max"]), int(arrays["N"]))


def reference_mixture(arrays):
    """The Gaussian mixture of a reference file."""
    return GaussianMixture.isotropic(arrays["gmm_weights"], arrays["gmm_means"], arrays["gmm_std"])


def affine_network(matrix, bias, constant):
    """n(x, l) = -(A vec(x) + b l)/(c + l), the network of the reference files."""

    def network(x, labels):
        labels = labels[:, None]
        return (-(x.reshape(len(x), -1) @ matrix.T + bias[None] * labels) / (constant + labels)).reshape(
            x.shape
        )

    return network


def reference_network(arrays):
    """`affine_network` with the stored parameters."""
    return affine_network(*(jnp.asarray(arrays[f"affine_{name}"]) for name in "Abc"))


def mixture_2d():
    """Three unequal, correlated modes in the plane."""
    covariances = [[[0.09, 0.05], [0.05, 0.06]], [[0.04, 0.0], [0.0, 0.12]], [[0.05, -0.03], [-0.03, 0.05]]]
    return GaussianMixture.full([0.5, 0.3, 0.2], [[-0.8, 0.3], [0.7, 0.6], [0.3, -0.9]], covariances)


def mixture_16d():
    """Two modes in 16 dimensions, kept as 4 x 4 x 1 images."""
    means = np.random.default_rng(0).uniform(-0.7, 0.7, (2, 4, 4, 1))
    return GaussianMixture.isotropic([0.6, 0.4], means, [0.2, 0.3])


def propagate(stepper, score_fn, pairs, mean, covariance):
    """Mean and covariance after the steps `pairs`, exactly, for a score affine in x (Gaussian data).

    Each step is then an affine map x' = A x + c + B z, whose parts are read off at unit vectors.
    """
    d = len(mean)
    x = jnp.concatenate([jnp.zeros((1, d)), jnp.eye(d), jnp.zeros((d, d))])
    z = jnp.concatenate([jnp.zeros((1 + d, d)), jnp.eye(d)])[None]

    def step(carry, pair):
        mean, covariance = carry
        y, _ = stepper(score_fn, x, pair[0], pair[1], z)
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
