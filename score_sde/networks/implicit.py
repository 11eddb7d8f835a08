"""Networks of implicit models: encoders that take noise, decoders, scores of codes."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.errors import UserError


class TanhMLP(nn.Module):
    """Multilayer perceptron with tanh of several inputs side by side.

    h = tanh(b + sum_k W_k input_k), then linear maps with tanh in between; the last is linear. W
    is one matrix of the concatenated inputs, so for one input it is an ordinary perceptron.

    Leading axes broadcast: an input (batch, 1, n) goes with noise (batch, codes, m), and its part
    of the first map is computed once for all codes.

    Args (call):
        inputs: at least one, (..., features), leading axes of one rank that broadcast.
    Returns:
        (..., out).
    Raises:
        UserError: for fewer than one linear map, or no input.
    Source: Song 2022 (dissertation), table B.5: an implicit encoder takes (x, noise), a decoder z,
        the score of codes (z, x), or z alone for the aggregated posterior.
    """

    out: int
    """Numbers that come out."""
    hidden: int = 256
    """Units of each layer but the last."""
    depth: int = 3
    """Number of linear maps."""

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise UserError(
                f"TanhMLP: depth, the number of linear maps, must be 1 or more; got {self.depth}"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, *inputs: Float[Array, "... _"]) -> Float[Array, "... out"]:
        if not inputs:
            raise UserError("TanhMLP: there must be at least one input; got none")
        widths = [a.shape[-1] for a in inputs]
        units = [self.hidden] * (self.depth - 1) + [self.out]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (sum(widths), units[0]))
        bias = self.param("bias", nn.initializers.zeros, (units[0],))
        ends = [sum(widths[: i + 1]) for i in range(len(widths))]
        parts = [
            a @ kernel[end - width : end].astype(a.dtype)
            for a, width, end in zip(inputs, widths, ends, strict=True)
        ]
        h = sum(parts[1:], parts[0])
        h = h + bias.astype(h.dtype).reshape((1,) * (h.ndim - 1) + (-1,))
        for i, width in enumerate(units[1:], 1):
            h = nn.Dense(width, dtype=h.dtype, name=f"dense_{i}")(jnp.tanh(h))
        return h
