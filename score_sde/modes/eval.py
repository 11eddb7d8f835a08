"""What config.eval.metrics asks of the averaged weights, with errors: rows of eval/step_N.json."""

from collections.abc import Mapping, Sequence

from score_sde.build.metrics import metric_names
from score_sde.devices import leads
from score_sde.files import writing
from score_sde.workdir import measurements
from score_sde.workdir.folder import IN_RUN
from score_sde.workdir.measure import measure
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which


def main(run: Run, checkpoint: Which | None = None) -> list[measurements.Row]:
    """Measure one checkpoint; see `workdir.measure`."""
    return measure(run, checkpoint, metric_names(run.settings.eval))


def after(run: Run, done: Mapping[str, Sequence[measurements.Row]], there: Sequence[int]) -> None:
    """Of several checkpoints the curves, and the best one: then --checkpoint best."""
    rows = [row for rows in done.values() for row in rows]
    if rows and leads():
        with writing(run.folder / "eval", IN_RUN):
            measurements.choose(run.folder, rows, there)
