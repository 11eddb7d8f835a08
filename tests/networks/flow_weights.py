"""The published dequantizers, read by `score_sde.convert`, for the tests of flows."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from networks.weights import Tree

from score_sde.convert import read_file
from score_sde.convert.flow import flow_of, from_published
from score_sde.convert.published import recognize
from score_sde.networks import FlowPP


def read_flow(folder: Path) -> tuple[FlowPP, dict[str, np.ndarray], dict[str, Tree]]:
    """(flow, arrays, weights in float64 by the suffix of their outputs: "" and "_ema")."""
    config = json.loads((folder / "config.json").read_text())
    with np.load(folder / "io.npz") as file:
        arrays = {key: file[key] for key in file.files}
    (path,) = [path for path in folder.iterdir() if path.suffix not in (".json", ".npz")]
    published = recognize(*read_file(path))
    assert published.code == "score_flow"
    assert published.averaged == (config["kind"] == "cifar10")
    flow = flow_of(published.params, config["attn_heads"])
    assert (flow.filters, flow.components, flow.blocks) == tuple(
        config[name] for name in ("filters", "components", "blocks")
    )
    x = jnp.zeros(arrays["x"].shape)
    like = jax.eval_shape(flow.init, jax.random.key(0), x, x)["params"]
    weights = {"": published.params} | ({"_ema": published.ema} if published.averaged else {})
    return flow, arrays, {suffix: from_published(tree, flow, like) for suffix, tree in weights.items()}
