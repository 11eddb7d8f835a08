"""Networks that map noisy images and noise levels to images, in flax.linen."""

from score_sde.networks.ddpm import DDPM
from score_sde.networks.ncsnpp import NCSNpp

__all__ = ["DDPM", "NCSNpp"]
