"""Linear measurements of images: operators with exact adjoints, measurements, methods with them."""

from score_sde.inverse import ellipses
from score_sde.inverse.baselines import cgls, fista_tv, total_variation, tv_prox
from score_sde.inverse.blur import Blur, blur, gaussian_kernel, motion_kernel
from score_sde.inverse.consistency import (
    Consistency,
    after,
    before,
    consistent,
    exact,
    overwrite,
    towards,
)
from score_sde.inverse.ct import ParallelBeam, parallel_beam
from score_sde.inverse.denoise import Denoised, denoise
from score_sde.inverse.dps import DPS
from score_sde.inverse.fan import FanBeam
from score_sde.inverse.fbp import fbp
from score_sde.inverse.image_operators import (
    PUBLISHED_BASIS,
    REC_601,
    bicubic,
    block_mean,
    colorization,
    crop,
    grey_basis,
    grey_channel,
    inpainting,
    mix_channels,
)
from score_sde.inverse.measurement import Measurement, measure, simulate
from score_sde.inverse.operators import (
    Composed,
    Identity,
    Masked,
    Operator,
    Spectrum,
    compose,
    static,
)
from score_sde.inverse.restoration import DDNM, DDRM, DiffPIR, RePaint
from score_sde.inverse.separable import Factor, Separable

__all__ = [
    "DDNM",
    "DDRM",
    "DPS",
    "PUBLISHED_BASIS",
    "REC_601",
    "Blur",
    "Composed",
    "Consistency",
    "Denoised",
    "DiffPIR",
    "Factor",
    "FanBeam",
    "Identity",
    "Masked",
    "Measurement",
    "Operator",
    "ParallelBeam",
    "RePaint",
    "Separable",
    "Spectrum",
    "after",
    "before",
    "bicubic",
    "block_mean",
    "blur",
    "cgls",
    "colorization",
    "compose",
    "consistent",
    "crop",
    "denoise",
    "ellipses",
    "exact",
    "fbp",
    "fista_tv",
    "gaussian_kernel",
    "grey_basis",
    "grey_channel",
    "inpainting",
    "measure",
    "mix_channels",
    "motion_kernel",
    "overwrite",
    "parallel_beam",
    "simulate",
    "static",
    "total_variation",
    "towards",
    "tv_prox",
]
