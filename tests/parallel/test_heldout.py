"""The held-out loss: every image once, in order, with noise of its own that repeats."""

import jax
import jax.numpy as jnp
import numpy as np
from training.tiny import SHAPE, of, task

from score_sde.arrays import sample_keys
from score_sde.data import ArraySource, PixelRange
from score_sde.data.pipeline import Batches
from score_sde.devices import Placement
from score_sde.parallel.heldout import HeldoutLoss

KEY = jax.random.key(2)
IMAGES = np.random.default_rng(1).integers(0, 17, (13, *SHAPE))
PIXELS = PixelRange(17, -1.0, 1.0)


def heldout(
    images: int = 13, batch_size: int = 8, devices: int = 8, passes: int = 1, source=IMAGES
) -> HeldoutLoss:
    source = ArraySource(source, levels=17)
    batches = Batches(source, PIXELS, batch_size, seed=0, train=False)
    place = Placement.of(jax.devices()[:devices])
    return HeldoutLoss(task(dropout=0.5), batches, place, images, passes)


def params(seed: int = 0):
    return task().init(jax.random.key(seed), SHAPE)


def test_losses_are_those_of_the_objective_without_dropout_and_without_the_filling() -> None:
    """13 images in batches of 8: the second batch has 3 of filling. Image i has the key of i."""
    found = heldout()(params(), KEY)
    keys = sample_keys(jax.random.fold_in(KEY, 0), jnp.arange(13))
    images = of(jnp.asarray(PIXELS.encode(IMAGES), jnp.float32))
    expected = jax.jit(task().losses, static_argnums=3)(params(), keys, images, False)
    assert found.shape == (1, 13)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_loss_of_an_image_does_not_depend_on_batch_size_filling_or_devices() -> None:
    images = np.random.default_rng(3).integers(0, 17, (70, *SHAPE))

    def losses(**settings):
        return heldout(70, source=images, passes=2, **settings)(params(), KEY)

    seven = losses(batch_size=7, devices=1)
    for other in (losses(batch_size=64, devices=1), losses(batch_size=64, devices=8)):
        np.testing.assert_allclose(other, seven, rtol=1e-6, atol=1e-6)
    assert len(np.unique(seven)) == 140


def test_loss_of_an_image_does_not_depend_on_the_others() -> None:
    others = np.concatenate([IMAGES[:5], 16 - IMAGES[5:]])
    first, second = (heldout(source=images)(params(), KEY) for images in (IMAGES, others))
    np.testing.assert_allclose(second[:, :5], first[:, :5], rtol=1e-6)
    assert (second[:, 5:] != first[:, 5:]).all()


def test_first_images_only_and_several_passes() -> None:
    whole, part = heldout(passes=3)(params(), KEY), heldout(images=5, passes=2)(params(), KEY)
    assert whole.shape == (3, 13) and part.shape == (2, 5)
    np.testing.assert_array_equal(part, whole[:2, :5])
    assert len({float(row[0]) for row in whole}) == 3  # each pass has its own noise


def test_same_key_same_losses_other_weights_other_losses() -> None:
    measure = heldout()
    first = measure(params(), KEY)
    np.testing.assert_array_equal(measure(params(), KEY), first)
    assert (measure(params(1), KEY) != first).all()
    assert (measure(params(), jax.random.key(3)) != first).all()
