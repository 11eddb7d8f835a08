"""Checkpoints: exact, the right ones kept, and nothing foreign or damaged read in silence."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from training.tiny import SHAPE, of, task, trainer

from score_sde.devices import Placement
from score_sde.errors import UserError
from score_sde.training import digests
from score_sde.training.checkpoint import Checkpoints, set_damaged_aside
from score_sde.training.digests import LATER
from score_sde.training.ema import Average
from score_sde.training.state import TrainState

# Orbax leaves behind unfinished reads where one of many fails.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module", autouse=True)
def unfinished_reads_end_here() -> Iterator[None]:
    yield
    gc.collect()


HOST = {"data": {"next_index": 7}, "window": {"loss": [0.1, 1 / 3]}}


def state(step: int = 3, averages: int = 1, **leaves: Any) -> TrainState:
    w, b = jnp.arange(6.0).reshape(2, 3) / 7, jnp.full(2, 1 / 3, jnp.bfloat16)
    params = {"w": w, "b": b, **leaves}
    scaled = (jax.tree.map(lambda a, n=n: (n + 2) * a, params) for n in range(averages))
    rest = (jnp.asarray(9, jnp.int32), None)
    return TrainState(jnp.asarray(step, jnp.int32), params, tuple(scaled), rest)


def written(folder: Path, *steps: int, **settings: Any) -> Path:
    checkpoints = Checkpoints(folder, **settings)
    for step in steps:
        checkpoints.save(state(step), HOST)
    checkpoints.close()
    return folder


def blank(like: TrainState) -> TrainState:
    return jax.tree.map(jnp.zeros_like, like)


def assert_equal(found: Any, expected: Any) -> None:
    """Types included."""
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_restores_exactly(tmp_path: Path) -> None:
    found, host = Checkpoints(written(tmp_path, 3)).restore(blank(state()))
    assert host == HOST
    assert_equal(found, state(3))


def test_state_of_a_trainer_goes_on_bit_for_bit(tmp_path: Path) -> None:
    profiles = (Average(0.9), Average(0.5, warmup=False))
    small, fit, key = trainer(averages=profiles), task(), jax.random.key(0)
    batch = of(jax.random.normal(key, (8, *SHAPE)))
    step = jax.jit(small.step)
    half, _ = step(fit, small.init(fit, key, SHAPE), key, batch)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(half, HOST)
    checkpoints.close()
    again, _ = Checkpoints(tmp_path).restore(small.init(fit, jax.random.key(9), SHAPE))
    assert len(again.averages) == 2
    assert_equal(step(fit, again, key, batch), step(fit, half, key, batch))


class OneAverage(flax.struct.PyTreeNode):
    """The train state as it was before there were several averages."""

    step: Any
    params: Any
    ema_params: Any
    opt_state: Any


def written_before(folder: Path) -> TrainState:
    """A checkpoint of that time; what it has to be read as."""
    now = state(3)
    then = OneAverage(now.step, now.params, now.averages[0], now.opt_state)
    types = [str(leaf.dtype) for leaf in jax.tree.leaves(then)]
    manager = ocp.CheckpointManager(folder)
    host = ocp.args.JsonSave({**HOST, "types": types})
    manager.save(3, args=ocp.args.Composite(state=ocp.args.StandardSave(then), host=host))
    manager.close()
    return now


def test_checkpoints_of_one_average_are_read(tmp_path: Path) -> None:
    expected = written_before(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    found, host = checkpoints.restore(blank(state()))
    assert host == HOST and isinstance(found, TrainState)
    assert_equal(found, expected)
    assert (found.averages[0]["w"] != found.params["w"])[0, 1:].all()
    checkpoints.save(state(8), HOST)  # and training goes on, in the present form
    checkpoints.wait()
    assert_equal(checkpoints.restore(blank(state()))[0], state(8))
    assert_equal(checkpoints.restore(blank(state()), 3)[0], expected)


def test_a_foreign_checkpoint_of_one_average_is_refused(tmp_path: Path) -> None:
    written_before(tmp_path)
    for leaf in ({"w": jnp.zeros((4, 3))}, {"w": jnp.zeros((2, 3), jnp.bfloat16)}):
        with pytest.raises(UserError, match=r"checkpoint 3 .* cannot be read"):
            Checkpoints(tmp_path).restore(blank(state(**leaf)))


def test_averages_are_kept_as_a_list(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(3, averages=2), HOST)
    checkpoints.close()
    stored = ocp.StandardCheckpointer().metadata(tmp_path / "3" / "state").item_metadata
    assert set(stored) == {"step", "params", "averages", "opt_state"}
    assert isinstance(stored["averages"], list) and len(stored["averages"]) == 2
    found, _ = Checkpoints(tmp_path).restore(blank(state(averages=2)))
    assert_equal(found, state(3, averages=2))


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), ("ema_params", 2)])
def test_another_number_of_averages_is_refused(tmp_path: Path, before: Any, after: int) -> None:
    if before == "ema_params":
        written_before(tmp_path)
    else:
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(state(3, averages=before), HOST)
        checkpoints.close()
    there = 1 if before == "ema_params" else before
    with pytest.raises(UserError, match=rf"it has {there} averages .* {after} are asked for"):
        Checkpoints(tmp_path).restore(blank(state(averages=after)))


def test_last_and_regular_ones_are_kept(tmp_path: Path) -> None:
    steps = range(10, 90, 10)
    assert Checkpoints(written(tmp_path / "a", *steps)).steps() == [70, 80]
    assert Checkpoints(written(tmp_path / "b", *steps, keep=1)).steps() == [80]
    assert Checkpoints(written(tmp_path / "c", *steps, keep=1, keep_every=30)).steps() == [
        30,
        60,
        80,
    ]


def test_step_that_is_saved_already_is_left_alone(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(3), HOST)
    checkpoints.wait()
    checkpoints.save(state(3, w=jnp.zeros((2, 3))), {})
    assert checkpoints.restore(state())[1] == HOST


def test_chosen_step(tmp_path: Path) -> None:
    checkpoints = Checkpoints(written(tmp_path, 3, 8))
    assert checkpoints.choose(None) == 8 and checkpoints.choose(3) == 3
    assert checkpoints.restore(blank(state()), 3)[0].step == 3
    assert checkpoints.restore(blank(state()))[0].step == 8
    with pytest.raises(UserError, match=r"no checkpoint 5 in .*; there are \[3, 8\]"):
        checkpoints.restore(blank(state()), 5)
    with pytest.raises(UserError, match="train first"):
        Checkpoints(tmp_path / "none").restore(blank(state()))


@pytest.mark.parametrize(
    ("name", "leaf"),
    [
        ("a larger layer", {"w": jnp.zeros((4, 3))}),
        ("a smaller layer", {"w": jnp.zeros((2, 2))}),
        ("a layer more", {"extra": jnp.zeros(1)}),
        ("another number of axes", {"w": jnp.zeros((2, 3, 1))}),
        ("another type", {"w": jnp.zeros((2, 3), jnp.bfloat16)}),
    ],
)
def test_another_network_is_refused(tmp_path: Path, name: str, leaf: dict) -> None:
    checkpoints = Checkpoints(written(tmp_path, 3, 8))
    message = r"checkpoint 8 .* cannot be read .*network.*Other checkpoints: \[3\]"
    with pytest.raises(UserError, match=message):
        checkpoints.restore(blank(state(**leaf)))


def test_a_layer_less_is_refused(tmp_path: Path) -> None:
    checkpoints = Checkpoints(written(tmp_path, 3))
    like = state()
    del like.params["b"]
    with pytest.raises(UserError, match="Other checkpoints: none"):
        checkpoints.restore(like)


@pytest.mark.parametrize("digests", [True, False])
@pytest.mark.parametrize("kind", ["files cut in half", "files missing", "host part damaged"])
def test_damaged_files_are_refused_and_others_offered(
    tmp_path: Path, kind: str, digests: bool
) -> None:
    folder = written(tmp_path, 3, 8) / "8"
    if not digests:  # as older versions wrote it
        (folder / "digests.json").unlink()
    data = [f for f in folder.rglob("*") if f.is_file() and "/d/" in str(f)]
    if kind == "host part damaged":
        (folder / "host" / "metadata").write_text('{"data": ')
    elif kind == "files missing":
        for f in data:
            f.unlink()
    else:
        for f in data:
            f.write_bytes(f.read_bytes()[: f.stat().st_size // 2])
    checkpoints = Checkpoints(tmp_path)
    message = r"cannot be read .*Other checkpoints: \[3\]"
    if digests:
        message = r"damaged: .*/8/.* is not as .*--checkpoint 3"
    with pytest.raises(UserError, match=f"checkpoint 8 .* {message}"):
        checkpoints.restore(blank(state()))
    assert checkpoints.restore(blank(state()), 3)[0].step == 3


def flipped(path: Path, random: np.random.Generator) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[random.integers(len(data))] ^= 1 << int(random.integers(8))
    path.write_bytes(data)


def test_a_flipped_bit_is_always_found(tmp_path: Path) -> None:
    """In any file of a checkpoint: arrays, tables of them, the host's part, the digests."""
    random = np.random.default_rng(0)
    folder, last = written(tmp_path, 3, 8), tmp_path / "8"
    checkpoints = Checkpoints(folder, read_only=True)
    files = sorted(f for f in last.rglob("*") if f.is_file() and f.name not in LATER)
    assert len(files) > 5 and last / "digests.json" in files
    for file in [*files, *random.choice(np.asarray(files), 20)]:
        before = file.read_bytes()
        flipped(file, random)
        with pytest.raises(UserError, match=r"checkpoint 8 .*--checkpoint 3"):
            checkpoints.restore(blank(state()))
        file.write_bytes(before)
    assert_equal(checkpoints.restore(blank(state()))[0], state(8))


@pytest.mark.parametrize("name", ["digests.json", "host/metadata", "state/manifest.ocdbt"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, 3, 8) / "8" / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"checkpoint 8 .*damaged: .*--checkpoint 3"):
        Checkpoints(tmp_path, read_only=True).restore(blank(state()))


@pytest.mark.parametrize("compared", [False, True])
def test_files_are_read_for_their_digests_once_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compared: bool
) -> None:
    folder, read = written(tmp_path, 3), []
    digest = digests.digest
    monkeypatch.setattr(digests, "digest", lambda path: (read.append(path), digest(path))[1])
    Checkpoints(folder, read_only=True).restore(blank(state()), compared=compared)
    assert bool(read) is not compared and len(set(read)) == len(read)


def test_what_cannot_be_checked_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path, 3)
    Checkpoints(folder, read_only=True).restore(blank(state()))
    assert not capsys.readouterr().out
    (folder / "3" / "digests.json").unlink()
    Checkpoints(folder, read_only=True).restore(blank(state()))
    assert "checkpoint 3 has no digests" in capsys.readouterr().out


def test_without_a_sound_one_none_is_offered(tmp_path: Path) -> None:
    folder = written(tmp_path, 3, 8)
    for step in ("3", "8"):
        flipped(folder / step / "host" / "metadata", np.random.default_rng(1))
    with pytest.raises(UserError, match="No other one is sound"):
        Checkpoints(folder).restore(blank(state()))
    with pytest.raises(UserError, match="Move the folder away"):
        set_damaged_aside(folder)
    assert Checkpoints(folder).steps() == [3, 8]


def test_training_sets_damaged_ones_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All behind the last sound one; it can then save those steps anew."""
    folder = written(tmp_path / "checkpoints", 3, 8, 9, keep=3)
    for again in (False, True):
        for step in ("8", "9"):
            flipped(folder / step / "host" / "metadata", np.random.default_rng(1))
        set_damaged_aside(folder)
        assert "checkpoint 9 is damaged" in capsys.readouterr().out
        checkpoints = Checkpoints(folder, keep=3)
        assert checkpoints.restore(blank(state()))[0].step == 3
        for step in (8, 9):
            checkpoints.save(state(step), HOST)
        checkpoints.close()
        names = {"8", "9", "8_1", "9_1"} if again else {"8", "9"}
        assert {p.name for p in (tmp_path / "damaged_checkpoints").iterdir()} == names
    assert_equal(Checkpoints(folder).restore(blank(state()))[0], state(9))


def test_a_damaged_measure_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3, measured=True)
    for step, measure in ((1, 4.0), (2, 3.0), (3, 5.0)):
        checkpoints.save(state(step), HOST, measure)
    checkpoints.close()
    assert Checkpoints(tmp_path, read_only=True).best() == 2
    (file,) = (f for f in (tmp_path / "3" / "metrics").iterdir() if "5.0" in f.read_text())
    file.write_text(file.read_text().replace("5.0", "1.0"))
    assert Checkpoints(tmp_path, read_only=True).best() == 2
    assert "measure of checkpoint 3" in capsys.readouterr().out


def test_remains_of_a_killed_save_are_ignored_and_removed_by_the_next_run(tmp_path: Path) -> None:
    remains = written(tmp_path, 3) / "8.orbax-checkpoint-tmp"
    (remains / "state.orbax-checkpoint-tmp").mkdir(parents=True)
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.steps() == [3]
    reader.close()
    assert remains.exists()  # it may be a running training's
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [3]
    checkpoints.save(state(8), HOST)
    checkpoints.close()
    assert not remains.exists()
    assert Checkpoints(tmp_path).restore(blank(state()))[0].step == 8


def test_reading_makes_no_folder(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", read_only=True).steps() == []
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("before", "after"), [(1, 8), (8, 1)])
def test_restores_onto_another_number_of_devices(tmp_path: Path, before: int, after: int) -> None:
    meshes = {n: Placement.of(jax.devices()[:n]).whole for n in (before, after)}
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(jax.device_put(state(), meshes[before]), HOST)
    checkpoints.close()
    like = jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=meshes[after]), blank(state())
    )
    found, _ = Checkpoints(tmp_path).restore(like)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state()), strict=True):
        assert len(a.addressable_shards) == after
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_the_one_with_the_smallest_measure_is_kept(tmp_path: Path) -> None:
    measures = {1: None, 2: 5.0, 3: 3.0, 4: None, 5: 4.0, 6: None, 7: None}
    checkpoints = Checkpoints(tmp_path, keep=2, measured=True)
    for step, measure in measures.items():
        checkpoints.save(state(step), HOST, measure)
    checkpoints.close()
    for settings in ({"measured": True}, {"read_only": True}, {}):
        again = Checkpoints(tmp_path, keep=2, **settings)
        assert again.steps() == [3, 6, 7] and again.best() == 3
        assert int(again.restore(blank(state()), 3)[0].step) == 3
        again.close()
    later = Checkpoints(tmp_path, keep=2)  # training goes on without measuring
    later.save(state(8), HOST)
    later.close()
    assert Checkpoints(tmp_path, read_only=True).steps() == [3, 7, 8]
    better = Checkpoints(tmp_path, keep=1, measured=True)
    better.save(state(9), HOST, 2.5)
    better.save(state(10), HOST)
    better.close()
    assert Checkpoints(tmp_path, read_only=True).steps() == [9, 10]
    assert Checkpoints(tmp_path, read_only=True).best() == 9


def test_measures_made_in_other_ways_are_not_compared(tmp_path: Path) -> None:
    first = Checkpoints(tmp_path, keep=1, measured=True, how="pixels")
    first.save(state(1), HOST, 0.5)
    first.save(state(2), HOST, 0.7)
    first.close()
    second = Checkpoints(tmp_path, keep=1, measured=True, how="digits")
    for step, measure in ((3, 500.0), (4, 600.0), (5, None)):
        second.save(state(step), HOST, measure)
    second.close()
    for settings in ({"read_only": True}, {"measured": True, "how": "digits"}, {}):
        again = Checkpoints(tmp_path, keep=1, **settings)
        assert (again.steps(), again.best()) == ([3, 5], 3)
        again.close()
    later = Checkpoints(tmp_path, keep=1)  # training goes on without measuring
    later.save(state(6), HOST)
    later.close()
    assert Checkpoints(tmp_path, read_only=True).steps() == [3, 6]


def test_without_measures_there_is_no_best(tmp_path: Path) -> None:
    assert Checkpoints(written(tmp_path / "a", 3, 4)).best() is None
    assert Checkpoints(written(tmp_path / "b", 3, 4, measured=True)).best() is None


def test_the_best_of_several_measured_ones_is_the_smallest(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2, measured=True)
    for step, measure in ((1, 3.0), (2, 5.0)):
        checkpoints.save(state(step), HOST, measure)
    checkpoints.close()
    assert Checkpoints(tmp_path, read_only=True).best() == 1
