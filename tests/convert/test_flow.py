"""Damaged dequantizers are refused; whole ones are in tests/networks/test_flowpp.py."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks.published import config_of, listed

from golden import golden
from score_sde.convert import read_file
from score_sde.convert.flow import flow_of, from_published
from score_sde.convert.published import recognize
from score_sde.errors import UserError
from score_sde.exchange.states import to_dequantizer
from score_sde.workdir import config as configurations

STATES = [name for name in listed("score_flow_jax/*/checkpoint*") if isinstance(name, str)]


def name():
    return STATES[0] if STATES else "score_flow_jax/a checkpoint"


def published():
    return recognize(*read_file(golden(f"nets/{name()}")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda array: array * np.nan,
            "1 of the dequantizer's weights are not finite numbers, the first context/conv_in",
        ),
        (lambda array: array.astype(np.complex64), "proj_b is of type complex64, not a weight"),
        (
            lambda array: array[:-1],
            "the dequantizer is not for these images|not the weights of a published",
        ),
    ],
)
def test_damaged_weights_are_refused(change, message: str) -> None:
    params = jax.tree.map(lambda array: array, published().params)
    config = config_of(str(Path(name()).parent))
    flow = flow_of(params, config["attn_heads"])
    x = jnp.zeros((1, *config["image_shape_hwc"]))
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
    settings = configurations.load("vp/ddpmpp_cont:digits")
    with pytest.raises(UserError, match=r"config\.json: attn_heads must be a whole number; got"):
        to_dequantizer(published(), tmp_path / "checkpoint", path, settings)


@pytest.mark.parametrize("beside", [True, False])
def test_the_flow_becomes_the_dequantizer_of_the_settings(beside: bool, tmp_path: Path) -> None:
    original = config_of(str(Path(name()).parent))
    path = tmp_path / ("config.json" if beside else "other.json")
    path.write_text(json.dumps(original))
    settings = configurations.load("vp/ddpmpp_cont:digits")
    source = tmp_path / "checkpoint"
    flow, found = to_dequantizer(published(), source, None if beside else path, settings)
    assert flow.heads == found.dequantizer.heads == original["attn_heads"]
    assert flow.filters == found.dequantizer.filters == original["filters"]
    assert found.change("dequantizer", **vars(settings.dequantizer)) == settings
    path.unlink()
    flow, _ = to_dequantizer(published(), source, None, settings)
    assert flow.heads == settings.dequantizer.heads
