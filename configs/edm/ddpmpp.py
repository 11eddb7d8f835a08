"""DDPM++ trained as EDM."""

from score_sde import recipes


def get_config(dataset: str = "cifar10"):
    """See `score_sde.recipes`."""
    return recipes.get_config("edm/ddpmpp", dataset)
