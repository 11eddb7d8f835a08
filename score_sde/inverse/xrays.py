"""X-rays of many energies: what a detector sees of several materials, and the water correction.

An image v of attenuation at one reference energy, in 1/length, is the sum of the images of its
materials. p_m is the line integral of material m at that energy. With the mass attenuation mu_m(E)
and w(E) photons of energy E, the detector sees

    p = -log(sum_E w(E) exp(-sum_m p_m mu_m(E)/mu_m(reference)) / sum_E w(E)).

Matter takes more of the soft rays, so p grows less than in proportion to p_m: the beam hardens.

Source: the simulation of Zhang & Yu (2018), IEEE Transactions on Medical Imaging 37, 1370, whose
numbers Song et al. (2022) use: 20 to 120 keV, reference 70 keV, water of 0.192/cm, materials water,
bone and titanium of 4.5 g/cm^3, 2e7 photons, 20 more by scatter.
"""

import dataclasses
import importlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.arrays import Keys
from score_sde.errors import UserError

MU_WATER = 0.192
"""Attenuation of water at 70 keV, in 1/cm."""


@dataclasses.dataclass(frozen=True, eq=False)
class XRays:
    """Photons by energy, and what materials take from them. Numbers, not traced.

    Args:
        energies: in keV.
        weights: photons of each energy, >= 0, in any unit.
        attenuation: (energies, materials), mass attenuation in cm^2/g, > 0. The first material is
            water.
        reference: the energy of the images, one of `energies`.

    Raises:
        UserError: for shapes that do not agree, a reference that is not among the energies, no
            photons, and attenuation that is not above 0 and finite.
    """

    energies: Float[np.ndarray, "energies"]
    weights: Float[np.ndarray, "energies"]
    attenuation: Float[np.ndarray, "energies materials"]
    reference: float = 70.0

    def __post_init__(self):
        sizes = [len(v) for v in (self.energies, self.weights, self.attenuation)]
        if len(set(sizes)) != 1:
            raise UserError(
                f"energies, weights and attenuation have {sizes} rows; they need one an energy"
            )
        if self.reference not in self.energies:
            raise UserError(
                f"the reference of {self.reference:g} keV is not among the energies, from "
                f"{self.energies.min():g} to {self.energies.max():g} keV; add it, with weight 0 if "
                "there are no such photons"
            )
        if not (np.all(self.weights >= 0) and 0 < self.weights.sum() < np.inf):
            raise UserError("weights must be numbers of photons >= 0, and not all 0")
        if not (np.all(self.attenuation > 0) and np.isfinite(self.attenuation).all()):
            raise UserError("attenuation must be above 0 and finite, in cm^2/g")

    @property
    def at_reference(self) -> Float[np.ndarray, "materials"]:
        """Mass attenuation at the reference energy; times the density it is that of an image."""
        return self.attenuation[np.flatnonzero(self.energies == self.reference)[0]]

    def projection(self, p: Float[Array, "*rays materials"]) -> Float[Array, "*rays"]:
        """What the detector sees of the line integrals p_m at the reference energy."""
        seen = self.weights > 0
        ratios = jnp.asarray(self.attenuation[seen] / self.at_reference[None], p.dtype)
        logs = jnp.asarray(np.log(self.weights[seen] / self.weights.sum()), p.dtype)

        def add(total, energy):
            ratio, log = energy
            return jnp.logaddexp(total, log - jnp.tensordot(p, ratio, 1)), None

        start = jnp.full(p.shape[:-1], -jnp.inf, p.dtype)
        return -jax.lax.scan(add, start, (ratios, logs))[0]

    def water_polynomial(
        self, thickest: float = 50.0, step: float = 0.05
    ) -> Float[np.ndarray, "3"]:
        """(a_1, a_2, a_3): a_1 p + a_2 p^2 + a_3 p^3 is near the line integral at the reference.

        Least squares for water of 1 g/cm^3 from 0 to `thickest` cm.
        """
        lengths = step * np.arange(round(thickest / step) + 1)
        mu, share = self.attenuation[:, 0], self.weights / self.weights.sum()
        p = -np.log(np.exp(-lengths[:, None] * mu[None]) @ share)
        wanted = lengths * self.at_reference[0]
        return np.linalg.lstsq(_powers(p), wanted, rcond=None)[0]


def polynomial(
    p: Float[Array, "*rays"], coefficients: Float[np.ndarray, "n"]
) -> Float[Array, "*rays"]:
    """a_1 p + a_2 p^2 + ..., the correction of beam hardening with `XRays.water_polynomial`."""
    total = jnp.zeros_like(p)
    for a in coefficients[::-1]:
        total = (total + jnp.asarray(a, p.dtype)) * p
    return total


def _powers(p: np.ndarray) -> np.ndarray:
    return np.stack([p, p**2, p**3], axis=-1)


def photon_noise(
    keys: Keys, p: Float[Array, "b ..."], photons: float = 2e7, scatter: float = 20.0
) -> Float[Array, "b ..."]:
    """-log(n/photons) with n ~ Poisson(photons exp(-p) + scatter), and n at least 1.

    Args:
        keys: one for the batch, or one a sample.
        p: projections without noise, >= 0.
        photons: that a bin gets without an object.
        scatter: photons that reach a bin from elsewhere.
    """
    rates = photons * jnp.exp(-p) + scatter
    if keys.ndim == 0:
        counts = jax.random.poisson(keys, rates)
    else:
        counts = jax.vmap(jax.random.poisson)(keys, rates)
    return -jnp.log(jnp.maximum(counts, 1).astype(p.dtype) / photons)


def hounsfield(mu: Float[Array, "..."], water: float = MU_WATER) -> Float[Array, "..."]:
    """1000 (mu/water - 1)."""
    return 1000 * (mu / water - 1)


def from_hounsfield(hu: Float[Array, "..."], water: float = MU_WATER) -> Float[Array, "..."]:
    """Attenuation water (1 + hu/1000), and 0 for what is less than air."""
    return jnp.maximum(water * (1 + hu / 1000), 0)


def tissues(
    mu: Float[Array, "b h w c"], soft: float = 100.0, hard: float = 1500.0, water: float = MU_WATER
) -> Float[Array, "b h w c 2"]:
    """The images of water and of bone whose sum is `mu`.

    Below `soft` HU all is water, above `hard` all is bone. Between them the share of bone grows
    linearly with mu.

    Source: Kyriakou et al. (2010), Medical Physics 37, 5179, for the thresholds.
    """
    low, high = (water * (1 + hu / 1000) for hu in (soft, hard))
    bone = jnp.clip((mu - low) / (high - low), 0, 1) * mu
    return jnp.stack([mu - bone, bone], axis=-1)


def tabulated(
    energies: Float[np.ndarray, "energies"], formulas: Sequence[str]
) -> Float[np.ndarray, "energies materials"]:
    """Mass attenuation in cm^2/g of chemical formulas, such as H2O or Ti, at energies in keV.

    Raises:
        UserError: where the package xraydb, whose tables these are, is not installed.
    """
    try:
        xraydb = importlib.import_module("xraydb")
    except ImportError as error:
        raise UserError(
            "tables of attenuation are in the package xraydb; install it: "
            'pip install "score_sde[ct]". '
            "Or give numbers of your own as `attenuation` of XRays"
        ) from error
    columns = [xraydb.material_mu(f, 1000 * np.asarray(energies), density=1.0) for f in formulas]
    return np.stack(columns, axis=1)


def kramers(
    energies: Float[np.ndarray, "energies"],
    peak: float,
    filtered: Float[np.ndarray, "energies"] | float = 0.0,
) -> Float[np.ndarray, "energies"]:
    """Photons (peak/E - 1) exp(-filtered) of a tube: bremsstrahlung alone, without lines.

    Args:
        energies: in keV, > 0.
        peak: of the tube in kV; above it there are no photons.
        filtered: mu(E) times thickness of what lies between the tube and the object.

    Source: Kramers (1923), Philosophical Magazine 46, 836.
    """
    return np.maximum(peak / energies - 1, 0) * np.exp(-np.asarray(filtered))
