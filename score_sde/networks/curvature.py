"""Layered networks, and two baselines that estimate the diagonal of their Hessian.

A network here is a tuple of layers, each a pytree that maps a vector to a vector; the last one has
one entry. Both baselines pass through the layers from the output to the input, once:

- approximate back-propagation keeps the diagonal of the Hessian after each layer alone. It is exact
  for one hidden layer, and wrong for more: the off-diagonal entries that it drops matter. The
  dissertation finds losses of exact score matching above 10^9 with it.
- curvature propagation is unbiased. Its variance grows with the depth.

They are for comparison with sliced score matching, which is unbiased and takes any network. They
are not offered for networks of images. One vector is passed at a time; `jax.vmap` does batches.

Source: LeCun 1993 and Kingma & LeCun 2010 (approximate back-propagation); Martens et al. 2012
(curvature propagation); Song 2022 (dissertation), section 3.4 and appendix B.1.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

Vector = Float[Array, "n"]
Parts = Float[Array, "2 n"]
"""Real and imaginary part of a complex vector."""


@runtime_checkable
class Layer(Protocol):
    """A map y = F(x) of vectors, with what both baselines need of it.

    g = d f/dy is the gradient of the network's output f with respect to y.
    """

    def __call__(self, x: Vector) -> Float[Array, "m"]:
        """F(x)."""
        ...

    def back(self, x: Vector, g: Float[Array, "m"], h: Float[Array, "m"]) -> tuple[Vector, Vector]:
        """(g, h) at x from those at y, h standing for the diagonal of the Hessian."""
        ...

    def propagate(
        self, key: Key[Array, ""], x: Vector, g: Float[Array, "m"], s: Float[Array, "2 m"]
    ) -> tuple[Vector, Parts]:
        """(g, S) at x from those at y: S = J^T S plus noise whose square has the mean g . F''."""
        ...


class Linear(flax.struct.PyTreeNode):
    """weight x + bias, with weight (m, n) and bias (m,) or None."""

    weight: Array
    bias: Array | None = None

    def __call__(self, x):
        y = self.weight @ x
        return y if self.bias is None else y + self.bias

    def back(self, x, g, h):
        return self.weight.T @ g, (self.weight**2).T @ h

    def propagate(self, key, x, g, s):
        return self.weight.T @ g, s @ self.weight


class Elementwise(flax.struct.PyTreeNode):
    """f(x_i) of each entry; f is a smooth function of a number, say `jax.nn.softplus`."""

    function: Callable[[Array], Array] = flax.struct.field(pytree_node=False)

    def __call__(self, x):
        return jax.vmap(self.function)(x)

    def _derivatives(self, x):
        first = jax.grad(self.function)
        return jax.vmap(first)(x), jax.vmap(jax.grad(first))(x)

    def back(self, x, g, h):
        first, second = self._derivatives(x)
        return first * g, second * g + first**2 * h

    def propagate(self, key, x, g, s):
        first, second = self._derivatives(x)
        return first * g, first[None] * s + _noise(key, second * g)


class Scale(flax.struct.PyTreeNode):
    """exp(log_scale_i) x_i."""

    log_scale: Array

    def __call__(self, x):
        return jnp.exp(self.log_scale) * x

    def back(self, x, g, h):
        factor = jnp.exp(self.log_scale)
        return factor * g, factor**2 * h

    def propagate(self, key, x, g, s):
        factor = jnp.exp(self.log_scale)
        return factor * g, factor[None] * s


class Skip(flax.struct.PyTreeNode):
    """layers(x) + weight x."""

    layers: tuple
    weight: Array

    def __call__(self, x):
        return evaluate(self.layers, x) + self.weight @ x

    def back(self, x, g, h):
        (ga, ha), (gb, hb) = back(self.layers, x, g, h), Linear(self.weight).back(x, g, h)
        return ga + gb, ha + hb

    def propagate(self, key, x, g, s):
        ga, sa = _propagate(self.layers, key, x, g, s)
        gb, sb = Linear(self.weight).propagate(key, x, g, s)
        return ga + gb, sa + sb


class Coupling(flax.struct.PyTreeNode):
    """Additive coupling: entries of one parity are shifted by a network of the others.

    Entries 0, 2, ... stay and 1, 3, ... are shifted, or the reverse with `odd_stay`.
    """

    layers: tuple
    odd_stay: bool = flax.struct.field(pytree_node=False, default=False)

    def _split(self, x):
        even, odd = x[..., ::2], x[..., 1::2]
        return (odd, even) if self.odd_stay else (even, odd)

    def _join(self, stay, shifted):
        even, odd = (shifted, stay) if self.odd_stay else (stay, shifted)
        joined = jnp.zeros((*even.shape[:-1], even.shape[-1] + odd.shape[-1]), even.dtype)
        return joined.at[..., ::2].set(even).at[..., 1::2].set(odd)

    def __call__(self, x):
        stay, shifted = self._split(x)
        return self._join(stay, shifted + evaluate(self.layers, stay))

    def inverse(self, y):
        """The x with F(x) = y."""
        stay, shifted = self._split(y)
        return self._join(stay, shifted - evaluate(self.layers, stay))

    def back(self, x, g, h):
        stay, _ = self._split(x)
        (ga, gb), (ha, hb) = self._split(g), self._split(h)
        extra_g, extra_h = back(self.layers, stay, gb, hb)
        return self._join(ga + extra_g, gb), self._join(ha + extra_h, hb)

    def propagate(self, key, x, g, s):
        stay, _ = self._split(x)
        (ga, gb), (sa, sb) = self._split(g), self._split(s)
        extra_g, extra_s = _propagate(self.layers, key, stay, gb, sb)
        return self._join(ga + extra_g, gb), self._join(sa + extra_s, sb)


class GaussianBump(flax.struct.PyTreeNode):
    """exp(-|x - centre|^2/(2 width^2)), one entry: the last layer of a kernel."""

    centre: Array
    width: Array

    def __call__(self, x):
        return jnp.exp(-0.5 * jnp.sum((x - self.centre) ** 2) / self.width**2)[None]

    def _derivatives(self, x):
        return self(x), -(x - self.centre) / self.width**2

    def back(self, x, g, h):
        value, slope = self._derivatives(x)
        first = value * slope
        return first * g, value * (slope**2 - 1 / self.width**2) * g + first**2 * h

    def propagate(self, key, x, g, s):
        value, slope = self._derivatives(x)
        outer, inner = jax.random.split(key)
        through = value[None] * s + _noise(outer, value * g)  # S at the exponent
        curved = jnp.broadcast_to(-value * g / self.width**2, x.shape)
        return value * slope * g, through * slope[None] + _noise(inner, curved)


def evaluate(layers: Sequence[Layer], x: Vector) -> Float[Array, "m"]:
    """The last layer's output."""
    for layer in layers:
        x = layer(x)
    return x


def approximate_backpropagation(layers: Sequence[Layer], x: Vector) -> tuple[Vector, Vector]:
    """(gradient, estimate of the Hessian's diagonal) at x of a network with one output.

    (g, h) starts at (1, 0). A linear map W takes it to (W^T g, (W^2)^T h), where W^2 is entry by
    entry, an elementwise f to (f' g, f'' g + f'^2 h). The gradient is exact; the diagonal is so for
    one layer with f'' alone.
    """
    one = jnp.ones((1,), x.dtype)
    return back(layers, x, one, 0 * one)


def curvature_propagation(
    key: Key[Array, ""], layers: Sequence[Layer], x: Vector
) -> tuple[Vector, Vector]:
    """(gradient, unbiased estimate of the Hessian's diagonal) at x of a network with one output.

    S starts at 0. A linear map takes it to W^T S, an elementwise f to f' S + sqrt(f'' g) v, with
    signs v and complex roots. Then E[S S^T] is the Hessian, and the estimate is the real part of
    S^2.
    """
    one = jnp.ones((1,), x.dtype)
    gradient, s = _propagate(layers, key, x, one, jnp.zeros((2, 1), x.dtype))
    return gradient, s[0] ** 2 - s[1] ** 2


def _inputs(layers, x):
    inputs = []
    for layer in layers:
        inputs.append(x)
        x = layer(x)
    return inputs


def back(
    layers: Sequence[Layer], x: Vector, g: Float[Array, "m"], h: Float[Array, "m"]
) -> tuple[Vector, Vector]:
    """(g, h) at the input x of layers from those at their output; linear in (g, h)."""
    for layer, entry in reversed(list(zip(layers, _inputs(layers, x), strict=True))):
        g, h = layer.back(entry, g, h)
    return g, h


def _propagate(layers, key, x, g, s):
    keys = jax.random.split(key, len(layers))
    for layer, entry, one in reversed(list(zip(layers, _inputs(layers, x), keys, strict=True))):
        g, s = layer.propagate(one, entry, g, s)
    return g, s


def _noise(key, square):
    """sqrt(square) v with signs v, as real and imaginary part."""
    signs = jax.random.rademacher(key, square.shape, square.dtype)
    return jnp.stack([_root(square), _root(-square)]) * signs[None]


def _root(x):
    """sqrt(max(x, 0)), with the derivative 0 where x <= 0."""
    inside = x > 0
    return jnp.where(inside, jnp.sqrt(jnp.where(inside, x, 1)), 0)


def perceptron(
    key: Key[Array, ""],
    widths: Sequence[int],
    activation: Callable[[Array], Array] = jax.nn.softplus,
    scale: float = 1.0,
) -> tuple[Layer, ...]:
    """Linear maps between vectors of these widths, with an activation in between.

    Weights are N(0, scale/n) for n inputs, biases 0.
    """
    layers: list[Layer] = []
    for i, (n, m) in enumerate(itertools.pairwise(widths)):
        weight = jax.random.normal(jax.random.fold_in(key, i), (m, n)) * (scale / n) ** 0.5
        layers += [Linear(weight, jnp.zeros((m,))), Elementwise(activation)]
    return tuple(layers[:-1])
