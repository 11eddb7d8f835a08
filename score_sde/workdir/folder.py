"""The folder of a run: whose it is, whether it can be written to, where a result goes."""

import os
from pathlib import Path

from score_sde.build.settings import SECTIONS, Settings, changeable, entries
from score_sde.devices import leads
from score_sde.errors import UserError, quoted
from score_sde.files import writing
from score_sde.workdir import config as configurations
from score_sde.workdir.lock import hold

COMPUTE = ("remat", "remat_keep", "dtype", "dropout")
"""Entries of config.model that say how weights are computed with, not what they are."""
IN_RUN = (
    "make room there or change its permissions, then the same command goes on; or work in a copy "
    "of the run"
)
"""What to do where a working directory cannot be written to."""


def belongs_to_weights(name: str) -> bool:
    """Whether weights are of no use where the entry with this dotted name differs."""
    section, _, key = name.partition(".")
    if section in ("sde", "model"):
        return key not in COMPUTE
    known = entries(SECTIONS[section]) if section in SECTIONS else {}
    return key in known and known[key][1].weights


def claim(workdir: Path, settings: Settings) -> None:
    """Make a new working directory these settings'; raises UserError where it belongs to others.

    What may change is saved by `config.keep` once training really goes on.
    """
    path = workdir / "config.json"
    if path.exists():
        found = configurations.differences(configurations.load_json(path), settings)
        fixed = [name for name in found if not changeable(name)]
        if fixed:
            listed = "; ".join(
                f"{name}: {found[name][0]!r} there, {found[name][1]!r} here" for name in fixed
            )
            raise UserError(
                f"{workdir} belongs to another configuration ({listed}). Choose another --workdir; "
                f"to go on from its weights there, set --config.training.from={quoted(workdir)}"
            )
    if not leads():
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            configurations.keep(settings, path)
    except OSError as error:
        raise UserError(
            f"cannot write to {workdir} ({error.strerror}); choose another --workdir"
        ) from error


def check_weights(workdir: Path, settings: Settings) -> None:
    """Raises UserError where `settings` describe another model than the run's weights are of."""
    found = configurations.differences(configurations.load_json(workdir / "config.json"), settings)
    changed = [name for name in found if belongs_to_weights(name)]
    if changed:
        listed = ", ".join(f"config.{name}={found[name][1]!r}" for name in changed)
        raise UserError(
            f"{listed} does not fit the weights in {workdir}, trained with "
            f"{', '.join(repr(found[name][0]) for name in changed)}. Leave it out, or train "
            "another model."
        )


def check_writable(folder: Path, advice: str = "choose another folder with --output") -> None:
    """Raises UserError, with advice, where `folder` cannot be made or written to; makes nothing."""
    with writing(folder, advice):
        there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
        if not there.is_dir():
            raise NotADirectoryError(None, f"{there} is a file")
        if not os.access(there, os.W_OK | os.X_OK):
            raise PermissionError(None, f"no permission to write into {there}")


def result_folder(
    output: Path | None,
    workdir: Path,
    name: str,
    kind: str = "flow",
    share: tuple[int, int] = (0, 1),
) -> Path:
    """Where a result, or a share of it, goes; it is locked for this process.

    Raises UserError, before the work is done, where it cannot be written or another process does.
    """
    folder = output or workdir / kind / name
    if leads():
        check_writable(folder)
    hold(folder, share)
    return folder
