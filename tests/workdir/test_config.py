"""Finding a configuration, overrides from the command line, and the JSON copy of a run."""

import json
from pathlib import Path
from typing import Any

import ml_collections
import pytest

from golden import REPOSITORY
from score_sde import recipes
from score_sde.build.settings import Settings
from score_sde.errors import UserError
from score_sde.workdir import config as configurations


def values() -> dict[str, Any]:
    """Every kind of entry, of every section that a test touches."""
    return {
        "name": "a",
        "seed": 1,
        "sde": {"name": "ve", "sigma_min": 0.01, "sigma_max": 50.0},
        "model": {
            "name": "ncsnpp",
            "prediction": "score",
            "ch_mult": (1, 2),
            "fir_kernel": (1.0, 3.0),
            "fir": True,
            "activation": "swish",
        },
        "data": {"source": "digits", "image_size": 8, "channels": 1, "levels": 17},
        "training": {"steps": 100},
    }


def settings() -> Settings:
    return configurations.of(values())


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("seed", "7", 7),
        ("training.steps", "1e3", 1000),
        ("training.steps", "2_000", 2000),
        ("sde.sigma_max", "90", 90.0),
        ("sde.sigma_max", "1e-3", 0.001),
        ("sde.sigma_min", "-.5", -0.5),
        ("training.ema_rate", "0.9", 0.9),
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
        ("data.path", "", ""),
        ("training.from", "runs/lr=0.1,bs=16:500", "runs/lr=0.1,bs=16:500"),
    ],
)
def test_text_becomes_a_value_of_the_entrys_type(name: str, text: str, wanted: object) -> None:
    found: Any = configurations.override(settings(), [(name, text)]).to_dict()
    for part in name.split("."):
        found = found[part]
    assert found == wanted and type(found) is type(wanted)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("training.steps", "1.5", r"config.training.steps must be of type int.*1.5"),
        ("training.steps", "many", "must be of type int"),
        ("training.steps", "True", "must be of type int"),
        ("training.steps", "", "needs a value, like --config.training.steps=100"),
        ("training.steps", "(1,2)", "must be of type int"),
        ("training.steps", "0", "config.training.steps must be at least 1; got 0"),
        ("seed", "-7", r"config.seed must be in \[0, 2\^32\); got -7"),
        ("name", "", "config.name"),
        ("sde.sigma_max", "nan", "must be of type float"),
        ("sde.sigma_max", "1e999", "must be a finite number; got inf"),
        ("sde.sigma_max", "True", "must be of type float"),
        ("model.fir", "1", "must be of type bool, like True; got 1"),
        ("model.fir", "yes", "must be of type bool"),
        ("model.ch_mult", "many", "must be of type tuple"),
        ("training.stepz", "1", r"config.training.stepz.*'stepz'.*Did you mean 'steps'\?"),
        ("trainin.steps", "1", r"'trainin'.*Did you mean 'training'\?.*model, name"),
        ("zzz", "1", "config.zzz: 'zzz'.*model, name, optim"),
        ("training", "1", r"config.training is a section; set one of its entries: .*batch_size"),
        ("training.steps.more", "1", "steps is a value, not a section"),
        ("", "1", "means nothing here"),
        ("training.", "1", "means nothing here"),
    ],
)
def test_wrong_overrides_are_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        configurations.override(settings(), [(name, text)])


def test_json_gives_back_the_same_settings(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    changed = settings().change("sde", sigma_max=1 / 3).change("training", steps=10**12)
    configurations.save(changed, path)
    found = configurations.load_json(path)
    assert found == changed
    assert type(found.model.ch_mult) is tuple
    assert type(found.sde.sigma_min) is float and type(found.seed) is int
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]
    again = configurations.override(found, [("model.ch_mult", "1,1")])  # types are kept
    assert again.model.ch_mult == (1, 1)
    assert configurations.load(str(path)) == found


def test_whole_floats_stay_floats(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    configurations.save(settings(), path)
    assert type(configurations.load_json(path).sde.sigma_max) is float


@pytest.mark.parametrize(
    "text", ["", "{", '{"seed": 1', "[1, 2]", "3", "\udcff\udcfe", "[" * 10**5]
)
def test_damaged_json_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"config.json is damaged.*Restore it"):
        configurations.load_json(path)


@pytest.mark.parametrize(
    ("section", "value", "message"),
    [
        ("training", [1], "config.training must be a section"),
        ("training", {"steps": "many"}, "config.training.steps must be of type int"),
        ("data", {"levels": 1}, r"config.data.levels must be in \[2, 65536\]; got 1"),
        ("sde", {}, "config.sde.name is missing"),
        ("sde", {"name": 3}, "config.sde.name is missing"),
        ("model", {"name": "unet"}, "config.model.name: unknown name 'unet'; known: ncsnpp"),
        ("nothing", {}, "'nothing' means nothing here"),
    ],
)
def test_edited_json_is_refused(tmp_path: Path, section: str, value: object, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values() | {section: value}))
    with pytest.raises(UserError, match=message):
        configurations.load_json(path)


def test_folder_without_json_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config.json: it is not the working directory"):
        configurations.load_json(tmp_path / "config.json")


def test_differences_name_entries_and_both_values() -> None:
    a = settings()
    assert configurations.differences(a, settings()) == {}
    b = a.change("sde", sigma_max=1.0).change("training", ema_rate=0.5).change("model", fir=False)
    assert configurations.differences(a, b) == {
        "model.fir": (True, False),
        "sde.sigma_max": (50.0, 1.0),
        "training.ema_rate": (0.9999, 0.5),
    }


def test_what_is_missing_takes_its_default() -> None:
    """That of the schema, or of the network and the process themselves."""
    found = settings()
    assert (found.sampling.steps, found.eval.solver, found.training.from_run) == (
        1000,
        "dopri5",
        "",
    )
    assert (found.sde.t_min, found.model.num_res_blocks, found.model.dtype) == (1e-5, 4, "float32")
    assert configurations.override(found, [("model.num_res_blocks", "2")]).model.num_res_blocks == 2


FILE = """
from score_sde import recipes

def get_config(dataset="digits"):
    if dataset == "bad":
        raise ValueError("unknown data set 'bad'; known: digits, other")
    config = recipes.get_config("vp/ddpmpp_cont", "digits")
    config.name = dataset
    return config
"""


def test_loads_a_file_with_its_data_set(tmp_path: Path) -> None:
    path = tmp_path / "recipe.py"
    path.write_text(FILE)
    assert configurations.load(str(path)).name == "digits"
    assert configurations.load(f"{path}:other").name == "other"
    with pytest.raises(UserError, match="unknown data set 'bad'; known: digits, other"):
        configurations.load(f"{path}:bad")


def test_paths_may_hold_colons(tmp_path: Path) -> None:
    folder = tmp_path / "2026-11-29T10:30:00"
    folder.mkdir()
    (folder / "a:b.py").write_text(FILE)
    assert configurations.load(str(folder / "a:b.py")).name == "digits"
    assert configurations.load(f"{folder / 'a:b.py'}:other").name == "other"
    configurations.save(settings(), folder / "config.json")
    assert configurations.load(str(folder / "config.json")).name == "a"


@pytest.mark.parametrize("prefix", ["", "configs/", "/elsewhere/configs/"])
def test_recipes_are_found_from_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    suffix = ".py" if prefix else ""
    found = configurations.load(f"{prefix}vp/ddpmpp_cont{suffix}:digits")
    wanted = configurations.of(recipes.get_config("vp/ddpmpp_cont", "digits"))
    assert found == wanted
    assert configurations.load("ve/ncsnpp_cont").data.source == "cifar10"


def test_files_of_a_checkout_go_before_recipes(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "configs" / "vp").mkdir(parents=True)
    (tmp_path / "configs" / "vp" / "ddpmpp_cont.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    assert configurations.load("configs/vp/ddpmpp_cont.py:mine").name == "mine"


def test_no_such_recipe_lists_the_known() -> None:
    for location in ("configs/ve/ncsnp.py:digits", "nothing.py", "ve/ncsnp", "", "a" * 300):
        with pytest.raises(UserError, match=r"no configuration file.*ve/ncsnpp, ve/ncsnpp_cont"):
            configurations.load(location)


def test_the_data_set_of_a_file_may_hold_colons(tmp_path: Path) -> None:
    (tmp_path / "recipe.py").write_text(FILE)
    assert configurations.load(f"{tmp_path / 'recipe.py'}:a:b").name == "a:b"


@pytest.mark.parametrize("path", ["/nowhere/myconfigs/vp/ddpmpp_cont.py", "a/b/vp/ddpmpp_cont.py"])
def test_mistyped_paths_are_no_recipes(path: str) -> None:
    with pytest.raises(UserError, match=f"no configuration file '{path}'"):
        configurations.load(f"{path}:digits")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from configs import nothing_of_this_name\n", "ImportError|ModuleNotFoundError"),
        ("def get_config(:\n", "SyntaxError"),
        ("def get_config(dataset=None):\n    pass\n", "must be an ml_collections.ConfigDict"),
    ],
)
def test_files_that_fail_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message):
        configurations.load(str(tmp_path / "mine.py"))


def test_file_that_is_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "other.py"
    path.write_text("x = 1\n")
    with pytest.raises(UserError, match="defines no get_config"):
        configurations.load(str(path))
    (tmp_path / "data.txt").write_text("x = 1\n")
    with pytest.raises(UserError, match=r"is no Python file.*--workdir"):
        configurations.load(str(tmp_path / "data.txt"))


def test_every_file_of_configs_is_its_recipe() -> None:
    files = {
        str(p.relative_to(REPOSITORY / "configs").with_suffix("")): p
        for p in (REPOSITORY / "configs").glob("*/*.py")
    }
    assert files.keys() == recipes.RECIPES.keys()
    for name, path in files.items():
        config = configurations.load(f"{path}:digits")
        assert config == configurations.of(recipes.get_config(name, "digits")), name
    assert isinstance(recipes.get_config("ncsn/ncsn", "mnist"), ml_collections.ConfigDict)
