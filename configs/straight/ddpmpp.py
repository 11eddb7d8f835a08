"""DDPM++ trained by flow matching on the straight path."""

from score_sde import recipes


def get_config(dataset: str = "cifar10"):
    """See `score_sde.recipes`."""
    return recipes.get_config("straight/ddpmpp", dataset)
