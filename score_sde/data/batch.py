"""What training receives: images, their labels and numbers, and what else is known of them."""

from typing import Any, NamedTuple

from jaxtyping import Float32, Int32


class Batch(NamedTuple):
    """Some examples, as a pytree: the pipeline makes it of numpy arrays, a task receives it whole.

    For several training steps in one call, several batches are stacked along a leading axis.

    image: float32 (batch, height, width, channels), in the pixel range.
    label: int32 (batch,), the class.
    index: int32 (batch,), the number of the example in its source.
    given: what a conditional model is given of each example, such as measurements or masks:
        a pytree of arrays with one row an example. `()` is nothing.
    """

    image: Float32[Any, "batch height width channels"]
    label: Int32[Any, "batch"]
    index: Int32[Any, "batch"]  # type: ignore[assignment]
    given: Any = ()
