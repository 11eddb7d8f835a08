"""PSNR and SSIM: published values, the definition written out, and messages."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from golden import load
from score_sde.errors import UserError
from score_sde.metrics import psnr, ssim

RNG = np.random.default_rng(0)


def pair(shape=(3, 12, 14, 2), noise=0.1):
    a = RNG.uniform(size=shape)
    return a, np.clip(a + noise * RNG.normal(size=shape), 0, 1)


@pytest.fixture(scope="module")
def reference():
    return load("math/inverse_metrics")


def batch(image):
    return np.asarray(image, np.float64)[None, :, :, None]


PIQ = {"offset": 1e-8}


@pytest.mark.parametrize(("suffix", "mask"), [("", None), ("_roi", "circle_mask")])
def test_values_of_piq(reference, suffix, mask):
    weight = reference[mask] if mask else 1.0
    a, b = (batch(reference[name] * weight) for name in ("ground_truth", "prediction"))
    assert psnr(a, b, 1.0, **PIQ)[0] == pytest.approx(reference[f"piq_psnr{suffix}"], rel=1e-12)
    assert ssim(a, b, 1.0)[0] == pytest.approx(reference[f"piq_ssim{suffix}"], rel=1e-12)


@pytest.mark.parametrize("downsample", [True, False])
def test_downsampling_of_piq(reference, downsample):
    """Each pixel 7 x 7 times, cut to 400, is averaged over 2 x 2; the key says 7 and 400."""
    pattern = rf"piq_ssim_upsampled(\d+)_(\d+)_downsample_{str(downsample).lower()}"
    matches = [match for key in reference if (match := re.fullmatch(pattern, key))]
    assert matches
    for match in matches:
        factor, size = map(int, match.groups())
        large = (
            np.kron(reference[name], np.ones((factor, factor)))[:size, :size]
            for name in ("ground_truth", "prediction")
        )
        found = ssim(*map(batch, large), 1.0, downsample=downsample)[0]
        assert found == pytest.approx(reference[match.string], rel=1e-12)


def test_values_of_scikit_image_without_metal(reference):
    """Products with the mask; the root of the mean squared error is one line."""
    a, b = (
        batch(reference[name] * (1 - reference["metal_mask"]))
        for name in ("ground_truth", "prediction")
    )
    keys = [key for key in reference if key.startswith("mar_ssim_data_range")]
    assert keys
    for key in keys:
        data_range = float(key.removeprefix("mar_ssim_data_range"))
        found = ssim(a, b, data_range, size=7, sigma=None)[0]
        assert found == pytest.approx(reference[key], rel=1e-12)
    assert psnr(a, b, 1.0)[0] == pytest.approx(reference["mar_psnr"], rel=1e-12)
    assert np.sqrt(((a - b) ** 2).mean()) == pytest.approx(reference["mar_rmse"], rel=1e-12)


def test_colour_images(reference):
    a, b = reference["color_a"], reference["color_b"]
    values = {
        "color_piq_psnr": psnr(a, b, 1.0, **PIQ),
        "color_skimage_psnr": psnr(a, b, 1.0),
        "color_piq_ssim": ssim(a, b, 1.0),
        "color_skimage_ssim": ssim(a, b, 1.0, size=7, sigma=None),
    }
    for key, value in values.items():
        assert value.mean() == pytest.approx(reference[key], rel=1e-12), key


@pytest.mark.parametrize(("size", "sigma"), [(11, 1.5), (5, 0.8), (7, None)])
def test_definition(size, sigma):
    """Window after window, with NumPy's own weighted covariance."""
    a, b = (255 * x for x in pair((2, 12, 14, 2)))
    taps = np.arange(size) - size // 2
    line = np.ones(size) if sigma is None else np.exp(-(taps**2) / (2 * sigma**2))
    weights = np.outer(line, line) / line.sum() ** 2
    for number in range(2):
        values = []
        for i, j, c in np.ndindex(12 - size + 1, 14 - size + 1, 2):
            u, v = (x[number, i : i + size, j : j + size, c] for x in (a, b))
            cov = np.cov(u.ravel(), v.ravel(), aweights=weights.ravel(), ddof=0 if sigma else 1)
            if sigma is None:
                cov = np.cov(u.ravel(), v.ravel())
            m, n = (weights * u).sum(), (weights * v).sum()
            c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
            values.append((2 * m * n + c1) * (2 * cov[0, 1] + c2))
            values[-1] /= (m**2 + n**2 + c1) * (cov[0, 0] + cov[1, 1] + c2)
        found = ssim(a, b, 255.0, size=size, sigma=sigma)
        assert found.shape == (2,)
        assert found[number] == pytest.approx(np.mean(values), rel=1e-10)


def test_psnr_of_a_known_error():
    """An error of 0.1 everywhere is 20 dB in [0, 1]; of 0.2 in [-1, 1] too.

    Each image has its own.
    """
    a = np.zeros((3, 4, 4, 1))
    b = a + np.asarray([0.1, 0.01, 0.0]).reshape(3, 1, 1, 1)
    np.testing.assert_allclose(psnr(a, b, 1.0), [20, 40, np.inf])
    np.testing.assert_allclose(psnr(a, 2 * b, 2.0), [20, 40, np.inf])
    assert psnr(a, b, 1.0, **PIQ)[2] == pytest.approx(80)


def test_images_are_measured_one_by_one():
    a, b = pair()
    np.testing.assert_allclose(ssim(a, a, 1.0), 1, rtol=1e-12)
    np.testing.assert_allclose(
        ssim(a[:, :, :, :], b, 1.0)[1:2], ssim(a[1:2], b[1:2], 1.0), rtol=1e-12
    )
    np.testing.assert_allclose(psnr(a, b, 1.0)[1:2], psnr(a[1:2], b[1:2], 1.0), rtol=1e-12)
    np.testing.assert_allclose(ssim(a, b, 1.0), ssim(b, a, 1.0), rtol=1e-12)


def test_kinds_of_arrays():
    """JAX arrays in single precision, and 8 bits, whose differences must not wrap."""
    a, b = pair()
    for metric in (psnr, ssim):
        single = metric(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32), 1.0)
        np.testing.assert_allclose(single, metric(a, b, 1.0), rtol=1e-5)
        levels = [np.rint(255 * x).astype(np.uint8) for x in (a, b)]
        floats = [x.astype(np.float64) / 255 for x in levels]
        np.testing.assert_allclose(metric(*levels, 255.0), metric(*floats, 1.0), rtol=1e-10)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_messages(metric):
    a, b = pair()
    with pytest.raises(UserError, match=r"height, width, channels\); got shape \(12, 14, 2\)"):
        metric(a[0], b[0], 1.0)
    with pytest.raises(UserError, match=r"one shape.*got \(3, 12, 14, 2\) and \(2, 12, 14, 2\)"):
        metric(a, b[:2], 1.0)
    with pytest.raises(UserError, match=r"one shape, without an axis of 0; got \(0, 12, 14, 2\)"):
        metric(a[:0], b[:0], 1.0)
    for data_range in (0.0, -1.0, float("nan")):
        with pytest.raises(UserError, match="data_range must be above 0"):
            metric(a, b, data_range)
    with pytest.raises(
        UserError, match=r"both sets of images spread over .* but data_range is 1: give the range"
    ):
        metric(255 * a, 255 * b, 1.0)
    assert np.isfinite(metric(a, 3 * b - 1, 1.0)).all()  # one side may overshoot
    b[1, 2, 3, 0] = np.nan
    with pytest.raises(UserError, match="1 of 3 images of b hold NaN or infinity"):
        metric(a, b, 1.0)


def test_messages_about_windows():
    a, b = pair()
    with pytest.raises(
        UserError, match="window of 13 pixels needs images of at least that size; got 12 x 14"
    ):
        ssim(a, b, 1.0, size=13)
    with pytest.raises(UserError, match="odd size of 3 or more; got size=8"):
        ssim(a, b, 1.0, size=8)
