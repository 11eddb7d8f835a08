"""Second-order denoising score matching: s2, the Hessian of log p_t, from noise alone."""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import Keys, ScoreFn, left_broadcast
from score_sde.curvature import Curvature, CurvatureFn, LowRank
from score_sde.objectives.denoising import DenoisingScoreMatching, Weight
from score_sde.objectives.times import TimeSampler, times_and_noise
from score_sde.sde import Perturbation

Models = tuple[ScoreFn, CurvatureFn]
"""(score_fn, curvature_fn): s1 and s2."""
Draw = tuple[Float[Array, "batch"], Float[Array, "batch"], Float[Array, "batch ..."]]


def curvature_weight(process: Perturbation) -> Weight:
    """lambda(t) = sigma(t)^4/2: errors of sigma^2 s2 count alike at all noise levels."""
    return lambda t: 0.5 * process.marginal(t)[1] ** 4


@dataclasses.dataclass(frozen=True)
class SecondOrderDenoising:
    """lambda(t) |psi(x_t) + (I - z z^T)/sigma^2|_F^2 with psi = s2 + s1 s1^T (eq. 4.13).

    Here x_t = alpha x_0 + sigma z. psi is (grad^2 p_t)/p_t, and the target is minus its mean given
    x_t. So with the true s1 the least mean is at the true s2 (theorem 4.2). With s1 + d in place of
    the true s1 it is at s2 - s1 d^T - d s1^T - d d^T. As |s1| is about sqrt(D)/sigma, a small error
    of the score becomes a large one of s2. target="residual" takes

        lambda(t) |s2 + I/sigma^2 - r r^T/sigma^2|_F^2,  r = z + sigma s1

    instead. Its least mean is at s2 + d d^T, so that I + sigma^2 s2 is the mean of r r^T, which
    is the squared error of the denoised image, whatever the score is. (Bao et al. 2022, "Estimating
    the Optimal Covariance with Imperfect Mean in Diffusion Probabilistic Models", have it for the
    diagonal.)

    Args:
        process: the perturbation.
        times: time sampler; its w multiplies the loss.
        weight: lambda, as `curvature_weight(process)`.
        form: how the loss is computed.

            "lowrank"   all entries, in O(D r^2) without a D x D array; s2 must be a `LowRank`.
            "full"      all entries, by D x D arrays; s2 may be any `Curvature`.
            "diagonal"  the diagonal entries alone (eq. 4.17): it tells nothing of the others.

        variance_reduced: antithetic sampling (section 4.4.3), with the centre x_c = alpha x_0 and
            x_- = x_c - sigma z:

            lambda [(|psi(x_t)|^2 + |psi(x_-)|^2)/2 + <I - z z^T, psi(x_t) + psi(x_-) -
            2 psi(x_c)>/sigma^2 + c/sigma^4].

            c = D^2 + D, or 2 D for the diagonal, is the mean of |I - z z^T|^2. So the mean is that
            of the plain loss, and half of the published one, which is not averaged over the pair
            and lacks c. The variance stays finite as sigma goes to 0, where the plain loss has
            1/sigma^4. It takes three evaluations of each model.
            With residuals it is the plain loss plus a term of the mean 0, <I - z z^T, s2(x_c)>.
        detach_first: no gradient goes through s1. Published codes let it through.
        target: "noise" as published, or "residual".

    Raises:
        ValueError: an unknown form or target; when called, "lowrank" with another kind of s2, or
            "full" with a `LowRank` of more than 1024 dimensions.
    """

    process: Perturbation
    times: TimeSampler
    weight: Weight
    form: Literal["lowrank", "full", "diagonal"] = "lowrank"
    variance_reduced: bool = False
    detach_first: bool = True
    target: Literal["noise", "residual"] = "noise"

    def __post_init__(self):
        if self.form not in ("lowrank", "full", "diagonal"):
            raise ValueError(f"form must be 'lowrank', 'full' or 'diagonal'; got {self.form!r}")
        if self.target not in ("noise", "residual"):
            raise ValueError(f"target must be 'noise' or 'residual'; got {self.target!r}")

    def __call__(
        self, keys: Keys, models: Models, x0: Float[Array, "batch ..."]
    ) -> Float[Array, "batch"]:
        """Loss of each example at a random time and noise; keys: one, or one for each example."""
        t, w, z = self.draw(keys, x0)
        return w * self.at(models, x0, t, z)

    def draw(self, keys: Keys, x0: Float[Array, "batch ..."]) -> Draw:
        """(t, w, z): random times, their weights, and noise, as `DenoisingScoreMatching`."""
        return times_and_noise(self.times, keys, x0)

    def at(
        self,
        models: Models,
        x0: Float[Array, "batch ..."],
        t: Float[Array, "batch"],
        z: Float[Array, "batch ..."],
    ) -> Float[Array, "batch"]:
        """Loss of each example at times t with noise z, without the factor w.

        It is computed as lambda/sigma^4 |sigma^2 psi + I - z z^T|^2; with residuals psi is s2.
        """
        sigma, d = self.process.marginal(t)[1], math.prod(x0.shape[1:])
        flat, residual = z.reshape(len(z), -1), self.target == "residual"

        def terms(sign):
            """At alpha x_0 + sign sigma z: |psi|^2, <I - r r^T, psi> and |I - r r^T|^2."""
            x = self.process.perturb(x0, t, sign * z)
            score = models[0](x, t)
            score = jax.lax.stop_gradient(score) if self.detach_first else score
            score = (left_broadcast(sigma, x) * score).reshape(len(x), -1)
            r = sign * flat + score if residual and sign else flat
            first = jnp.zeros_like(score) if residual else score
            s2 = models[1](x, t).affine(sigma**2, 0 * sigma)
            return *self._terms(s2, first, r), self._target_square(r)

        square, pairing, constant = terms(1)
        if self.variance_reduced:
            other_square, other_pairing, other_constant = terms(-1)
            centre_pairing = terms(0)[1]
            loss = 0.5 * (square + other_square) + pairing + other_pairing - 2 * centre_pairing
            mean = 2 * d if self.form == "diagonal" else d * (d + 1)
            loss = loss + (0.5 * (constant + other_constant) if residual else mean)
        else:
            loss = square + 2 * pairing + constant
        return self.weight(t) / sigma**4 * loss

    def _terms(
        self, s2: Curvature, s1: Float[Array, "batch d"], z: Float[Array, "batch d"]
    ) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
        """|psi|^2 and <I - z z^T, psi> of psi = s2 + s1 s1^T, both times powers of sigma."""
        if self.form == "diagonal":
            psi = s2.diagonal.reshape(len(z), -1) + s1**2
            return jnp.sum(psi**2, axis=1), jnp.sum(psi * (1 - z**2), axis=1)
        if self.form == "full":
            matrix = s2.dense() + s1[:, :, None] * s1[:, None, :]
            trace, along = jnp.einsum("bii->b", matrix), jnp.einsum("bi,bij,bj->b", z, matrix, z)
            return jnp.sum(matrix**2, axis=(1, 2)), trace - along
        if not isinstance(s2, LowRank):
            raise ValueError(
                f"form 'lowrank' takes second-order scores of the kind LowRank; got "
                f"{type(s2).__name__}; take form='full'"
            )
        # psi = diag(a) + P P^T, so |psi|^2 = |a|^2 + 2 sum_i a_i |P_i|^2 + |P^T P|^2.
        a = s2.diagonal_part.reshape(len(z), -1)
        p = jnp.concatenate([s2.columns(), s1[:, :, None]], axis=2)
        rows = jnp.sum(p**2, axis=2)
        gram = jnp.einsum("bdr,bds->brs", p, p)
        square = jnp.sum(a**2 + 2 * a * rows, axis=1) + jnp.sum(gram**2, axis=(1, 2))
        trace = jnp.sum(a + rows, axis=1)
        along = jnp.sum(a * z**2, axis=1) + jnp.sum(jnp.einsum("bdr,bd->br", p, z) ** 2, axis=1)
        return square, trace - along

    def _target_square(self, z: Float[Array, "batch d"]) -> Float[Array, "batch"]:
        """|I - z z^T|^2, or that of the diagonal: what no model changes."""
        if self.form == "diagonal":
            return jnp.sum((1 - z**2) ** 2, axis=1)
        length = jnp.sum(z**2, axis=1)
        return z.shape[1] - 2 * length + length**2


@dataclasses.dataclass(frozen=True)
class JointDenoising:
    """L2 + gamma(t) L1: both orders at once, at the same times and noise (eq. 4.14 to 4.16).

    With the weight 1, reduce "sum" in `first` and the weight 1 in `second` it is eq. 4.15. Where
    `second.detach_first` holds, s1 learns from L1 alone, and s2 as if s1 were frozen.
    To keep a trained s1 as it is, use `second` alone.

    Args:
        first: L1. Its times and process must be those of `second`.
        second: L2; its times are used for both.
        gamma: a number > 0. For a factor of the noise level put it in the weight of `first`.

    Raises:
        ValueError: a gamma that is not positive, or two processes or time samplers.
    """

    first: DenoisingScoreMatching
    second: SecondOrderDenoising
    gamma: float = 1.0

    def __post_init__(self):
        if not self.gamma > 0:
            raise ValueError(
                f"gamma must be positive; got {self.gamma}; for a frozen s1 use the second alone"
            )
        if (self.first.process, self.first.times) != (self.second.process, self.second.times):
            raise ValueError(
                "both orders must have one process and one time sampler; got "
                f"{self.first.process}, {self.first.times} and "
                f"{self.second.process}, {self.second.times}"
            )

    def __call__(
        self, keys: Keys, models: Models, x0: Float[Array, "batch ..."]
    ) -> Float[Array, "batch"]:
        """Loss of each example at a random time and noise; keys: one, or one for each example."""
        t, w, z = self.draw(keys, x0)
        return w * self.at(models, x0, t, z)

    def draw(self, keys: Keys, x0: Float[Array, "batch ..."]) -> Draw:
        """(t, w, z) for both parts."""
        return self.second.draw(keys, x0)

    def at(
        self,
        models: Models,
        x0: Float[Array, "batch ..."],
        t: Float[Array, "batch"],
        z: Float[Array, "batch ..."],
    ) -> Float[Array, "batch"]:
        """L2 + gamma L1 of each example, without the factor w."""
        first, second = self.parts(models, x0, t, z)
        return second + self.gamma * first

    def parts(
        self,
        models: Models,
        x0: Float[Array, "batch ..."],
        t: Float[Array, "batch"],
        z: Float[Array, "batch ..."],
    ) -> tuple[Float[Array, "batch"], Float[Array, "batch"]]:
        """(L1, L2) of each example, without gamma and w: the metrics of the two orders."""
        return self.first.at(models[0], x0, t, z), self.second.at(models, x0, t, z)
