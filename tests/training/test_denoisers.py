"""The task of fitting a score model: augmented images, and learned weights of the loss."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.tiny import SHAPE, batch, keys, model, task, trainer

from score_sde.arrays import fold_in
from score_sde.networks.uncertainty import Uncertainty
from score_sde.sde import VP
from score_sde.training.step import ScoreMatching

KEY = jax.random.key(0)
IMAGES, OWN = batch(8), keys(KEY, 8)


class Told(nn.Module):
    """A linear network that may be told two numbers of each image."""

    @nn.compact
    def __call__(self, x, labels, given=None, train: bool = False):
        h = nn.Dense(SHAPE[0] * SHAPE[1])(x.reshape(len(x), -1)) * (1 + labels[:, None] / 999)
        if given is not None:
            h += nn.Dense(h.shape[-1], use_bias=False, name="told")(given)
        return h.reshape(x.shape)


def negative(own, images):
    """Negatives of all images, and as labels a number of each image and its key's own draw."""
    drawn = jax.vmap(lambda key: jax.random.normal(key, ()))(own)
    return -images, jnp.stack([images[:, 0, 0, 0], drawn], axis=1)


TOLD = dataclasses.replace(model(Told()), given=jax.ShapeDtypeStruct((2,), jnp.float32))


def test_training_sees_augmented_images_and_their_labels() -> None:
    plain = ScoreMatching(TOLD, task().objective)
    augmented = plain.replace(augment=negative)
    params = augmented.init(KEY, SHAPE)
    images, labels = negative(fold_in(OWN, 2), IMAGES.image)
    expected = plain.losses(params, OWN, IMAGES._replace(image=images, given=labels), True)
    np.testing.assert_allclose(augmented.losses(params, OWN, IMAGES, True), expected, rtol=1e-6)


def test_held_out_losses_and_scores_have_no_labels() -> None:
    """They are those of labels of zeros, and of images as they are."""
    plain = ScoreMatching(TOLD, task().objective)
    augmented = plain.replace(augment=negative)
    params = augmented.init(KEY, SHAPE)
    zeros = IMAGES._replace(given=jnp.zeros((8, 2)))
    expected = plain.losses(params, OWN, zeros, False)
    np.testing.assert_allclose(augmented.losses(params, OWN, IMAGES, False), expected, rtol=1e-6)
    t = jnp.full(8, 0.5)
    untold, told = (TOLD.score_fn(params, given)(IMAGES.image, t) for given in ((), zeros.given))
    np.testing.assert_allclose(untold, told, rtol=1e-6)


class Fixed(nn.Module):
    """u = gain label + offset, without parameters but these."""

    @nn.compact
    def __call__(self, labels):
        gain = self.param("gain", nn.initializers.zeros, ())
        return gain * labels + self.param("offset", nn.initializers.zeros, ())


class TestUncertainty:
    plain = task()
    weighted = plain.replace(uncertainty=Fixed())

    def params(self, gain: float = 0.0, offset: float = 0.0):
        own = {"gain": jnp.asarray(gain), "offset": jnp.asarray(offset)}
        params = self.weighted.init(KEY, SHAPE)
        assert jax.tree.structure(params["uncertainty"]) == jax.tree.structure(own)
        return params | {"uncertainty": own}

    def test_loss(self) -> None:
        """L/e^u + u with u of log(sigma/alpha)/4; without training it is L."""
        losses = self.plain.losses(self.params(), OWN, IMAGES, True)
        t, _, _ = self.plain.objective.draw(fold_in(OWN, 0), IMAGES.image)
        alpha, sigma = (np.asarray(v, float) for v in VP().marginal(t))
        for gain, offset in ((0.0, 0.0), (0.0, 0.7), (-1.3, 0.2)):
            u = gain * np.log(sigma / alpha) / 4 + offset
            expected = np.asarray(losses) * np.exp(-u) + u
            params = self.params(gain, offset)
            found = self.weighted.losses(params, OWN, IMAGES, True)
            np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-6)
            held_out = self.weighted.losses(params, OWN, IMAGES, False)
            np.testing.assert_allclose(held_out, self.plain.losses(params, OWN, IMAGES, False))

    def test_least_where_it_is_the_logarithm_of_the_expected_loss(self) -> None:
        losses = self.plain.losses(self.params(), OWN, IMAGES, True)
        expected = float(jnp.log(jnp.mean(losses)))

        def mean(offset):
            params = self.params() | {"uncertainty": {"gain": jnp.zeros(()), "offset": offset}}
            return jnp.mean(self.weighted.losses(params, OWN, IMAGES, True))

        slope = jax.grad(mean)
        assert float(slope(jnp.asarray(expected))) == pytest.approx(0, abs=1e-5)
        assert float(slope(jnp.asarray(expected + 0.1))) > 0.05

    def test_scores_are_the_networks(self) -> None:
        params = self.params(1.0, 1.0)
        network = {name: value for name, value in params.items() if name != "uncertainty"}
        x, t = IMAGES.image, jnp.full(8, 0.5)
        found, expected = (self.weighted.model.score_fn(p)(x, t) for p in (params, network))
        np.testing.assert_array_equal(found, expected)

    def test_the_network_of_u(self) -> None:
        """0 when born, so that training begins with the plain loss; it is trained with the rest."""
        fit = task().replace(uncertainty=Uncertainty())
        train = trainer()
        state = train.init(fit, KEY, SHAPE)
        plain = self.plain.losses(state.params, OWN, IMAGES, True)
        np.testing.assert_allclose(fit.losses(state.params, OWN, IMAGES, True), plain, rtol=1e-6)
        after, metrics = jax.jit(train.step)(fit, state, KEY, IMAGES)
        before, own = state.params["uncertainty"], after.params["uncertainty"]
        assert float(jnp.abs(own["out"]["kernel"]).max()) > 0
        np.testing.assert_array_equal(
            own["fourier"]["frequencies"], before["fourier"]["frequencies"]
        )
        assert np.isfinite(float(metrics["loss"]))
