"""NCSN: ten noise levels, a network conditioned on each, annealed Langevin dynamics."""

from score_sde import recipes


def get_config(dataset: str = "cifar10"):
    """See `score_sde.recipes`."""
    return recipes.get_config("ncsn/ncsn", dataset)
