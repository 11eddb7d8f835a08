"""DDPM cont. (deep): VE SDE, the continuous objective."""

from score_sde import recipes


def get_config(dataset: str = "cifar10"):
    """See `score_sde.recipes`."""
    return recipes.get_config("ve/ddpm_deep_cont", dataset)
