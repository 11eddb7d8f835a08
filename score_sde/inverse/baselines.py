"""Reconstruction without learning: least squares, total variation, sums over coils."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Int

from score_sde.arrays import left_broadcast
from score_sde.inverse.mri import centred_ifft2
from score_sde.inverse.operators import (
    Operator,
    X,
    Y,
    conjugate_gradients,
    expect,
    inner,
    least_squares,
)

Weight = float | Float[Array, ""] | Float[Array, "b"]
"""One number, or one a sample."""
Dual = Float[Array, "b h w c 2"]
"""One vector a pixel, down and to the right."""

SAFETY = 1.05
"""The power method's |A| may be a little too small; |A|^2 is taken larger by this."""


def cgls(operator: Operator, y: Y, steps: int | Int[Array, ""] = 30, weight: float = 0.0) -> X:
    """argmin |A x - y|^2 + weight |x|^2 by so many steps of conjugate gradients, from 0.

    With weight 0 the residual |A x - y| falls with each step, and few steps keep noise out: those
    that `operator.pinv` takes follow the noise too. For the operator of `multi_coil` it is SENSE
    (Pruessmann et al. 2001).

    Raises:
        ValueError: for a negative weight or steps below 1.
    """
    if weight < 0 or (isinstance(steps, int) and steps < 1):
        raise ValueError(f"cgls takes weight >= 0 and steps >= 1; got {weight} and {steps}")
    y = expect(y, operator.measured, "y")
    if weight == 0:
        return least_squares(operator, y, steps)

    def apply(x):
        return operator.adjoint(operator.forward(x)) + weight * x

    return conjugate_gradients(apply, operator.adjoint(y), steps)


def root_sum_of_squares(kspace: Complex[Array, "b coils h w c"]) -> Float[Array, "b h w c"]:
    """sqrt(sum_i |F^H y_i|^2): the magnitude of zero-filled coil images, which needs no maps."""
    return jnp.sqrt(jnp.sum(jnp.abs(centred_ifft2(kspace)) ** 2, axis=1))


def gradient(x: Float[Array, "b h w c"]) -> Dual:
    """Differences to the next pixel below and to the right, 0 at the last ones."""
    down = jnp.pad(x[:, 1:] - x[:, :-1], ((0, 0), (0, 1), (0, 0), (0, 0)))
    right = jnp.pad(x[:, :, 1:] - x[:, :, :-1], ((0, 0), (0, 0), (0, 1), (0, 0)))
    return jnp.stack([down, right], axis=-1)


def gradient_adjoint(p: Dual) -> Float[Array, "b h w c"]:
    """The transpose of `gradient`, minus the divergence."""
    down, right = p[:, :-1, :, :, 0], p[:, :, :-1, :, 1]
    above = jnp.pad(down, ((0, 0), (1, 0), (0, 0), (0, 0)))
    below = jnp.pad(down, ((0, 0), (0, 1), (0, 0), (0, 0)))
    left = jnp.pad(right, ((0, 0), (0, 0), (1, 0), (0, 0)))
    beside = jnp.pad(right, ((0, 0), (0, 0), (0, 1), (0, 0)))
    return above - below + left - beside


def total_variation(x: Float[Array, "b h w c"]) -> Float[Array, "b"]:
    """The sum over pixels and channels of the length of `gradient`."""
    return jnp.sum(_length(gradient(x)), axis=(1, 2, 3))


def tv_prox(
    x: Float[Array, "b h w c"], weight: Weight, steps: int = 100, start: Dual | None = None
) -> tuple[Float[Array, "b h w c"], Dual]:
    """argmin_u |u - x|^2/2 + weight TV(u), and its dual vectors p of length at most 1.

    u = x - weight D^T p, D the gradient. The gap between this u and the optimum is at most
    `tv_gap`. By `steps` accelerated projected gradient steps for p.

    Args:
        x: images; channels do not mix.
        weight: >= 0.
        steps: how many.
        start: the first p, by default 0.

    Source: Beck & Teboulle (2009), IEEE Transactions on Image Processing 18, algorithm FGP.
    """
    weight = left_broadcast(jnp.broadcast_to(jnp.asarray(weight, x.dtype), x.shape[:1]), x)
    smooth = 8 * jnp.maximum(weight, 1e-30)[..., None]
    zero = jnp.zeros((*x.shape, 2), x.dtype)
    p = zero if start is None else start

    def step(_, state):
        p, ahead, t = state
        slope = gradient(x - weight * gradient_adjoint(ahead))
        raised = ahead + slope / smooth
        new = raised / jnp.maximum(1, _length(raised))[..., None]
        later = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        return new, new + (t - 1) / later * (new - p), later

    p, _, _ = jax.lax.fori_loop(0, steps, step, (p, p, jnp.ones((), x.dtype)))
    return x - weight * gradient_adjoint(p), p


def tv_gap(u: Float[Array, "b h w c"], p: Dual, weight: Weight) -> Float[Array, "b"]:
    """weight sum(|D u| - p . D u) >= 0: by how much u of `tv_prox` may miss the least value."""
    slope = gradient(u)
    rest = _length(slope) - jnp.sum(p * slope, axis=-1)
    return jnp.asarray(weight, u.dtype) * jnp.sum(rest, axis=(1, 2, 3))


def fista_tv(
    operator: Operator,
    y: Y,
    weight: Weight,
    steps: int = 300,
    prox_steps: int = 20,
) -> tuple[X, Float[Array, "steps b"]]:
    """argmin_x |A x - y|^2/2 + weight TV(x), and the objective after each step.

    The objective never rises: a step that would raise it is not taken. The length of a step is
    1/|A|^2. A step applies A and A^T once.

    Args:
        operator: A, of images (h, w, c).
        y: (b, *operator.measured).
        weight: >= 0, in the unit of y^2 over that of x.
        steps: how many.
        prox_steps: of `tv_prox`, which begins where it ended before.

    Source: Beck & Teboulle (2009), as `tv_prox`, algorithm MFISTA.
    """
    y = expect(y, operator.measured, "y")
    scale = SAFETY * operator.norm().astype(y.real.dtype) ** 2
    scale = jnp.broadcast_to(scale, y.shape[:1])
    inner_weight = jnp.asarray(weight, scale.dtype) / scale

    def step(state, _):
        (x, ax, value), (ahead, a_ahead), p, t = state
        down = operator.adjoint(a_ahead - y) / left_broadcast(scale, x)
        z, p = tv_prox(ahead - down, inner_weight, prox_steps, p)
        az = operator.forward(z)
        found = _objective(z, az, y, weight)
        better = found < value
        later = (1 + jnp.sqrt(1 + 4 * t**2)) / 2
        new, a_new = (jnp.where(left_broadcast(better, a), a, b) for a, b in ((z, x), (az, ax)))

        def mix(new, z, old):
            return new + _times(t / later, z - new) + _times((t - 1) / later, new - old)

        moved = mix(new, z, x), mix(a_new, az, ax)
        value = jnp.where(better, found, value)
        return ((new, a_new, value), moved, p, later), value

    x = jnp.zeros((len(y), *operator.event), scale.dtype)
    ax = jnp.zeros_like(y)
    begin = (x, ax, _objective(x, ax, y, weight)), (x, ax), jnp.zeros((*x.shape, 2), x.dtype)
    (best, *_), values = jax.lax.scan(step, (*begin, jnp.ones((), x.dtype)), length=steps)
    return best[0], values


def _objective(x: X, ax: Y, y: Y, weight: Weight) -> Float[Array, "b"]:
    rest = ax - y
    return inner(rest, rest) / 2 + jnp.asarray(weight, x.dtype) * total_variation(x)


def _length(p: Dual) -> Float[Array, "b h w c"]:
    return jnp.sqrt(jnp.sum(p**2, axis=-1))


def _times(factor: Array, v: Array) -> Array:
    return factor.astype(v.dtype) * v
