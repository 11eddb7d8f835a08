"""Carry the published dequantizers' weights over to `FlowPP`: weight normalization and gains are folded in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax.serialization import msgpack_restore
from networks.weights import Tree, nest

from score_sde.networks import FlowPP


def read_flow(folder: Path) -> tuple[FlowPP, dict[str, np.ndarray], dict[str, Tree]]:
    """(flow, arrays, weights in float64 by the suffix of their outputs: "" and "_ema")."""
    config = json.loads((folder / "config.json").read_text())
    with np.load(folder / "io.npz") as file:
        arrays = {key: file[key] for key in file.files}
    sizes = {name: config[name] for name in ("filters", "components", "blocks")} | {
        "heads": config["attn_heads"]
    }
    if config["kind"] == "cifar10":
        checkpoint = msgpack_restore((folder / "checkpoint_6").read_bytes())
        raw = {"": checkpoint["optimizer"]["target"]["params"], "_ema": checkpoint["params_ema"]["params"]}
        flow = FlowPP(**sizes)
    else:
        raw = {"": msgpack_restore((folder / "params.msgpack").read_bytes())["params"]}
        flow = FlowPP(
            **sizes,
            couplings=8,
            mix_channels=False,
            context_layers=8,
            context_heads=config["attn_heads"],
            activate_output=True,
        )
    return flow, arrays, {suffix: from_published(tree, flow, config["kind"]) for suffix, tree in raw.items()}


def from_published(params: Mapping[str, Any], flow: FlowPP, kind: str) -> Tree:
    """Parameters for `flow` from those of the published module of that kind."""
    transposed = kind == "cifar10"
    (processor,) = (name for name in params if name.endswith("Processor_0"))
    result = _context(Layer(params[processor], transposed), flow)
    for i in range(flow.couplings):
        result |= _coupling(Layer(params[f"MixLogisticAttnCoupling_{i}"], transposed), flow, i)
        norm = params[f"Norm_{i}"]
        for half, name in enumerate("ab"):
            gain = np.maximum(np.float64(norm[f"norm{half}_g"]), 1e-10)
            result[f"scalings_{i}"] = result.get(f"scalings_{i}", {}) | {
                f"log_gain_{name}": np.log(gain),
                f"shift_{name}": np.float64(norm[f"norm{half}_b"]),
            }
            if flow.mix_channels:
                result[f"scalings_{i}"][f"mix_{name}"] = np.float64(params[f"Pointwise_{i}"][f"W{half}"])
    return nest(result)


class Layer:
    """The arrays of one published module, which has a flat list of names."""

    def __init__(self, arrays: Mapping[str, np.ndarray], transposed: bool):
        self.arrays = {name: np.float64(value) for name, value in arrays.items()}
        self.transposed = transposed

    def linear(self, name: str) -> Tree:
        """A convolution or a map of the channels."""
        if f"{name}_V" in self.arrays:
            v = self.arrays[f"{name}_V"]
            squares = np.maximum(np.sum(v**2, axis=(0, 1, 2)), 1e-12)
            kernel = self.arrays[f"{name}_g"] * v / np.sqrt(squares)
        else:
            kernel = self.arrays[f"{name}_W"]
        if kernel.ndim == 4 and self.transposed:
            kernel = kernel.swapaxes(0, 1)
        return {"kernel": kernel, "bias": self.arrays[f"{name}_b"]}

    def norm(self, name: str) -> Tree:
        """A normalization over channels."""
        return {"scale": self.arrays[f"{name}_g"].ravel(), "bias": self.arrays[f"{name}_b"].ravel()}


def _context(layer: Layer, flow: FlowPP) -> Tree:
    result = {"context": {"position": layer.arrays["pos_emb_dq"]} if flow.context_heads else {}}
    result["context/conv_in"] = layer.linear("proj")
    for i in range(flow.context_layers):
        result[f"context/conv_{i}/conv_0"] = layer.linear(f"c{i}_c1")
        result[f"context/conv_{i}/conv_1"] = layer.linear(f"c{i}_c2")
        if flow.context_heads:
            result[f"context/norm_{i}_0"] = layer.norm(f"dqln{i}")
            result[f"context/attn_{i}/qkv"] = layer.linear(f"dqattn{i}_proj1")
            result[f"context/attn_{i}/out"] = layer.linear(f"dqattn{i}_proj2")
            result[f"context/norm_{i}_1"] = layer.norm(f"ln{i}")
    return result


def _coupling(layer: Layer, flow: FlowPP, number: int) -> Tree:
    own, last = f"conditioners_{number}", flow.blocks - 1
    published = ("c1", f"block{last}_c2") if "c1_b" in layer.arrays else ("proj_in", f"block{last}_proj_out")
    result = {
        own: {"position": layer.arrays["pos_emb"]},
        f"{own}/conv_in": layer.linear(published[0]),
        f"{own}/conv_out": layer.linear(published[1]),
    }
    for i in range(flow.blocks):
        result |= {
            f"{own}/conv_{i}/conv_0": layer.linear(f"block{i}_conv_c1"),
            f"{own}/conv_{i}/context": layer.linear(f"block{i}_conv_a_proj"),
            f"{own}/conv_{i}/conv_1": layer.linear(f"block{i}_conv_c2"),
            f"{own}/norm_{i}_0": layer.norm(f"block{i}_ln1"),
            f"{own}/attn_{i}/qkv": layer.linear(f"block{i}_attn_proj1"),
            f"{own}/attn_{i}/out": layer.linear(f"block{i}_attn_proj2"),
            f"{own}/norm_{i}_1": layer.norm(f"block{i}_ln2"),
        }
    return result
