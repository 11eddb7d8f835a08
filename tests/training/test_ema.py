"""Moving averages of the weights, against the published implementations and the closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_close, load
from score_sde.training.ema import Average, ema_update


@pytest.mark.parametrize(
    ("reference", "warmup"), [("ema_pytorch_warmup", True), ("ema_fixed_decay", False)]
)
def test_average_agrees_with_the_published_codes(x64: None, reference: str, warmup: bool) -> None:
    arrays = load("math/losses_train_arithmetic")
    weights, profile = jnp.asarray(arrays["weights"]), Average(float(arrays["decay"]), warmup)
    average, found = weights[0], []
    for n in range(1, len(weights)):
        average = ema_update(average, weights[n], profile.decay(jnp.asarray(n)))
        found.append(average)
    assert_close(jnp.stack(found), arrays[reference], 1e-12)


def test_decay_rises_to_the_rate_and_stays() -> None:
    decay = jax.vmap(Average(0.999).decay)(jnp.asarray([1, 2, 90, 8989, 9000, 10**6]))
    np.testing.assert_allclose(decay, [2 / 11, 3 / 12, 0.91, 8990 / 8999, 0.999, 0.999], rtol=1e-6)
    assert Average(0.1).decay(jnp.asarray(1)) == np.float32(0.1)
    assert Average(0.999, warmup=False).decay(jnp.asarray(1)) == np.float32(0.999)


def test_first_average_is_nearly_the_first_update_and_not_the_initial_weights() -> None:
    decay = Average(0.9999).decay(jnp.asarray(1))
    average = ema_update({"w": jnp.zeros(3)}, {"w": jnp.ones(3)}, decay)
    np.testing.assert_allclose(average["w"], 9 / 11, rtol=1e-6)


def test_average_of_rate_0_is_the_weights() -> None:
    for warmup in (True, False):
        decay = Average(0.0, warmup).decay(jnp.asarray(5))
        average = ema_update({"w": jnp.zeros(3)}, {"w": jnp.arange(3.0)}, decay)
        np.testing.assert_array_equal(average["w"], [0.0, 1.0, 2.0])


def test_average_keeps_the_types_of_the_weights() -> None:
    tree = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.float32)}
    average = ema_update(tree, tree, Average(0.9).decay(jnp.asarray(3)))
    assert jax.tree.map(lambda x: x.dtype, average) == jax.tree.map(lambda x: x.dtype, tree)


@pytest.mark.parametrize("rate", [1.0, -0.1, 2.0, float("nan")])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match=rf"must be in \[0, 1\); got {rate}"):
        Average(rate)
