"""Linear measurements of images: operators with exact adjoints, measurements, methods with them."""

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
from score_sde.inverse.denoise import Denoised, denoise
from score_sde.inverse.dps import DPS
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
    "Identity",
    "Masked",
    "Measurement",
    "Operator",
    "RePaint",
    "Separable",
    "Spectrum",
    "after",
    "before",
    "bicubic",
    "block_mean",
    "blur",
    "colorization",
    "compose",
    "consistent",
    "crop",
    "denoise",
    "exact",
    "gaussian_kernel",
    "grey_basis",
    "grey_channel",
    "inpainting",
    "measure",
    "mix_channels",
    "motion_kernel",
    "overwrite",
    "simulate",
    "static",
    "towards",
]
