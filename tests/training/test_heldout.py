"""The held-out loss: every image once, in order, with repeatable noise."""

import jax
import numpy as np
from training.tiny import SHAPE, trainer

from score_sde.data import ArraySource, PixelRange
from score_sde.training import sharding
from score_sde.training.heldout import HeldoutLoss

KEY = jax.random.key(2)
IMAGES = np.random.default_rng(1).integers(0, 17, (13, *SHAPE))
PIXELS = PixelRange(17, -1.0, 1.0)


def heldout(images: int = 13, batch_size: int = 8, **settings) -> HeldoutLoss:
    source = ArraySource(IMAGES, levels=17)
    return HeldoutLoss(
        trainer(dropout=0.5), source, PIXELS, sharding.make_mesh(), batch_size, images, **settings
    )


def params(seed: int = 0):
    return trainer().init(jax.random.key(seed), SHAPE).params


def test_losses_are_those_of_the_objective_without_dropout_and_without_the_filling() -> None:
    """13 images in batches of 8: the second batch has 3 of filling."""
    losses = heldout()(params(), KEY)
    small, key = trainer(), jax.random.fold_in(KEY, 0)
    filled = np.concatenate([PIXELS.encode(IMAGES), np.zeros((3, *SHAPE), np.float32)]).astype(np.float32)
    expected = [
        jax.jit(small.eval_losses)(params(), jax.random.fold_in(key, i), filled[8 * i : 8 * i + 8])
        for i in range(2)
    ]
    assert losses.shape == (1, 13)
    np.testing.assert_allclose(losses[0], np.concatenate(expected)[:13], rtol=1e-5)


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
