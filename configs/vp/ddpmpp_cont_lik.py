"""DDPM++ cont.: VP SDE, maximum-likelihood training."""

from configs import recipes


def get_config(dataset: str = "cifar10"):
    """See `recipes.config`."""
    return recipes.config("vp", "ddpmpp", dataset, likelihood=True)
