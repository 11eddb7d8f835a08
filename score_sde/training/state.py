"""What training carries from step to step."""

import flax.struct
from jaxtyping import Array, Int, PyTree


class TrainState(flax.struct.PyTreeNode):
    """Everything a resumed run needs but the data position.

    step: optimizer updates made.
    params: the weights.
    averages: their moving averages, one for each profile of `Trainer.averages`. The first is what
        evaluation and sampling use.
    opt_state: the optimizer's.

    The random key of a step is not state: it is fold_in(key(seed), step).
    """

    step: Int[Array, ""]
    params: PyTree
    averages: tuple[PyTree, ...]
    opt_state: PyTree
