"""Where UNet2DModel of diffusers keeps the parameters of DDPM and NCSN++."""

from collections.abc import Mapping
from typing import Any

from score_sde.convert.table import Entry, Layout, flatten
from score_sde.networks import DDPM, NCSNpp

_LAYERS = {
    "norm_0": "norm1",
    "conv_0": "conv1",
    "time": "time_emb_proj",
    "norm_1": "norm2",
    "conv_1": "conv2",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "out": "to_out.0",
    "conv": "conv",
}
"""Layers of our blocks and of theirs."""
_OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Layers of attention, as files of 2022 call them."""


def table(network: DDPM | NCSNpp, like: Mapping[str, Any]) -> list[Entry]:
    """Where diffusers keeps every parameter of the network; `like` is our tree of shapes."""
    found = []
    for path, leaf in flatten(like):
        block, *layers, name = path.split("/")
        if block == "time":
            (layer,), prefix = layers, "time_embedding"
            layers, theirs = [], f"linear_{int(layer[-1]) + 1}"
        else:
            prefix, theirs = _block(block, network), ".".join(_LAYERS[layer] for layer in layers)
        if block.endswith("pyramid"):
            theirs = ""  # a convolution without a module around it
        parts = prefix, theirs, "bias" if name == "bias" else "weight"
        kind = _layout(block, layers, name, len(leaf.shape))
        found.append(Entry(path, None, ".".join(filter(None, parts)), kind))
    return found


def _layout(block: str, layers: list[str], name: str, axes: int) -> Layout:
    if name != "kernel":
        return "vector" if name == "scale" else "same"
    if axes == 4:
        return "conv"
    return "pointwise" if layers == ["shortcut"] or block.endswith("pyramid") else "dense"


def _block(ours: str, network: DDPM | NCSNpp) -> str:
    """Their module for the first part of one of our paths."""
    last, biggan = len(network.ch_mult) - 1, isinstance(network, NCSNpp)

    def level(way: str, number: str) -> str:
        return f"{way}_blocks.{last - int(number) if way == 'up' else number}"

    match ours.split("_"):
        case ["fourier"]:
            return "time_proj"
        case ["conv", "in"]:
            return "conv_in"
        case [("norm" | "conv") as layer, "out"] | ["up", "0", ("norm" | "conv") as layer, "out"]:
            return "conv_norm_out" if layer == "norm" else "conv_out"
        case ["up", number, ("norm" | "conv") as layer, "out"]:
            return f"{level('up', number)}.skip_{layer}"
        case ["mid", ("block" | "attn") as kind, *rest]:
            kinds = {"block": "resnets", "attn": "attentions"}
            return f"mid_block.{kinds[kind]}.{rest[0] if rest else 0}"
        case [way, number, "block", i]:
            return f"{level(way, number)}.resnets.{i}"
        case [way, number, "attn", *rest]:
            return f"{level(way, number)}.attentions.{rest[0] if rest else 0}"
        case [way, number, "pyramid"]:
            return f"{level(way, number)}.skip_conv"
        case [way, number, "resample"]:
            return f"{level(way, number)}.{f'resnet_{way}' if biggan else f'{way}samplers.0'}"
        case _:
            raise ValueError(f"{ours} is in no network of diffusers")


def newer(name: str) -> str:
    """The name of an array as diffusers writes it today."""
    if name == "time_proj.W":
        return "time_proj.weight"
    parts = name.split(".")
    if "attentions" in parts and len(parts) > 1 and parts[-2] in _OLDER:
        parts[-2] = _OLDER[parts[-2]]
    return ".".join(parts)
