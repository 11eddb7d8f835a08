"""Estimates of what a training step costs, against counts by hand."""

import jax
import numpy as np
from training.tiny import SHAPE, task, trainer

from score_sde.training import costs
from score_sde.training.ema import Average

PARAMETERS = 17 * 32 + 32 + 32 * 16 + 16
"""Two dense layers: 16 pixels and the label -> 32 -> 16 pixels."""


def test_counts() -> None:
    tree = {
        "a": np.zeros((3, 4), np.float32),
        "b": [np.zeros((), np.int32), np.zeros(5, np.float16)],
    }
    assert costs.count(tree) == 18
    assert costs.count_bytes(tree) == 48 + 4 + 10


def test_estimate_of_a_dense_network() -> None:
    small = trainer()
    one, four = (costs.estimate(small, task(), SHAPE, batch) for batch in (1, 4))
    assert one["parameters"] == PARAMETERS
    # weights, their average and momentum in float32, and the step
    assert one["state_bytes"] == 3 * 4 * PARAMETERS + 4
    assert one["state_bytes"] == costs.count_bytes(small.init(task(), jax.random.key(0), SHAPE))
    products = 2 * (17 * 32 + 32 * 16)
    assert products <= one["forward_flops"] <= 1.5 * products
    assert four["forward_flops"] == one["forward_flops"]
    assert four["step_flops"] == 3 * 4 * one["forward_flops"]
    # at least the hidden layer before and after its activation and the input are kept, and not much
    # more
    assert 4 * (2 * 32 + 17) <= one["activation_bytes"] <= 4 * 4 * (2 * 32 + 17)
    assert four["activation_bytes"] == 4 * one["activation_bytes"]


def test_every_average_and_dropout_are_counted() -> None:
    two = trainer(averages=(Average(0.9), Average(0.99)))
    found = costs.estimate(two, task(dropout=0.5), SHAPE, 4)
    assert found["state_bytes"] == 4 * 4 * PARAMETERS + 4
    assert found["activation_bytes"] > costs.estimate(two, task(), SHAPE, 4)["activation_bytes"]


def test_bytes_of_collective_operations_are_read_off_the_program() -> None:
    lines = [
        "%a = f32[10,4]{1,0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add",
        "%b = (f32[3]{0}, bf16[5]{0}) all-reduce(%x, %y), replica_groups=[1,2]<=[2]",
        "%c = f32[8]{0} all-gather-done(%d)",
        "%d = (f32[4]{0}, f32[8]{0}) all-gather-start(%x), replica_groups=[1,2]<=[2]",
        "%e = f32[6]{0} reduce-scatter(%x), replica_groups={{0,1,2},{3,4,5}}, to_apply=%add",
        "%f = f32[6]{0} reduce-scatter(%x), replica_groups=[2,4]<=[8], to_apply=%add",
        "%g = f32[100]{0} add(%x, %y)",
        "%h = f32[5]{0} reduce-scatter(%x), replica_groups=mesh['data'=4,'fsdp'=2] {'fsdp'}",
        "%i = f32[5]{0} reduce-scatter(%x), replica_groups=mesh['a'=4,'b'=2] {'a','b'}",
    ]
    wanted = [160, 22, 0, 32, 72, 96, 0, 40, 160]
    assert [costs.sent_bytes(line) for line in lines] == wanted
    assert costs.sent_bytes("\n".join(lines)) == sum(wanted)
