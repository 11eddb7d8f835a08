"""config.training.from: a run that begins with the weights of another one."""

from pathlib import Path

import jax
import numpy as np
import pytest
from commands import RECIPE, SMALL, refused, rows, train_here
from PIL import Image
from runs import load

from score_sde.training.loop import Loop
from score_sde.training.state import TrainState
from score_sde.workdir import config as configurations
from score_sde.workdir.run import Run

OTHER = {
    "training.batch_size": 8,
    "training.steps": 2,
    "training.log_every": 1,
    "training.eval_every": 0,
    "training.sample_every": 0,
    "training.checkpoint_every": 2,
    "optim.lr": 0.01,
    "data.source": "folder",
    "data.levels": 256,
    "eval.batch_size": 8,
}
"""Other images, batch size and rate, for two steps."""


@pytest.fixture
def values(tmp_path: Path) -> dict[str, object]:
    """`OTHER`, with a folder of ten images."""
    (tmp_path / "images").mkdir()
    generator = np.random.default_rng(0)
    for i in range(10):
        image = Image.fromarray(generator.integers(0, 256, (8, 8), np.uint8))
        image.save(tmp_path / "images" / f"{i}.png")
    return OTHER | {"data.path": tmp_path / "images"}


def begun(monkeypatch: pytest.MonkeyPatch, workdir: Path, values: dict, train=True) -> TrainState:
    """The state before the first step of a call of --mode train."""
    states: list[TrainState] = []
    really = Loop.run

    def run(loop: Loop, *arguments: object) -> bool:
        states.append(jax.tree.map(np.asarray, loop.state))  # it is donated to the first step
        return train and really(loop, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "run", run)
        train_here(workdir, values)
    return states[0]


def saved(workdir: Path, step: int) -> TrainState:
    return Run.of(configurations.load_json(workdir / "config.json"), workdir).restore(step)


def same(a: object, b: object) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def test_a_run_begins_with_the_weights_of_another_and_goes_on_from_its_own(
    trained: Path, tmp_path: Path, values: dict, monkeypatch, capsys
) -> None:
    there, workdir = tmp_path / "lr=0.1,bs=16:5", tmp_path / "run"
    there.symlink_to(trained)
    values |= {"training.from": there}
    theirs, state = saved(trained, 60), begun(monkeypatch, workdir, values)
    assert same(state.params, theirs.params) and same(state.averages, theirs.averages)
    assert not same(state.params, state.averages[0]) and int(state.step) == 0
    fresh = [np.asarray(leaf) for leaf in jax.tree.leaves(state.opt_state)]
    assert len(fresh) > 2 and not any(leaf.any() for leaf in fresh)
    assert f"the weights of checkpoint 60 of {there}" in capsys.readouterr().out

    assert [row["step"] for row in rows(workdir)] == [1, 2]
    assert configurations.load_json(workdir / "config.json").training.from_run == str(there)
    mine = saved(workdir, 2)
    assert not same(mine.params, theirs.params)
    capsys.readouterr()
    there.unlink()  # the other run is not needed any more
    state = begun(monkeypatch, workdir, values | {"training.steps": 4})
    assert same(state, mine) and "begins with" not in capsys.readouterr().out
    assert [row["step"] for row in rows(workdir)] == [1, 2, 3, 4]


def test_a_step_names_the_checkpoint(trained: Path, tmp_path: Path, values, monkeypatch) -> None:
    values |= {"training.from": f"{trained}:20"}
    state, theirs = begun(monkeypatch, tmp_path / "run", values, train=False), saved(trained, 20)
    assert same(state.params, theirs.params) and same(state.averages, theirs.averages)
    assert not same(state.params, saved(trained, 60).params)


@pytest.mark.parametrize(
    ("location", "values", "message"),
    [
        ("nowhere", {}, "training.from: nowhere holds no config.json"),
        ("nowhere:10", {}, "training.from: nowhere holds no config.json"),
        (
            "{trained}:11",
            {},
            r"training.from: .*no checkpoint 11 in .*; there are \[10, 20, .*60\]",
        ),
        ("{trained}:last", {}, "RUN or RUN:STEP; .*'last' is no step"),
        ("{trained}:-20", {}, "RUN or RUN:STEP; .*'-20' is no step"),
        (
            "{trained}",
            {"model.nf": 16, "model.activation": "relu"},
            r"network of {trained} .*model.activation: 'swish' there, 'relu' here; "
            r"model.nf: 8 there, 16 here",
        ),
    ],
)
def test_what_it_cannot_begin_with(
    trained: Path, tmp_path: Path, location: str, values: dict, message: str
) -> None:
    """Nothing is made, so that the same command with another value is not refused."""
    values = SMALL | {"training.from": location.format(trained=trained)} | values
    refused(message.format(trained=trained), "train", tmp_path / "run", RECIPE, values=values)
    assert not (tmp_path / "run").exists()


def test_images_with_other_channels_are_of_another_network(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i in range(8):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / "images" / f"{i}.png")
    values = SMALL | OTHER | {"data.path": tmp_path / "images", "data.channels": 3}
    message = "data.channels: 1 there, 3 here"
    values |= {"training.from": trained}
    refused(message, "train", tmp_path / "run", RECIPE, values=values)


def test_it_belongs_to_the_configuration(trained: Path) -> None:
    """A run that began otherwise does not take other weights in the middle."""
    values = load(RECIPE, SMALL | {"training.from": "elsewhere"})
    assert values.training.from_run == "elsewhere"
    message = "belongs to another configuration .training.from: '' there, 'elsewhere' here"
    refused(message, "train", trained, RECIPE, values=SMALL | {"training.from": "elsewhere"})
