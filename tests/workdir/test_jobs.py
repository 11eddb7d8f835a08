"""Several runs and checkpoints in one call."""

import types
from pathlib import Path

import pytest

from score_sde.errors import UserError
from score_sde.workdir import jobs

DDPM, DDPMPP = "vp/ddpm_cont:digits", "vp/ddpmpp_cont:digits"


def test_several_runs() -> None:
    assert jobs.pair_runs(["a.py:x"], []) == [("a.py:x", None)]
    assert jobs.pair_runs([], ["a", "b"]) == [(None, "a"), (None, "b")]
    assert jobs.pair_runs([], ["~/a"]) == [(None, str(Path.home() / "a"))]
    assert jobs.pair_runs(["a.py", "b.py"], ["x", "y"]) == [("a.py", "x"), ("b.py", "y")]
    with pytest.raises(UserError, match="name a configuration with --config"):
        jobs.pair_runs([], [])
    with pytest.raises(UserError, match="--config names 1 runs and --workdir 2"):
        jobs.pair_runs(["a.py"], ["x", "y"])


def test_lists_are_separated_by_commas_or_repeated(tmp_path) -> None:
    assert jobs.split_list(None) == jobs.split_list([]) == []
    assert jobs.split_list(["a,b"]) == ["a", "b"]
    assert jobs.split_list(["a,b", "c"]) == ["a,b", "c"]  # repeated: each is taken whole
    (tmp_path / "lr=0.1,bs=16").mkdir()
    whole = str(tmp_path / "lr=0.1,bs=16")
    assert jobs.split_list([whole]) == [whole]
    names = [f"{'x' * 20}{i}.png" for i in range(500)]  # longer than any path may be
    assert jobs.split_list([",".join(names)]) == names
    assert jobs.exists(str(tmp_path)) and not jobs.exists("") and not jobs.exists("~nobody/x")
    for text in ("a,", ",", "a,,b"):
        with pytest.raises(UserError, match="empty part"):
            jobs.split_list([text])


def test_several_runs_have_a_directory_each(tmp_path) -> None:
    here, other = str(tmp_path / "a"), str(tmp_path / "b")
    (tmp_path / "link").symlink_to(here)
    jobs.check_apart([(None, here), (None, other)], [])
    jobs.check_apart([(DDPM, None), (DDPMPP, None)], [])
    jobs.check_apart([(None, here)], [])
    for runs in (
        [(None, here), (None, other), (None, f"{here}/")],
        [(None, here), (None, str(tmp_path / "b" / ".." / "a"))],
        [(None, here), (None, str(tmp_path / "link"))],
        [(DDPM, here), (DDPMPP, here)],
        [(DDPM, None), (DDPM, None)],
        [(DDPM, None), (None, "runs/vp_ddpm_cont_digits")],
    ):
        with pytest.raises(UserError, match=r"named twice\. Name each run once"):
            jobs.check_apart(runs, [])
    with pytest.raises(UserError, match="named twice"):
        jobs.check_apart([(DDPM, None), (DDPMPP, None)], [("name", "same")])


def test_checkpoints_that_are_no_steps_are_refused(tmp_path) -> None:
    assert (
        jobs.checkpoint_steps([], tmp_path) == jobs.checkpoint_steps(["latest"], tmp_path) == [None]
    )
    assert jobs.checkpoint_steps(["10", "20"], tmp_path) == [10, 20]
    assert jobs.checkpoint_steps(["10", "20,30"], tmp_path) == [10, 20, 30]
    with pytest.raises(UserError, match="'all', 'best' or 'latest'; got '10,last'"):
        jobs.checkpoint_steps(["10", "last"], tmp_path)
    with pytest.raises(UserError, match="has not been sought"):
        jobs.checkpoint_steps(["best"], tmp_path)


def test_of_several_jobs_the_others_are_done(capsys) -> None:
    def fail():
        raise UserError("no data")

    done, failed = jobs.attempt({"a": fail, "b": lambda: 7})
    assert done == {"b": 7} and capsys.readouterr().err == "error: a: no data\n"
    with pytest.raises(UserError, match=r"1 of 2 failed, see above: a\. The others are done"):
        jobs.raise_failed(failed, 2)
    with pytest.raises(UserError, match=r"2 of 2 failed, see above: a, b\. The same command"):
        jobs.raise_failed({"a": failed["a"], "b": failed["a"]}, 2)
    jobs.raise_failed({}, 2)
    with pytest.raises(UserError, match=r"^no data$"):
        jobs.raise_failed(jobs.attempt({"a": fail})[1], 1)
    with pytest.raises(ZeroDivisionError):  # a fault of the program stops it
        jobs.attempt({"a": lambda: 1 / 0, "b": lambda: 7})


def test_modes_on_one_run_take_one() -> None:
    asked = jobs.Asked("train", [], [], ["a", "b"], [], {})
    with pytest.raises(UserError, match="--mode train takes one run; got 2"):
        jobs.fresh(types.ModuleType("mode"), asked)
    asked = jobs.Asked("import", [], [], ["a", "b"], [], {})
    with pytest.raises(UserError, match="--mode import takes one --workdir; got 2"):
        jobs.of_recipe(types.ModuleType("mode"), asked)


@pytest.mark.parametrize("checkpoints", [["1", "2"], ["all"]])
def test_one_output_holds_one_result(checkpoints) -> None:
    asked = jobs.Asked("encode", [], [], ["a"], checkpoints, {"output": Path("b")})
    with pytest.raises(UserError, match="--output names the folder of one result"):
        jobs.on_checkpoints(types.ModuleType("mode"), asked)


def test_of_several_runs_those_that_are_done_are_compared(tmp_path, monkeypatch) -> None:
    """The first fails, and the comparison goes into the folder of the first that is done."""
    seen = []
    module = types.ModuleType("mode")
    module.main = lambda run: run.folder.name  # type: ignore[attr-defined]
    module.after = lambda done, folder: seen.append((done, folder))  # type: ignore[attr-defined]

    def resolve_trained(named, overrides):
        if named[1].endswith("gone"):
            raise UserError("gone holds no config.json")
        return None, Path(named[1])

    monkeypatch.setattr(jobs, "resolve_trained", resolve_trained)
    monkeypatch.setattr(
        jobs.Run, "of", lambda settings, folder: types.SimpleNamespace(folder=folder)
    )
    runs = [str(tmp_path / name) for name in ("gone", "a", "b")]
    with pytest.raises(UserError, match="1 of 3 failed"):
        jobs.on_runs(module, jobs.Asked("summarize", [], [], runs, [], {}))
    assert seen == [({runs[1]: "a", runs[2]: "b"}, tmp_path / "a")]
