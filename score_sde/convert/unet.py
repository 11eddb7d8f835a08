"""Where Score SDE's codes, in flax and in PyTorch, keep the parameters of NCSN++, DDPM++ and DDPM.

Both create their modules in the order in which they call them: flax names them by class and a
counter for each class, PyTorch numbers them in the list `all_modules`. So one list of the modules
in calling order, with our name for each, maps both.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from score_sde.convert.table import Entry, Layout, flatten
from score_sde.networks import DDPM, NCSNpp

LEAVES: dict[str, tuple[tuple[str, str, str, Layout], ...]] = {
    "norm": (("scale", "scale", "weight", "vector"), ("bias", "bias", "bias", "vector")),
    "conv": (("kernel", "kernel", "weight", "conv"), ("bias", "bias", "bias", "same")),
    "fir": (("kernel", "weight", "weight", "conv"), ("bias", "bias", "bias", "same")),
    "pointwise": (("kernel", "kernel", "weight", "pointwise"), ("bias", "bias", "bias", "same")),
    "dense": (("kernel", "kernel", "weight", "dense"), ("bias", "bias", "bias", "same")),
    "nin": (("kernel", "W", "W", "same"), ("bias", "b", "b", "same")),
    "fourier": (("frequencies", "W", "W", "same"),),
}
"""Parameters of a layer: our name, flax's, PyTorch's, layout."""

_BLOCK = (
    ("norm_0", "GroupNorm_0", "norm"),
    ("conv_0", "Conv_0", "conv"),
    ("time", "Dense_0", "dense"),
    ("norm_1", "GroupNorm_1", "norm"),
    ("conv_1", "Conv_1", "conv"),
)
_ATTENTION = (
    ("norm", "GroupNorm_0", "norm"),
    ("query", "NIN_0", "nin"),
    ("key", "NIN_1", "nin"),
    ("value", "NIN_2", "nin"),
    ("out", "NIN_3", "nin"),
)
_RESAMPLE = (("conv", "Conv_0", "conv"), ("conv", "Conv2d_0", "fir"))
PARTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "ResnetBlockDDPM": (*_BLOCK, ("shortcut", "NIN_0", "nin")),
    "ResnetBlockDDPMpp": (*_BLOCK, ("shortcut", "NIN_0", "nin")),
    "ResnetBlockBigGANpp": (*_BLOCK, ("shortcut", "Conv_2", "pointwise")),
    "AttnBlock": _ATTENTION,
    "AttnBlockpp": _ATTENTION,
    "Downsample": _RESAMPLE,
    "Upsample": _RESAMPLE,
    "Combine": (("conv", "Conv_0", "pointwise"),),
    "GaussianFourierProjection": (("", "", "fourier"),),
    "Dense": (("", "", "dense"),),
    "NIN": (("", "", "nin"),),
    "Conv": (("", "", "conv"),),
    "GroupNorm": (("", "", "norm"),),
}
"""Layers of a published module, in the order in which PyTorch lists them: our name, theirs,
kind."""


@dataclass(frozen=True)
class Module:
    """One module of a published network.

    It has a path in our tree and a flax class; PyTorch lists it or not.
    """

    ours: str
    kind: str
    in_list: bool = True


def table(network: NCSNpp | DDPM, height: int) -> list[Entry]:
    """Every parameter of the network, in PyTorch's order.

    Attention depends on the height of the images.

    A network without labels (`conditional=False`) leaves out what the published one owns and never
    uses; see `unused`.
    """
    made = _shapes(network, height)
    fir = isinstance(network, NCSNpp) and network.fir
    return [entry for entry in _all_entries(network, height, fir) if entry.ours in made]


def unused(network: NCSNpp | DDPM, height: int) -> dict[Entry, tuple[int, ...]]:
    """What networks without labels own and never use, with PyTorch's shapes.

    These are time projections of blocks, and frequencies.

    They are ignored when read and zeros when written: their values reach no output and get no
    gradient.
    """
    if network.conditional:
        return {}
    fir = isinstance(network, NCSNpp) and network.fir
    made = _shapes(network, height)
    result: dict[Entry, tuple[int, ...]] = {}
    for entry in _all_entries(network, height, fir):
        block, *rest = entry.ours.split("/")
        if block == "fourier":
            result[entry] = (network.nf,)
        elif rest[0] == "time":
            width = made[f"{block}/conv_0/bias"][0]
            result[entry] = (width, 4 * network.nf) if rest[1] == "kernel" else (width,)
    return result


def state_names(network: NCSNpp | DDPM, height: int) -> list[str]:
    """PyTorch names of all parameters, in the order of its state dict.

    Those of `unused` are among them.
    """
    made, extra = _shapes(network, height), unused(network, height)
    fir = isinstance(network, NCSNpp) and network.fir
    return [
        e.torch
        for e in _all_entries(network, height, fir)
        if e.torch and (e.ours in made or e in extra)
    ]


def modules(network: NCSNpp | DDPM, height: int) -> Iterator[tuple[Module, str, str]]:
    """(module, flax name, PyTorch name) of the modules in calling order.

    Some have no parameters.
    """
    counter: Counter[str] = Counter()
    listed = 0
    order = (
        _ddpm_order(network, height)
        if isinstance(network, DDPM)
        else _ncsnpp_order(network, height)
    )
    for module in order:
        yield module, f"{module.kind}_{counter[module.kind]}", f"all_modules.{listed}"
        counter[module.kind] += 1
        listed += module.in_list


def owners(network: NCSNpp | DDPM, height: int) -> Iterator[tuple[str, str]]:
    """(flax name, PyTorch name) of the modules that own parameters.

    Quick, as no shapes are made.
    """
    for module, flax, torch in modules(network, height):
        bare = module.ours.endswith("_resample") and module.kind in ("Downsample", "Upsample")
        if module.in_list and (network.resamp_with_conv or not bare):
            yield flax, torch


def _all_entries(network: NCSNpp | DDPM, height: int, fir: bool) -> Iterator[Entry]:
    for module, flax, torch in modules(network, height):
        for part, published, kind in PARTS[module.kind]:
            if part == "conv" and kind == ("conv" if fir else "fir"):
                continue  # the layer that the other kind of resampling has
            for ours, in_flax, in_torch, layout in LEAVES[kind]:
                yield Entry(
                    "/".join(filter(None, (module.ours, part, ours))),
                    "/".join(filter(None, (flax, published, in_flax))),
                    ".".join(filter(None, (torch, published, in_torch))),
                    layout,
                )


def _shapes(network: NCSNpp | DDPM, height: int) -> dict[str, tuple[int, ...]]:
    x, labels = jnp.zeros((1, height, height, 1)), jnp.ones((1,))
    made = jax.eval_shape(network.init, jax.random.key(0), x, labels)["params"]
    return {path: leaf.shape for path, leaf in flatten(made)}


def _ddpm_order(network: DDPM, height: int) -> Iterator[Module]:
    block, attention = "ResnetBlockDDPM", "AttnBlock"
    if network.conditional:
        yield from (Module("time/dense_0", "Dense"), Module("time/dense_1", "Dense"))
    yield Module("conv_in", "Conv")
    last = len(network.ch_mult) - 1
    for level in range(last + 1):
        for i in range(network.num_res_blocks):
            yield Module(f"down_{level}_block_{i}", block)
            if height >> level in network.attn_resolutions:
                yield Module(f"down_{level}_attn_{i}", attention)
        if level < last:
            yield Module(f"down_{level}_resample", "Downsample")
    yield from _middle(block, attention)
    for level in range(last, -1, -1):
        for i in range(network.num_res_blocks + 1):
            yield Module(f"up_{level}_block_{i}", block)
        if height >> level in network.attn_resolutions:
            yield Module(f"up_{level}_attn", attention)
        if level > 0:
            yield Module(f"up_{level}_resample", "Upsample")
    yield from (Module("norm_out", "GroupNorm"), Module("conv_out", "Conv"))


def _ncsnpp_order(network: NCSNpp, height: int) -> Iterator[Module]:
    biggan = network.resblock_type == "biggan"
    block, attention = "ResnetBlockBigGANpp" if biggan else "ResnetBlockDDPMpp", "AttnBlockpp"
    if network.embedding == "fourier":
        yield Module("fourier", "GaussianFourierProjection")
    if network.conditional:
        yield from (Module("time/dense_0", "Dense"), Module("time/dense_1", "Dense"))
    yield Module("conv_in", "Conv")
    last = len(network.ch_mult) - 1
    for level in range(last + 1):
        for i in range(network.num_res_blocks):
            yield Module(f"down_{level}_block_{i}", block)
            if height >> level in network.attn_resolutions:
                yield Module(f"down_{level}_attn_{i}", attention)
        if level < last:
            yield Module(f"down_{level}_resample", block if biggan else "Downsample")
            if network.progressive_input == "input_skip":
                yield Module(f"down_{level}_shrink", "Downsample", in_list=False)
                yield Module(f"down_{level}_pyramid", "Combine")
            elif network.progressive_input == "residual":
                yield Module(f"down_{level}_pyramid", "Downsample")
    yield from _middle(block, attention)
    for level in range(last, -1, -1):
        for i in range(network.num_res_blocks + 1):
            yield Module(f"up_{level}_block_{i}", block)
        if height >> level in network.attn_resolutions:
            yield Module(f"up_{level}_attn", attention)
        if network.progressive == "residual" and level < last:
            yield Module(f"up_{level}_pyramid", "Upsample")
        elif network.progressive != "none":
            if level < last:
                yield Module(f"up_{level}_enlarge", "Upsample", in_list=False)
            yield Module(f"up_{level}_norm_out", "GroupNorm")
            yield Module(f"up_{level}_conv_out", "Conv")
        if level > 0:
            yield Module(f"up_{level}_resample", block if biggan else "Upsample")
    if network.progressive != "output_skip":
        yield from (Module("norm_out", "GroupNorm"), Module("conv_out", "Conv"))


def _middle(block: str, attention: str) -> Iterator[Module]:
    yield from (
        Module("mid_block_0", block),
        Module("mid_attn", attention),
        Module("mid_block_1", block),
    )
