"""Reconstruction without a model, by the name in config.inverse.solver."""

from collections.abc import Callable

from jaxtyping import Array, Float

from score_sde.build.sections import InverseSettings
from score_sde.errors import UserError
from score_sde.inverse import Measurement
from score_sde.inverse.baselines import cgls, fista_tv
from score_sde.inverse.ct import ParallelBeam
from score_sde.inverse.fan import FanBeam
from score_sde.inverse.fbp import fbp


def _fbp(section: InverseSettings, given: Measurement) -> Float[Array, "n h w c"]:
    if not isinstance(given.operator, ParallelBeam | FanBeam):
        raise UserError(
            f"config.inverse.solver=fbp is for task=ct; got task={section.task}. Take pinv, cgls "
            "or tv"
        )
    return fbp(given.operator, given.y, section.window)


BASELINES: dict[str, Callable[[InverseSettings, Measurement], Float[Array, "n h w c"]]] = {
    "pinv": lambda section, given: given.operator.pinv(given.y),
    "fbp": _fbp,
    "cgls": lambda section, given: cgls(given.operator, given.y, section.iterations),
    "tv": lambda section, given: fista_tv(given.operator, given.y, section.tv_weight)[0],
}
"""pinv is A^+ y, zero-filled k-space for task=mri. fbp: filtered back-projection. cgls: some steps
of conjugate gradients for least squares. tv: least squares with total variation, 300 FISTA steps.
"""
