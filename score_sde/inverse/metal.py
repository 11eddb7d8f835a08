"""Metal in computed tomography: where it is, what it does to a scan, and simple corrections.

The trace of metal is what bins see of it. Rays through metal are hardened and starved, so the
reconstruction has streaks. A correction keeps the bins outside the trace, and puts other values in
it. Traces have the shape of sinograms (b, views, bins, c).

Source: Song et al. (2022), section 4.1 and appendix B.2; dissertation B.6.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from score_sde.arrays import Keys
from score_sde.errors import UserError
from score_sde.inverse.operators import Operator
from score_sde.inverse.xrays import XRays, photon_noise, polynomial, tissues

Sinogram = Float[Array, "b views bins c"]
Trace = Bool[Array, "b views bins c"]

PUBLISHED_HU = 4224.0, -1024.0
"""(scale, shift): HU = 4224 v - 1024 of the published images v in [0, 1]."""


def metal_of(
    image: Float[Array, "b h w c"], threshold: float = 3300.0, dilation: int = 1
) -> Bool[Array, "b h w c"]:
    """Pixels above a threshold, and those at most `dilation` rows and columns from one.

    Args:
        image: in the unit of the threshold; the published one is in HU.
        threshold: 3300 HU is published.
        dilation: 1 is published, a maximum over 3 x 3 pixels.
    """
    side = 2 * dilation + 1
    return _wider(image > threshold, (1, side, side, 1))


def metal_trace(
    operator: Operator, metal: Bool[Array, "b h w c"], threshold: float = 0.0, margin: int = 0
) -> Trace:
    """Bins that see more metal than a threshold, and `margin` bins on either side of them.

    A trace that is cut too narrow leaves bright spots at the edges of the metal.

    Args:
        operator: to sinograms (b, views, bins, c).
        metal: pixels of metal.
        threshold: of the projection of ones, in its unit of length.
        margin: bins, >= 0.
    """
    seen = operator.forward(metal.astype(float)) > threshold
    return _wider(seen, (1, 1, 2 * margin + 1, 1))


def _wider(mask: Bool[Array, "b ..."], window: tuple[int, ...]) -> Bool[Array, "b ..."]:
    ones = (1,) * mask.ndim
    return jax.lax.reduce_window(mask, False, jax.lax.bitwise_or, window, ones, "SAME")


def edges_of(trace: Trace) -> Trace:
    """Bins of the trace beside a bin outside it. Beyond the detector there is no edge."""
    return trace & _wider(~trace, (1, 1, 3, 1))


def check_trace(trace: Trace) -> None:
    """Refuses what cannot be interpolated; outside jit.

    Raises:
        UserError: for a view whose bins all lie in the trace.
    """
    full = np.argwhere(np.asarray(trace).all(axis=2))
    if len(full):
        raise UserError(
            f"{len(full)} views see metal in all bins, the first is view {full[0, 1]} of image "
            f"{full[0, 0]}: nothing is left to interpolate. Take a smaller margin, a higher "
            "threshold of metal, or a detector that is wider than the metal"
        )


def interpolate_trace(y: Sinogram, trace: Trace) -> Sinogram:
    """The trace filled by lines between the bins beside it, view by view.

    At an end of the detector the nearest bin is repeated. `check_trace` refuses views that have no
    bin outside the trace; they become NaN here.

    Source: Kalender, Hebel & Ebersberger (1987), Radiology 164, 576.
    """
    bins = y.shape[2]
    place = jnp.broadcast_to(jnp.arange(bins)[None, None, :, None], y.shape)
    before = jax.lax.cummax(jnp.where(trace, -1, place), axis=2)
    after = jax.lax.cummin(jnp.where(trace, bins, place), axis=2, reverse=True)
    left, right = jnp.where(before < 0, after, before), jnp.where(after >= bins, before, after)
    low, high = (jnp.take_along_axis(y, jnp.clip(i, 0, bins - 1), axis=2) for i in (left, right))
    share = (place - left).astype(y.dtype) / jnp.maximum(right - left, 1).astype(y.dtype)
    filled = low + jnp.where(right > left, share, 0) * (high - low)
    filled = jnp.where((before < 0) & (after >= bins), jnp.nan, filled)
    return jnp.where(trace, filled, y)


def harden_less(operator: Operator, y: Sinogram, metal: Bool[Array, "b h w c"]) -> Sinogram:
    """First-order correction of the beam hardening by metal.

    In the trace, y minus its interpolation is fitted by a_1 m + a_2 m^2 + a_3 m^3, m being the
    length of metal, by least squares for each image. The bent part is taken away:
    y' = y - a_2 m^2 - a_3 m^3.

    Args:
        operator: to sinograms.
        y: sinogram with beam hardening.
        metal: pixels of metal.

    Source: Verburg & Seco (2012), Physics in Medicine and Biology 57, 2803.
    """
    m = operator.forward(metal.astype(y.dtype))
    trace = m > 0
    rest = jnp.where(trace, y - interpolate_trace(y, trace), 0)
    most = jnp.max(m, axis=(1, 2, 3), keepdims=True)
    m = m / jnp.where(most > 0, most, 1)
    powers = jnp.stack([m, m**2, m**3], axis=-1)
    gram = jnp.einsum("bvsck,bvscl->bkl", powers, powers, precision="highest")
    right = jnp.einsum("bvsck,bvsc->bk", powers, rest, precision="highest")
    gram = jnp.where(most[..., 0] > 0, gram, jnp.eye(3, dtype=y.dtype)[None])
    a = jnp.einsum("bkl,bl->bk", jnp.linalg.pinv(gram, hermitian=True), right, precision="highest")
    return y - jnp.einsum("bvsck,bk->bvsc", powers[..., 1:], a[:, 1:], precision="highest")


def scan_with_metal(
    operator: Operator,
    mu: Float[Array, "b h w c"],
    metal: Bool[Array, "b h w c"],
    rays: XRays,
    keys: Keys | None = None,
    density: float = 4.5,
) -> tuple[Sinogram, Trace]:
    """The sinogram of an image with metal put in, as a scanner with a water correction gives it.

    The image without metal is parted into water and bone. Rays that only graze the metal, at the
    edges of the trace, see a quarter of it.

    Args:
        operator: the geometry, with lengths in cm.
        mu: attenuation at the reference energy, in 1/cm.
        metal: pixels of metal.
        rays: materials water, bone and the metal, in this order.
        keys: of the noise of photons; None is no noise.
        density: of the metal in g/cm^3, by default titanium's.

    Returns:
        the sinogram and the trace.

    Raises:
        ValueError: unless the rays have three materials.

    Source: as `xrays`.
    """
    if rays.attenuation.shape[1] != 3:
        raise ValueError(
            f"a scan takes water, bone and metal; the rays have {rays.attenuation.shape[1]} "
            "materials"
        )
    parts = tissues(jnp.where(metal, 0, mu))
    water, bone = (operator.forward(parts[..., i]) for i in range(2))
    length = operator.forward(metal.astype(mu.dtype))
    trace = length > 0
    seen = density * float(rays.at_reference[2]) * jnp.where(edges_of(trace), length / 4, length)
    p = rays.projection(jnp.stack([water, bone, seen], axis=-1))
    if keys is not None:
        p = photon_noise(keys, p)
    return polynomial(p, rays.water_polynomial()), trace
