"""Published measures of scans: the circle, and images with two levels of grey."""

import numpy as np
import pytest

from golden import load
from score_sde.errors import UserError
from score_sde.metrics import circle, grey_levels, psnr, ssim


@pytest.fixture(scope="module")
def reference():
    return load("math/inverse_metrics")


def batch(image):
    return np.asarray(image, np.float64)[None, :, :, None]


def test_circle(reference):
    found = circle(len(reference["circle_mask"]))
    np.testing.assert_array_equal(found[0, ..., 0], reference["circle_mask"])


@pytest.mark.parametrize("size", [33, 320])
def test_a_disc(size):
    """Symmetric, pi/4 of the square, its centre half a pixel past the middle."""
    found = circle(size)[0, ..., 0]
    np.testing.assert_array_equal(found, found.T)
    assert found.mean() == pytest.approx(np.pi / 4, rel=0.05)
    row, column = np.indices(found.shape) - size / 2
    assert found[np.hypot(row, column) < size / 2 - 1].all()
    assert not found[np.hypot(row, column) > size / 2 + 1].any()


def test_published_values(reference):
    """Grey levels first, then the circle."""
    images = grey_levels(*(batch(reference[k]) for k in ("ground_truth", "prediction")))
    a, b = (image * circle(image.shape[1]) for image in images)
    found = psnr(a, b, 1.0, offset=1e-8)[0]
    assert found == pytest.approx(reference["piq_psnr_roi_hist"], rel=1e-12)
    assert ssim(a, b, 1.0)[0] == pytest.approx(reference["piq_ssim_roi_hist"], rel=1e-12)


def levels(*counts):
    """An image with so many pixels of each bin."""
    values = np.concatenate([np.full(n, (i + 0.5) / 255) for i, n in counts])
    image = np.concatenate([values, [0.0, 1.0]]).reshape(1, -1)
    return batch(image)


def test_levels():
    """Each image has its own levels; the prediction ends where the truth does."""
    truth = levels((20, 9), (30, 5), (120, 8), (200, 4))
    other = levels((74, 9), (30, 5), (150, 8), (200, 4))
    a, b = grey_levels(np.concatenate([truth, other]), np.concatenate([other, truth]))
    most = [(1 - 20 / 255) / (100 / 255), (1 - 74 / 255) / (76 / 255)]
    assert a[0].max() == a[1].max() == b[0].max() == 1
    np.testing.assert_allclose(np.unique(a[0])[:3] * most[0], [0, 0.005, 0.105], atol=1e-12)
    np.testing.assert_allclose(b[0].ravel()[-6] * most[0], 126.5 / 76, atol=1e-12)
    np.testing.assert_allclose(b[1].ravel()[-1] * most[1], 235 / 100, atol=1e-12)


def test_messages():
    x = np.zeros((2, 4, 4, 1))
    with pytest.raises(UserError, match=r"one shape .* got \(2, 4, 4, 1\) and \(1, 4, 4, 1\)"):
        grey_levels(x, x[:1])
    with pytest.raises(UserError, match="2 of 2 true images have no value above"):
        grey_levels(x, x)
