"""What the flags of the command line mean."""

from pathlib import Path

import pytest

from score_sde.arguments import attempt, parse_options, parse_runs, raise_failed, split_list
from score_sde.errors import UserError


def test_several_runs(tmp_path) -> None:
    assert parse_runs("a.py:x", None) == [("a.py:x", None)]
    assert parse_runs(None, "a,b") == [(None, "a"), (None, "b")]
    assert parse_runs(None, "~/a") == [(None, str(Path.home() / "a"))]
    assert parse_runs("a.py,b.py", "x,y") == [("a.py", "x"), ("b.py", "y")]
    for configs, workdirs, message in (
        (None, None, "name a configuration with --config"),
        ("a.py", "x,y", "--config names 1 runs and --workdir 2"),
        (None, "a,", "empty part"),
    ):
        with pytest.raises(UserError, match=message):
            parse_runs(configs, workdirs)
    (tmp_path / "a,b").mkdir()
    assert split_list(str(tmp_path / "a,b")) == [str(tmp_path / "a,b")]


@pytest.mark.parametrize(
    ("mode", "flag", "value", "message"),
    [
        ("eval", "shard", "0/2", "--shard means nothing to --mode eval; it belongs to likelihood"),
        (
            "encode",
            "temperature",
            0.5,
            "--temperature means nothing to --mode encode; it belongs to decode, int",
        ),
        ("likelihood", "shard", "2/2", "must be i/n"),
        ("decode", "temperature", 0.0, "must be positive, got 0.0"),
        ("decode", "temperature", float("nan"), "must be positive, got nan"),
        ("interpolate", "frames", 1, "at least 2; got 1"),
    ],
)
def test_flags_that_make_no_sense(mode, flag, value, message) -> None:
    with pytest.raises(UserError, match=message):
        parse_options(mode, {flag: value})


def test_flags_become_values() -> None:
    flags = {"shard": None, "input": "a,b", "output": "c", "temperature": 0.5, "frames": 3}
    found = parse_options("interpolate", flags)
    assert [str(path) for path in found.pop("input")] == ["a", "b"] and str(found.pop("output")) == "c"
    assert found == {"temperature": 0.5, "frames": 3}
    assert parse_options("fid", {"metrics": "fid, kid"}) == {"metrics": ("fid", "kid")}
    assert parse_options("likelihood", {"shard": "1/3"}) == {"shard": (1, 3)}


def test_of_several_jobs_the_others_are_done(capsys) -> None:
    def fail():
        raise UserError("no data")

    done, failed = attempt({"a": fail, "b": lambda: 7})
    assert done == {"b": 7} and capsys.readouterr().err == "error: a: no data\n"
    with pytest.raises(UserError, match=r"1 of 2 failed, see above: a\. The others are done"):
        raise_failed(failed, 2)
    with pytest.raises(UserError, match=r"2 of 2 failed, see above: a, b\. The same command"):
        raise_failed({"a": failed["a"], "b": failed["a"]}, 2)
    raise_failed({}, 2)
    with pytest.raises(UserError, match=r"^no data$"):
        raise_failed(attempt({"a": fail})[1], 1)
    with pytest.raises(ZeroDivisionError):  # a fault of the program stops it
        attempt({"a": lambda: 1 / 0, "b": lambda: 7})
