"""What the modes share, on the smallest network of a recipe."""

import jax
import numpy as np
import pytest

from configs.vp.ddpmpp_cont import get_config
from score_sde import session
from score_sde.build import build, open_source
from score_sde.session import level_losses, run_keys
from score_sde.training import sharding
from score_sde.training.levels import LevelLosses, Levels, level_times


def small(num_examples: int = 0, batch_size: int = 16, **data):
    config = get_config("digits")
    config.model.update({"nf": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": ()})
    config.eval.update({"batch_size": batch_size, "num_examples": num_examples})
    config.data.update(data)
    experiment = build(config)
    params = experiment.model.init(jax.random.key(0), experiment.shape)
    params = jax.tree.map(lambda x: x + 0.05, params)  # a fresh network says 0 of every image
    mesh = sharding.make_mesh(jax.devices()[:2])
    return experiment, config, params, mesh, *(open_source(config.data, train=part) for part in (True, False))


def test_losses_per_level_of_an_experiment() -> None:
    experiment, config, params, mesh, train, heldout = small(batch_size=6)
    found = level_losses(experiment, config, params, mesh, train, heldout, 13)
    assert found.train.shape == found.heldout.shape == (13, 12)
    direct = LevelLosses(
        experiment.model.score_fn, experiment.process, experiment.pixel_range, mesh, 26, dequantize=False
    )
    times, key = level_times(experiment.process), run_keys(experiment)["eval"]
    for source, losses in ((train, found.train), (heldout, found.heldout)):
        indices = np.linspace(0, len(source) - 1, 13).astype(int)
        np.testing.assert_allclose(losses, direct(params, key, source, indices, times), rtol=1e-4)
    assert (found.train != found.heldout).mean() > 0.9
    other = level_losses(*small(num_examples=13, dequantize=True))
    assert other.train.shape == (13, 12) and not np.allclose(other.train, found.train, rtol=1e-3)


def test_no_more_images_than_there_are_and_not_more_than_256_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    experiment, config, params, mesh, train, heldout = small(num_examples=300)
    asked: list[tuple[int, int]] = []

    class Watched(LevelLosses):
        def compare(self, params, key, train, heldout, images, **settings):
            asked.append((images, self.batch_size))
            return Levels(np.ones(1), np.ones(1), np.ones(1), np.ones((1, 1)), np.ones((1, 1)))

    monkeypatch.setattr(session, "LevelLosses", Watched)
    for images in (0, 13, 10_000):
        level_losses(experiment, config, params, mesh, train, heldout, images)
    assert asked == [(256, 16), (13, 14), (360, 16)]
