"""The folder of runs: which there are, and runs kept warm with the settings that were asked for."""

import json
import threading
from pathlib import Path
from typing import NamedTuple

from score_sde.build.settings import Settings
from score_sde.errors import UserError
from score_sde.sde import GaussianSDE
from score_sde.training.checkpoint import saved_steps
from score_sde.workdir import config as configurations
from score_sde.workdir.companion import settings_of
from score_sde.workdir.folder import check_weights
from score_sde.workdir.listing import find_runs
from score_sde.workdir.run import Kept, Run, once


class About(NamedTuple):
    """What the page asks of a run.

    shape: (height, width, channels). levels: of a pixel. continuous: whether its process has an
    ODE. classes: how many samples can be asked for, 0 where the model knows none. own: whether the
    network is told the class; else a classifier guides. evaluations: of the run's own sampler.
    """

    shape: tuple[int, int, int]
    levels: int
    continuous: bool
    classes: int
    own: bool
    evaluations: int


class Runs:
    """The runs below a folder. No other path is ever opened by a name that a browser sends.

    Args:
        root: the folder, itself a run or not.
    """

    def __init__(self, root: Path):
        self.root = root
        self._warm: Kept = {}
        self._weights: Kept = {}
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Names of the runs, the one that changed last first."""

        def changed(folder: Path) -> float:
            log = folder / "metrics.jsonl"
            return (log if log.exists() else folder).stat().st_mtime

        folders = sorted(find_runs(self.root), key=changed, reverse=True)
        return [self._name(folder) for folder in folders]

    def _name(self, folder: Path) -> str:
        return "." if folder == self.root else folder.relative_to(self.root).as_posix()

    def folder(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            UserError: there is no run of this name.
        """
        for folder in find_runs(self.root):
            if self._name(folder) == name:
                return folder
        raise UserError(f"there is no run {name!r} in {self.root}; reload the page")

    def settings(self, name: str) -> Settings:
        """The settings that a run was trained with."""
        return configurations.load_json(self.folder(name) / "config.json")

    def steps(self, name: str) -> list[int]:
        """Steps of its checkpoints."""
        return saved_steps(self.folder(name) / "checkpoints")

    def get(self, name: str, settings: Settings | None = None) -> Run:
        """The run with these settings, by default its own; warm where they were asked for lately.

        Seed and number of samples are better set afterwards, by `Run.seeded`: no program depends
        on them.
        """
        folder = self.folder(name)
        settings = settings or self.settings(name)
        check_weights(folder, settings)
        key = json.dumps([str(folder), settings.to_dict()], sort_keys=True, default=str)
        with self._lock:
            return once(self._warm, key, lambda: Run.of(settings, folder).warm(self._weights))

    def about(self, name: str) -> About:
        """What the page asks of a run; its networks are not built for it."""
        run = self.get(name)
        experiment = run.experiment
        own = experiment.model.classes
        return About(
            experiment.shape,
            experiment.pixel_range.levels,
            isinstance(experiment.process, GaussianSDE),
            own or _guided(run),
            bool(own),
            experiment.sampler.evaluations,
        )


def _guided(run: Run) -> int:
    """Classes of the classifier in the folder of a run."""
    try:
        return int(settings_of(run, "classifier")["classes"])
    except (UserError, KeyError):
        return 0
