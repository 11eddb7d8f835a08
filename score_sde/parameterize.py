"""From what a network computes to the score.

A network F sees an input scaled by c_in(t), mapped from [0, 1] to [-1, 1] where the data are not
there yet, and a label c_noise(t). Its output becomes

    score(x, t) = c_skip(t) x + c_out(t) F(c_in(t) x, c_noise(t)) / sigma(t).

Networks are plain functions of their input and label: no other part divides by sigma or maps the
data. The coefficients are those of the score, not of the denoiser: the denoiser follows from
Tweedie's formula, and nothing cancels at small noise.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import ScoreFn, Time, batch_time, left_broadcast
from score_sde.sde import DiscreteChain, Perturbation

Coefficient = Callable[[Time], Time]


def _one(t: Time) -> Time:
    return jnp.ones_like(t)


@dataclasses.dataclass(frozen=True)
class Parameterization:
    """score(x, t) = c_skip x + c_out F(c_in x, c_noise) / sigma.

    Each coefficient is a function of t (batch,).

    `c_skip = None` means that x is not added, `sigma = None` that the output is not divided. The
    division (no multiplication by 1/sigma) is in the wider of the types of F and x.
    `centre` gives F the input 2 c_in x - 1 in place of c_in x: for data in [0, 1].
    """

    c_noise: Coefficient
    c_out: Coefficient = _one
    c_in: Coefficient = _one
    c_skip: Coefficient | None = None
    sigma: Coefficient | None = None
    centre: bool = False

    def score_fn(self, network: Callable[[Array, Array], Array]) -> ScoreFn:
        """The score function of `network(x, labels)`.

        A conditional network closes over what it is given.
        """

        def score(x: Float[Array, "batch ..."], t: Time) -> Float[Array, "batch ..."]:
            t = batch_time(t, x)
            scaled = left_broadcast(self.c_in(t), x) * x
            output = network(centred(scaled) if self.centre else scaled, self.c_noise(t))
            output = output.astype(max(output.dtype, x.dtype, key=lambda dtype: dtype.itemsize))
            if self.sigma is not None:
                output = output / left_broadcast(self.sigma(t), x).astype(output.dtype)
            output = left_broadcast(self.c_out(t), x) * output.astype(x.dtype)
            return output if self.c_skip is None else output + left_broadcast(self.c_skip(t), x) * x

        return score


@dataclasses.dataclass(frozen=True, eq=False)
class EnergyScore:
    """The score of an energy model: a `ScoreFn` that knows its log-density, up to a constant.

    score(x, t) = grad_x log_density(x, t), by reverse mode. With an energy E the log-density is -E
    (dissertation, section 2.3). Every objective, sampler and mode takes it as any score function;
    objectives that compare log-densities take nothing else.

    Args:
        log_density: (x, t) -> (batch,), where the value of a sample depends on it alone.
    """

    log_density: Callable[[Array, Array], Array]

    def __call__(self, x: Float[Array, "batch ..."], t: Time) -> Float[Array, "batch ..."]:
        """grad_x log_density(x, t)."""
        return jax.grad(lambda x: jnp.sum(self.log_density(x, batch_time(t, x))))(x)


@dataclasses.dataclass(frozen=True)
class Energy:
    """log p~(x, t) = -E/sigma: the network F is made an energy; its score is a gradient field.

    With y = c_in x, mapped as in `Parameterization`, the energy of a sample is

        "scalar"       E = F(y, c_noise), for networks with one number a sample;
        "distance"     E = |y - F(y, c_noise)|^2/2, of an image network;
        "product"      E = -y . F(y, c_noise), of an image network.

    A network that returns 0 has the score -y/sigma dy/dx for "distance", and 0 for the others.
    Source: "distance" and the division by sigma: Salimans & Ho 2021, "Should EBMs model the energy
    or the score?".

    Args:
        c_noise, c_in, sigma, centre: as in `Parameterization`.
        form: of the energy.

    Raises:
        ValueError: an unknown form.
    """

    c_noise: Coefficient
    form: Literal["scalar", "distance", "product"] = "scalar"
    c_in: Coefficient = _one
    sigma: Coefficient | None = None
    centre: bool = False

    def __post_init__(self):
        if self.form not in ("scalar", "distance", "product"):
            raise ValueError(
                f"the form of an energy must be scalar, distance or product; got {self.form!r}"
            )

    def score_fn(self, network: Callable[[Array, Array], Array]) -> EnergyScore:
        """-grad_x of the energy of `network(x, labels)`, with `log_density` = -E/sigma."""

        def log_density(x: Float[Array, "batch ..."], t: Time) -> Float[Array, "batch"]:
            t = batch_time(t, x)
            y = left_broadcast(self.c_in(t), x) * x
            y = centred(y) if self.centre else y
            output = network(y, self.c_noise(t)).astype(x.dtype)
            if output.shape != (x.shape[:1] if self.form == "scalar" else x.shape):
                raise ValueError(
                    f"an energy of the form {self.form!r} takes a network whose output is one "
                    "number a sample for 'scalar', else of the shape of its input; got "
                    f"{output.shape} for {x.shape}"
                )
            if self.form == "distance":
                output = 0.5 * jnp.sum(((y - output) ** 2).reshape(len(x), -1), axis=1)
            elif self.form == "product":
                output = -jnp.sum((y * output).reshape(len(x), -1), axis=1)
            return -output if self.sigma is None else -output / self.sigma(t)

        return EnergyScore(log_density)


Model = Parameterization | Energy
"""What turns a network into a score function: its method `score_fn(network)`."""


def centred(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """2 x - 1: data in [0, 1] mapped to [-1, 1], where networks expect their input."""
    return 2 * x - 1


def network_score(c_noise: Coefficient) -> Parameterization:
    """F is the score itself: NCSN.

    With `divided_by_sigma`, F is sigma times the score: NCSNv2 and NCSN++.
    """
    return Parameterization(c_noise)


def divided_by_sigma(made: Model, process: Perturbation) -> Model:
    """The parameterization `made`, but the output or energy is divided by the noise level sigma(t).

    A network without any other knowledge of the noise can then serve all levels, since the score of
    perturbed data is of the size 1/sigma (Song and Ermon 2020, technique 3).
    A `DiscreteChain` has no score before its first level, index 0; times below it take sigma_0.
    """

    def sigma(t: Time) -> Time:
        return process.marginal(jnp.maximum(t, 0) if isinstance(process, DiscreteChain) else t)[1]

    return dataclasses.replace(made, sigma=sigma)


def noise_prediction(process: Perturbation, c_noise: Coefficient) -> Parameterization:
    """F predicts the noise z of x_t = alpha x_0 + sigma z: score = -F/sigma(t).

    DDPM and DDPM++ (Song 2022, dissertation, eq. 7.3).
    """
    return Parameterization(c_noise, c_out=lambda t: -1 / process.marginal(t)[1])


def v_prediction(process: Perturbation, c_noise: Coefficient) -> Parameterization:
    """F predicts v = alpha z - sigma x_0, of x_t = alpha x_0 + sigma z.

    sigma x_t + alpha v = (alpha^2 + sigma^2) z. So score = -z/sigma is

        -(x + alpha/sigma v)/(alpha^2 + sigma^2).

    Source: Salimans & Ho 2022, appendix D, where alpha^2 + sigma^2 = 1.
    """

    def scaled(t):
        alpha, sigma = process.marginal(t)
        return alpha, sigma, alpha**2 + sigma**2

    def c_skip(t):
        return -1 / scaled(t)[2]

    def c_out(t):
        alpha, sigma, total = scaled(t)
        return -alpha / (sigma * total)

    return Parameterization(c_noise, c_out, c_skip=c_skip)


def velocity_prediction(process: Perturbation, c_noise: Coefficient) -> Parameterization:
    """F predicts u = z - x_0: the velocity dx_t/dt of `StraightPath`.

    x_t + alpha u = (alpha + sigma) z. So score = -z/sigma is

        -(x + alpha u)/(sigma (alpha + sigma)).

    Source: Lipman et al. 2023; Liu et al. 2023.
    """

    def total(t):
        alpha, sigma = process.marginal(t)
        return sigma * (alpha + sigma)

    def c_skip(t):
        return -1 / total(t)

    def c_out(t):
        return -process.marginal(t)[0] / total(t)

    return Parameterization(c_noise, c_out, c_skip=c_skip)


def edm_preconditioning(process: Perturbation, sigma_data: float = 0.5) -> Parameterization:
    """Preconditioning of Karras et al. (2022, table 1), for any alpha.

    With nu = sigma/alpha the noise level of x/alpha,

        D(x) = sigma_data^2/(nu^2 + sigma_data^2) x/alpha + nu sigma_data/sqrt(nu^2 + sigma_data^2)
        F

    and score = (alpha D - x)/sigma^2. The label is log(nu)/4.

    Args:
        process: gives alpha(t) and sigma(t).
        sigma_data: the standard deviation of the data.
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


def exponential(label: Coefficient) -> Coefficient:
    """exp(label): for networks with Fourier features, which take the logarithm themselves."""
    return lambda t: jnp.exp(label(t))


def time_label(t: Time) -> Time:
    """Label 999 t: for continuous VP and sub-VP networks.

    Their positional embeddings are made for 1000 steps.
    """
    return 999 * t


def index_label(t: Time) -> Time:
    """Label i of a chain, 0 the least noise: DDPM."""
    return t


def reversed_index_label(chain: DiscreteChain) -> Coefficient:
    """Label N-1-i of a chain, 0 the largest noise: SMLD, NCSN.

    The published codes recover it from continuous time by round((1-t)(N-1)), which is off by one in
    half of the steps when the grid ends at 1e-3; index time has no such rounding.
    """
    return lambda t: chain.t_max - t
