"""MRI: operators against their matrices and closed forms, coil maps, baselines."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from golden import data_root
from score_sde import grids, guidance, inverse, steppers
from score_sde.data import PixelRange
from score_sde.data.ranges import ComplexRange
from score_sde.errors import UserError
from score_sde.inverse import restoration
from score_sde.inverse.operators import inner
from score_sde.sampling import Sampler
from score_sde.sde import VP
from score_sde.solvers import SOLVERS

RNG = np.random.default_rng(0)


def lopsided(*shape):
    """A mask without mirror symmetry."""
    mask = np.random.default_rng(1).uniform(size=shape) < 0.5
    mask.reshape(-1, *shape[-2:])[:, 0, 0] = True
    return mask


def coils(event, number=3, **options):
    """Several coils whose maps are 0 at one pixel."""
    maps = inverse.birdcage_maps(number, *event[:2])
    maps[:, 0, 0] = 0
    return inverse.multi_coil(event, maps, lopsided(*event[:2]), **options)


OPERATORS = {
    "real": lambda: inverse.single_coil((5, 6, 1), lopsided(5, 6)),
    "real, even": lambda: inverse.single_coil((4, 4, 2), lopsided(4, 4)),
    "real, odd, a mask a row": lambda: inverse.single_coil((3, 5, 1), lopsided(2, 3, 5)),
    "real, all of k-space": lambda: inverse.Fourier((4, 3, 1)),
    "complex": lambda: inverse.single_coil((5, 4, 2), lopsided(5, 4), complex_images=True),
    "complex, a mask a channel": lambda: inverse.Masked(
        inverse.Fourier((4, 3, 4), True), lopsided(2, 4, 3).transpose(1, 2, 0)[None]
    ),
    "coils": lambda: coils((4, 5, 2)),
    "coils, real": lambda: coils((5, 4, 1), complex_images=False),
    "all of the coils": lambda: coils((4, 3, 2)).operator,
    "radial": lambda: inverse.radial((5, 4, 2), 4, 3, golden=True, complex_images=True),
    "points a row, in blocks": lambda: inverse.NonuniformFourier(
        jnp.asarray(np.random.default_rng(2).uniform(-0.5, 0.5, (2, 7, 2))), (3, 4, 1), block=3
    ),
}
ITERATED = ("coils", "coils, real", "radial", "points a row, in blocks")
"""They take conjugate gradients."""
SHIFTS = np.array([0.3, 2.0, 0.0])


def last_row(operator):
    return jax.tree.map(lambda leaf: leaf[-1:], operator)


@jax.jit
def probe(operator, shifts):
    """Images of unit vectors: real ones of x, real and imaginary ones of y."""
    n, m = (int(np.prod(shape)) for shape in (operator.event, operator.measured))
    x, one = jnp.eye(n).reshape(n, *operator.event), jnp.eye(m).reshape(m, *operator.measured)
    y = jnp.concatenate([jax.lax.complex(one, 0 * one), jax.lax.complex(0 * one, one)])
    back = jax.vjp(operator.forward, jnp.zeros((2 * m, *operator.event)))[1]
    return {
        "forward": operator.forward(x),
        "adjoint": operator.adjoint(y),
        "vjp": back(jnp.conj(y))[0],  # cotangents of JAX are those of sum a b, not sum conj(a) b
        "pinv": operator.pinv(y),
        "solve": operator.solve(y, shifts),
        "norm": operator.norm()[:, None],
    }


def columns(array):
    """Rows of results as the columns of a real matrix, imaginary parts below real ones."""
    flat = np.asarray(array).reshape(len(array), -1).T
    return np.concatenate([flat.real, flat.imag]) if np.iscomplexobj(flat) else flat


@pytest.fixture(scope="module")
def probes():
    return {}


@pytest.fixture(params=OPERATORS)
def found(request, probes, x64):
    """Real matrices of what an operator does, made once."""
    if request.param not in probes:
        operator = last_row(OPERATORS[request.param]())
        shifts = np.resize(SHIFTS, 2 * int(np.prod(operator.measured)))
        arrays = probe(operator, jnp.asarray(shifts))
        probes[request.param] = {name: columns(array) for name, array in arrays.items()}
        probes[request.param]["shifts"] = shifts
    return probes[request.param]


class TestMatrices:
    """In double precision."""

    def test_adjoint_and_derivative(self, found):
        assert np.abs(found["adjoint"] - found["forward"].T).max() < 1e-14
        assert np.abs(found["vjp"] - found["adjoint"]).max() < 1e-14

    def test_pinv(self, found):
        a, pinv = found["forward"], found["pinv"]
        assert np.abs(a @ pinv @ a - a).max() < 1e-8
        wanted = np.linalg.pinv(a, rcond=1e-10)
        assert np.abs(pinv - wanted).max() < 1e-8 * np.abs(wanted).max()

    def test_solve(self, found):
        """For a = 0 compared after A^T, since there is no solution outside the range."""
        a = found["forward"]
        values, vectors = np.linalg.eigh(a @ a.T)
        values = np.where(values < 1e-12, 0, values)
        for j, shift in enumerate(found["shifts"]):
            inverse_values = 1 / np.where(values + shift > 0, values + shift, np.inf)
            wanted = vectors @ (inverse_values * vectors[j])
            got = found["solve"][:, j]
            if shift == 0:
                wanted, got = a.T @ wanted, a.T @ got
                if np.abs(a @ wanted - np.eye(len(a))[j]).max() > 1e-9:
                    continue
            assert np.abs(got - wanted).max() < 1e-8 * max(1, np.abs(wanted).max()), (j, shift)

    def test_norm(self, found):
        largest = np.linalg.norm(found["forward"], 2)
        assert found["norm"][0, 0] == pytest.approx(largest, rel=1e-6)


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_in_single_precision(name):
    operator = OPERATORS[name]()
    rows = max(operator.rows, 2)
    operator = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == jnp.float64 else leaf, operator
    )
    x = jnp.asarray(RNG.normal(size=(rows, *operator.event)), jnp.float32)
    parts = RNG.normal(size=(2, rows, *operator.measured)).astype(np.float32)
    y = jax.lax.complex(*jnp.asarray(parts))
    ax, back = jax.jit(lambda x, y: (operator.forward(x), operator.adjoint(y)))(x, y)
    size = jnp.sqrt(inner(ax, ax) * inner(y, y))
    assert back.dtype == jnp.float32 and ax.dtype == jnp.complex64
    assert np.all(np.abs(inner(ax, y) - inner(x, back)) <= 1e-5 * size) and np.all(size > 0)


@pytest.mark.parametrize("name", [name for name in OPERATORS if name not in ITERATED])
def test_spectrum(name, x64):
    """A = U diag(s) V^T, V orthogonal, U^T U = I where s > 0."""
    operator = last_row(OPERATORS[name]())
    found = operator.decompose()
    if found is None:
        assert "coils" in name
        return
    n = int(np.prod(operator.event))

    @jax.jit
    def parts(x):
        c = found.from_x(x)
        unit = jnp.eye(n).reshape(c.shape)
        s = jnp.broadcast_to(found.values, (1, *c.shape[1:]))
        u = found.to_y(unit)
        return c, found.to_x(unit), s, u, found.from_y(u), operator.forward(x)

    x = jnp.eye(n).reshape(n, *operator.event)
    v_t, v, s, u, again, a = (columns(part) for part in parts(x))
    s, seen = s[:, 0], s[:, 0] > 0
    assert np.abs(v.T @ v - np.eye(n)).max() < 1e-12 and np.abs(v_t - v.T).max() < 1e-12
    assert np.abs((u * s) @ v.T - a).max() < 1e-12
    gram = (u.T @ u)[np.ix_(seen, seen)]
    assert np.abs(gram - np.eye(seen.sum())).max() < 1e-12
    assert np.abs(again[np.ix_(seen, seen)] - np.eye(seen.sum())).max() < 1e-12
    if name.startswith("real,") or name == "real":
        assert set(np.round(s**2, 9)) <= {0, 0.5, 1}


@pytest.mark.parametrize("size", [(6, 6), (5, 5), (4, 7)])
def test_fourier_transform(size, x64):
    """Parseval; frequency 0 and position 0 in the middle; the sum itself."""
    h, w = size
    x = RNG.normal(size=(2, h, w, 1)) + 1j * RNG.normal(size=(2, h, w, 1))
    k = np.asarray(inverse.centred_fft2(jnp.asarray(x)))
    assert np.sum(np.abs(k) ** 2) == pytest.approx(np.sum(np.abs(x) ** 2), rel=1e-12)
    np.testing.assert_allclose(inverse.centred_ifft2(jnp.asarray(k)), x, atol=1e-14)
    rows, columns_ = (
        np.exp(-2j * np.pi * np.outer(np.arange(n) - n // 2, np.arange(n) - n // 2) / n)
        for n in size
    )
    direct = np.einsum("kr,brsc,ls->bklc", rows, x, columns_) / np.sqrt(h * w)
    np.testing.assert_allclose(k, direct, atol=1e-12)
    image = np.zeros((1, h, w, 1))
    image[0, h // 2, w // 2] = 1
    flat = inverse.centred_fft2(jnp.asarray(image))
    np.testing.assert_allclose(flat, np.full(image.shape, 1 / np.sqrt(h * w)), atol=1e-15)


def test_points_of_the_grid_and_the_order_of_axes(x64):
    """A nonuniform transform at frequencies of the grid is the transform of the grid."""
    h, w = 5, 4
    row, column = np.indices((h, w))
    points = np.stack([(row - h // 2) / h, (column - w // 2) / w], axis=-1).reshape(1, -1, 2)
    x = jnp.asarray(RNG.normal(size=(2, h, w, 1)))
    operator = inverse.NonuniformFourier(jnp.asarray(points), (h, w, 1))
    wanted = inverse.centred_fft2(x).reshape(2, -1, 1)
    np.testing.assert_allclose(operator.forward(x), wanted, atol=1e-13)
    # The line at angle 0 lies along a row of k-space.
    line = inverse.radial((4, 4, 1), 2, 4).forward(x[:, :4])
    k = inverse.centred_fft2(x[:, :4])
    np.testing.assert_allclose(line[:, :4], k[:, 2], atol=1e-13)
    np.testing.assert_allclose(line[:, 4:], k[:, :, 2], atol=1e-13)


@pytest.mark.parametrize("name", ["real", "coils"])
def test_rows_on_several_devices(name):
    """The same numbers on 1 and 8 devices."""
    operator, devices = OPERATORS[name](), jax.devices()
    x = jnp.asarray(RNG.normal(size=(2 * len(devices), *operator.event)), jnp.float32)
    rows = NamedSharding(Mesh(np.asarray(devices), ("data",)), PartitionSpec("data"))
    both = jax.jit(lambda x: (operator.forward(x), operator.adjoint(operator.forward(x))))
    for one, several in zip(both(x), both(jax.device_put(x, rows)), strict=True):
        np.testing.assert_allclose(one, several, atol=1e-6)


def test_one_flat_coil_is_a_single_coil(x64):
    for channels, pairs in ((1, False), (2, True)):
        event, mask = (4, 5, channels), lopsided(4, 5)
        several = inverse.multi_coil(event, np.ones((1, 4, 5), complex), mask, pairs)
        single = inverse.single_coil(event, mask, pairs)
        x = jnp.asarray(RNG.normal(size=(2, *event)))
        y = single.forward(x)
        np.testing.assert_allclose(several.forward(x)[:, 0], y, atol=1e-14)
        np.testing.assert_allclose(several.adjoint(y[:, None]), single.adjoint(y), atol=1e-14)
        np.testing.assert_allclose(several.pinv(y[:, None]), single.pinv(y), atol=1e-12)


def test_complex_images_are_those_of_the_model_range(x64):
    """Channels 2 j and 2 j + 1 are the real and imaginary part of image j."""
    image = RNG.normal(size=(1, 3, 4, 2)) + 1j * RNG.normal(size=(1, 3, 4, 2))
    operator = inverse.Fourier((3, 4, 4), True)
    x = jnp.asarray(ComplexRange().encode(image))
    wanted = inverse.centred_fft2(jnp.asarray(image))
    np.testing.assert_allclose(operator.forward(x), wanted, atol=1e-14)


@pytest.mark.parametrize("name", ["real", "complex"])
def test_solvers_with_a_spectrum_take_noise(name):
    """DDRM and DDNM meet their data, and PiGDM is the exact score of N(0, c^2 I)."""
    operator, sde = OPERATORS[name](), VP()
    x = jnp.asarray(RNG.normal(size=(2, *operator.event)), jnp.float32)
    given = inverse.simulate(operator, x, 0.2, jax.random.key(0))
    t, s = jnp.asarray(0.5), jnp.asarray(1e-3)
    score_fn = lambda x, t: -x  # noqa: E731  N(0, I) stays N(0, I)
    with pytest.raises(AssertionError):
        np.testing.assert_array_equal(given.y, operator.forward(x))
    free = inverse.Measurement(operator, operator.forward(x), jnp.zeros(2))
    for make in (restoration.DDRM, restoration.DDNM):
        moved = make(sde, given)(score_fn, x, t, s, lambda j: x, ())[0]
        assert moved.shape == x.shape and moved.dtype == x.dtype
        moved = make(sde, free)(score_fn, 0 * x, t, jnp.asarray(sde.t_clean), lambda j: x, ())[1]
        gap = np.abs(operator.forward(moved) - free.y).max()
        assert gap < 1e-4, make
    guided = guidance.pigdm(score_fn, sde, given, 1.0)(x, jnp.full(2, 0.5))
    matrix = columns(operator.forward(jnp.eye(x[0].size).reshape(-1, *operator.event)))
    alpha, sigma = (float(v) for v in sde.marginal(t))
    y = columns(given.y)
    covariance = sigma**2 * matrix @ matrix.T + 0.04 * np.eye(len(matrix))
    flat = np.asarray(x).reshape(2, -1).T
    wanted = alpha * matrix.T @ np.linalg.solve(covariance, y - alpha * matrix @ flat) - flat
    np.testing.assert_allclose(guided.reshape(2, -1).T, wanted, atol=2e-4)


@pytest.mark.parametrize("name", ["real", "complex", "coils", "coils, real", "radial"])
def test_every_solver_takes_complex_data(name):
    """Types and shapes; nothing is computed."""
    operator, sde = OPERATORS[name](), VP()
    x = jnp.asarray(RNG.normal(size=(2, *operator.event)), jnp.float32)
    given = inverse.measure(operator, operator.forward(x), 0.0)
    sampler = Sampler(sde, steppers.Ancestral(sde), grids.uniform(sde, 20, 1e-2))

    for solver in SOLVERS:
        if solver == "ddrm" and operator.decompose() is None:
            continue
        made = SOLVERS[solver]()
        made.check(given)

        def samples(given, made=made):
            changed, score_fn = made(made.prepare(sampler), lambda x, t: -x, given)
            return changed(jax.random.key(0), score_fn, x.shape).x

        found = jax.eval_shape(samples, given)
        assert (found.shape, found.dtype) == (x.shape, x.dtype), solver


def test_the_range_of_a_model():
    """A measurement of u in [0, 1] is one of x = low + (high - low) u."""
    operator = OPERATORS["real"]()
    u = jnp.asarray(RNG.uniform(size=(2, *operator.event)), jnp.float32)
    given = inverse.simulate(operator, u, 0.1, jax.random.key(0))
    moved = given.in_range(PixelRange())
    low, high = PixelRange().low, PixelRange().high
    noise = moved.y - operator.forward(low + (high - low) * u)
    np.testing.assert_allclose(noise, (high - low) * (given.y - operator.forward(u)), atol=1e-5)
    np.testing.assert_allclose(moved.std, [0.1 * (high - low)] * 2)


@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_uncentred_data_are_refused(size):
    row, column = np.indices(size)
    image = 1 + np.exp(-((row - size[0] // 2) ** 2 + column**2) / 9)
    k = np.asarray(inverse.centred_fft2(jnp.asarray(image[None, ..., None])))
    inverse.check_centred(k)
    with pytest.raises(UserError, match="k-space is not centred"):
        inverse.check_centred(np.fft.ifftshift(k, (1, 2)))


class TestMaps:
    def test_birdcage(self):
        maps = inverse.birdcage_maps(6, 9, 12)
        assert maps.shape == (6, 9, 12)
        np.testing.assert_allclose(np.sum(np.abs(maps) ** 2, axis=0), 1, atol=1e-12)
        np.testing.assert_allclose(maps[:, 4, 6], maps[0, 4, 6], atol=1e-12)  # the centre
        assert np.argmax(np.abs(maps[0]).sum(axis=0)) == 11  # coil 0 is to the right
        for step in np.diff(np.angle(maps), axis=1), np.diff(np.angle(maps), axis=2):
            assert np.abs(step).max() < 1

    def test_estimates(self):
        """The maps of a smooth object, where it is; 0 outside."""
        row, column = np.indices((32, 32))
        image = np.exp(-(((row - 16) / 9) ** 2 + ((column - 14) / 7) ** 2)) * np.exp(0.05j * row)
        maps = inverse.birdcage_maps(4, 32, 32)
        k = np.asarray(inverse.centred_fft2(jnp.asarray((maps * image)[..., None])))[..., 0]
        found = inverse.estimate_maps(k, 16)
        support = np.abs(found).sum(axis=0) > 0
        assert 0.2 < support.mean() < 0.9 and support[16, 14] and not support[0, 0]
        total = np.sum(np.abs(found) ** 2, axis=0)
        np.testing.assert_allclose(total, support, atol=1e-6)
        # Estimates have the phase of the image; products of two coils have none.
        wanted, got = (m[1:] * np.conj(m[:1]) for m in (maps, found))
        inside = np.abs(image) > 0.3
        assert np.abs(wanted - got)[:, inside].max() < 0.03
        inverse.multi_coil((32, 32, 2), found, np.ones((32, 32), bool))

    def test_refusals(self):
        k = np.ones((2, 8, 8), complex)
        k[:, :, 3] = 0
        with pytest.raises(UserError, match=r"columns \[3\] of the central 4"):
            inverse.estimate_maps(k, 4)
        with pytest.raises(UserError, match="lines=1"):
            inverse.estimate_maps(k, 1)
        with pytest.raises(UserError, match=r"at 1\.2"):
            inverse.birdcage_maps(4, 8, 8, 1.2)


def test_baselines(x64):
    """SENSE finds what coils tell apart; zero-filled images have aliases."""
    event, mask = (16, 16, 2), np.tile(np.arange(16) % 2 == 0, (16, 1))
    operator = inverse.multi_coil(event, inverse.birdcage_maps(6, 16, 16), mask)
    x = jnp.asarray(RNG.normal(size=(2, *event)))
    given = inverse.measure(operator, operator.forward(x), 0.0)
    np.testing.assert_allclose(inverse.cgls(given.operator, given.y, 60), x, atol=1e-4)
    first = given.operator.adjoint(given.y)
    assert np.abs(first - x).max() > 0.5
    weighted = inverse.cgls(given.operator, given.y, 60, weight=0.3)
    normal = operator.adjoint(operator.forward(weighted)) + 0.3 * weighted
    np.testing.assert_allclose(normal, first, atol=1e-8)
    whole = operator.operator.forward(x)
    rss = inverse.root_sum_of_squares(whole)[..., 0]
    np.testing.assert_allclose(rss, np.hypot(x[..., 0], x[..., 1]), atol=1e-12)
    for options in ({"weight": -1.0}, {"steps": 0}):
        with pytest.raises(ValueError, match="cgls takes"):
            inverse.cgls(given.operator, given.y, **options)


@pytest.mark.parametrize(("several", "most"), [(False, 1e-5), (True, 1e-3)])
def test_data_consistency(several, most):
    """|A x' - y|/|y| in single precision: closed for one coil, by conjugate gradients for more."""
    event, rng = (48, 48, 2 if several else 1), np.random.default_rng(5)
    mask = inverse.published_equispaced(48, 48, 24)
    operator = (
        inverse.multi_coil(event, inverse.birdcage_maps(8, 48, 48), mask)
        if several
        else inverse.single_coil(event, mask)
    )
    x, image = jnp.asarray(rng.normal(size=(2, 2, *event)), jnp.float32)
    given = inverse.measure(operator, operator.forward(image), 0.0)
    moved = inverse.exact(given)(x)
    rest = operator.forward(moved) - given.y
    assert np.all(inner(rest, rest) <= most**2 * inner(given.y, given.y))


def test_real_coils():
    """8 coils, 4x: SENSE is nearer to the whole measurement than the zero-filled image."""
    path = data_root() / "medical" / "brain_mr_8coil_kspace.npz"
    if not path.exists():
        pytest.skip(f"no {path}")
    with np.load(path) as file:
        k = next(file[name] for name in file.files if np.iscomplexobj(file[name]))
    k = (k if k.shape[0] == 8 else np.moveaxis(k, -1, 0)).astype(np.complex64)
    height, width = k.shape[1:]
    event, mask = (height, width, 2), inverse.fastmri_equispaced(height, width, 4.0)
    maps = inverse.estimate_maps(k * mask, round(0.08 * width) - 1)
    whole = inverse.measure(
        inverse.multi_coil(event, maps, np.ones_like(mask)), k[None, ..., None], 0.0
    )
    truth = whole.operator.adjoint(whole.y)
    operator = inverse.multi_coil(event, maps, mask)
    given = inverse.measure(operator, k[None, ..., None], 0.0)
    errors = {
        name: float(jnp.linalg.norm(found - truth) / jnp.linalg.norm(truth))
        for name, found in (
            ("zero", given.operator.adjoint(given.y)),
            ("few steps", inverse.cgls(given.operator, given.y, 6)),
            ("weight", inverse.cgls(given.operator, given.y, 12, 0.02)),
            ("many steps", inverse.cgls(given.operator, given.y, 30)),
        )
    }
    assert max(errors["few steps"], errors["weight"]) < 0.8 * errors["zero"]
    assert errors["many steps"] > errors["few steps"]  # the noise grows


def test_what_is_refused():
    mask, maps = np.ones((4, 5), bool), inverse.birdcage_maps(2, 4, 5)
    for call, words in (
        (lambda: inverse.single_coil((4, 5, 1), mask.T), "height and width exchanged"),
        (lambda: inverse.single_coil((4, 5, 1), mask.astype(float)), "float64"),
        (lambda: inverse.single_coil((4, 5, 1), ~mask), "measures nothing"),
        (lambda: inverse.single_coil((4, 5, 1), mask, True), "even number of channels"),
        (lambda: inverse.multi_coil((4, 5, 2), maps.swapaxes(1, 2), mask), r"\(coils, 4, 5\)"),
        (lambda: inverse.multi_coil((4, 5, 2), 2 * maps, mask), "normalized_maps"),
        (lambda: inverse.multi_coil((4, 5, 2), maps * np.nan, mask), "normalized_maps"),
        (lambda: inverse.radial((4, 5, 1), 0), "0 spokes"),
    ):
        with pytest.raises(UserError, match=words):
            call()
