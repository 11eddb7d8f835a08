"""The table of flags: what they mean, which modes take them, and what --help says."""

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from golden import REPOSITORY
from score_sde import cli, program
from score_sde.errors import UserError
from score_sde.modes.table import FLAGS, MODES


@pytest.mark.parametrize(
    ("mode", "flag", "value", "message"),
    [
        ("eval", "shard", "0/2", "--shard means nothing to --mode eval; it belongs to likelihood"),
        (
            "encode",
            "temperature",
            "0.5",
            "--temperature means nothing to --mode encode; it .* decode, int",
        ),
        ("fid", "config", ["a"], "--config means nothing to --mode fid"),
        ("fid", "workdir", ["a"], "--workdir means nothing to --mode fid"),
        ("summarize", "checkpoint", ["7"], "--checkpoint means nothing to --mode summarize"),
        ("train", "checkpoint", ["7"], "--checkpoint means nothing to --mode train"),
        ("import", "checkpoint", ["7"], "--checkpoint means nothing to --mode import"),
        ("likelihood", "shard", "2/2", "must be i/n"),
        ("likelihood", "shard", "1", "must be i/n"),
        ("decode", "temperature", "0.0", "must be a positive number, got 0.0"),
        ("decode", "temperature", "nan", "must be a positive number, got nan"),
        ("decode", "temperature", "warm", "must be a positive number, got warm"),
        ("interpolate", "frames", "1", "at least 2; got 1"),
        ("interpolate", "frames", "two", "at least 2; got two"),
        ("inpaint", "copies", "0", "at least 1; got 0"),
    ],
)
def test_flags_that_make_no_sense(mode, flag, value, message) -> None:
    with pytest.raises(UserError, match=message):
        program.parse(mode, {flag: value})


def test_flags_become_values() -> None:
    given = {"shard": None, "input": ["a,b"], "output": "c", "temperature": "0.5", "frames": "3"}
    assert program.parse("interpolate", given) == {
        "input": [Path("a"), Path("b")],
        "output": Path("c"),
        "temperature": 0.5,
        "frames": 3,
    }
    assert program.parse("fid", {"metrics": "fid, kid,fid"}) == {"metrics": ("fid", "kid")}
    assert program.parse("likelihood", {"shard": "1/3"}) == {"shard": (1, 3)}
    assert program.parse("sample", {"checkpoint": ["10,20"]}) == {"checkpoint": ["10", "20"]}
    assert program.parse("export", {"output": "~/m.pth"}) == {"output": Path.home() / "m.pth"}


def test_flags_of_variables_that_are_not_set_are_left_out() -> None:
    assert program.parse("train", {"workdir": [""], "config": ["a.py"]}) == {"config": ["a.py"]}
    assert program.parse("encode", {"output": "", "input": [""]}) == {}


def test_a_new_run_may_have_commas_in_its_name() -> None:
    found = program.parse("train", {"workdir": ["runs/lr=0.1,bs=16"], "config": ["a.py:digits"]})
    assert found == {"workdir": ["runs/lr=0.1,bs=16"], "config": ["a.py:digits"]}


def test_entries_mean_nothing_without_a_model() -> None:
    with pytest.raises(UserError, match=r"--config\.seed means nothing to --mode fid"):
        program.run("fid", {"a": "x"}, [("seed", "1")])


def test_overrides_are_taken_out_of_the_arguments() -> None:
    argv = ["main.py", "--mode", "train", "--config.a.b=1", "--config.c", "-2", "--config.d", "--x"]
    rest, overrides = cli.split_overrides(argv)
    assert rest == ["main.py", "--mode", "train", "--x"]
    assert overrides == [("a.b", "1"), ("c", "-2"), ("d", "True")]
    assert cli.split_overrides(["--config.a.b=c=d"]) == ([], [("a.b", "c=d")])


@pytest.mark.parametrize("mode", MODES)
def test_a_mode_takes_the_flags_of_the_table(mode: str) -> None:
    """Its `main` has a keyword for each of them, with the flag's name."""
    main = importlib.import_module(f"score_sde.modes.{MODES[mode].module}").main
    given = {"run", "settings", "folder", "checkpoint", "recipe", "overrides"}
    found = set(inspect.signature(main).parameters) - given
    wanted = {flag.name for flag in FLAGS if mode in flag.modes} - {"config", "checkpoint"}
    assert found == wanted - ({"workdir"} if MODES[mode].takes != "recipe" else set())


def test_every_flag_names_modes_that_exist() -> None:
    assert all(set(flag.modes) <= MODES.keys() for flag in FLAGS)
    assert len({flag.name for flag in FLAGS}) == len(FLAGS)


def test_help_names_every_flag_with_its_modes() -> None:
    values = flags.FlagValues()
    cli.define_flags(values)
    text = values.get_help()
    for flag in FLAGS:
        assert f"--{flag.name}" in text.replace("--[no]", "--")
    for mode, about in MODES.items():
        assert mode in text and about.does.split()[0] in text
    words = " ".join(text.split())
    assert "[decode, interpolate] Factor of the latents" in words
    assert "[all modes but fid, prepare, list, app] Recipe or configuration file" in words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "trian"], "there is no mode 'trian'. Did you mean 'train'?"),
        (["--mode=train", "--training.steps=10"], "Is it an entry? --config.training.steps=VALUE"),
        (["--mode", "train", "data.skip_bad=True"], "'data.skip_bad=True' belongs to no flag"),
    ],
)
def test_wrong_words_are_told_what_they_may_have_meant(words: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, str(REPOSITORY / "main.py"), *words], text=True, capture_output=True
    )
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr


def test_help_of_the_command_lists_them(tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "score_sde", "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        text=True,
        capture_output=True,
    )
    text = " ".join(done.stdout.split())
    assert done.returncode == 0
    assert "score-sde --config vp/ddpmpp_cont:digits --mode train" in text
    assert all(f"--{flag.name}: [" in text for flag in FLAGS) and "--mode: <train|sample" in text
