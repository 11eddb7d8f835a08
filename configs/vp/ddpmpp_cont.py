"""DDPM++ cont.: VP SDE, the continuous objective."""

from configs import recipes


def get_config(dataset: str = "cifar10"):
    """See `recipes.config`."""
    return recipes.config("vp", "ddpmpp", dataset)
