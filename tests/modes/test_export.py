"""Runs as checkpoints of the published codes: what was imported comes back as it was."""

from pathlib import Path

import jax
import numpy as np
import pytest
import runs
from networks.published import checkpoint, folders
from published_runs import (
    PYTORCH,
    VP,
    import_,
    import_file,
    kept,
    random_state,
    restored,
    step_of,
)

from score_sde.build.assemble import build
from score_sde.build.published import check_expressible
from score_sde.convert import read_file, write_torch
from score_sde.convert.published import recognize
from score_sde.convert.table import flatten
from score_sde.errors import UserError
from score_sde.exchange.states import to_pytorch, to_state
from score_sde.workdir import config as configurations


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run made of a PyTorch checkpoint. Not to be changed."""
    return import_(VP, tmp_path_factory.mktemp("import") / "run")


EXPORTED = folders("ncsnpp", "ddpm", code=PYTORCH) + folders("ncsnv2", code="ncsnv2")


@pytest.mark.parametrize("folder", EXPORTED)
def test_export_gives_the_published_tensors_bit_for_bit(folder: str, tmp_path: Path) -> None:
    _, experiment, state = kept(folder)
    output = tmp_path / "model.pth"
    write_torch(output, to_pytorch(experiment, state))
    theirs, ours = read_file(checkpoint(folder))[1], read_file(output)[1]
    if isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        assert ours["ema"].keys() == theirs["ema"].keys()
        assert (ours["ema"]["decay"], ours["ema"]["num_updates"]) == (
            theirs["ema"]["decay"],
            theirs["ema"]["num_updates"],
        )
        pairs = [(ours["model"], theirs["model"])]
        assert len(ours["ema"]["shadow_params"]) == len(theirs["ema"]["shadow_params"])
        for a, b in zip(ours["ema"]["shadow_params"], theirs["ema"]["shadow_params"]):
            np.testing.assert_array_equal(a, b, strict=True)
        assert ours["step"] == theirs["step"] == step_of(folder)
        group, published = (t["optimizer"]["param_groups"][0] for t in (ours, theirs))
    else:
        pairs = [(ours[0], theirs[0]), (ours[4], theirs[4])]
        assert ours[3] == theirs[3] == step_of(folder)
        group, published = (t[1]["param_groups"][0] for t in (ours, theirs))
    for a, b in pairs:
        assert list(a) == list(b)
        for name in a:
            if name.endswith("sigmas"):  # exp of another NumPy may differ in the last bit
                assert a[name].dtype == b[name].dtype
                np.testing.assert_allclose(a[name], b[name], rtol=4 * np.finfo(b[name].dtype).eps)
            else:
                np.testing.assert_array_equal(a[name], b[name], strict=True)
    assert group["params"] == published["params"]
    again = to_state(recognize(*read_file(output), output), experiment)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), state)


def test_an_exported_run_comes_back(imported: Path, tmp_path: Path) -> None:
    output = tmp_path / "sub" / "model.pth"
    runs.call("export", imported, output=output)
    recipe = str(imported / "config.json")
    again = import_file(output, recipe, workdir=tmp_path / "again")
    states = restored(imported).state, restored(again).state
    jax.tree.map(np.testing.assert_array_equal, *states)
    with pytest.raises(UserError, match=r"model\.pth exists already"):
        runs.call("export", imported, output=output)
    with pytest.raises(UserError, match=r"needs the file or folder to write: --output"):
        runs.call("export", imported)


def test_networks_without_labels_come_back_through_what_pytorch_never_uses(tmp_path: Path) -> None:
    settings = runs.load("vp/ddpmpp_cont:digits", {"model.conditional": False})
    experiment = build(settings)
    state = random_state(experiment)
    tree = to_pytorch(experiment, state)
    assert not tree["model"]["module.all_modules.1.Dense_0.weight"].any()
    write_torch(tmp_path / "model.pth", tree)
    configurations.save(settings, tmp_path / "config.json")
    again = import_file(tmp_path / "model.pth", workdir=tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, state.params, restored(again).state.params)


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        (
            "vp/ddpmpp_cont",
            {"model.prediction": "edm"},
            r"prediction=edm \(its is noise\)",
        ),
        (
            "ve/ncsnpp_cont",
            {"model.prediction": "noise"},
            r"prediction=noise \(its is score\)",
        ),
        ("ve/ddpm_cont", {"model.prediction": "score"}, "gives sigma itself, not time"),
        (
            "ve/ncsnpp_cont",
            {"model.embedding": "positional"},
            r"embedding=positional \(its is fourier\)",
        ),
        ("ve/ncsnpp_cont", {"sde.name": "edm"}, "has no process config.sde.name=edm"),
        ("vp/ddpm", {"model.up_attention": "every"}, r"up_attention=every \(its is last\)"),
    ],
)
def test_models_that_pytorch_cannot_express_are_not_exported(
    recipe: str, overrides: dict, message: str
) -> None:
    settings = configurations.load(f"{recipe}:digits")
    for name, value in overrides.items():
        section, key = name.split(".")
        settings = settings.change(section, **{key: value})
    with pytest.raises(UserError, match=message):
        check_expressible(settings)


def test_every_array_of_an_import_is_used(imported: Path) -> None:
    """Raw and averaged weights differ everywhere, so one taken for the other would show."""
    state = restored(imported).state
    raw, ema = dict(flatten(state.params)), dict(flatten(state.averages[0]))
    assert all((raw[name] != ema[name]).any() for name in raw)
