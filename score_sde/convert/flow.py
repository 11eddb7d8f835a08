"""ScoreFlow's dequantizers, for CIFAR-10 and for ImageNet 32 x 32, as our `FlowPP`.

Weight normalization and the exponentials of gains are folded in, so this goes one way only, and not
by a table.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from score_sde.convert.table import Tree, flatten, nest
from score_sde.errors import UserError
from score_sde.networks import FlowPP


def flow_of(params: Mapping[str, Any], heads: int) -> FlowPP:
    """The flow that published parameters are of.

    Shapes tell everything but the number of attention heads.
    """
    try:
        processor, coupling = params[_processor(params)], params["MixLogisticAttnCoupling_0"]
        imagenet = "c1_b" in coupling
        filters = len(coupling["c1_b" if imagenet else "proj_in_b"])
        blocks = _count(r"block\d+_conv_c1_b", coupling)
        channels = params["Norm_0"]["norm0_b"].shape[-1]
        outputs = len(
            coupling[f"block{blocks - 1}_c2_b" if imagenet else f"block{blocks - 1}_proj_out_b"]
        )
        return FlowPP(
            filters=filters,
            components=(outputs // channels - 2) // 3,
            blocks=blocks,
            heads=heads,
            couplings=_count(r"MixLogisticAttnCoupling_\d+", params),
            mix_channels="Pointwise_0" in params,
            context_filters=len(processor["proj_b"]),
            context_layers=_count(r"c\d+_c1_b", processor),
            context_heads=heads if "pos_emb_dq" in processor else 0,
            activate_output=imagenet,
        )
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        ZeroDivisionError,
    ) as error:
        raise UserError(
            f"these are not the weights of a published dequantizer ({error!r})"
        ) from error


def from_published(params: Mapping[str, Any], flow: FlowPP, like: Mapping[str, Any]) -> Tree:
    """Parameters for `flow`, in float64, from published ones.

    Args:
        params: those of the published module.
        flow: as `flow_of` says.
        like: our tree of shapes for the images at hand.
    Raises:
        UserError: names or shapes of another flow, or of images of another size.
    """
    try:
        result = _convert(params, flow)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(
            f"these are not the weights of a published dequantizer ({error!r:.200})"
        ) from error
    if bad := [path for path, array in flatten(result) if not np.isfinite(array).all()]:
        raise UserError(
            f"{len(bad)} of the dequantizer's weights are not finite numbers, the first {bad[0]}"
        )
    ours = {path: np.shape(array) for path, array in flatten(result)}
    expected = {path: tuple(leaf.shape) for path, leaf in flatten(like)}
    if wrong := [
        path
        for path in sorted(ours.keys() | expected.keys())
        if ours.get(path) != expected.get(path)
    ]:
        raise UserError(
            f"the dequantizer is not for these images: {wrong[0]} has shape {ours.get(wrong[0])}, "
            f"expected {expected.get(wrong[0])} ({len(wrong)} such)"
        )
    return result


def _convert(params: Mapping[str, Any], flow: FlowPP) -> Tree:
    transposed = (
        not flow.activate_output
    )  # the published modules for CIFAR-10 take height for width
    result = _context(_Layer(params[_processor(params)], transposed), flow)
    for i in range(flow.couplings):
        result |= _coupling(_Layer(params[f"MixLogisticAttnCoupling_{i}"], transposed), flow, i)
        norm, scaling = params[f"Norm_{i}"], {}
        for half, name in zip("01", "ab"):
            scaling[f"log_gain_{name}"] = np.log(
                np.maximum(np.float64(norm[f"norm{half}_g"]), 1e-10)
            )
            scaling[f"shift_{name}"] = np.float64(norm[f"norm{half}_b"])
            if flow.mix_channels:
                scaling[f"mix_{name}"] = np.float64(params[f"Pointwise_{i}"][f"W{half}"])
        result[f"scalings_{i}"] = scaling
    return nest(result)


class _Layer:
    """The arrays of one published module, which has a flat list of names."""

    def __init__(self, arrays: Mapping[str, np.ndarray], transposed: bool):
        if other := [name for name, value in arrays.items() if value.dtype.kind != "f"]:
            raise TypeError(f"{other[0]} is of type {arrays[other[0]].dtype}, not a weight")
        self.arrays = {name: np.asarray(value, np.float64) for name, value in arrays.items()}
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


def _context(layer: _Layer, flow: FlowPP) -> Tree:
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


def _coupling(layer: _Layer, flow: FlowPP, number: int) -> Tree:
    own, last = f"conditioners_{number}", flow.blocks - 1
    published = (
        ("c1", f"block{last}_c2") if flow.activate_output else ("proj_in", f"block{last}_proj_out")
    )
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


def _processor(params: Mapping[str, Any]) -> str:
    return next((name for name in params if name.endswith("Processor_0")), "Processor_0")


def _count(pattern: str, names: Mapping[str, Any]) -> int:
    return sum(re.fullmatch(pattern, name) is not None for name in names)
