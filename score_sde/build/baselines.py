"""Reconstruction without a model, by the name in config.inverse.solver."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.build.sections import InverseSettings
from score_sde.errors import UserError
from score_sde.inverse import Measurement
from score_sde.inverse.baselines import cgls, fista_tv
from score_sde.inverse.ct import ParallelBeam
from score_sde.inverse.fan import FanBeam
from score_sde.inverse.fbp import fbp
from score_sde.inverse.metal import interpolate_trace
from score_sde.inverse.operators import Masked


def _fbp(section: InverseSettings, given: Measurement) -> Float[Array, "n h w c"]:
    if not isinstance(given.operator, ParallelBeam | FanBeam):
        other = "li" if section.task == "mar" else "pinv, cgls or tv"
        raise UserError(
            f"config.inverse.solver=fbp is for task=ct; got task={section.task}. Take {other}"
        )
    return fbp(given.operator, given.y, section.window)


def _lines(section: InverseSettings, given: Measurement) -> Float[Array, "n h w c"]:
    if section.task != "mar":
        raise UserError(
            f"config.inverse.solver=li fills the trace of metal, of task=mar; got "
            f"task={section.task}. Take fbp, pinv, cgls or tv"
        )
    assert isinstance(given.operator, Masked)
    beam, mask = given.operator.operator, jnp.asarray(given.operator.mask)
    assert isinstance(beam, ParallelBeam | FanBeam)
    trace = jnp.broadcast_to(~mask, given.y.shape)
    return fbp(beam, interpolate_trace(given.y, trace), section.window)


BASELINES: dict[str, Callable[[InverseSettings, Measurement], Float[Array, "n h w c"]]] = {
    "pinv": lambda section, given: given.operator.pinv(given.y),
    "fbp": _fbp,
    "li": _lines,
    "cgls": lambda section, given: cgls(given.operator, given.y, section.iterations),
    "tv": lambda section, given: fista_tv(given.operator, given.y, section.tv_weight)[0],
}
"""pinv is A^+ y, zero-filled k-space for task=mri. fbp: filtered back-projection. li: the trace of
metal filled by lines, then fbp. cgls: some steps of conjugate gradients for least squares. tv:
least squares with total variation, 300 FISTA steps.
"""
