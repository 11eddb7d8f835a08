"""Settings of small recipes, one for each kind of model, changed as on a command line."""

from score_sde.build.settings import Settings
from score_sde.workdir import config as configurations

RECIPES = {
    "ve": "ve/ncsnpp_cont:digits",
    "vp": "vp/ddpmpp_cont:digits",
    "subvp": "subvp/ddpmpp_cont:digits",
    "smld": "ve/ncsnpp:digits",
    "ddpm": "vp/ddpm:digits",
    "ncsnv2": "ncsnv2/ncsnv2:digits",
    "edm": "edm/ddpmpp:digits",
    "straight": "straight/ddpmpp:digits",
}


def settings(recipe: str, *overrides: str) -> Settings:
    """Settings of a key of `RECIPES`; an override is "section.entry=value"."""
    found = configurations.load(RECIPES[recipe])
    parts = [override.partition("=") for override in overrides]
    return configurations.override(found, [(name, value) for name, _, value in parts])
