"""NCSN: ten noise levels, a network conditioned on each, annealed Langevin dynamics."""

from configs import langevin


def get_config(dataset: str = "cifar10"):
    """See `langevin.config`."""
    return langevin.config("ncsn", dataset)
