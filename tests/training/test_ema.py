"""The moving average of the weights, against the published implementations and the closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from golden import assert_close, load
from score_sde.training.ema import ema_decay, ema_update


@pytest.mark.parametrize(("reference", "warmup"), [("ema_pytorch_warmup", True), ("ema_fixed_decay", False)])
def test_average_agrees_with_the_published_codes(x64: None, reference: str, warmup: bool) -> None:
    arrays = load("math/losses_train_arithmetic")
    weights, rate = jnp.asarray(arrays["weights"]), float(arrays["decay"])
    average, found = weights[0], []
    for n in range(1, len(weights)):
        average = ema_update(average, weights[n], ema_decay(jnp.asarray(n), rate, warmup))
        found.append(average)
    assert_close(jnp.stack(found), arrays[reference], 1e-12)


def test_decay_rises_to_the_rate_and_stays() -> None:
    decay = jax.vmap(lambda n: ema_decay(n, 0.999))(jnp.asarray([1, 2, 90, 8989, 9000, 10**6]))
    np.testing.assert_allclose(decay, [2 / 11, 3 / 12, 0.91, 8990 / 8999, 0.999, 0.999], rtol=1e-6)
    assert ema_decay(jnp.asarray(1), 0.1) == np.float32(0.1)


def test_first_average_is_nearly_the_first_update_and_not_the_initial_weights() -> None:
    average = ema_update({"w": jnp.zeros(3)}, {"w": jnp.ones(3)}, ema_decay(jnp.asarray(1), 0.9999))
    np.testing.assert_allclose(average["w"], 9 / 11, rtol=1e-6)


def test_average_keeps_the_types_of_the_weights() -> None:
    tree = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2, jnp.float32)}
    average = ema_update(tree, tree, ema_decay(jnp.asarray(3), 0.9))
    assert jax.tree.map(lambda x: x.dtype, average) == jax.tree.map(lambda x: x.dtype, tree)
