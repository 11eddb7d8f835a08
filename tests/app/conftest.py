"""A folder of two small runs of random weights, for the app."""

from pathlib import Path

import pytest
from commands import SMALL
from runs import random_run

ENTRIES = SMALL | {"eval.rtol": 1e-2, "eval.atol": 1e-2}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`first` with checkpoints 10 and 20, and `group/chain`, an NCSNv2. Results are added."""
    root = tmp_path_factory.mktemp("app") / "runs"
    random_run(root / "first", "vp/ddpmpp_cont:digits", ENTRIES, steps=(10, 20), scale=0.02)
    tiny = {"sde.n": 3, "model.nf": 2, "sampling.steps": 3, "sampling.corrector_steps": 2}
    random_run(root / "group" / "chain", "ncsnv2/ncsnv2:digits", tiny, steps=(4,))
    return root
