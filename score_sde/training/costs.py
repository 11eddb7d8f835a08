"""What a training step will cost, from shapes or from the compiled program: nothing is run."""

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from score_sde.arrays import sample_keys
from score_sde.data import Batch
from score_sde.training.step import ScoreMatching, Trainer, mean_loss


def count(tree: PyTree) -> int:
    """Number of array entries."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def count_bytes(tree: PyTree) -> int:
    """Bytes of all arrays."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def estimate(
    trainer: Trainer, task: ScoreMatching, shape: tuple[int, int, int], batch_size: int
) -> dict[str, Any]:
    """Costs of training a score model on a batch of one device.

    Returns:
        parameters: number of weights.
        state_bytes: weights, moving averages and optimizer.
        activation_bytes: what the forward pass keeps for the backward pass. It is an upper bound:
            the compiler may compute some again.
        forward_flops: one network evaluation on one image, as XLA counts them before optimizing.
        step_flops: three times that, for the batch.
    """
    state = trainer.like(task, shape)

    def residuals(params, batch):
        keys = sample_keys(jax.random.key(0), jnp.asarray(batch.index))
        return jax.vjp(lambda params: mean_loss(params, task, keys, batch), params)[1]

    def forward(params, batch):
        return task.model.score_fn(params, batch.given)(batch.image, jnp.full((1,), 0.5))

    one, two = (_shapes(n, shape, task.model.given) for n in (1, 2))
    # What does not grow with the batch are weights.
    kept = [count_bytes(jax.eval_shape(residuals, state.params, batch)) for batch in (one, two)]
    analysis: Any = jax.jit(forward).lower(state.params, one).cost_analysis()
    flops = analysis["flops"]
    return {
        "parameters": count(state.params),
        "state_bytes": count_bytes(state),
        "activation_bytes": batch_size * (kept[1] - kept[0]),
        "forward_flops": flops,
        "step_flops": 3 * flops * batch_size,
    }


def _shapes(n: int, shape: tuple[int, int, int], given: Any) -> Batch:
    """A batch of n examples, as shapes."""
    number = jax.ShapeDtypeStruct((n,), jnp.int32)
    rows: Any = jax.tree.map(lambda a: jax.ShapeDtypeStruct((n, *a.shape), a.dtype), given)
    image: Any = jax.ShapeDtypeStruct((n, *shape), jnp.float32)
    return Batch(image, number, number, rows)  # type: ignore[arg-type]


_COLLECTIVE = re.compile(
    r"= (.*?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\("
)


def sent_bytes(program: str) -> int:
    """Bytes of the arrays that the collective operations of a compiled program make.

    They are counted on one device: what an all-reduce or an all-gather gives out, and what goes
    into a reduce-scatter.

    Args:
        program: `compiled.as_text()`.
    """
    total = 0
    for line in program.splitlines():
        found = _COLLECTIVE.search(line)
        if not found:
            continue
        result, name, started = found.groups()
        arrays = re.findall(r"\b[a-z]+(\d+)\[([\d,]*)\]", result)
        if started and name == "all-gather":
            arrays = arrays[len(arrays) // 2 :]  # what goes in comes first
        entries = [math.prod(map(int, filter(None, shape.split(",")))) for _, shape in arrays]
        size = sum(int(bits) * n for (bits, _), n in zip(arrays, entries, strict=True)) // 8
        total += size * (_group_size(line) if name == "reduce-scatter" else 1)
    return total


def _group_size(line: str) -> int:
    """Devices of a group, of {{0,1},{2,3}}, [2,2]<=[4] or mesh['data'=2,'fsdp'=2] {'fsdp'}."""
    axes = re.search(r"replica_groups=mesh\[(.*?)\] \{(.*?)\}", line)
    if axes:
        sizes = dict(axis.split("=") for axis in axes[1].split(","))
        return math.prod(int(sizes[axis]) for axis in axes[2].split(","))
    short = re.search(r"replica_groups=\[\d+,(\d+)\]", line)
    if short:
        return int(short[1])
    first = re.search(r"replica_groups=\{\{([\d,]*)\}", line)
    assert first, line
    return first[1].count(",") + 1
