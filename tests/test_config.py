"""Configuration files, overrides from the command line, and the JSON copy in the working directory."""

from pathlib import Path

import ml_collections
import pytest

from score_sde import config as config_lib
from score_sde.errors import UserError


def values() -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "name": "a",
            "seed": 1,
            "sde": {"sigma_min": 0.01, "sigma_max": 50.0},
            "model": {"ch_mult": (1, 2), "fir_kernel": (1.0, 3.0), "fir": True, "activation": "swish"},
            "training": {"steps": 100, "ema": {"rate": 0.999}},
        }
    )


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("seed", "7", 7),
        ("seed", "-7", -7),
        ("training.steps", "1e3", 1000),
        ("training.steps", "2_000", 2000),
        ("sde.sigma_max", "90", 90.0),
        ("sde.sigma_max", "1e-3", 0.001),
        ("sde.sigma_min", "-.5", -0.5),
        ("training.ema.rate", "0.9999", 0.9999),
        ("model.fir", "False", False),
        ("model.fir", "false", False),
        ("model.fir", "TRUE", True),
        ("model.ch_mult", "(1,2,2)", (1, 2, 2)),
        ("model.ch_mult", "1,2,2", (1, 2, 2)),
        ("model.ch_mult", "[1, 2]", (1, 2)),
        ("model.ch_mult", "4", (4,)),
        ("model.ch_mult", "()", ()),
        ("model.fir_kernel", "1,3,3,1", (1, 3, 3, 1)),
        ("model.activation", "relu", "relu"),
        ("model.activation", "7", "7"),
        ("name", "with = and, commas", "with = and, commas"),
        ("name", "", ""),
    ],
)
def test_text_becomes_a_value_of_the_entrys_type(name: str, text: str, wanted: object) -> None:
    config = values()
    config_lib.override(config, [(name, text)])
    found = config
    for part in name.split("."):
        found = found[part]
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("training.steps", "1.5", r"config.training.steps must be of type int, like 100; got '1.5'"),
        ("training.steps", "many", "must be of type int"),
        ("training.steps", "True", "must be of type int"),
        ("training.steps", "", "needs a value, like --config.training.steps=100"),
        ("training.steps", "(1,2)", "must be of type int"),
        ("sde.sigma_max", "nan", "must be of type float"),
        ("sde.sigma_max", "True", "must be of type float"),
        ("model.fir", "1", "must be of type bool, like True; got '1'"),
        ("model.fir", "yes", "must be of type bool"),
        ("model.ch_mult", "many", "must be of type tuple"),
        ("training.stepz", "1", r"unknown name 'stepz'. Did you mean 'steps'\? Known here: ema, steps"),
        ("trainin.steps", "1", r"unknown name 'trainin'. Did you mean 'training'\? Known here: model, name"),
        ("zzz", "1", r"config.zzz: unknown name 'zzz'. Known here: model, name, sde, seed, training"),
        ("training", "1", r"config.training is a section; set one of its entries: ema, steps"),
        ("training.steps.more", "1", "steps is a value, not a section"),
        ("", "1", "unknown name"),
        ("training.", "1", "unknown name"),
    ],
)
def test_wrong_overrides_are_refused(name: str, text: str, message: str) -> None:
    config = values()
    with pytest.raises(UserError, match=message):
        config_lib.override(config, [(name, text)])
    assert config_lib.differences(config, values()) == {}


def test_json_gives_back_the_same_configuration(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config = values()
    config.sde.sigma_max = 1 / 3
    config.training.steps = 10**12
    config_lib.save(config, path)
    found = config_lib.load_json(path)
    assert found.to_dict() == config.to_dict()
    assert type(found.model.ch_mult) is tuple
    assert type(found.sde.sigma_min) is float and type(found.seed) is int
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
    config_lib.override(found, [("model.ch_mult", "1,1")])  # types are still those of the entries
    assert found.model.ch_mult == (1, 1)


def test_whole_floats_stay_floats(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    config_lib.save(values(), path)
    assert type(config_lib.load_json(path).sde.sigma_max) is float


@pytest.mark.parametrize("text", ["", "{", '{"seed": 1', "[1, 2]", "3", "\udcff\udcfe"])
def test_damaged_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"config.json is damaged.*Restore it"):
        config_lib.load_json(path)


def test_folder_without_json_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config.json: it is not the working directory of a run"):
        config_lib.load_json(tmp_path / "config.json")


def test_differences_name_entries_and_both_values() -> None:
    a, b = values(), values()
    assert config_lib.differences(a, b) == {}
    b.sde.sigma_max = 1.0
    b.training.ema.rate = 0.5
    del b.model["fir"]
    assert config_lib.differences(a, b) == {
        "model.fir": (True, None),
        "sde.sigma_max": (50.0, 1.0),
        "training.ema.rate": (0.999, 0.5),
    }


FILE = """
import ml_collections

def get_config(dataset="plain"):
    if dataset == "bad":
        raise ValueError("unknown data set 'bad'; known: plain, other")
    return ml_collections.ConfigDict({"dataset": dataset})
"""


def test_loads_a_file_with_its_data_set(tmp_path: Path) -> None:
    path = tmp_path / "recipe.py"
    path.write_text(FILE)
    assert config_lib.load(str(path)).dataset == "plain"
    assert config_lib.load(f"{path}:other").dataset == "other"
    with pytest.raises(UserError, match="unknown data set 'bad'; known: plain, other"):
        config_lib.load(f"{path}:bad")


def test_no_such_file_lists_the_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"no configuration file 'configs/ve/ncsnp.py'.*configs/ve/ncsnpp.py"):
        config_lib.load("configs/ve/ncsnp.py:digits")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"none in ./configs"):
        config_lib.load("nothing.py")


def test_file_that_is_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "other.py"
    path.write_text("x = 1\n")
    with pytest.raises(UserError, match="defines no get_config"):
        config_lib.load(str(path))
    (tmp_path / "data.txt").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"is no Python file.*--workdir"):
        config_lib.load(str(tmp_path / "data.txt"))


def test_loads_the_json_of_a_run(tmp_path: Path) -> None:
    config_lib.save(values(), tmp_path / "config.json")
    assert config_lib.load(str(tmp_path / "config.json")).to_dict() == values().to_dict()
