"""NCSN++: VE SDE, the discrete SMLD objective."""

from score_sde import recipes


def get_config(dataset: str = "cifar10"):
    """See `score_sde.recipes`."""
    return recipes.get_config("ve/ncsnpp", dataset)
