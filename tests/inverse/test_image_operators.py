"""Image operators against other formulas and other programs."""

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage, signal

from golden import assert_close, load, names
from score_sde import inverse
from score_sde.errors import UserError
from score_sde.inverse.blur import hartley

pytestmark = pytest.mark.usefixtures("x64")


forward = jax.jit(lambda operator, x: operator.forward(x))
pinv = jax.jit(lambda operator, y: operator.pinv(y))


def images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.parametrize(("size", "scale"), [((6, 9), 3), ((8, 4), 2), ((4, 12), 4)])
def test_block_means(size: tuple[int, int], scale: int) -> None:
    x = images(2, *size, 3)
    wanted = [
        [x[:, i : i + scale, j : j + scale].mean(axis=(1, 2)) for j in range(0, size[1], scale)]
        for i in range(0, size[0], scale)
    ]
    got = forward(inverse.block_mean((*size, 3), scale), x)
    np.testing.assert_allclose(got, np.moveaxis(wanted, 2, 0), atol=1e-14)


@pytest.mark.parametrize(("size", "scale"), [((12, 8), 2), ((9, 15), 3), ((32, 16), 4)])
def test_bicubic_is_that_of_pillow_and_of_jax(size: tuple[int, int], scale: int) -> None:
    x = images(*size).astype(np.float32)
    smaller = (size[0] // scale, size[1] // scale)
    got = forward(inverse.bicubic((*size, 1), scale), x[None, :, :, None].astype(float))
    resized = Image.fromarray(x).resize(smaller[::-1], Image.Resampling.BICUBIC)
    np.testing.assert_allclose(got[0, :, :, 0], resized, atol=1e-6)
    again = jax.image.resize(x.astype(float), smaller, "cubic", antialias=True)
    np.testing.assert_allclose(got[0, :, :, 0], again, atol=1e-12)


KERNELS = [(1, 1), (3, 3), (2, 4), (5, 2), (6, 7)]


@pytest.mark.parametrize("size", KERNELS)
def test_blur_is_a_convolution(size: tuple[int, int]) -> None:
    """Even kernels have their centre behind the middle, as in SciPy."""
    x, kernel = images(1, 6, 7, 2), images(*size, seed=1)
    circular = forward(inverse.blur((6, 7, 2), kernel), x)
    valid = forward(inverse.blur((6, 7, 2), kernel, "valid"), x)
    for c in range(2):
        wanted = ndimage.convolve(x[0, :, :, c], kernel, mode="wrap")
        np.testing.assert_allclose(circular[0, :, :, c], wanted, atol=1e-13)
        wanted = signal.convolve2d(x[0, :, :, c], kernel, mode="valid")
        np.testing.assert_allclose(valid[0, :, :, c], wanted, atol=1e-13)


def test_each_sample_has_its_kernel() -> None:
    x, kernels = images(2, 5, 6, 1), images(2, 3, 2, seed=1)
    together = forward(inverse.blur((5, 6, 1), kernels), x)
    for i in range(2):
        alone = forward(inverse.blur((5, 6, 1), kernels[i]), x[i : i + 1])
        np.testing.assert_allclose(together[i], alone[0], atol=1e-14)


@pytest.mark.parametrize("size", [(6, 7), (5, 8), (1, 3)])
def test_hartley_keeps_lengths_and_is_its_own_inverse(size: tuple[int, int]) -> None:
    x, transform = images(2, *size, 2), jax.jit(hartley)
    x[0] = 1  # a constant is the frequency 0
    c = np.asarray(transform(x))
    np.testing.assert_allclose((c**2).sum(axis=(1, 2)), (x**2).sum(axis=(1, 2)), rtol=1e-13)
    np.testing.assert_allclose(transform(c), x, atol=1e-13)
    assert c[0, 0, 0, 0] == pytest.approx(np.sqrt(size[0] * size[1]))


def test_a_blur_keeps_small_singular_values_and_drops_rounding() -> None:
    values = jax.jit(lambda operator: operator.spectrum().values)
    gaussian = values(inverse.blur((6, 6, 1), inverse.gaussian_kernel(1.2, 5)))
    assert gaussian.max() == pytest.approx(1)
    assert 0 < gaussian.min() < 1e-2
    flat = values(inverse.blur((6, 6, 1), np.full((2, 3), 1 / 6)))
    assert np.sum(flat == 0) == 36 - 5 * 4  # frequencies that 2 rows or 3 columns average out


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_grey_basis(channels: int) -> None:
    basis = inverse.grey_basis(channels)
    np.testing.assert_allclose(basis.T @ basis, np.eye(channels), atol=1e-15)
    x = images(5, channels)
    np.testing.assert_allclose((x @ basis)[:, 0], np.sqrt(channels) * x.mean(axis=1))


def test_the_published_basis_rounds_the_orthogonal_one() -> None:
    np.testing.assert_allclose(inverse.PUBLISHED_BASIS, inverse.grey_basis(3), atol=2e-7)
    assert inverse.mix_channels((2, 2, 3), inverse.grey_basis(3)).orthogonal
    assert not inverse.mix_channels((2, 2, 3), inverse.PUBLISHED_BASIS).orthogonal


@pytest.mark.parametrize("file", names("math/control_colorize_*"))
def test_channels_are_mixed_as_the_published_code_does(file: str) -> None:
    arrays = load(file)
    np.testing.assert_array_equal(np.float32(arrays["M"]), np.float32(inverse.PUBLISHED_BASIS))
    grey = arrays["gray"].astype(float)
    mixing = inverse.mix_channels(grey.shape[1:], arrays["M"])
    mixed = forward(mixing, grey)
    assert_close(mixed, arrays["decoupled_gray"], 1e-12)
    assert_close(pinv(mixing, mixed), mixed @ arrays["invM"], 1e-12)


def test_colorization() -> None:
    x, grey = images(2, 3, 4, 3), inverse.colorization((3, 4, 3))
    seen = forward(grey, x)
    np.testing.assert_allclose(seen[..., 0], np.sqrt(3) * x.mean(axis=-1))
    luma = forward(inverse.colorization((3, 4, 3), inverse.REC_601), x)[..., 0]
    np.testing.assert_allclose(luma, 0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2])
    mean = np.broadcast_to(x.mean(axis=-1, keepdims=True), x.shape)
    np.testing.assert_allclose(pinv(grey, seen), mean)


def test_crop() -> None:
    x = images(2, 5, 6, 2)
    got = forward(inverse.crop((5, 6, 2), 1, 2, (3, 4)), x)
    np.testing.assert_array_equal(got, x[:, 1:4, 2:6])


@pytest.mark.parametrize("axes", ["h w", "h w 1", "h w c", "b h w 1"])
def test_inpainting(axes: str) -> None:
    known = np.random.default_rng(0).random((2, 4, 5, 1)) < 0.5
    mask = {
        "h w": known[0, ..., 0],
        "h w 1": known[0],
        "h w c": np.broadcast_to(known[0], (4, 5, 3)),
        "b h w 1": known,
    }[axes]
    kept = np.broadcast_to(known if axes == "b h w 1" else known[:1], (2, 4, 5, 3))
    x = images(2, 4, 5, 3)
    operator = inverse.inpainting((4, 5, 3), mask)
    unknown = np.where(kept, x, np.nan)  # what is not known does not count, whatever it is
    y = forward(operator, unknown)
    np.testing.assert_array_equal(y, np.where(kept, x, 0))
    np.testing.assert_array_equal(pinv(operator, y), y)


def test_gaussian_kernel() -> None:
    kernel = inverse.gaussian_kernel(1.3, 41)
    place = np.arange(41) - 20
    assert kernel.sum() == pytest.approx(1)
    assert (kernel * place**2).sum() == pytest.approx(1.3**2)
    assert (kernel * np.outer(place, place)).sum() == pytest.approx(0, abs=1e-12)
    assert inverse.gaussian_kernel(1.3).shape == (9, 9)


@pytest.mark.parametrize("angle", [0.0, np.pi / 6, np.pi / 4, np.pi / 2, 2.5])
@pytest.mark.parametrize("length", [0.5, 1.0, 4.7, 9.0])
def test_motion_kernel_is_a_line(length: float, angle: float) -> None:
    """Its moments are those of the segment, and up to 1/4 more an axis from sharing pixels."""
    kernel = inverse.motion_kernel(length, angle)
    place = np.arange(len(kernel)) - len(kernel) // 2
    rows, columns = np.meshgrid(place, place, indexing="ij")
    assert len(kernel) % 2 == 1 and kernel.min() >= 0 and kernel.sum() == pytest.approx(1)
    moment = length**2 / 12
    assert (kernel * rows).sum() == pytest.approx(0, abs=1e-12)
    assert (kernel * columns).sum() == pytest.approx(0, abs=1e-12)
    extra = (kernel * columns**2).sum() - moment * np.cos(angle) ** 2
    assert -1e-3 * moment <= extra <= 0.25
    extra = (kernel * rows**2).sum() - moment * np.sin(angle) ** 2
    assert -1e-3 * moment <= extra <= 0.25
    mixed = -moment * np.sin(angle) * np.cos(angle)  # rows grow downwards
    assert (kernel * rows * columns).sum() == pytest.approx(mixed, rel=2e-3, abs=1e-12)


def test_a_motion_along_a_row_stays_in_it() -> None:
    kernel = inverse.motion_kernel(5.0, 0.0)
    assert np.all(kernel[np.arange(len(kernel)) != len(kernel) // 2] == 0)
    np.testing.assert_allclose(inverse.motion_kernel(5.0, np.pi / 2), kernel.T, atol=1e-12)


E = (4, 6, 3)
KNOWN = np.ones((4, 6), bool)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: inverse.inpainting(E, KNOWN), r"\[0\] says that everything"),
        (lambda: inverse.inpainting(E, ~KNOWN), r"\[0\] says that nothing"),
        (lambda: inverse.inpainting(E, KNOWN.T), r"\(6, 4\).*exchanged"),
        (lambda: inverse.inpainting(E, KNOWN * 1.0), "float64.*boolean"),
        (lambda: inverse.block_mean(E, 3), r"\(4, 6\); got 3"),
        (lambda: inverse.bicubic(E, 1), "got 1"),
        (lambda: inverse.crop(E, 2, 0, (3, 6)), "from 2 to 5 .* height 0 .. 4"),
        (lambda: inverse.crop(E, 0, -1, (3, 2)), "from -1 .* width"),
        (lambda: inverse.colorization(E, (1.0, 2.0)), "3 channels"),
        (lambda: inverse.colorization(E, (0.0, 0.0, 0.0)), "not all 0"),
        (lambda: inverse.blur(E, np.ones((5, 1))), r"\(5, 1\).*\(4, 6\)"),
        (lambda: inverse.blur(E, np.full((1, 2), np.nan)), "not finite"),
        (lambda: inverse.blur(E, np.zeros((2, 2, 2))), "zero"),
        (lambda: inverse.gaussian_kernel(0.0), "std > 0"),
        (lambda: inverse.gaussian_kernel(1.0, 4), "odd"),
        (lambda: inverse.motion_kernel(-1.0, 0.0), "length > 0"),
    ],
)
def test_what_makes_no_operator_is_refused(make, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()


def test_masks_that_say_nothing_are_named() -> None:
    masks = np.stack([KNOWN, KNOWN, KNOWN])[..., None] & (np.arange(6) < 3)[None, None, :, None]
    masks[1] = False
    with pytest.raises(UserError, match=r"number \[1\] says that nothing"):
        inverse.inpainting(E, masks)


@pytest.mark.parametrize(
    ("matrix", "message"), [(np.ones((3, 2)), r"\(3, 2\)"), (np.full((1, 2), np.inf), "not finite")]
)
def test_matrices_that_make_no_factor(matrix: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        inverse.Factor(matrix)


def test_factors_fit_the_axes() -> None:
    factor = inverse.Factor(np.ones((1, 3)))
    for factors in ((factor,), (factor, None, None), (None, factor)):
        with pytest.raises(ValueError, match=r"axes \(4, 5\)"):
            inverse.Separable((4, 5), factors)


def test_equal_operators_compile_once() -> None:
    traces = []

    @jax.jit
    def forward(operator, x):
        traces.append(1)
        return operator.forward(x)

    makes = (
        lambda: inverse.colorization((2, 2, 3)),
        lambda: inverse.block_mean((2, 2, 3), 2),
        lambda: inverse.crop((2, 2, 3), 0, 0, (1, 2)),
    )
    for make in makes:
        forward(make(), np.zeros((1, 2, 2, 3)))
        forward(make(), np.ones((1, 2, 2, 3)))
    assert len(traces) == len(makes)
