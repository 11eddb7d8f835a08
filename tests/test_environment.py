"""What the environment and long arguments can do: messages of ours, no traceback."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from score_sde import cli, program
from score_sde.data.inputs import read_inputs
from score_sde.errors import UserError
from score_sde.workdir.jobs import split_list


def test_a_notebooks_backend_of_matplotlib_is_not_used(monkeypatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    started = []
    monkeypatch.setattr(cli, "define_flags", lambda: None)
    monkeypatch.setattr(cli, "_show_in_help", lambda: None)
    monkeypatch.setattr(cli.app, "run", lambda *_, **__: started.append(os.environ["MPLBACKEND"]))
    cli.main()
    assert started == ["agg"]


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("Unable to initialize\nmore")])
def test_devices_that_are_not_there(monkeypatch, error: Exception) -> None:
    def none() -> None:
        raise error

    monkeypatch.setattr(jax, "devices", none)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(UserError, match=r"JAX_PLATFORMS='cuda'.*set it to cpu"):
        program._check_devices()


@pytest.mark.parametrize("name", ["JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION"])
def test_what_jax_cannot_read_of_the_environment(name: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "score_sde", "--mode", "list"],
        env=os.environ | {name: "maybe"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert ended.stderr.startswith("error: ") and f"Change {name} in the env" in ended.stderr


def test_long_names_are_refused(tmp_path: Path, monkeypatch) -> None:
    """A path of 300 letters, and 40 names in one --input, which is one long text."""
    for name in ("a" * 300, "a" * 300 + ".npz"):
        for given in ({"a": name, "b": name}, {"a": str(tmp_path / name), "b": "x.npz"}):
            with pytest.raises(UserError, match="aaaa"):
                program.run("fid", given, ())
    names = split_list([",".join(f"{tmp_path}/image_number_{i}.png" for i in range(40))])
    assert len(names) == 40
    with pytest.raises(UserError, match=r"image_number_0\.png does not exist"):
        read_inputs([Path(name) for name in names], (4, 4, 1), 256, ["images"])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 300), "name is too long .*aaaa"),
        (MemoryError("Unable to allocate 8 TiB"), "out of memory: Unable to allocate 8 TiB"),
    ],
)
def test_what_only_the_system_finds_too_long_or_large(monkeypatch, error, message) -> None:
    def fail(*_) -> None:
        raise error

    monkeypatch.setattr(program.run_lib, "run", fail)
    with pytest.raises(UserError, match=message):
        program.run("report", {}, ())


def test_warnings_of_the_library_are_sentences() -> None:
    ours = Path(program.__file__).parent / "build" / "data.py"
    assert program._warning("left out 1", UserWarning, str(ours), 3) == "warning: left out 1\n"
    other = program._warning("old", DeprecationWarning, "/lib/x.py", 3)
    assert other == "/lib/x.py:3: DeprecationWarning: old\n"


def test_a_misspelled_run_is_told_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"frist holds no config.json.* Did you mean 'first'\?"):
        program.run("sample", {"workdir": [str(tmp_path / "frist")]}, ())


def test_a_misspelled_recipe_is_told_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean 'vp/ddpmpp_cont'"):
        program.run("dry_run", {"config": ["vp/ddpmp_cont:digits"]}, ())
