"""Denoising score matching, continuous and discrete: one formula for both."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import Keys, ScoreFn, Time, left_broadcast
from score_sde.objectives.times import TimeSampler, times_and_noise
from score_sde.parameterize import Parameterization
from score_sde.sde import GaussianSDE, Perturbation

Weight = Callable[[Time], Time]


def variance_weight(process: Perturbation) -> Weight:
    """lambda(t) = sigma(t)^2: each noise level counts alike (eq. 7.1, 7.3, 7.7)."""
    return lambda t: process.marginal(t)[1] ** 2


def likelihood_weight(sde: GaussianSDE) -> Weight:
    """lambda(t) = g(t)^2: the loss bounds the negative log-likelihood (theorem 9.1)."""
    return lambda t: sde.coefficients(t)[1]


def interpolated_weight(sde: GaussianSDE, likelihood_weighting: float) -> Weight:
    """lambda(t) = sigma(t)^(2 (1 - k)) g(t)^(2 k): between the other two weights.

    k = 0 is `variance_weight`, k = 1 is `likelihood_weight`. Between the ends it trades likelihood
    for sample quality (section 9.5.3). For VE g^2/sigma^2 is constant, and k without effect but for
    that constant.

    Args:
        sde: gives sigma and g.
        likelihood_weighting: k in [0, 1].

    Raises:
        ValueError: k outside [0, 1].
    """
    k = likelihood_weighting
    if not 0 <= k <= 1:
        raise ValueError(
            "likelihood_weighting must be in [0, 1], from variance (0) to likelihood weighting "
            f"(1); got {k}"
        )
    variance, likelihood = variance_weight(sde), likelihood_weight(sde)
    return lambda t: variance(t) ** (1 - k) * likelihood(t) ** k


def edm_weight(process: Perturbation, sigma_data: float = 0.5) -> Weight:
    """lambda(t) = sigma^2 (1 + nu^2/sigma_data^2) with nu = sigma/alpha: the weight of EDM.

    EDM weights the error of the denoiser D by (nu^2 + sigma_data^2)/(nu sigma_data)^2. By Tweedie's
    formula D - x_0 = sigma^2/alpha (score + z/sigma), so the error of the score has that weight
    times sigma^4/alpha^2.

    Args:
        process: gives alpha and sigma.
        sigma_data: the standard deviation of the data.

    Source: Karras et al. 2022, table 1.
    """

    def weight(t: Time) -> Time:
        alpha, sigma = process.marginal(t)
        return sigma**2 * (1 + (sigma / (alpha * sigma_data)) ** 2)

    return weight


def output_weight(made: Parameterization) -> Weight:
    """lambda(t) = 1/c_out^2: errors of the network's output count alike at all noise levels.

    It gives the published loss of each prediction: |z - F|^2 (DDPM), |v - F|^2 (Salimans & Ho
    2022), |u - F|^2 (flow matching), and `edm_weight` with EDM's preconditioning. Where the output
    is divided by sigma, lambda = sigma^2/c_out^2.
    """

    def weight(t: Time) -> Time:
        divisor = jnp.ones_like(t) if made.sigma is None else made.sigma(t)
        return (divisor / made.c_out(t)) ** 2

    return weight


@dataclasses.dataclass(frozen=True)
class DenoisingScoreMatching:
    """lambda(t) R(|score(x_t, t) + z/sigma(t)|^2) with x_t = alpha x_0 + sigma z.

    Dissertation eq. 7.7, 5.5. With a `DiscreteChain` and `UniformIndex` times this is SMLD's
    objective (eq. 7.1) or, since its score is -F/sigma, DDPM's |F - z|^2 (eq. 7.3).

    Args:
        process: the perturbation.
        times: time sampler; its w multiplies the loss.
        weight: lambda, as a function here gives it, say `variance_weight(process)`.
        reduce: R over the D dimensions: "mean", or "sum" for half the sum (both as published).
        variance_reduced: subtract what varies most at small sigma and has the mean 0,

            2 lambda R[score(alpha x_0, t) z/sigma + (z^2 - 1)/(2 sigma^2)],

            with one more evaluation (eq. B.2, which prints twice this term beside half the squared
            error: that leaves all of the variance). What remains is computed as lambda/sigma^2
            R(sigma^2 score^2 + 2 sigma (score - score(alpha x_0, t)) z + 1), whose variance stays
            finite as sigma goes to 0.
    """

    process: Perturbation
    times: TimeSampler
    weight: Weight
    reduce: Literal["mean", "sum"] = "mean"
    variance_reduced: bool = False

    def __post_init__(self):
        if self.reduce not in ("mean", "sum"):
            raise ValueError(f"reduce must be 'mean' or 'sum'; got {self.reduce!r}")

    def __call__(
        self, keys: Keys, score_fn: ScoreFn, x0: Float[Array, "batch ..."]
    ) -> Float[Array, "batch"]:
        """Loss of each example at a random time and noise; keys: one, or one for each example."""
        t, w, z = self.draw(keys, x0)
        return w * self.at(score_fn, x0, t, z)

    def draw(
        self, keys: Keys, x0: Float[Array, "batch ..."]
    ) -> tuple[Float[Array, "batch"], Float[Array, "batch"], Float[Array, "batch ..."]]:
        """(t, w, z): random times, their weights, and noise."""
        return times_and_noise(self.times, keys, x0)

    def at(
        self,
        score_fn: ScoreFn,
        x0: Float[Array, "batch ..."],
        t: Float[Array, "batch"],
        z: Float[Array, "batch ..."],
    ) -> Float[Array, "batch"]:
        """Loss of each example at times t with noise z, without the factor w.

        It is computed as lambda/sigma^2 R(|sigma score + z|^2).
        """
        _, sigma = self.process.marginal(t)
        scaled = left_broadcast(sigma, x0) * score_fn(self.process.perturb(x0, t, z), t)
        if self.variance_reduced:
            centre = score_fn(self.process.perturb(x0, t, jnp.zeros_like(z)), t)
            squares = scaled**2 + 2 * (scaled - left_broadcast(sigma, x0) * centre) * z + 1
        else:
            squares = (scaled + z) ** 2
        squares = squares.reshape(len(x0), -1)
        mean = self.reduce == "mean"
        reduced = jnp.mean(squares, axis=1) if mean else 0.5 * jnp.sum(squares, axis=1)
        return self.weight(t) / sigma**2 * reduced
