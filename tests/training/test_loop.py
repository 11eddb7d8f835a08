"""The loop on the smallest network: what it does when, and that it goes on bit for bit."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from training.tiny import SHAPE, task, trainer

from score_sde.data import ArraySource, PixelRange, pipeline
from score_sde.devices import Placement
from score_sde.training.checkpoint import Checkpoints
from score_sde.training.ema import Average
from score_sde.training.loop import Loop
from score_sde.training.state import TrainState
from score_sde.training.step import Trainer

KEY = jax.random.key(1)
PIXELS = PixelRange(17, -1.0, 1.0)
IMAGES = np.random.default_rng(0).integers(0, 17, (40, *SHAPE))
SMALL, FIT = trainer(averages=(Average(0.9), Average(0.5))), task(dropout=0.3)
SETTINGS = {
    "steps": 12,
    "steps_per_call": 1,
    "log_every": 2,
    "checkpoint_every": 4,
    "eval_every": 6,
    "sample_every": 5,
    "quality_every": 0,
    "keep": 5,
    "keep_every": 0,
}


class Watch:
    """What the loop calls, by step; the weights are those of the first average."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []
        self.weights: list = []

    def evaluate(self, average) -> np.ndarray:
        self.weights.append(average)
        self.calls.append(("evaluate",))
        return np.asarray([1.0, 3.0])

    def picture(self, average, step, log) -> None:
        self.calls.append(("picture", step))

    def measure(self, average, step) -> float:
        self.calls.append(("measure", step))
        return 100.0 - step


def run(
    folder: Path, measure: bool = False, place: Placement | None = None, **changes: int
) -> tuple[Loop, Watch]:
    batches = pipeline.Batches(ArraySource(IMAGES, levels=17), PIXELS, 16, seed=3, train=True)
    settings, watch = SETTINGS | changes, Watch()
    loop = Loop(folder, SMALL, FIT, settings, pipeline.read(batches), place or Placement.of())
    assert loop.begin(KEY, SHAPE, how="this way")
    loop.run(KEY, watch.evaluate, watch.picture, watch.measure if measure else None)
    return loop, watch


def saved(folder: Path, step: int | None = None) -> TrainState:
    like = jax.eval_shape(lambda: SMALL.init(FIT, KEY, SHAPE))
    whole = Placement.of().whole
    like = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=whole), like)
    return Checkpoints(folder / "checkpoints", read_only=True).restore(like, step)[0]


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_everything_is_done_when_it_is_due(tmp_path: Path) -> None:
    loop, watch = run(tmp_path)
    assert loop.step == 12
    pictures = [("picture", 5), ("picture", 10)]
    assert watch.calls == [pictures[0], ("evaluate",), pictures[1], ("evaluate",)]
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).steps() == [4, 8, 12]
    found = rows(tmp_path)
    assert [row["step"] for row in found if "loss" in row] == [2, 4, 6, 8, 10, 12]
    assert [(r["step"], r["eval_loss"]) for r in found if "eval_loss" in r] == [(6, 2.0), (12, 2.0)]
    first = saved(tmp_path).averages[0]
    jax.tree.map(np.testing.assert_array_equal, watch.weights[-1], first)


def test_the_end_has_a_loss_a_measure_and_a_checkpoint(tmp_path: Path) -> None:
    changes = {"steps": 5, "eval_every": 3, "quality_every": 4, "sample_every": 0}
    _, watch = run(tmp_path, measure=True, **changes)
    expected = [("evaluate",), ("measure", 4), ("evaluate",), ("measure", 5)]
    assert watch.calls == expected
    checkpoints = Checkpoints(tmp_path / "checkpoints", read_only=True)
    assert checkpoints.steps() == [4, 5] and checkpoints.best() == 5
    assert [row["fid"] for row in rows(tmp_path) if "fid" in row] == [96.0, 95.0]


@pytest.mark.parametrize("steps_per_call", [1, 4])
def test_a_resumed_run_is_an_uninterrupted_one(tmp_path: Path, steps_per_call: int) -> None:
    run(tmp_path / "whole", steps_per_call=steps_per_call)
    run(tmp_path / "parts", steps_per_call=steps_per_call, steps=8)
    run(tmp_path / "parts", steps_per_call=steps_per_call)
    whole, parts = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    assert int(parts.step) == 12 and len(parts.averages) == 2
    jax.tree.map(np.testing.assert_array_equal, parts, whole)
    losses = [[row for row in rows(tmp_path / n) if "loss" in row] for n in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_the_step_is_traced_once_and_a_resumed_run_makes_no_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program that is compiled ahead is the one that trains, and trains alike."""
    traced: list[str] = []
    steps, init = Trainer.steps, Trainer.compiled_init

    def count(name, function, *arguments, **options):
        traced.append(name)
        return function(*arguments, **options)

    monkeypatch.setattr(Trainer, "steps", lambda *given: count("steps", steps, *given))
    monkeypatch.setattr(
        Trainer, "compiled_init", lambda *given, **options: count("init", init, *given, **options)
    )
    run(tmp_path, steps=8)
    assert traced.count("steps") == 1 and traced.count("init") == 1
    run(tmp_path, steps=12)
    assert traced.count("steps") == 2 and traced.count("init") == 1


def test_an_error_while_the_step_is_compiled_ahead_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given):
        raise ValueError("the step cannot be traced")

    monkeypatch.setattr(Trainer, "steps", fail)
    with pytest.raises(ValueError, match="the step cannot be traced"):
        run(tmp_path)


def test_goes_on_from_the_last_sound_checkpoint(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    run(tmp_path / "parts", steps=8)
    for file in (tmp_path / "parts" / "checkpoints" / "8" / "state" / "d").iterdir():
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    run(tmp_path / "parts")
    jax.tree.map(
        np.testing.assert_array_equal, saved(tmp_path / "parts"), saved(tmp_path / "whole")
    )
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")
    assert (tmp_path / "parts" / "damaged_checkpoints" / "8").is_dir()


def test_a_run_goes_on_on_other_devices(tmp_path: Path) -> None:
    """From weights split over 8 devices to 1 device, and from there to 2 x 2."""
    run(tmp_path / "whole")
    for steps, count, fsdp in ((4, 8, 8), (8, 1, 1), (12, 4, 2)):
        place = Placement.of(jax.devices()[:count], fsdp)
        loop, _ = run(tmp_path / "parts", place=place, steps=steps)
        weights = loop.state.params["Dense_0"]["kernel"]
        assert weights.sharding.mesh.shape == {"data": count // fsdp, "fsdp": fsdp}
        assert weights.addressable_shards[0].data.size == weights.size // fsdp
    whole, parts = saved(tmp_path / "whole"), saved(tmp_path / "parts")
    assert int(parts.step) == 12
    for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_a_finished_run_has_nothing_left(tmp_path: Path) -> None:
    run(tmp_path)
    batches = pipeline.Batches(ArraySource(IMAGES, levels=17), PIXELS, 16, seed=3, train=True)
    arguments = SETTINGS, pipeline.read(batches), Placement.of()
    loop = Loop(tmp_path, SMALL, FIT, *arguments)
    assert not loop.begin(KEY, SHAPE) and loop.step == 12
