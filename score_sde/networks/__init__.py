"""Networks in flax.linen: of scores, second-order scores, classes of noisy images, and a flow."""

from score_sde.networks.autoencoder import ResNetAutoencoder
from score_sde.networks.classifier import WideResNet
from score_sde.networks.ddpm import DDPM
from score_sde.networks.flowpp import FlowPP
from score_sde.networks.implicit import TanhMLP
from score_sde.networks.mlp import ScoreMLP
from score_sde.networks.ncsn import NCSN, NCSNv2
from score_sde.networks.ncsnpp import NCSNpp
from score_sde.networks.second_order import SecondOrderMLP, SecondOrderUNet

__all__ = [
    "DDPM",
    "NCSN",
    "FlowPP",
    "NCSNpp",
    "NCSNv2",
    "ResNetAutoencoder",
    "ScoreMLP",
    "SecondOrderMLP",
    "SecondOrderUNet",
    "TanhMLP",
    "WideResNet",
]
