"""Snapshots of averages: exact, complete after a stop, and what is made of them is right."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from training.tiny import SHAPE, task, trainer

from score_sde.data import ArraySource, PixelRange, pipeline
from score_sde.devices import Placement
from score_sde.errors import Stopped, UserError
from score_sde.training.checkpoint import Checkpoints
from score_sde.training.ema import Average, Power
from score_sde.training.loop import Loop
from score_sde.training.posthoc import coefficients
from score_sde.training.snapshots import (
    reconstruct,
    save_snapshot,
    snapshot_step,
    snapshots,
)

KEY = jax.random.key(1)
PIXELS = PixelRange(17, -1.0, 1.0)
IMAGES = np.random.default_rng(0).integers(0, 17, (40, *SHAPE))
FIT = task(dropout=0.3)
WIDTHS = (0.05, 0.075, 0.1)
SMALL = trainer(averages=(Average(0.9), *map(Power, WIDTHS)))
SETTINGS = {
    "steps": 60,
    "steps_per_call": 1,
    "log_every": 20,
    "checkpoint_every": 60,
    "snapshot_every": 4,
    "keep": 1,
    "keep_every": 0,
}


def run(
    folder: Path, place: Placement | None = None, evaluate: Callable | None = None, **changes: int
) -> Loop:
    batches = pipeline.Batches(ArraySource(IMAGES, levels=17), PIXELS, 16, seed=3, train=True)
    place = place or Placement.of(jax.devices()[:1])
    loop = Loop(folder, SMALL, FIT, SETTINGS | changes, pipeline.read(batches), place)
    assert loop.begin(KEY, SHAPE)
    loop.run(KEY, evaluate or (lambda average: np.zeros(1)))
    return loop


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Snapshots of 60 steps, and the train state in the end. Not to be changed."""
    folder = tmp_path_factory.mktemp("snapshots")
    return folder / "snapshots", run(folder).state


@pytest.fixture
def two(trained: tuple[Path, Any], tmp_path: Path) -> Path:
    """The same snapshots without those of the width between the others."""
    shutil.copytree(trained[0], tmp_path / "two")
    for path in (tmp_path / "two").glob(f"*_power_{WIDTHS[1]}.npz"):
        path.unlink()
    return tmp_path / "two"


def distance(a: Any, b: Any) -> float:
    """|a - b|/|b| over all arrays."""
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (a, b))
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_they_are_made_when_they_are_due_and_in_the_end(trained) -> None:
    folder, _ = trained
    found = [(one.step, one.std) for one in snapshots(folder)]
    assert found == [(step, std) for step in range(4, 61, 4) for std in WIDTHS]
    assert snapshot_step(folder) == 60 and snapshot_step(folder, 8) == 8
    assert not any(path.name.startswith(".") for path in folder.iterdir())


def test_an_average_that_was_kept_comes_back(trained) -> None:
    """To the 16 bits of a number, half a step of which is 1.5e-5 of the largest of its array."""
    folder, state = trained
    for std, average in zip(WIDTHS, state.averages[1:], strict=True):
        found, misfit = reconstruct(folder, 60, std, state.params)
        assert misfit < 1e-6 and distance(found, average) < 3e-5
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(average), strict=True):
            np.testing.assert_allclose(a, b, atol=1.6e-5 * np.abs(b).max())


def test_an_average_between_agrees_with_the_tracked_one(trained, two: Path) -> None:
    _, state = trained
    tracked = state.averages[1 + WIDTHS.index(0.075)]
    found, misfit = reconstruct(two, 60, 0.075, state.params)
    assert distance(found, tracked) < 1e-3 and 1e-5 < misfit < 0.02
    other, _ = reconstruct(two, 60, 0.085, state.params)  # what a wrong profile would give
    assert distance(other, tracked) > 1e-3
    assert distance(state.params, tracked) > 1e-2


def test_later_snapshots_do_not_count(trained, two: Path, tmp_path: Path) -> None:
    _, state = trained
    found, _ = reconstruct(two, 40, 0.075, state.params)
    tracked = run(tmp_path / "shorter", steps=40).state.averages[1 + WIDTHS.index(0.075)]
    assert distance(found, tracked) < 1e-3
    for one in snapshots(two):
        if one.step > 40:
            one.path.write_bytes(b"")
    again, _ = reconstruct(two, 40, 0.075, state.params)
    jax.tree.map(np.testing.assert_array_equal, again, found)


def test_a_run_that_was_stopped_has_the_same_snapshots(tmp_path: Path) -> None:
    """Stopped by a signal at a step that has no snapshot."""
    changes = {"steps": 12, "snapshot_every": 3, "checkpoint_every": 5, "eval_every": 7}

    def stop(average: Any) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGTERM)
        return np.zeros(1)

    run(tmp_path / "whole", **changes)
    with pytest.raises(Stopped) as stopped:
        run(tmp_path / "parts", evaluate=stop, **changes)
    assert stopped.value.number == signal.SIGTERM and stopped.value.told
    assert Checkpoints(tmp_path / "parts" / "checkpoints", read_only=True).steps() == [8]
    run(tmp_path / "parts", **changes)
    whole, parts = (snapshots(tmp_path / name / "snapshots") for name in ("whole", "parts"))
    assert [one.path.name for one in parts] == [one.path.name for one in whole]
    assert len(whole) == 4 * len(WIDTHS)
    for a, b in zip(parts, whole, strict=True):
        assert a.path.read_bytes() == b.path.read_bytes()


def test_weights_that_are_split_are_kept_whole(tmp_path: Path) -> None:
    place = Placement.of(jax.devices()[:4], 2)
    loop = run(tmp_path, place=place, steps=4)
    average = loop.state.averages[1]
    split = [leaf.sharding.spec for leaf in jax.tree.leaves(average)]
    assert any("fsdp" in spec for spec in split)
    found, _ = reconstruct(tmp_path / "snapshots", 4, WIDTHS[0], loop.state.params)
    assert distance(found, average) < 3e-5


def test_without_an_interval_there_are_none(tmp_path: Path) -> None:
    run(tmp_path, steps=2, snapshot_every=0)
    assert not (tmp_path / "snapshots").exists()


def test_large_small_and_zero_arrays(tmp_path: Path) -> None:
    """Half precision would make infinities and zeros of them."""
    average = {"a": np.asarray([1e6, -3.0]), "b": np.asarray([1e-9, 2e-10]), "c": np.zeros(3)}
    save_snapshot(tmp_path, 1, 0.05, average)
    found, _ = reconstruct(tmp_path, 1, 0.05, average)
    for name, values in average.items():
        np.testing.assert_allclose(found[name], values, atol=1.6e-5 * np.abs(values).max())
    assert found["a"][0] == pytest.approx(1e6) and not found["c"].any()


def test_weights_that_are_not_finite_stay_so(tmp_path: Path) -> None:
    average = {"a": np.asarray([np.nan, 1.0]), "b": np.asarray([np.inf, 1.0]), "c": np.ones(2)}
    save_snapshot(tmp_path, 1, 0.05, average)
    found, _ = reconstruct(tmp_path, 1, 0.05, average)
    assert not np.isfinite(found["a"]).any() and not np.isfinite(found["b"]).any()
    np.testing.assert_array_equal(found["c"], 1.0)


# What cannot be made


def test_there_are_no_snapshots(tmp_path: Path) -> None:
    assert snapshots(tmp_path) == []
    with pytest.raises(UserError, match=r"holds no snapshots.*training.averages=power:0.05,"):
        reconstruct(tmp_path, 10, 0.05, {})


def test_there_is_none_of_that_step(trained) -> None:
    with pytest.raises(UserError, match=r"no snapshot of step 9; there are \[4, 8, 12, .*60\]"):
        reconstruct(trained[0], 9, 0.05, {})


def test_there_are_too_few(trained) -> None:
    """Early in training, and of a much narrower profile."""
    folder, state = trained
    for step, std in ((4, 0.2), (60, 0.005)):
        known = [(one.step, one.std) for one in snapshots(folder) if one.step <= step]
        _, misfit = coefficients(known, (step, std))
        assert misfit > 0.1
        message = f"{len(known)} snapshots .* {std} with an error of {misfit:.0%}; 10% is accepted"
        with pytest.raises(UserError, match=message):
            reconstruct(folder, step, std, state.params)


@pytest.mark.parametrize("std", [0.0, 0.29, -1.0])
def test_there_is_no_such_profile(trained, std: float) -> None:
    with pytest.raises(ValueError, match=r"must be in \(0, 0.29\)"):
        reconstruct(trained[0], 60, std, trained[1].params)


def test_a_snapshot_is_damaged(trained, two: Path) -> None:
    _, state = trained
    path = two / "step_60_power_0.1.npz"
    whole = path.read_bytes()
    for damaged in (b"", whole[:-200], whole[:600] + bytes(200) + whole[800:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"step_60_power_0.1.npz .*remove it: the other"):
            reconstruct(two, 60, 0.09, state.params)
    path.unlink()
    reconstruct(two, 60, 0.06, state.params)


def test_a_snapshot_is_of_another_network(two: Path, trained) -> None:
    for like in ({"w": np.zeros(3)}, jax.tree.map(lambda a: a[..., :1], trained[1].params)):
        with pytest.raises(UserError, match=r"not those of this network|has shape"):
            reconstruct(two, 60, 0.05, like)


def test_a_snapshot_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file.* goes on from the last"):
        save_snapshot(tmp_path / "file", 1, 0.05, {"w": np.zeros(2)})
