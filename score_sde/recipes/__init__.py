"""Recipes: what a published model and a data set change in the defaults of `build/settings.py`.

`RECIPES[NAME](dataset)` is a configuration. `configs/NAME.py` of a checkout is the same recipe as a
file, to be copied and changed.
"""

from collections.abc import Callable
from typing import Any

import ml_collections

from score_sde.recipes import denoisers, langevin, sde
from score_sde.recipes.datasets import DATASETS

__all__ = ["DATASETS", "RECIPES", "get_config"]

GetConfig = Callable[..., ml_collections.ConfigDict]


def _sde(process: str, network: str, **options: Any) -> GetConfig:
    return lambda dataset="cifar10": sde.config(process, network, dataset, **options)


def _langevin(version: str) -> GetConfig:
    return lambda dataset="cifar10": langevin.config(version, dataset)


def _edm(network: str) -> GetConfig:
    return lambda dataset="cifar10": denoisers.edm(network, dataset)


RECIPES: dict[str, GetConfig] = {
    "edm/ddpmpp": _edm("ddpmpp"),
    "edm/ncsnpp": _edm("ncsnpp"),
    "ncsn/ncsn": _langevin("ncsn"),
    "ncsnv2/ncsnv2": _langevin("ncsnv2"),
    "straight/ddpmpp": lambda dataset="cifar10": denoisers.straight(dataset),
    "subvp/ddpm_cont": _sde("subvp", "ddpm"),
    "subvp/ddpm_deep_cont": _sde("subvp", "ddpm", deep=True),
    "subvp/ddpmpp_cont": _sde("subvp", "ddpmpp"),
    "subvp/ddpmpp_cont_lik": _sde("subvp", "ddpmpp", likelihood=True),
    "subvp/ddpmpp_deep_cont": _sde("subvp", "ddpmpp", deep=True),
    "subvp/ddpmpp_deep_cont_lik": _sde("subvp", "ddpmpp", deep=True, likelihood=True),
    "subvp/ncsnpp_cont": _sde("subvp", "ncsnpp"),
    "subvp/ncsnpp_deep_cont": _sde("subvp", "ncsnpp", deep=True),
    "ve/ddpm_cont": _sde("ve", "ddpm"),
    "ve/ddpm_deep_cont": _sde("ve", "ddpm", deep=True),
    "ve/ddpmpp_cont": _sde("ve", "ddpmpp"),
    "ve/ddpmpp_deep_cont": _sde("ve", "ddpmpp", deep=True),
    "ve/ncsnpp": _sde("ve", "ncsnpp", continuous=False),
    "ve/ncsnpp_cont": _sde("ve", "ncsnpp"),
    "ve/ncsnpp_deep_cont": _sde("ve", "ncsnpp", deep=True),
    "vp/ddpm": _sde("vp", "ddpm", continuous=False),
    "vp/ddpm_cont": _sde("vp", "ddpm"),
    "vp/ddpm_deep_cont": _sde("vp", "ddpm", deep=True),
    "vp/ddpmpp": _sde("vp", "ddpmpp", continuous=False),
    "vp/ddpmpp_cont": _sde("vp", "ddpmpp"),
    "vp/ddpmpp_cont_lik": _sde("vp", "ddpmpp", likelihood=True),
    "vp/ddpmpp_deep_cont": _sde("vp", "ddpmpp", deep=True),
    "vp/ddpmpp_deep_cont_lik": _sde("vp", "ddpmpp", deep=True, likelihood=True),
    "vp/ncsnpp_cont": _sde("vp", "ncsnpp"),
    "vp/ncsnpp_deep_cont": _sde("vp", "ncsnpp", deep=True),
}


def get_config(name: str, dataset: str = "cifar10") -> ml_collections.ConfigDict:
    """The configuration of one recipe on one data set: `get_config("vp/ddpmpp_cont", "digits")`."""
    return RECIPES[name](dataset)
