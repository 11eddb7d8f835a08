"""NCSNv2: noise levels, step size and network as the five techniques say, annealed Langevin dynamics."""

from configs import langevin


def get_config(dataset: str = "cifar10"):
    """See `langevin.config`."""
    return langevin.config("ncsnv2", dataset)
