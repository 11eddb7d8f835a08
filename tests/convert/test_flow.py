"""Damaged dequantizers are refused; that whole ones are converted rightly, tests/networks/test_flowpp.py shows."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import golden
from score_sde import config as config_lib
from score_sde import exchange
from score_sde.convert import read_file
from score_sde.convert.flow import flow_of, from_published
from score_sde.convert.published import recognize
from score_sde.errors import UserError


def published():
    return recognize(*read_file(golden("nets/score_flow_jax/dequantizer_cifar10") / "checkpoint_6"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda array: array * np.nan,
            "1 of the dequantizer's weights are not finite numbers, the first context/conv_in",
        ),
        (lambda array: array.astype(np.complex64), "proj_b is of type complex64, not a weight"),
        (lambda array: array[:-1], "the dequantizer is not for these images|not the weights of a published"),
    ],
)
def test_damaged_weights_are_refused(change, message: str) -> None:
    params = jax.tree.map(lambda array: array, published().params)
    flow = flow_of(params, 4)
    x = jnp.zeros((1, 8, 8, 3))
    like = jax.eval_shape(flow.init, jax.random.key(0), x, x)["params"]
    from_published(params, flow, like)
    module = params["ShallowProcessor_0"]
    module["proj_b"] = change(module["proj_b"])
    with pytest.raises(UserError, match=message):
        from_published(params, flow, like)


@pytest.mark.parametrize("heads", ["4", 4.0, None, [4], True])
def test_heads_are_a_whole_number(heads: object, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"attn_heads": heads}))
    config = config_lib.load("configs/vp/ddpmpp_cont.py:digits")
    with pytest.raises(UserError, match=r"config\.json: attn_heads must be a whole number; got"):
        exchange.to_dequantizer(published(), tmp_path / "checkpoint", path, config)
