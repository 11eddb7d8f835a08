"""Train, or go on training, the classifier of noisy images that guides sampling.

It lies in classifier/ of the run, with its accuracy at each noise level.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from score_sde import viz
from score_sde.build.classifier import build_classifier
from score_sde.build.data import heldout_batches
from score_sde.data import classes
from score_sde.devices import leads, say
from score_sde.errors import UserError, command, quoted
from score_sde.files import writing
from score_sde.parallel.accuracy import Accuracy
from score_sde.parallel.levels import level_times
from score_sde.sde import Perturbation
from score_sde.workdir.classifier import classifier_settings
from score_sde.workdir.companion import train
from score_sde.workdir.documents import write_document
from score_sde.workdir.folder import IN_RUN
from score_sde.workdir.run import Run


def main(run: Run) -> None:
    """log p_t(class | x_t) of the run's process and images, for --mode sample --classes."""
    experiment = run.experiment
    source, heldout = run.source(train=True), run.source(train=False)
    number = classes(source)
    if number < 2:
        raise UserError(
            f"data set {source.name!r} has {number or 'no'} classes, and a classifier needs two; "
            "put the images of each class into a sub-folder of its own"
        )
    fit, mine = build_classifier(experiment, number), classifier_settings(run.settings, number)
    state = train(run, "classifier", fit, (source, heldout), mine, "with its settings")
    folder, count = run.folder / "classifier", run.settings.eval.num_examples or len(heldout)
    times = level_times(experiment.process)
    batches = heldout_batches(experiment, heldout, False)
    measure = Accuracy(fit[0], batches, run.place, min(count, len(heldout)))
    params = run.place.gather(state.averages[0])
    found = measure(params, run.keys("classifier")["eval"], times)
    if leads():
        with writing(folder, IN_RUN):
            _save(folder, experiment.process, times, found)
    use = command(f"--mode sample --workdir {quoted(run.folder)} --classes all")
    say(
        f"classifier trained for {int(state.step)} steps; right for {found[:, 0].mean():.1%} of "
        f"{len(found)} held-out images without noise. Use it: {use} "
        "--config.sampling.guidance_scale=1"
    )


def _save(
    folder: Path, process: Perturbation, times: np.ndarray, found: Int[np.ndarray, "images times"]
) -> None:
    """accuracy.json and accuracy.png: the share of right answers against sigma/alpha."""
    alpha, sigma = (np.asarray(v, np.float64) for v in process.marginal(jnp.asarray(times)))
    share = found.mean(axis=0)
    error = np.sqrt(share * (1 - share) / len(found))
    columns = {"time": times, "alpha": alpha, "sigma": sigma, "accuracy": share, "error": error}
    rows = [{name: float(v[i]) for name, v in columns.items()} for i in range(len(times))]
    write_document(folder / "accuracy.json", {"images": len(found), "levels": rows})
    viz.shares(folder / "accuracy.png", sigma / alpha, share, error, "share of right classes")
