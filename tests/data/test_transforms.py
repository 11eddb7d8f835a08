"""Crops and resizes against direct formulas and an independent float resampler."""

import numpy as np
import pytest

from score_sde.data.transforms import METHODS, center_crop, crop_resize, resize, resize_crop

RNG = np.random.default_rng(0)


def picture(height, width, channels=3):
    return RNG.integers(0, 256, (height, width, channels), np.uint8)


def filter_matrix(size: int, new: int, method: str) -> np.ndarray:
    """Antialiased resampling along one axis from its definition.

    The filter is widened by the reduction.
    """

    def kernel(x):
        x = np.abs(x)
        if method == "bilinear":
            return np.clip(1 - x, 0, None)
        a = -0.5  # Keys' cubic
        inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
        outer = a * (x**3 - 5 * x**2 + 8 * x - 4)
        return np.where(x < 1, inner, np.where(x < 2, outer, 0))

    scale = max(size / new, 1)
    centre = (np.arange(new) + 0.5) * size / new - 0.5
    weights = kernel((np.arange(size) - centre[:, None]) / scale)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("method", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("shape", "size"), [((140, 140), 64), ((50, 33), (20, 21)), ((9, 9), 24)])
def test_resize_is_antialiased(method, shape, size):
    image = picture(*shape)
    height, width = (size, size) if isinstance(size, int) else size
    rows, columns = filter_matrix(shape[0], height, method), filter_matrix(shape[1], width, method)
    exact = np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns).clip(0, 255)
    result = resize(image, size, method)
    assert result.dtype == np.uint8
    assert result.shape == (height, width, 3)
    assert np.abs(result - exact).max() <= 0.501


def test_box_halves_by_the_mean():
    image = picture(8, 6, 1)
    mean = image.reshape(4, 2, 3, 2, 1).mean((1, 3))
    assert np.abs(resize(image, (4, 3), "box") - mean).max() <= 0.501


@pytest.mark.parametrize("method", METHODS)
def test_resize_keeps_a_flat_image_and_its_levels(method):
    assert (resize(np.full((30, 30, 2), 13, np.uint8), 8, method) == 13).all()
    edges = (picture(30, 30) > 127).astype(np.uint8) * 16
    assert resize(edges, 47, method, levels=17).max() <= 16


def test_resize_of_16_bits():
    image = RNG.integers(0, 65536, (8, 8, 1), np.uint16)
    result = resize(image, 4, "box", levels=65536)
    assert result.dtype == np.uint16
    assert np.abs(result - image.reshape(4, 2, 4, 2, 1).mean((1, 3))).max() <= 0.51


def test_resize_to_the_same_size_changes_nothing():
    image = picture(12, 10)
    np.testing.assert_array_equal(resize(image, (12, 10)), image)


@pytest.mark.parametrize(
    ("height", "width", "top", "left"), [(218, 178, 39, 19), (141, 140, 0, 0), (143, 145, 1, 2)]
)
def test_center_crop(height, width, top, left):
    image = picture(height, width)
    np.testing.assert_array_equal(
        center_crop(image, 140), image[top : top + 140, left : left + 140]
    )


def test_center_crop_of_unequal_sides():
    image = picture(10, 20)
    np.testing.assert_array_equal(center_crop(image, (4, 6)), image[3:7, 7:13])


def test_celeba_64_is_crop_140_then_bilinear():
    image = picture(218, 178)
    expected = resize(image[39:179, 19:159], 64, "bilinear")
    np.testing.assert_array_equal(crop_resize(image, 64, crop=140, method="bilinear"), expected)


def test_lsun_256_is_the_central_square_then_bicubic():
    image = picture(60, 90)
    np.testing.assert_array_equal(crop_resize(image, 32), resize(image[:, 15:75], 32, "bicubic"))


def test_resize_crop_scales_the_shorter_side():
    image = picture(60, 91)
    expected = resize(image, (32, 49), "bilinear")[:, 8:40]
    np.testing.assert_array_equal(resize_crop(image, 32), expected)
    assert resize_crop(picture(91, 60, 1), 32).shape == (32, 32, 1)


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match=r"cannot crop 140 x 140 .* 100 x 200"):
        center_crop(picture(100, 200), 140)
    with pytest.raises(
        ValueError, match="unknown resize method 'cubic'; known: nearest, box, bilinear"
    ):
        resize(picture(4, 4), 2, "cubic")
    with pytest.raises(ValueError, match="must be positive; got 0"):
        resize(picture(4, 4), 0)
