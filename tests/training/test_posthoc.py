"""Coefficients of averages made of others, against EDM2's code and against integrals."""

from typing import Any

import numpy as np
import pytest

from golden import assert_close, groups, load, meta
from score_sde.training.ema import exponent
from score_sde.training.posthoc import coefficients, inner_products

PHEMA = "samplers/phema"


def snapshots(arrays: dict[str, np.ndarray]) -> list[tuple[int, float]]:
    steps, stds = arrays["snapshot_ofs"].tolist(), arrays["snapshot_std"].tolist()
    return list(zip(steps, stds, strict=True))


def test_inner_products_agree_with_edm2() -> None:
    arrays = load(PHEMA)
    steps = arrays["snapshot_ofs"].astype(np.float64)
    exponents = np.asarray([exponent(std) for std in arrays["snapshot_std"].tolist()])
    found = inner_products((steps, steps), (exponents, exponents))
    np.testing.assert_allclose(found, arrays["correlation__A"], rtol=1e-8)


def test_inner_products_are_integrals() -> None:
    steps, gammas = np.asarray([3.0, 5.0, 8.0]), np.asarray([4.0, 0.5, 11.0])
    width = 8 / 400_000
    t = (np.arange(400_000) + 0.5) * width
    inside = t < steps[:, None]
    p = np.where(inside, (gammas + 1)[:, None] * t ** gammas[:, None], 0)
    p /= steps[:, None] ** (gammas + 1)[:, None]
    found = inner_products((steps[:2], steps), (gammas[:2], gammas))
    np.testing.assert_allclose(found, p[:2] @ p.T * width, rtol=1e-4)


@pytest.mark.parametrize("name", groups(PHEMA, "__reconstructed"))
def test_reconstructions_agree_with_edm2(name: str) -> None:
    arrays = load(PHEMA)
    cases = meta(arrays)["cases"]
    used = arrays.get(f"{name}__used")
    if used is None:
        used = np.ones(len(arrays["snapshot_ofs"]), bool)
    known = [one for one, use in zip(snapshots(arrays), used, strict=True) if use]
    values = arrays["snapshot_values"][used]
    wanted = arrays[f"{name}__coefficients"]
    stds = cases[name].get("out_std") or targets(cases)
    for column, std in enumerate(stds):
        found, misfit = coefficients(known, (cases[name]["out_ofs"], std))
        assert_close(found, wanted[:, column], 1e-8)
        assert_close(found @ values, arrays[f"{name}__reconstructed"][column], 1e-8)
        assert found.sum() == pytest.approx(1, abs=1e-12) and misfit >= 0


def targets(cases: dict[str, Any]) -> list[float]:
    """The widths that a case without a list of its own shares with the others."""
    return next(given["out_std"] for given in cases.values() if "out_std" in given)


@pytest.mark.parametrize("name", groups(PHEMA, "__derived_tracked_ema_at_out"))
def test_the_misfit_tells_how_far_an_average_is_off(name: str) -> None:
    """|average - tracked| <= |theta| misfit |p|, of the trajectory about its mean."""
    arrays = load(PHEMA)
    given = meta(arrays)["cases"][name]
    used = arrays[f"{name}__used"]
    known = [one for one, use in zip(snapshots(arrays), used, strict=True) if use]
    theta = arrays["theta"] - arrays["theta"].mean(axis=0)
    for column, std in enumerate(given["out_std"]):
        _, misfit = coefficients(known, (given["out_ofs"], std))
        gamma = exponent(std)
        length = (gamma + 1) / np.sqrt((2 * gamma + 1) * given["out_ofs"])
        off = arrays[f"{name}__reconstructed"][column]
        off = off - arrays[f"{name}__derived_tracked_ema_at_out"][column]
        bound = misfit * length * np.sqrt((theta**2).sum(axis=0))
        assert (np.abs(off) <= bound + 1e-12).all()


def test_a_known_average_is_itself() -> None:
    known = [(10, 0.05), (10, 0.1), (20, 0.05), (20, 0.1)]
    found, misfit = coefficients(known, (20, 0.1))
    np.testing.assert_allclose(found, [0, 0, 0, 1], atol=1e-12)
    assert misfit < 1e-7


def test_the_misfit_is_that_of_the_profiles() -> None:
    """By quadrature of the square of the difference."""
    known, wanted = [(5, 0.05), (5, 0.1), (10, 0.05), (10, 0.1)], (10, 0.15)
    found, misfit = coefficients(known, wanted)
    width = 10 / 200_000
    t = (np.arange(200_000) + 0.5) * width

    def profile(step: int, std: float) -> np.ndarray:
        gamma = exponent(std)
        return np.where(t < step, (gamma + 1) * (t / step) ** gamma / step, 0)

    target = profile(*wanted)
    off = target - sum(c * profile(*one) for c, one in zip(found, known, strict=True))
    assert misfit == pytest.approx(np.sqrt((off**2).sum() / (target**2).sum()), rel=1e-4)
    assert misfit > 0.1


@pytest.mark.parametrize("std", [0.0, 0.29])
def test_widths_out_of_range_are_refused(std: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 0.29\)"):
        coefficients([(10, 0.05)], (10, std))
