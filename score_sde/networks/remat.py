"""What the backward pass stores of the forward pass, and what it computes again."""

from typing import Any, Literal

import flax.linen as nn

Kept = Literal["nothing", "products"]
"""What of a block is stored although it is computed again: nothing, or convolutions and products
of matrices, so that only what is cheap is computed again."""
_PRODUCTS = ("conv_general_dilated", "convolve_3x3", "dot_general")


def rematerialized(block: Any, keep: Kept, static: tuple[int, ...] = ()) -> Any:
    """The block, but its inside is computed again in the backward pass instead of being stored.

    Args:
        block: a module.
        keep: what is stored all the same.
        static: positions of its arguments that are no arrays, counting self.
    """

    def stored(primitive: Any, *_: Any, **__: Any) -> bool:
        return primitive.name in _PRODUCTS

    return nn.remat(block, policy=stored if keep == "products" else None, static_argnums=static)
