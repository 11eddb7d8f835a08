"""What the modes share, on the smallest network of a recipe."""

import jax
import numpy as np
import pytest

from configs.vp.ddpmpp_cont import get_config
from score_sde.build import build, open_source
from score_sde.session import level_losses
from score_sde.training import sharding


def losses(images: int = 0, num_examples: int = 0, batch_size: int = 16, **data):
    config = get_config("digits")
    config.model.update({"nf": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": ()})
    config.eval.update({"batch_size": batch_size, "num_examples": num_examples})
    config.data.update(data)
    experiment = build(config)
    params = experiment.model.init(jax.random.key(0), experiment.shape)
    train, heldout = (open_source(config.data, train=part) for part in (True, False))
    mesh = sharding.make_mesh(jax.devices()[:2])
    return level_losses(experiment, config, params, mesh, train, heldout, images)


def test_losses_per_level_of_an_experiment() -> None:
    few = losses(images=13)
    assert few.train.shape == few.heldout.shape == (13, 12)
    assert (few.train != few.heldout).all()
    for row in few.rows():  # a fresh network says 0
        assert row["train"] == pytest.approx(1, abs=0.2) and row["gap_error"] > 0
    np.testing.assert_allclose(losses(images=13, batch_size=6).heldout, few.heldout, rtol=1e-4)
    smooth = losses(num_examples=13, dequantize=True)
    assert smooth.train.shape == (13, 12) and (smooth.train != few.train).any()
    assert losses().train.shape == (256, 12)
