"""Metal artifacts: published numbers, exact cases, and what the corrections are for."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_close, load
from score_sde.errors import UserError
from score_sde.inverse import Operator, metal, static, xrays

TOLERANCE = 1e-9
ENERGIES = np.arange(20.0, 121.0)

interpolate = jax.jit(metal.interpolate_trace)


def beam(materials=3):
    """Made up: soft rays are taken more, by the third material most."""
    powers, sizes = np.array([1.0, 2.0, 2.5])[:materials], np.array([0.2, 0.3, 0.5])[:materials]
    attenuation = 0.1 + sizes[None] * (70 / ENERGIES[:, None]) ** powers[None]
    return xrays.XRays(ENERGIES, xrays.kramers(ENERGIES, 120.0), attenuation)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Table(Operator):
    """A sinogram by a matrix."""

    matrix: jax.Array
    event: tuple[int, ...] = static()
    shape: tuple[int, ...] = static()

    def forward(self, x):
        return (x.reshape(len(x), -1) @ self.matrix[0].T).reshape(-1, *self.shape)


@pytest.fixture(scope="module")
def stored():
    return load("math/inverse_mar_physics")


def stored_beam(stored):
    """Row i of the tables is energy i + 1 keV."""
    rows = stored["energies"] - 1
    return xrays.XRays(
        stored["energies"].astype(float),
        stored["spectrum"][rows],
        stored["mass_attenuation"][rows],
        float(stored["kev"]),
    )


@pytest.mark.usefixtures("x64")
class TestPublished:
    """Numbers of the published simulation and corrections."""

    def test_energies(self, stored):
        rays = stored_beam(stored)
        p = rays.projection(jnp.asarray(stored["projections_kev"]))
        assert_close(p, stored["projection_kvp"], TOLERANCE)
        found = rays.water_polynomial()
        assert_close(found, stored["beam_hardening_poly"][:, 0], TOLERANCE)
        assert_close(xrays.polynomial(p, found), stored["projection_corrected"], TOLERANCE)
        assert_close(4.5 * rays.at_reference[2], stored["metal_attenuation"], TOLERANCE)

    def test_constants(self, stored):
        assert float(stored["miu_water"]) == xrays.MU_WATER
        edges = np.array([stored["threshold_water"], stored["threshold_bone"]])
        water = xrays.tissues(jnp.asarray(edges).reshape(1, 1, 2, 1))[0, 0, :, 0, 0]
        assert_close(water, [edges[0], 0], TOLERANCE)

    def test_interpolation(self, stored):
        y, trace = (jnp.asarray(stored[name])[None, ..., None] for name in ("sinogram", "trace"))
        found = interpolate(y, trace > 0)[0, ..., 0]
        assert_close(found, stored["sinogram_linear_interpolated"], TOLERANCE)

    def test_first_order(self, stored):
        """The file has an image: the transposed projector of the corrected sinogram."""
        y, image = stored["bhc_projection"], stored["bhc_image"]
        event = *image.shape, 1
        table = Table(jnp.asarray(stored["bhc_projector"])[None], event, (*y.shape, 1))
        where = jnp.asarray(stored["bhc_metal"]).reshape(1, *event) > 0
        fixed = jax.jit(metal.harden_less)(table, jnp.asarray(y)[None, ..., None], where)
        assert_close(table.adjoint(fixed)[0, ..., 0], image, TOLERANCE)


@pytest.mark.usefixtures("x64")
class TestRays:
    def test_one_energy(self):
        """Then projections are sums, whatever else is in the tables."""
        rays = beam()
        for energy in (70.0, 40.0):
            one = dataclasses.replace(rays, weights=np.where(energy == ENERGIES, 7.0, 0.0))
            p = jnp.asarray(np.random.default_rng(0).uniform(size=(4, 3)))
            ratio = rays.attenuation[energy == ENERGIES][0] / rays.at_reference
            assert_close(one.projection(p), p @ ratio, 1e-12)

    def test_two_energies(self):
        """1/4 of the photons at 1 times, 3/4 at 2 times the attenuation of the reference."""
        rays = xrays.XRays(np.array([70.0, 30.0]), np.array([2.0, 6.0]), np.array([[0.3], [0.6]]))
        p = jnp.asarray([0.0, 0.5, 30.0])
        wanted = -np.log(np.exp(-p) / 4 + 3 * np.exp(-2 * p) / 4)
        assert_close(rays.projection(p[:, None]), wanted, 1e-12)

    def test_thick_matter_in_single_precision(self):
        """exp(-p) of 200 is 0 in single precision; the projection is not infinite."""
        p = np.full((1, 3), 100.0)
        wanted = beam().projection(jnp.asarray(p))
        found = beam().projection(jnp.asarray(p, jnp.float32))
        assert found.dtype == np.float32
        assert_close(found, wanted, 1e-5)

    def test_the_beam_hardens(self):
        """Slope at 0 is the mean of mu(E)/mu(70), and falls."""
        rays = beam(1)
        slope = jax.vmap(jax.grad(lambda p: rays.projection(p[None])))(jnp.linspace(0.0, 9.0, 20))
        ratio = rays.attenuation[:, 0] / rays.at_reference[0]
        assert_close(slope[0], (rays.weights * ratio).sum() / rays.weights.sum(), 1e-12)
        assert np.all(np.diff(slope) < 0)

    def test_water_correction(self):
        """Water is straight to 0.05 of 15; without it is off by 1."""
        rays = beam(1)
        wanted = jnp.linspace(0.0, 15.0, 50)
        p = rays.projection(wanted[:, None])
        fixed = xrays.polynomial(p, rays.water_polynomial())
        assert np.abs(fixed - wanted).max() < 0.05
        assert np.abs(p - wanted).max() > 1

    def test_noise_of_photons(self):
        """Mean -log(rate/photons), variance 1/rate; a bin without photons has one."""
        keys = jax.random.split(jax.random.key(0), 3)
        p = jnp.broadcast_to(jnp.asarray([0.0, 2.0, 5.0])[:, None], (3, 40000))
        noisy = xrays.photon_noise(keys, p, 1e6, 500.0)
        rate = 1e6 * np.exp([0.0, -2.0, -5.0]) + 500
        assert_close(noisy.mean(axis=1), -np.log(rate / 1e6), 5e-3)
        assert np.abs(noisy.var(axis=1) * rate - 1).max() < 0.05
        alone = xrays.photon_noise(keys[:1], p[:1], 1e6, 500.0)
        np.testing.assert_array_equal(alone, noisy[:1])
        one_key = jax.vmap(xrays.photon_noise, (None, 0, None, None))
        none = one_key(keys[0], jnp.full((1, 1, 4), 60.0), 1e6, 0.0)[0]
        assert_close(none, np.full((1, 4), np.log(1e6)), 1e-6)

    def test_tissues(self):
        """All water below 100 HU, all bone above 1500 HU, half and half at 800 HU."""
        mu = xrays.from_hounsfield(jnp.asarray([-2000.0, 0.0, 100.0, 800.0, 1500.0, 2000.0]))
        parts = xrays.tissues(mu.reshape(1, 1, 6, 1)).reshape(6, 2)
        assert_close(parts.sum(axis=1), mu, 1e-14)
        assert_close(parts[:, 1] / jnp.maximum(mu, 1e-3), [0, 0, 0, 0.5, 1, 1], 1e-12)
        assert_close(xrays.hounsfield(mu), [-1000.0, 0.0, 100.0, 800.0, 1500.0, 2000.0], 1e-12)

    def test_tables(self):
        pytest.importorskip("xraydb")
        mu = xrays.tabulated(np.array([70.0]), ("H2O", "Ti"))
        assert_close(mu, [[0.1929, 0.536]], 1e-3)

    def test_absent_tables(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "xraydb", None)
        with pytest.raises(UserError, match=r'pip install "score_sde\[ct\]"'):
            xrays.tabulated(np.array([70.0]), ("H2O",))

    def test_messages(self):
        good = dict(zip(("energies", "weights", "attenuation"), (np.ones(2),) * 2, strict=False))
        good |= {"attenuation": np.ones((2, 1)), "reference": 1.0}
        xrays.XRays(**good)
        for changed, words in (
            ({"weights": np.ones(3)}, r"have \[2, 3, 2\] rows"),
            ({"reference": 70.0}, "70 keV is not among the energies"),
            ({"weights": np.zeros(2)}, "not all 0"),
            ({"attenuation": np.zeros((2, 1))}, "above 0 and finite"),
        ):
            with pytest.raises(UserError, match=words):
                xrays.XRays(**good | changed)


class TestTraces:
    def test_metal(self):
        image = jnp.zeros((1, 7, 9, 1)).at[0, 3, 4, 0].set(3301.0).at[0, 0, 0, 0].set(3300.0)
        assert metal.metal_of(image, dilation=0).sum() == 1
        wanted = np.zeros((7, 9), bool)
        wanted[2:5, 3:6] = True
        np.testing.assert_array_equal(metal.metal_of(image)[0, ..., 0], wanted)

    def test_trace(self):
        """One column of metal: one bin at angle 0, every bin but the border at a right angle."""
        bins = np.eye(12)[2:10]  # bin i + 2 sees line i of the image
        matrix = np.stack([np.kron(np.ones(8), bins.T), np.kron(bins.T, np.ones(8))])
        table = Table(jnp.asarray(matrix.reshape(1, 24, 64)), (8, 8, 1), (2, 12, 1))
        where = jnp.zeros((1, 8, 8, 1), bool).at[0, :, 5].set(True)
        columns, rows = metal.metal_trace(table, where)[0, ..., 0]
        np.testing.assert_array_equal(np.flatnonzero(columns), [7])
        np.testing.assert_array_equal(np.flatnonzero(rows), np.arange(2, 10))
        wide = metal.metal_trace(table, where, margin=2)[0, ..., 0]
        np.testing.assert_array_equal(np.flatnonzero(wide[0]), [5, 6, 7, 8, 9])
        assert wide[1].all()
        assert not metal.metal_trace(table, where, threshold=8.5).any()
        assert metal.metal_trace(table, where, threshold=7.5).any()
        with pytest.raises(UserError, match="1 views see metal in all bins, the first is view 1"):
            metal.check_trace(wide[None, ..., None])

    def test_edges(self):
        trace = jnp.asarray([[1, 1, 1, 0, 1, 0, 1, 1, 1, 1, 0]], bool)[None, :, :, None]
        wanted = np.array([0, 0, 1, 0, 1, 0, 1, 0, 0, 1, 0], bool)
        np.testing.assert_array_equal(metal.edges_of(trace)[0, 0, :, 0], wanted)

    def test_interpolation(self):
        """Lines are exact, ends are repeated, what is seen is not touched."""
        trace = np.zeros((2, 2, 8, 1), bool)
        trace[0, 0, 2:5] = trace[0, 1, :2] = trace[1, 0, 6:] = trace[1, 1] = True
        line = np.broadcast_to(np.arange(8.0)[None, None, :, None], trace.shape)
        y = jnp.asarray(np.where(trace, 99.0, line), jnp.float32)
        found = np.asarray(interpolate(y, jnp.asarray(trace)))[..., 0]
        assert_close(found[0, 0], line[0, 0, :, 0], 1e-6)
        assert_close(found[0, 1], [2, 2, 2, 3, 4, 5, 6, 7], 1e-6)
        assert_close(found[1, 0], [0, 1, 2, 3, 4, 5, 5, 5], 1e-6)
        assert np.isnan(found[1, 1]).all()


def scene(n=16, views=24):
    """(projector, disc of water, square of metal in it); the projector interpolates linearly."""
    y, x = np.indices((n, n)) - (n - 1) / 2
    theta, bins = np.arange(views) * np.pi / views, 2 * n - 8
    s = x.ravel()[None] * np.cos(theta)[:, None] + y.ravel()[None] * np.sin(theta)[:, None]
    gap = np.abs(s[:, None] - (np.arange(bins) - (bins - 1) / 2)[None, :, None])
    matrix = 0.8 * np.maximum(1 - gap, 0).reshape(1, views * bins, n * n)  # pixels of 8 mm
    where = np.zeros((1, n, n, 1), bool)
    where[0, 5:8, 9:12] = True
    mu = np.where(x**2 + y**2 < (0.45 * n) ** 2, xrays.MU_WATER, 0.0)[None, ..., None]
    table = Table(jnp.asarray(matrix), (n, n, 1), (views, bins, 1))
    return table, jnp.asarray(mu), jnp.asarray(where)


@pytest.mark.usefixtures("x64")
class TestScans:
    """A disc of water with a square of metal."""

    def test_without_hardening(self):
        """One energy and no noise: the scan is linear, but for a quarter at the edges."""
        table, mu, where = scene()
        rays = dataclasses.replace(beam(), weights=np.where(ENERGIES == 70, 1.0, 0.0))
        y, trace = jax.jit(lambda *v: metal.scan_with_metal(*v, rays))(table, mu, where)
        clean, length = (table.forward(v) for v in (jnp.where(where, 0, mu), where.astype(float)))
        share = np.where(metal.edges_of(trace), 0.25, 1)
        wanted = clean + 4.5 * rays.at_reference[2] * share * length
        assert_close(y, wanted, 1e-10)  # the polynomial of one energy is p itself
        np.testing.assert_array_equal(trace, length > 0)
        assert 0 < metal.edges_of(trace).sum() < trace.sum()

    def test_corrections_help(self):
        """Outside the metal both are nearer to the truth, interpolation by far."""
        table, mu, where = scene()
        keys = jax.random.split(jax.random.key(0), 1)

        @jax.jit
        def scans(table, mu, where, keys):
            y, trace = metal.scan_with_metal(table, mu, where, beam(), keys)
            return y, metal.interpolate_trace(y, trace), metal.harden_less(table, y, where)

        found = scans(table, mu, where, keys)
        inverted = np.linalg.pinv(np.asarray(table.matrix[0]), rcond=0.02)
        outside = ~np.asarray(metal.metal_of(where.astype(float), 0.5, 2)).ravel()
        gaps = [(inverted @ np.asarray(y).ravel() - mu.ravel())[outside] for y in found]
        spoiled, interpolated, corrected = (np.sqrt(np.mean(gap**2)) for gap in gaps)
        assert interpolated < 0.3 * spoiled
        assert corrected < spoiled

    def test_a_cubic_is_straightened(self):
        """Where y - its interpolation is a m + b m^2 + c m^3, a m is left, each image its own."""
        table, _, where = scene()
        where = jnp.concatenate([where, jnp.roll(where, 2, axis=1), jnp.zeros_like(where)])
        m = table.forward(where.astype(float))
        a = jnp.asarray([2.0, 1.0, 3.0])[:, None, None, None]
        y = 1 + a * m - 0.3 * m**2 + 0.1 * m**3
        found = jax.jit(metal.harden_less)(table, y, where)
        assert_close(found, 1 + a * m, 1e-9)

    def test_materials(self):
        with pytest.raises(ValueError, match="the rays have 1 materials"):
            metal.scan_with_metal(*scene(), beam(1))
