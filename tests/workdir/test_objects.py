"""What the modes share, on the smallest network of a recipe."""

import jax
import numpy as np
import pytest
from runs import load

from score_sde.data import ArraySource, Source
from score_sde.devices import Placement
from score_sde.errors import UserError
from score_sde.parallel.levels import LevelLosses, Levels, level_times
from score_sde.workdir import objects
from score_sde.workdir.run import Run

SMALL = {
    "model.nf": 8,
    "model.ch_mult": "(1,)",
    "model.num_res_blocks": 1,
    "model.attn_resolutions": "()",
}


def small(tmp_path, **values) -> tuple[Run, tuple[Source, Source]]:
    """A run and its (training, held-out) images; `values`: entries, with _ in place of the dot."""
    entries = {name.replace("_", ".", 1): value for name, value in values.items()}
    run = Run.of(load("vp/ddpmpp_cont:digits", SMALL | entries), tmp_path)
    return run, (run.source(train=True), run.source(train=False))


def params(run: Run):
    fresh = run.experiment.model.init(jax.random.key(0), run.experiment.shape)
    return jax.tree.map(lambda x: x + 0.05, fresh)  # a fresh network says 0 of every image


def test_losses_per_level_of_an_experiment(tmp_path) -> None:
    run, sources = small(tmp_path, eval_batch_size=6, eval_num_examples=13)
    experiment, weights = run.experiment, params(run)
    found = objects.level_losses(run, weights, sources)
    assert found.train.shape == found.heldout.shape == (13, 12)
    direct = LevelLosses(
        experiment.model.score_fn,
        experiment.process,
        experiment.pixel_range,
        Placement.of(jax.devices()[:2]),
        26,
        dequantize=False,
    )
    times, key = level_times(experiment.process), run.keys()["eval"]
    for source, losses in zip(sources, (found.train, found.heldout), strict=True):
        indices = np.linspace(0, len(source) - 1, 13).astype(int)
        np.testing.assert_allclose(losses, direct(weights, key, source, indices, times), rtol=1e-4)
    assert (found.train != found.heldout).mean() > 0.9
    run, sources = small(tmp_path, eval_num_examples=13, data_dequantize=True)
    other = objects.level_losses(run, weights, sources)
    assert other.train.shape == (13, 12) and not np.allclose(other.train, found.train, rtol=1e-3)


def test_no_more_images_than_there_are_and_not_more_than_256(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def compare(losses, params, key, sources, images, **settings):
        asked.append((images, losses.batch_size))
        return Levels(np.ones(1), np.ones(1), np.ones(1), np.ones((1, 1)), np.ones((1, 1)))

    monkeypatch.setattr(LevelLosses, "compare", compare)
    for images in (0, 13, 10_000):
        run, sources = small(tmp_path, eval_num_examples=images, eval_batch_size=16)
        objects.level_losses(run, (), sources)
    assert asked == [(256, 16), (13, 16), (256, 16)]
    run, (train, _) = small(tmp_path)
    few = ArraySource(np.zeros((9, *run.experiment.shape), np.uint8), levels=17)
    objects.level_losses(run, (), (train, few))
    assert asked[-1][0] == 9


def test_only_the_score_model_is_held_out_dequantized(tmp_path) -> None:
    """A dequantizer sees levels, whatever config.data says."""
    entries = {"eval_num_examples": 5, "eval_passes": 2, "eval_batch_size": 8}
    run, (_, heldout) = small(tmp_path, data_dequantize=True, **entries)
    losses = objects.heldout_loss(run, run.experiment.task, heldout)
    assert losses.batches.dequantize and (losses.images, losses.passes) == (5, 2)
    assert losses(params(run), run.keys()["eval"]).shape == (2, 5)
    another = run.experiment.task.replace()
    assert not objects.heldout_loss(run, another, heldout).batches.dequantize


def test_codec_wants_a_batch_that_splits_over_the_devices(tmp_path) -> None:
    run, _ = small(tmp_path, eval_batch_size=6)
    with pytest.raises(UserError, match=r"config\.eval\.batch_size=6 .* 8 devices"):
        objects.make_codec(run)


def test_samples_that_are_not_finite_are_counted_and_refused(tmp_path) -> None:
    images = np.zeros((3, 2, 2, 1))
    objects.check_finite(images, tmp_path)
    images[1, 0, 0] = np.inf
    images[2] = np.nan
    with pytest.raises(UserError, match=rf"2 of 3 samples .*{tmp_path}; .*config\.sampling\.snr"):
        objects.check_finite(images, tmp_path)


def test_random_keys_differ_by_purpose_part_and_seed_and_are_those_of_older_runs(tmp_path) -> None:
    run, _ = small(tmp_path)
    first, seed = run.keys(), run.settings.seed
    assert list(first) == ["init", "train", "eval", "sample"]

    def numbers(found):
        return [tuple(jax.random.key_data(key).tolist()) for key in found]

    several = [first, run.keys("dequantizer"), run.keys(seed=seed + 1)]
    assert len({n for found in several for n in numbers(found.values())}) == 12
    split = jax.random.split(jax.random.key(seed), 5)
    for known in (first, run.keys(seed=seed)):
        assert numbers(known.values()) == numbers(split[:4])
    assert numbers(several[1].values()) == numbers(jax.random.split(split[4], 4))
