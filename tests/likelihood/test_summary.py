"""Means over the passes of one image."""

import math

import numpy as np
import pytest

from score_sde.likelihood.summary import summarize_image


def test_an_image_has_the_standard_error_of_its_mean() -> None:
    """Of 1, 2, 3, 6: the variance with n - 1 is 14/3, that of the mean of four 14/12."""
    found = summarize_image(np.asarray([1, 2, 3, 6], np.float32))
    assert found["mean"] == 3 and found["passes"] == 4
    assert found["standard_error"] == pytest.approx(math.sqrt(14 / 12))


def test_one_pass_has_no_error() -> None:
    assert math.isnan(summarize_image(np.asarray([2.5]))["standard_error"])
