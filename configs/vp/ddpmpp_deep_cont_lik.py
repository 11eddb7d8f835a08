"""DDPM++ cont. (deep): VP SDE, maximum-likelihood training."""

from score_sde import recipes


def get_config(dataset: str = "cifar10"):
    """See `score_sde.recipes`."""
    return recipes.get_config("vp/ddpmpp_deep_cont_lik", dataset)
