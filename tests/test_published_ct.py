"""Tomography of the published code, number for number, and what its transform is."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inverseruns import check_run
from mathcases import reference_sde
from scipy.special import i0

from golden import assert_close, cases, groups, load
from score_sde import inverse
from score_sde.errors import UserError
from score_sde.inverse import fourier_radon, metal
from score_sde.inverse.operators import inner

TOLERANCE = 1e-9
RADON, TRANSFORMS = "math/inverse_radon", "math/inverse_ct_transforms"
STEPS = cases("math/inverse_*ct_step.npz") + cases("math/inverse_*mar_step.npz")
RUNS = cases("math/inverse_run_ct_*.npz") + cases("math/inverse_run_*mar_*.npz")


def images(stored):
    """Stored images with a channel axis."""
    return jnp.asarray(stored)[..., None]


def metal_in(image):
    """The published metal of images in [0, 1]."""
    scale, shift = metal.PUBLISHED_HU
    return metal.metal_of(scale * image + shift)


def measured(stored, case):
    """The known data of a stored step or run; those of its metal are not known."""
    image = jnp.asarray(stored["image"])
    where = metal_in(image) if "mar" in case else None
    expansion = int(stored.get("expansion", 4))
    return fourier_radon.published_scan(image, int(stored["n_projections"]), where, expansion)


@pytest.mark.parametrize("case", groups(RADON, "__sinogram"))
def test_sinograms(case, x64):
    stored = load(RADON)
    x, y = (images(stored[f"{case}__{name}"]) for name in ("image", "sinogram"))
    project = jax.jit(fourier_radon.slice_radon, static_argnums=1)
    assert_close(project(x, y.shape[1]), y, TOLERANCE)
    back = [key for key in stored if key.startswith(f"{case}__fbp_K")]
    assert back
    for key in back:
        name, n = key.split("_K")[1], x.shape[1]
        found = fourier_radon.slice_filter(n, float(name))
        assert_close(found, stored[f"{case}__fourier_filter_K{name}"], TOLERANCE)
        found = jax.jit(fourier_radon.slice_fbp, static_argnums=(1, 2))(y, n, float(name))
        assert_close(found[..., 0], stored[key], TOLERANCE)


def test_transforms(x64):
    """Each piece of T, in the order of its use."""
    stored = load(TRANSFORMS)
    x, n = images(stored["image"]), int(stored["size"])
    operator = fourier_radon.FourierSlices(x.shape[1:], int(stored["expansion"]))
    assert fourier_radon.diameter(n) == stored["diameter"]
    assert operator.size == stored["expanded_diameter"]
    assert_close(fourier_radon.radii(n, operator.expansion), stored["r_coords"], TOLERANCE)
    found = fourier_radon.cells(n, operator.expansion)
    np.testing.assert_array_equal(found.column, stored["radial_x"])
    np.testing.assert_array_equal(found.row, stored["radial_y"])
    np.testing.assert_array_equal(found.hit, stored["grid_hits"] > 0)
    seen = jax.jit(operator.forward)(x)
    assert_close(seen[:, n:, :, 0], stored["kspace"], TOLERANCE)
    assert_close(seen[:, :n, :, 0], stored["sino"], TOLERANCE)
    assert_close(seen[:, :n, :, 0], stored["fft_radon"], TOLERANCE)
    alone = jnp.concatenate([seen[:, :n], jnp.zeros_like(seen[:, n:])], axis=1)
    assert_close(operator.merge(alone)[..., 0], stored["sino_to_kspace"], TOLERANCE)
    assert_close(operator.pinv(seen)[..., 0], stored["image_back"], TOLERANCE)
    y = fourier_radon.slice_radon(x, n)
    assert_close(y[..., 0], stored["radon"], TOLERANCE)
    assert_close(operator.gridded(y)[..., 0], stored["discretised_sinogram"], TOLERANCE)


def test_views():
    stored = load("math/inverse_masks")
    found = [key for key in stored if re.fullmatch(r"ct_rows_\d+_\d+_\d+", key)]
    assert found
    for key in found:
        n, views, expansion = map(int, key.split("_")[2:])
        kept = fourier_radon.published_views(n, views)
        np.testing.assert_array_equal(kept, stored[key], key)
        width = fourier_radon.expanded(n, expansion)
        assert width == stored[f"ct_rows_width_{n}_{views}_{expansion}"]
        cells = f"ct_kspace_{n}_{views}_{expansion}"
        if cells in stored:
            # Not those of the kept views: the published code has angles j pi/views here.
            points = fourier_radon.lines(n, views, expansion) * width / fourier_radon.diameter(n)
            hit = np.zeros((width, width), bool)
            hit[tuple(np.round(points).astype(int) % width)] = True
            np.testing.assert_array_equal(hit, stored[cells], key)


@pytest.mark.parametrize("case", STEPS)
def test_one_step(case, x64):
    """The known data, the metal, and the step for each stored lambda."""
    stored = load(case)
    given, x = measured(stored, case), jnp.asarray(stored["x"])
    operator, n = given.operator.operator, x.shape[1]
    known = operator.with_views(jnp.asarray(stored["known_kspace"]))
    assert_close(given.y, given.operator.restrict(known), TOLERANCE)
    mask = np.broadcast_to(given.operator.mask, (len(x), *operator.measured))
    np.testing.assert_array_equal(mask[:1, :n, :, 0], stored["mask"])
    assert not mask[:, n:].any()
    if "metal_segmentation" in stored:
        where = metal_in(jnp.asarray(stored["image"]))
        np.testing.assert_array_equal(where[..., 0], stored["metal_segmentation"])
        seen = operator.forward(where.astype(float)).real[:, :n, :, 0]
        trace = seen > fourier_radon.TRACE_THRESHOLD
        np.testing.assert_array_equal(trace, stored["metal_trace"])
    sigma = reference_sde("ve", stored).marginal(jnp.asarray(stored["t"]))[1]
    assert_close(sigma, stored["std"], TOLERANCE)
    state = jnp.ones_like(sigma), sigma, jnp.asarray(stored["noise"].astype(float))
    results = [key for key in stored if key.startswith("x_new_lambda")]
    assert results
    for key in results:
        strength = float(key.removeprefix("x_new_lambda"))
        moved = jax.jit(inverse.merged(given, strength))(x, *state)
        assert_close(moved, stored[key], TOLERANCE, key)


@pytest.mark.parametrize("case", RUNS)
def test_runs(case, x64):
    """The state before and after each update, and the end."""
    stored = load(case)
    given = measured(stored, case)
    mask = np.asarray(given.operator.mask)[:, : stored["image"].shape[1], :, 0]
    np.testing.assert_array_equal(np.broadcast_to(mask, stored["mask"].shape), stored["mask"])
    check_run(stored, given, TOLERANCE)


@pytest.mark.parametrize("case", groups(RADON, "__sinogram")[:1])
def test_single_precision(case):
    stored = load(RADON)
    x, y = (stored[f"{case}__{name}"][..., None] for name in ("image", "sinogram"))
    project = jax.jit(fourier_radon.slice_radon, static_argnums=1)
    found = project(jnp.asarray(x, jnp.float32), y.shape[1])
    assert found.dtype == np.float32
    assert_close(found, y, 5e-5)


RNG = np.random.default_rng(0)


@pytest.mark.usefixtures("x64")
class TestTransform:
    """Without stored values."""

    def test_window(self):
        x = np.linspace(0, 20, 200)
        assert np.abs(fourier_radon.bessel_i0(x) / i0(x) - 1).max() < 3e-7

    @pytest.mark.parametrize("n", [5, 8])
    def test_inverse_and_adjoint(self, n):
        """T^-1 T = I, and <T x, y> = <x, T^H y>, odd and even sizes, two channels."""
        operator = fourier_radon.FourierSlices((n, n, 2), 2)
        x = jnp.asarray(RNG.normal(size=(2, n, n, 2)))
        parts = RNG.normal(size=(2, 2, *operator.measured))
        y = jnp.asarray(parts[0] + 1j * parts[1])
        seen = jax.jit(operator.forward)(x)
        assert_close(operator.pinv(seen), x, 1e-12)
        gap = inner(seen, y) - inner(x, jax.jit(operator.adjoint)(y))
        assert np.all(np.abs(gap) <= 1e-12 * jnp.sqrt(inner(seen, seen) * inner(y, y)))

    def test_sums(self):
        """Angle 0: sums of columns; pi/2: of rows from below; the window errs by some 1e-2."""
        n, before = 12, 2
        x = RNG.uniform(size=(1, n, n, 1))
        y = np.asarray(fourier_radon.slice_radon(jnp.asarray(x), n))[0, ..., 0]
        assert y.shape == (n, 17)
        columns, rows = x[0, ..., 0].sum(axis=0), x[0, ::-1, :, 0].sum(axis=1)
        assert_close(y[0, before : before + n], columns, 0.05)
        assert np.abs(y[n // 2, 3 : 3 + n] - rows).max() / rows.max() < 0.1
        assert np.abs(y[0, before : before + n] - columns[::-1]).max() > 0.5

    def test_back_projection(self):
        """A disc of 1 comes back, n = 32; a filter at 2 mod 4 is not real."""
        n = 32
        row, column = np.indices((n, n)) - (n - 1) / 2
        disc = np.hypot(row, column) < 10
        x = jnp.asarray(disc[None, ..., None], float)
        repeat = jax.jit(lambda x: fourier_radon.slice_fbp(fourier_radon.slice_radon(x, n), n))
        found = np.asarray(repeat(x))[0, ..., 0]
        inside = np.hypot(row, column) < 8
        assert np.abs(found[inside].mean() - 1) < 0.05
        assert np.abs(found[np.hypot(row, column) > 12].mean()) < 0.05
        assert np.abs(fourier_radon.slice_filter(n, 2.0).imag).max() < 1e-12
        assert fourier_radon.expanded(24, 1.8) % 4 == 2
        assert np.abs(fourier_radon.slice_filter(24, 1.8).imag).max() > 0.1

    def test_known_data_are_not_of_the_transform(self):
        """With lambda = 1 and all views the true image is moved, by less than 3 %."""
        row, column = np.indices((16, 16)) - 7.5
        x = np.where(np.hypot(row, 1.3 * column) < 6, 1 + 0.05 * row, 0)[None, ..., None]
        x = jnp.asarray(x)
        given = fourier_radon.published_scan(x, 16)
        seen = given.operator.forward(x)
        assert 5e-3 < jnp.linalg.norm(seen - given.y) / jnp.linalg.norm(given.y) < 5e-2
        moved = inverse.merged(given)(x, jnp.asarray(1.0), jnp.asarray(0.0), None)
        assert 1e-3 < jnp.linalg.norm(moved - x) / jnp.linalg.norm(x) < 3e-2

    def test_metal_is_not_seen(self):
        """What lies in the metal changes nothing that is known."""
        image = jnp.asarray(RNG.uniform(size=(1, 8, 8, 1)))
        where = jnp.zeros(image.shape, bool).at[0, 2:6, 3:7].set(True)
        one, other = (
            fourier_radon.published_scan(jnp.where(where, value, image), 8, where, 2)
            for value in (0.2, 1.0)
        )
        np.testing.assert_array_equal(one.y, other.y)
        whole = fourier_radon.published_scan(image, 8, expansion=2)
        assert one.operator.mask.sum() < whole.operator.mask.sum()

    def test_the_last_view_repeats_the_first(self):
        """23 of 320 views: the others are 8.2 degrees apart, the last and the first 0.56."""
        angles = np.flatnonzero(fourier_radon.published_views(320, 23)) * 180 / 320
        assert angles[0] + 180 - angles[-1] == 0.5625
        assert np.diff(angles).min() > 7.8

    def test_messages(self):
        with pytest.raises(UserError, match=r"square images; got \(4, 6\)"):
            fourier_radon.FourierSlices((4, 6, 1))
        for views in (0, 9):
            with pytest.raises(UserError, match=f"from 1 to 8, the size of the image; got {views}"):
                fourier_radon.published_views(8, views)
        with pytest.raises(ValueError, match="y has 9 bins; an image of size 8 has 12 here"):
            fourier_radon.slice_fbp(jnp.zeros((1, 4, 9, 1)), 8)
