"""A tiny run with two checkpoints of random weights, and copies of it."""

import shutil
from pathlib import Path

import pytest
from runs import call, random_run

RECIPE = "vp/ddpmpp_cont:digits"
SMALL = {
    "model.nf": 8,
    "model.ch_mult": "(1,)",
    "model.num_res_blocks": 1,
    "model.attn_resolutions": "()",
    "sampling.steps": 4,
    "sampling.corrector": "none",
    "sampling.num_samples": 12,
    "sampling.batch_size": 16,
    "sampling.t_end": 0.02,
    "eval.metrics": "fid",
    "eval.num_examples": 16,
    "eval.batch_size": 16,
    "quality.extractor": "pixels",
    "quality.num_samples": 40,
}


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints 10 and 20, nothing measured. Not to be changed."""
    return random_run(tmp_path_factory.mktemp("tiny") / "run", RECIPE, SMALL, steps=(10, 20))


@pytest.fixture(scope="session")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with other weights at step 20. Not to be changed."""
    folder = tmp_path_factory.mktemp("other") / "run"
    return random_run(folder, RECIPE, SMALL, steps=(20,), scale=0.3)


@pytest.fixture(scope="session")
def evaluated(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy whose last checkpoint is measured: FID, and its samples are kept."""
    workdir = shutil.copytree(tiny, tmp_path_factory.mktemp("evaluated") / "run")
    call("eval", workdir)
    return Path(workdir)


@pytest.fixture
def fresh(tiny: Path, tmp_path: Path) -> Path:
    """A copy without measurements, to be changed."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


@pytest.fixture
def measured(evaluated: Path, tmp_path: Path) -> Path:
    """A copy whose last checkpoint is measured, to be changed."""
    return Path(shutil.copytree(evaluated, tmp_path / "copy"))
