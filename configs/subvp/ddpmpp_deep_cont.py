"""DDPM++ cont. (deep): sub-VP SDE, the continuous objective."""

from score_sde import recipes


def get_config(dataset: str = "cifar10"):
    """See `score_sde.recipes`."""
    return recipes.get_config("subvp/ddpmpp_deep_cont", dataset)
