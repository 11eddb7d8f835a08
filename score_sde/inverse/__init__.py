"""Linear measurements of images: operators with exact adjoints, measurements, methods with them."""

from score_sde.inverse.baselines import (
    cgls,
    fista_tv,
    root_sum_of_squares,
    total_variation,
    tv_prox,
)
from score_sde.inverse.blur import Blur, blur, gaussian_kernel, motion_kernel
from score_sde.inverse.coil_maps import birdcage_maps, estimate_maps, normalized_maps
from score_sde.inverse.consistency import (
    Consistency,
    after,
    before,
    consistent,
    exact,
    merged,
    overwrite,
    towards,
)
from score_sde.inverse.ct import ParallelBeam, parallel_beam
from score_sde.inverse.denoise import Denoised, denoise
from score_sde.inverse.dps import DPS
from score_sde.inverse.fan import FanBeam
from score_sde.inverse.fbp import fbp
from score_sde.inverse.fourier_radon import FourierSlices, published_scan
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
from score_sde.inverse.kspace_masks import (
    fastmri_equispaced,
    fastmri_random,
    poisson_disc,
    published_equispaced,
    radial_mask,
    variable_density,
)
from score_sde.inverse.measurement import Measurement, measure, simulate
from score_sde.inverse.metal import (
    check_trace,
    harden_less,
    interpolate_trace,
    metal_of,
    metal_trace,
    scan_with_metal,
)
from score_sde.inverse.mri import (
    Coils,
    Fourier,
    NonuniformFourier,
    centred_fft2,
    centred_ifft2,
    check_centred,
    multi_coil,
    radial,
    single_coil,
)
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
from score_sde.inverse.xrays import XRays

__all__ = [
    "DDNM",
    "DDRM",
    "DPS",
    "PUBLISHED_BASIS",
    "REC_601",
    "Blur",
    "Coils",
    "Composed",
    "Consistency",
    "Denoised",
    "DiffPIR",
    "Factor",
    "FanBeam",
    "Fourier",
    "FourierSlices",
    "Identity",
    "Masked",
    "Measurement",
    "NonuniformFourier",
    "Operator",
    "ParallelBeam",
    "RePaint",
    "Separable",
    "Spectrum",
    "XRays",
    "after",
    "before",
    "bicubic",
    "birdcage_maps",
    "block_mean",
    "blur",
    "centred_fft2",
    "centred_ifft2",
    "cgls",
    "check_centred",
    "check_trace",
    "colorization",
    "compose",
    "consistent",
    "crop",
    "denoise",
    "estimate_maps",
    "exact",
    "fastmri_equispaced",
    "fastmri_random",
    "fbp",
    "fista_tv",
    "gaussian_kernel",
    "grey_basis",
    "grey_channel",
    "harden_less",
    "inpainting",
    "interpolate_trace",
    "measure",
    "merged",
    "metal_of",
    "metal_trace",
    "mix_channels",
    "motion_kernel",
    "multi_coil",
    "normalized_maps",
    "overwrite",
    "parallel_beam",
    "poisson_disc",
    "published_equispaced",
    "published_scan",
    "radial",
    "radial_mask",
    "root_sum_of_squares",
    "scan_with_metal",
    "simulate",
    "single_coil",
    "static",
    "total_variation",
    "towards",
    "tv_prox",
    "variable_density",
]
