"""Scores of any order by denoising, and the moments of the clean image that they give.

Everything here is one function. The complete Bell polynomial of symmetric tensors a_1, a_2, ... is

    B_k(a_1, ..., a_k) = sum over the partitions of {1, ..., k} of the product of a_|block|.

It turns derivatives of log q into those of q: (grad^k q)/q = B_k(s_1, ..., s_k). The kernel
N(alpha x_0, sigma^2 I) has the scores -z/sigma, -I/sigma^2 and 0, and B_k of them is
(-1)^k He_k(z)/sigma^k with the Hermite polynomials He_k. And moments are B_k of cumulants.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.arrays import Keys, Time, batch_time, left_broadcast
from score_sde.objectives.denoising import Weight
from score_sde.objectives.times import TimeSampler, times_and_noise
from score_sde.sde import Perturbation

ScoreOfOrder = Callable[[Array, Array], Array]
"""(x, t) -> s_k, (batch, D, ..., D) with k axes of length D, or (batch, ...) for elementwise."""

LARGEST, HIGHEST = 32, 8
"""The largest D of full tensors, and the highest order: it has 4140 partitions."""


def partitions(items: tuple[int, ...]) -> Iterator[list[tuple[int, ...]]]:
    """All partitions of a set into blocks."""
    if not items:
        yield []
        return
    head, rest = items[0], items[1:]
    for chosen in range(2 ** len(rest)):
        block = tuple(one for i, one in enumerate(rest) if chosen >> i & 1)
        for others in partitions(tuple(one for one in rest if one not in block)):
            yield [(head, *block), *others]


def bell(tensors: Sequence[Float[Array, "batch ..."]]) -> Float[Array, "batch ..."]:
    """B_k(a_1, ..., a_k) of symmetric tensors a_j (batch, D, ..., D) with j axes of length D.

    B_1 = a_1, B_2 = a_2 + a_1 a_1^T, B_3 = a_3 + 3 sym(a_2 x a_1) + a_1 x a_1 x a_1 (theorem 4.3).

    Raises:
        ValueError: no tensor, or an a_j with another number of axes.
    """
    _check_order(len(tensors))
    for j, tensor in enumerate(tensors, 1):
        if tensor.ndim != 1 + j:
            raise ValueError(
                f"tensor {j} must have a batch axis and {j} axes; got shape {tensor.shape}"
            )
    letters, total = "abcdefgh", jnp.zeros_like(tensors[-1])
    for blocks in partitions(tuple(range(len(tensors)))):
        parts = ["z" + "".join(letters[i] for i in block) for block in blocks]
        formula = f"{','.join(parts)}->z{letters[: len(tensors)]}"
        total = total + jnp.einsum(formula, *(tensors[len(block) - 1] for block in blocks))
    return total


def elementwise_bell(arrays: Sequence[Float[Array, "..."]]) -> Float[Array, "..."]:
    """B_k of numbers, entry by entry: B_(n+1) = sum_i binomial(n, i) B_(n-i) a_(i+1), B_0 = 1.

    The entries (i, i, ..., i) of `bell`, from those of its tensors.
    """
    _check_order(len(arrays))
    made = [jnp.ones_like(arrays[0])]
    for n in range(len(arrays)):
        terms = (math.comb(n, i) * made[n - i] * arrays[i] for i in range(n + 1))
        made.append(sum(terms, jnp.zeros_like(arrays[0])))
    return made[-1]


def posterior_cumulants(
    process: Perturbation,
    x: Float[Array, "batch d"],
    t: Time,
    scores: Sequence[Float[Array, "batch ..."]],
) -> list[Float[Array, "batch ..."]]:
    """Cumulants 1, ..., k of x_0 given x_t = x, from s_1, ..., s_k.

    (x + sigma^2 s_1)/alpha, then sigma^2/alpha^2 (I + sigma^2 s_2), then (sigma^2/alpha)^j s_j for
    j >= 3: alpha x_0/sigma^2 is the natural parameter of the kernel, and its cumulant function has
    the derivatives s_1 + x/sigma^2, s_2 + I/sigma^2, s_3, ... (proof of theorem 4.1).
    """
    alpha, sigma = process.marginal(batch_time(t, x))
    made = []
    for j, score in enumerate(scores, 1):
        term = left_broadcast((sigma**2 / alpha) ** j, score) * score
        if j == 1:
            term = term + left_broadcast(1 / alpha, x) * x
        elif j == 2:
            unit = jnp.eye(x.shape[1], dtype=x.dtype)[None]
            term = term + left_broadcast((sigma / alpha) ** 2, score) * unit
        made.append(term)
    return made


def posterior_moment(
    process: Perturbation,
    x: Float[Array, "batch d"],
    t: Time,
    scores: Sequence[Float[Array, "batch ..."]],
) -> Float[Array, "batch ..."]:
    """E[x_0 x ... x x_0 | x_t = x], the k-fold tensor product, from s_1, ..., s_k.

    It is f_k of theorem 4.3 for any alpha, in closed form: `bell` of the cumulants. The recursion
    of lemma A.6 gives the same.
    """
    return bell(posterior_cumulants(process, x, t, scores))


@dataclasses.dataclass(frozen=True)
class HighOrderDenoising:
    """lambda(t) |B_k(s_1, ..., s_k)(x_t) - (-1)^k He_k(z)/sigma^k|^2: learns s_k (theorem 4.4).

    The target's mean given x_t is (grad^k p_t)/p_t. So where s_1, ..., s_(k-1) are true, the least
    mean is at the true s_k. For k = 1 it is denoising score matching, for k = 2 eq. 4.13. No
    gradient goes through the lower orders.

    Args:
        process, times, weight: as in `SecondOrderDenoising`; sigma^(2k) is a weight without units.
        order: k in [1, 8].
        elementwise: the entries (i, ..., i) alone, by polynomials of one variable, for samples of
            any shape. Else full tensors, for vectors of at most 32 entries.

    Raises:
        ValueError: an order outside [1, 8]; when called, another number of scores, or full tensors
            of samples that are no vectors of at most 32 entries.
    """

    process: Perturbation
    times: TimeSampler
    weight: Weight
    order: int
    elementwise: bool = False

    def __post_init__(self):
        _check_order(self.order)

    def __call__(
        self, keys: Keys, scores: tuple[ScoreOfOrder, ...], x0: Float[Array, "batch ..."]
    ) -> Float[Array, "batch"]:
        """Loss of each example at a random time and noise; scores: s_1, ..., s_k as functions."""
        t, w, z = times_and_noise(self.times, keys, x0)
        return w * self.at(scores, x0, t, z)

    def at(
        self,
        scores: tuple[ScoreOfOrder, ...],
        x0: Float[Array, "batch ..."],
        t: Float[Array, "batch"],
        z: Float[Array, "batch ..."],
    ) -> Float[Array, "batch"]:
        """Loss of each example at times t with noise z, without the factor w."""
        self._check(scores, x0)
        sigma = self.process.marginal(t)[1]
        x = self.process.perturb(x0, t, z)
        values = [jax.lax.stop_gradient(score(x, t)) for score in scores[:-1]]
        values.append(scores[-1](x, t))
        # Both sides times sigma^k, since B_k(sigma a_1, ..., sigma^k a_k) = sigma^k B_k.
        values = [left_broadcast(sigma**j, value) * value for j, value in enumerate(values, 1)]
        polynomial = elementwise_bell if self.elementwise else bell
        error = polynomial(values) - polynomial(self._kernel(z))
        squares = jnp.sum((error**2).reshape(len(x0), -1), axis=1)
        return self.weight(t) / sigma ** (2 * self.order) * squares

    def _kernel(self, z: Float[Array, "batch ..."]) -> list[Float[Array, "batch ..."]]:
        """Scores of the kernel times sigma^j: -z, -I, 0, ..."""
        made = [-z]
        for j in range(2, self.order + 1):
            if self.elementwise:
                made.append(jnp.full_like(z, -1.0 if j == 2 else 0.0))
            elif j == 2:
                unit = jnp.eye(z.shape[1], dtype=z.dtype)[None]
                made.append(jnp.broadcast_to(-unit, (len(z), *unit.shape[1:])))
            else:
                made.append(jnp.zeros((len(z), *z.shape[1:] * j), z.dtype))
        return made

    def _check(self, scores, x0) -> None:
        if len(scores) != self.order:
            raise ValueError(f"order {self.order} takes {self.order} scores; got {len(scores)}")
        if not self.elementwise and (x0.ndim != 2 or x0.shape[1] > LARGEST):
            raise ValueError(
                f"full tensors are for vectors of at most {LARGEST} entries; got samples of shape "
                f"{x0.shape[1:]}; take elementwise=True"
            )


def _check_order(k: int) -> None:
    if not 1 <= k <= HIGHEST:
        raise ValueError(f"the order must be in [1, {HIGHEST}]; got {k}")
