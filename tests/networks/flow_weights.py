"""The published dequantizers, read by `score_sde.convert`, for the tests of flows."""

import jax
import jax.numpy as jnp
import numpy as np
from networks.published import arrays_of, checkpoint, config_of
from networks.weights import Tree

from score_sde.convert import read_file
from score_sde.convert.flow import flow_of, from_published
from score_sde.convert.published import recognize
from score_sde.networks import FlowPP


def read_flow(name: str) -> tuple[FlowPP, dict[str, np.ndarray], dict[str, Tree]]:
    """(flow, arrays, weights in float64 by the suffix of their outputs: "" and "_ema")."""
    config, arrays = config_of(name), arrays_of(name)
    published = recognize(*read_file(checkpoint(name)))
    assert published.code == "score_flow"
    assert published.averaged == ("u_ema_f64" in arrays)
    flow = flow_of(published.params, config["attn_heads"])
    assert (flow.filters, flow.components, flow.blocks) == tuple(
        config[name] for name in ("filters", "components", "blocks")
    )
    x = jnp.zeros(arrays["x"].shape)
    like = jax.eval_shape(flow.init, jax.random.key(0), x, x)["params"]
    weights = {"": published.params} | ({"_ema": published.ema} if published.averaged else {})
    return (
        flow,
        arrays,
        {suffix: from_published(tree, flow, like) for suffix, tree in weights.items()},
    )
