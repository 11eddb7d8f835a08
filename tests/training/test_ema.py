"""Moving averages of the weights, against the published implementations and closed forms."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_close, groups, load, meta
from score_sde.training.ema import Average, HalfLife, Power, Profile, ema_update, exponent

PHEMA = "samplers/phema"


def case(name: str) -> tuple[dict[str, np.ndarray], Any]:
    """The arrays of EDM's and EDM2's averages, and the settings of a case."""
    arrays = load(PHEMA)
    return arrays, meta(arrays)["cases"].get(name, {})


def named(beginning: str, ending: str) -> list[Any]:
    """The cases whose names begin so, of arrays with this ending; skipped where there are none."""
    found = groups(PHEMA, ending)
    return [one for one in found if not isinstance(one, str) or one.startswith(beginning)]


def tracked(theta: np.ndarray, init: np.ndarray, shares: Any) -> np.ndarray:
    """The average after every step."""

    def step(average, new):
        weights, share = new
        average = ema_update(average, weights, share)
        return average, average

    return np.asarray(jax.lax.scan(step, jnp.asarray(init), (jnp.asarray(theta), shares))[1])


def of_profile(arrays: dict[str, np.ndarray], profile: Profile) -> np.ndarray:
    shares = jax.vmap(profile.share)(jnp.arange(1, len(arrays["theta"]) + 1))
    return tracked(arrays["theta"], arrays["theta_init"], shares)


@pytest.mark.parametrize(
    ("reference", "warmup"), [("ema_pytorch_warmup", True), ("ema_fixed_decay", False)]
)
def test_average_agrees_with_the_published_codes(x64: None, reference: str, warmup: bool) -> None:
    arrays = load("math/losses_train_arithmetic")
    weights, profile = jnp.asarray(arrays["weights"]), Average(float(arrays["decay"]), warmup)
    average, found = weights[0], []
    for n in range(1, len(weights)):
        average = ema_update(average, weights[n], profile.share(jnp.asarray(n)))
        found.append(average)
    assert_close(jnp.stack(found), arrays[reference], 1e-12)


def test_decay_rises_to_the_rate_and_stays() -> None:
    share = jax.vmap(Average(0.999).share)(jnp.asarray([1, 2, 90, 8989, 9000, 10**6]))
    expected = [9 / 11, 9 / 12, 0.09, 9 / 8999, 0.001, 0.001]
    np.testing.assert_allclose(share, expected, rtol=1e-6)
    assert Average(0.1).share(jnp.asarray(1)) == np.float32(0.9)
    assert Average(0.999, warmup=False).share(jnp.asarray(1)) == np.float32(0.001)


def test_first_average_is_nearly_the_first_update_and_not_the_initial_weights() -> None:
    share = Average(0.9999).share(jnp.asarray(1))
    average = ema_update({"w": jnp.zeros(3)}, {"w": jnp.ones(3)}, share)
    np.testing.assert_allclose(average["w"], 9 / 11, rtol=1e-6)


@pytest.mark.parametrize(
    ("profile", "update"),
    [
        (Average(0.0), 5),
        (Average(0.0, warmup=False), 5),
        (HalfLife(1e6, 8, 0.05), 1),
        (Power(0.05), 1),
    ],
)
def test_a_share_of_1_is_the_weights_bit_for_bit(profile: Profile, update: int) -> None:
    share = profile.share(jnp.asarray(update))
    weights = {"w": jnp.asarray([1e-9, 1 / 3, -7.0])}
    average = ema_update({"w": jnp.asarray([3.0, 1e9, 0.1])}, weights, share)
    np.testing.assert_array_equal(average["w"], weights["w"])


def test_average_keeps_the_types_of_the_weights() -> None:
    tree = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.float32)}
    average = ema_update(tree, tree, Average(0.9).share(jnp.asarray(3)))
    assert jax.tree.map(lambda x: x.dtype, average) == jax.tree.map(lambda x: x.dtype, tree)


@pytest.mark.parametrize("rate", [1.0, -0.1, 2.0, float("nan")])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\); got {rate}"):
        Average(rate)


@pytest.mark.parametrize("values", [(0.0, 8, 0.05), (1e6, 0, 0.05), (1e6, 8, 0.0)])
def test_impossible_half_lives_are_refused(values: tuple) -> None:
    with pytest.raises(ValueError, match="needs a positive half-life"):
        HalfLife(*values)


# EDM


@pytest.mark.parametrize("name", named("edm1_", "__beta"))
def test_half_life_agrees_with_edm(x64: None, name: str) -> None:
    arrays, given = case(name)
    images = 1000 * given["ema_halflife_kimg"]
    profile = HalfLife(images, given["batch_size"], given["ema_rampup_ratio"])
    shares = jax.vmap(profile.share)(jnp.arange(1, len(arrays["theta"]) + 1))
    assert_close(1 - shares, arrays[f"{name}__beta"], 1e-8)
    assert_close(of_profile(arrays, profile), arrays[f"{name}__ema"], 1e-8)


@pytest.mark.parametrize("name", named("edm2traditional_", "__ema"))
def test_half_life_of_edm2_counts_the_images_of_the_step_too(x64: None, name: str) -> None:
    """EDM's code ramps up by the images before the step, EDM2's by those after it."""
    arrays, given = case(name)
    batch_size = given.get("batch_size", 1)
    profile = HalfLife(1e6 * given["halflife_Mimg"], batch_size, given["rampup_ratio"])
    seen = jnp.arange(1.0, len(arrays["theta"]) + 1) * batch_size
    found = tracked(arrays["theta"], arrays["theta_init"], jax.vmap(profile.after)(seen))
    assert_close(found, arrays[f"{name}__ema"], 1e-8)


def test_half_of_the_average_is_left_after_a_half_life() -> None:
    """Whatever the batch size; the ramp-up makes it a share of the images before."""
    for batch_size in (1, 4):
        profile = HalfLife(100.0, batch_size, None)
        share = float(profile.share(jnp.asarray(7)))
        np.testing.assert_allclose((1 - share) ** (100 / batch_size), 0.5, rtol=1e-5)
    ramped = float(HalfLife(1e9, 4, 0.25).share(jnp.asarray(101)))  # 400 images before
    np.testing.assert_allclose((1 - ramped) ** 25, 0.5, rtol=1e-5)


# Power functions


def std_of(gamma: np.ndarray) -> np.ndarray:
    return np.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3)))


def test_exponents_agree_with_edm2() -> None:
    arrays, _ = case("")
    found = [exponent(float(std)) for std in arrays["std_exp__std"]]
    np.testing.assert_allclose(found, arrays["std_exp__exponent"], rtol=1e-8)
    assert_close(std_of(np.asarray(found)), arrays["std_exp__std_back"], 1e-8)
    grid = arrays["std_exp__exponent_grid"]
    assert_close(std_of(grid), arrays["std_exp__std_of_exponent_grid"], 1e-8)
    assert_close([exponent(float(std)) for std in std_of(grid)], grid, 1e-8)


def test_the_std_is_that_of_the_profile() -> None:
    t = np.linspace(0, 1, 400_001)[1:]
    for std in (0.05, 0.1, 0.2):
        profile = t ** exponent(std)
        mean = (t * profile).sum() / profile.sum()
        assert abs(np.sqrt(((t - mean) ** 2 * profile).sum() / profile.sum()) - std) < 1e-5


@pytest.mark.parametrize("name", named("response_", "__response"))
def test_the_published_picture_of_a_profile_is_t_to_the_exponent(name: str) -> None:
    arrays, given = case(name)
    t = np.arange(given["len"]) / given["ofs"]
    profile = np.where(t <= 1, t ** exponent(given["std"]), 0)
    assert_close(profile / profile.sum(), arrays[f"{name}__response"], 1e-8)


@pytest.mark.parametrize("name", named("beta_", "__t_next"))
def test_decays_of_power_functions_agree_with_edm2(x64: None, name: str) -> None:
    arrays, given = case(name)
    updates = jnp.asarray(arrays[f"{name}__t_next"] // given["t_delta"])
    shares = jax.vmap(Power(given["std"]).share)(updates)
    assert_close(1 - shares, arrays[f"{name}__beta"], 1e-8)


@pytest.mark.parametrize("name", named("ema_std", "__ema"))
def test_averages_by_power_functions_agree_with_edm2(x64: None, name: str) -> None:
    arrays, given = case(name)
    found = of_profile(arrays, Power(given["std"]))
    assert_close(found, arrays[f"{name}__ema"], 1e-8)
    n = len(found)  # the closed form: weights of t^(gamma + 1) between steps
    ends = (np.arange(n + 1) / n) ** (exponent(given["std"]) + 1)
    assert_close(found[-1], np.diff(ends) @ arrays["theta"], 1e-8)


def test_shares_are_exact_in_single_precision_late_in_training() -> None:
    """1 - decay would be off by several percent there."""
    for n in (10**6, 16_777_216):
        found = float(Power(0.05).share(jnp.asarray(n)))
        exact = -np.expm1((exponent(0.05) + 1) * np.log1p(-1 / n))
        np.testing.assert_allclose(found, exact, rtol=1e-6)
    np.testing.assert_allclose(
        HalfLife(5e8, 1, None).share(jnp.asarray(9)), -np.expm1(-np.log(2) / 5e8), rtol=1e-6
    )


def test_small_shares_are_not_rounded() -> None:
    share, average = jnp.asarray(1e-6), {"w": jnp.asarray([0.0])}
    found = ema_update(average, {"w": jnp.asarray([1.0])}, share)
    np.testing.assert_allclose(found["w"], 1e-6, rtol=1e-6)


@pytest.mark.parametrize("std", [0.0, -0.1, 0.29, 1.0, float("nan")])
def test_impossible_widths_are_refused(std: float) -> None:
    with pytest.raises(ValueError, match=rf"must be in \(0, 0.29\); got {std}"):
        Power(std)
