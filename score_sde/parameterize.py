"""From what a network computes to the score.

A network F sees an input scaled by c_in(t) and a label c_noise(t); its output becomes

    score(x, t) = c_skip(t) x + c_out(t) F(c_in(t) x, c_noise(t)).

The coefficients are those of the score, not of the denoiser: the denoiser follows from Tweedie's formula, and nothing
cancels at small noise.
"""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.sde import DiscreteChain, Perturbation
from score_sde.types import ScoreFn, Time, batch_time, left_broadcast

Coefficient = Callable[[Time], Time]


def _one(t: Time) -> Time:
    return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class Parameterization:
    """score(x, t) = c_skip x + c_out F(c_in x, c_noise); each coefficient is a function of t (batch,).

    `c_skip = None` means that x is not added.
    """

    c_noise: Coefficient
    c_out: Coefficient = _one
    c_in: Coefficient = _one
    c_skip: Coefficient | None = None

    def score_fn(self, network: Callable[[Array, Array], Array]) -> ScoreFn:
        """The score function of `network(x, labels)`."""

        def score(x: Float[Array, "batch ..."], t: Time) -> Float[Array, "batch ..."]:
            t = batch_time(t, x)
            output = network(left_broadcast(self.c_in(t), x) * x, self.c_noise(t)).astype(x.dtype)
            output = left_broadcast(self.c_out(t), x) * output
            return output if self.c_skip is None else output + left_broadcast(self.c_skip(t), x) * x

        return score


def network_score(c_noise: Coefficient) -> Parameterization:
    """F is the score itself: NCSN, NCSNv2 and NCSN++ (they divide by sigma inside the network)."""
    return Parameterization(c_noise)


def noise_prediction(process: Perturbation, c_noise: Coefficient) -> Parameterization:
    """F predicts the noise z of x_t = alpha x_0 + sigma z: score = -F/sigma(t). DDPM and DDPM++ (eq. 7.3)."""
    return Parameterization(c_noise, c_out=lambda t: -1 / process.marginal(t)[1])


def edm_preconditioning(process: Perturbation, sigma_data: float = 0.5) -> Parameterization:
    """Preconditioning of Karras et al. (2022, table 1), for any alpha: with nu = sigma/alpha the noise level of x/alpha,

    D(x) = sigma_data^2/(nu^2 + sigma_data^2) x/alpha + nu sigma_data/sqrt(nu^2 + sigma_data^2) F and
    score = (alpha D - x)/sigma^2. sigma_data is the standard deviation of the data; the label is log(nu)/4.
    """

    def levels(t):
        alpha, sigma = process.marginal(t)
        nu = sigma / alpha
        return alpha, nu, nu**2 + sigma_data**2

    def c_skip(t):
        alpha, _, total = levels(t)
        return -1 / (alpha**2 * total)

    def c_out(t):
        alpha, nu, total = levels(t)
        return sigma_data / (alpha * nu * jnp.sqrt(total))

    def c_in(t):
        alpha, _, total = levels(t)
        return 1 / (alpha * jnp.sqrt(total))

    return Parameterization(lambda t: 0.25 * jnp.log(levels(t)[1]), c_out, c_in, c_skip)


def noise_level_label(process: Perturbation) -> Coefficient:
    """Label sigma(t): networks with Fourier features, which take its logarithm themselves."""
    return lambda t: process.marginal(t)[1]


def time_label(t: Time) -> Time:
    """Label 999 t: continuous VP and sub-VP networks with positional embeddings made for 1000 steps."""
    return 999 * t


def index_label(t: Time) -> Time:
    """Label i of a chain, 0 the least noise: DDPM."""
    return t


def reversed_index_label(chain: DiscreteChain) -> Coefficient:
    """Label N-1-i of a chain, 0 the largest noise: SMLD, NCSN.

    The published codes recover it from continuous time by round((1-t)(N-1)), which is off by one in half of the steps
    when the grid ends at 1e-3; index time has no such rounding.
    """
    return lambda t: chain.t_max - t
