"""Calls of the command line: as a process of its own, and refusals in this process."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from runs import call

from golden import REPOSITORY
from score_sde.errors import UserError
from score_sde.workdir.documents import read_document
from score_sde.workdir.rows import Pieces

RECIPE = "vp/ddpmpp_cont:digits"
SMALL: dict[str, Any] = {
    "model.nf": 8,
    "model.ch_mult": "(1,)",
    "model.num_res_blocks": 1,
    "model.attn_resolutions": "()",
    "training.batch_size": 16,
    "training.steps": 60,
    "training.log_every": 5,
    "training.eval_every": 20,
    "training.checkpoint_every": 10,
    "training.keep": 6,
    "training.keep_every": 0,
    "training.sample_every": 30,
    "sampling.steps": 4,
    "sampling.corrector": "none",
    "sampling.num_samples": 7,
    "sampling.batch_size": 3,
    "sampling.frames": 2,
    "sampling.t_end": 0.02,
}
"""A network that compiles in seconds, and 60 steps with checkpoints at 10, 20, ... 60."""


def entries(values: Mapping[str, Any]) -> list[str]:
    """--config.NAME=VALUE of each entry."""
    return [f"--config.{name}={value}" for name, value in values.items()]


def xla_flags(devices: int) -> str:
    """XLA_FLAGS of this process, which decide how programs are rounded, for so many devices."""
    device_count = "--xla_force_host_platform_device_count"
    flags = os.environ["XLA_FLAGS"].split()
    kept = [flag for flag in flags if not flag.startswith(device_count)]
    return " ".join([*kept, f"{device_count}={devices}"])


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    """One device, as on a laptop."""
    own = {"XLA_FLAGS": xla_flags(devices), "PYTHONPATH": "", "COLUMNS": "200"}
    return os.environ | own | more


def start(*arguments: str | Path, cwd: Path = REPOSITORY, devices: int = 1) -> subprocess.Popen:
    """`python main.py ARGUMENTS`, running."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "main.py"), *map(str, arguments)],
        cwd=cwd,
        env=environment(devices),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(*arguments: str | Path, cwd: Path = REPOSITORY, code: int = 0) -> tuple[str, str]:
    """(stdout, stderr) of a command that must end with `code` and without a traceback."""
    process = start(*arguments, cwd=cwd)
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err, err
    return out, err


def training(workdir: Path, values: Mapping[str, Any] = {}) -> list[str | Path]:
    """The arguments of --mode train for the small network, with other values of some entries."""
    named = ["--config", RECIPE, "--mode", "train", "--workdir", workdir]
    return [*named, *entries(SMALL | dict(values))]


def train_here(workdir: Path, values: Mapping[str, Any] = {}, config: str = RECIPE) -> None:
    """The same in this process, on eight devices. (optax's Adam mixes types.)"""
    with jax.numpy_dtype_promotion("standard"):
        call("train", workdir, config, values=SMALL | dict(values))


def rows(workdir: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def table(folder: Path) -> dict[str, np.ndarray]:
    """The rows of an evaluation of likelihoods."""
    return Pieces(folder, read_document(folder / "settings.json", {}, "")).read()


def refused(message: str, mode: str, *arguments: Any, **flags: Any) -> None:
    """Assert that `runs.call` is refused with `message`."""
    with pytest.raises(UserError, match=message):
        call(mode, *arguments, **flags)
