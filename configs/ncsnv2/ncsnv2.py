"""NCSNv2: noise levels and step size as the five techniques say, annealed Langevin dynamics."""

from score_sde import recipes


def get_config(dataset: str = "cifar10"):
    """See `score_sde.recipes`."""
    return recipes.get_config("ncsnv2/ncsnv2", dataset)
