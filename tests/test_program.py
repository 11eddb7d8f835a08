"""The program: from any folder, its help, wrong flags, one message for an error."""

import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags
from commands import RECIPE, SMALL, entries, environment, run

from golden import REPOSITORY
from score_sde import cli
from score_sde.run_lib import MODES

MAIN = REPOSITORY / "main.py"
HEAVY = {"jax", "numpy", "flax", "scipy"}
"""What help does without."""
SLOW_TO_IMPORT = {"tensorflow_datasets", "matplotlib", "sklearn", "pyarrow", "tensorboardX"}


def test_help_imports_little_and_names_every_flag_and_mode() -> None:
    program = f"import runpy, sys; sys.argv = ['main.py', '--help']; path = {str(MAIN)!r}\n"
    program += "try: runpy.run_path(path, run_name='__main__')\n"
    program += "except SystemExit: print('imported', *sys.modules)\n"
    program += "import score_sde.program; print('imported', *sys.modules)"
    process = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    (first, *help_imports), (second, *modules) = map(str.split, process.stdout.splitlines()[-2:])
    assert first == second == "imported" and HEAVY.isdisjoint(help_imports)
    assert "jax" in modules and SLOW_TO_IMPORT.isdisjoint(modules)
    text = process.stdout
    assert not [flag.name for flag in cli.FLAGS if f"--{flag.name}:" not in text]
    assert not [mode for mode, about in MODES.items() if mode not in text]
    assert "--config vp/ddpmpp_cont:digits --mode train" in text and "--[no]distributed" in text


@pytest.mark.parametrize(
    "program", [["-m", "score_sde"], [str(REPOSITORY / "main.py")]], ids=["module", "main"]
)
def test_dry_run_from_another_folder_prints_and_does_nothing(
    program: list[str], tmp_path: Path
) -> None:
    """Recipes need no checkout; `main.py` finds its library."""
    values = SMALL | {"seed": 3}
    command = [sys.executable, *program, "--config", RECIPE, "--mode", "dry_run", *entries(values)]
    library = {"PYTHONPATH": str(REPOSITORY)} if program[0] == "-m" else {}
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment(**library),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    for part in (
        '"nf": 8',
        '"batch_size": 16',
        '"seed": 3',
        f"working directory    {Path('runs') / 'vp_ddpmpp_cont_digits'}",
        "images               (8, 8, 1)",
        "parameters",
        "MiB",
        "GFLOP",
        "'data': 1, 'fsdp': 1",
        "5 network evaluations",
    ):
        assert part in done.stdout, done.stdout
    assert not list(tmp_path.iterdir())


def parse(*arguments: str) -> None:
    values = flags.FlagValues()
    cli.define_flags(values)
    values(["main.py", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "walk"], "train.*sample.*eval"),
        ([], "--mode"),
        (["--mode", "train", "--stepz=3"], "stepz"),
    ],
)
def test_wrong_flags_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(flags.Error, match=message):
        parse("--config", RECIPE, *arguments)


@pytest.mark.parametrize(
    ("arguments", "start", "message"),
    [
        (["--config.training.stepz=1"], "error: config.training.stepz: 'stepz' ", "'steps'?"),
        (["--distributed"], "error: --distributed:", "JAX_COORDINATOR_ADDRESS=HOST:PORT"),
        (["file.py"], "", "file.py"),
        (["--stepz=3"], "FATAL Flags parsing error", "stepz"),
    ],
)
def test_an_error_is_one_message_without_traceback(
    arguments: list[str], start: str, message: str
) -> None:
    out, err = run("--config", RECIPE, "--mode", "dry_run", *arguments, code=1)
    assert err.startswith(start) and message in out + err
