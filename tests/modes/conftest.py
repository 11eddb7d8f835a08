"""Runs that the tests of several modes share."""

import shutil
from pathlib import Path

import pytest
from commands import SMALL, entries, run
from runs import call, random_run

from golden import REPOSITORY

BITS = {
    "eval.batch_size": 8,
    "eval.num_examples": 20,
    "eval.rtol": 1e-2,
    "eval.atol": 1e-2,
    "eval.bound_draws": 2,
    "eval.passes": 2,
}


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 60 steps that was never interrupted, in its default folder. Not to be changed."""
    folder = tmp_path_factory.mktemp("trained")
    recipe, main = REPOSITORY / "configs/vp/ddpmpp_cont.py:digits", REPOSITORY / "main.py"
    out, err = run("--config", recipe, "--mode", "train", *entries(SMALL), cwd=folder)
    workdir = Path("runs") / "vp_ddpmpp_cont_digits"
    again = f"python {main} --mode sample --workdir {workdir}"
    assert out == f"trained for 60 steps. Sample: {again}\n"
    assert "60/60" in err  # the progress bar, and nothing else
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip()]
    assert not [line for line in lines if "step" not in line], err
    return folder / workdir


@pytest.fixture(scope="session")
def bits() -> dict[str, float]:
    """Entries of an evaluation of likelihoods that takes seconds."""
    return BITS


@pytest.fixture(scope="session")
def evaluated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with likelihoods of two early checkpoints, made in one go. Not to be changed."""
    workdir = tmp_path_factory.mktemp("likelihood") / "run"
    shutil.copytree(trained, workdir)
    call("likelihood", workdir, checkpoint="10,20", values=BITS)
    return workdir


@pytest.fixture(scope="session")
def langevin_values() -> dict[str, float]:
    """Entries of a tiny NCSN, and few samples."""
    return {
        "sde.n": 3,
        "model.nf": 2,
        "sampling.steps": 3,
        "sampling.corrector_steps": 2,
        "sampling.num_samples": 10,
        "sampling.batch_size": 8,
        "sampling.frames": 2,
    }


@pytest.fixture(scope="session")
def langevin(tmp_path_factory: pytest.TempPathFactory, langevin_values: dict[str, float]) -> Path:
    """A tiny NCSNv2 with random weights at steps 2 and 4: a training step compiles for minutes."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return random_run(folder, "ncsnv2/ncsnv2:digits", langevin_values, steps=(2, 4))
