"""Which weights of a run: those saved at a step, or an average made there of snapshots.

The first is a number, the step. What is derived from the second names its profile: in names of
files as step_400_phema_0.1, in records as {"step": 400, "average": "phema:0.1"}, and in messages
and on the command line as phema:0.1:400.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import jax
import numpy as np
from jaxtyping import PyTree

from score_sde.errors import UserError
from score_sde.training.ema import exponent
from score_sde.training.snapshots import snapshot_step

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Phema:
    """The power-function average of width `std` at `step`, made of snapshots after training."""

    step: int
    std: float

    def __str__(self) -> str:
        return f"{self.profile}:{self.step}"

    @property
    def profile(self) -> str:
        """phema:STD."""
        return f"phema:{self.std}"


Which: TypeAlias = int | Phema


def parse(text: str, workdir: Path) -> Which | None:
    """STEP, phema:STD:STEP, or phema:STD for the last step that has snapshots; None else.

    Raises:
        UserError: a std out of range, or no snapshots of that step.
    """
    kind, *numbers = text.split(":")
    try:
        if kind != "phema":
            return int(text)
        std, *steps = numbers
        width, asked = float(std), [int(step) for step in steps]
    except ValueError:
        return None
    if len(asked) > 1:
        return None
    try:
        exponent(width)
    except ValueError as error:
        raise UserError(f"--checkpoint {text}: {error}") from error
    return Phema(snapshot_step(workdir / "snapshots", *asked), width)


def step_of(which: Which) -> int:
    """The step."""
    return which.step if isinstance(which, Phema) else which


def order(which: Which) -> tuple[int, float]:
    """By step; at the same step what was saved is first, then by width."""
    return step_of(which), which.std if isinstance(which, Phema) else 0.0


def in_name(which: Which) -> str:
    """As in names of files: 400, 400_phema_0.1."""
    return f"{which.step}_phema_{which.std}" if isinstance(which, Phema) else str(which)


def of_name(text: str) -> Which | None:
    """The inverse of `in_name`; None for anything else."""
    found = re.fullmatch(r"([0-9]+)(?:_phema_([0-9]+(?:\.[0-9]+)?(?:e-[0-9]+)?))?", text)
    if not found:
        return None
    return Phema(int(found[1]), float(found[2])) if found[2] else int(found[1])


def average_of(which: Which) -> dict[str, str]:
    """{"average": "phema:0.1"}; nothing for what was saved."""
    return {"average": which.profile} if isinstance(which, Phema) else {}


def record_of(which: Which) -> dict[str, Any]:
    """What a record says of the weights: "step", and "average" where it was made of snapshots."""
    return {"step": step_of(which)} | average_of(which)


def record_in(how: Mapping[str, Any]) -> dict[str, Any]:
    """What `record_of` put into a record."""
    return {name: how[name] for name in ("step", "average") if name in how}


def by_profile(found: Mapping[Which, Value], name: str) -> dict[str, dict[int, Value]]:
    """Curves against steps: {name: {step: value}}, one more for each profile of snapshots."""
    curves: dict[str, dict[int, Value]] = {}
    for which in sorted(found, key=order):
        profile = average_of(which).get("average", "")
        curves.setdefault(f"{name} {profile}".strip(), {})[step_of(which)] = found[which]
    return curves


def weights_checksum(params: PyTree) -> str:
    """SHA-256 (16 hex digits) of all weights with their names.

    It tells which checkpoint samples are of, whatever its step.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]
