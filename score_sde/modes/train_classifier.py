"""Train, or go on training, the classifier of noisy images that guides sampling.

It lies in classifier/ of the run, with its accuracy at each noise level.
"""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from score_sde import viz
from score_sde.build.classifier import build_classifier
from score_sde.build.data import heldout_batches, training_batches
from score_sde.build.task import loop_settings
from score_sde.data import classes
from score_sde.devices import leads, say
from score_sde.errors import UserError, command, quoted
from score_sde.files import write_json, writing
from score_sde.parallel.accuracy import Accuracy
from score_sde.parallel.levels import level_times
from score_sde.sde import Perturbation
from score_sde.training.loop import Loop
from score_sde.workdir.classifier import classifier_settings
from score_sde.workdir.companion import claim
from score_sde.workdir.folder import IN_RUN
from score_sde.workdir.objects import heldout_loss
from score_sde.workdir.run import Run


def main(run: Run) -> None:
    """log p_t(class | x_t) of the run's process and images, for --mode sample --classes."""
    settings, experiment, section = run.settings, run.experiment, run.settings.classifier
    source, heldout = run.source(train=True), run.source(train=False)
    number = classes(source)
    if number < 2:
        raise UserError(
            f"data set {source.name!r} has {number or 'no'} classes, and a classifier needs two; "
            "put the images of each class into a sub-folder of its own"
        )
    task, trainer = build_classifier(experiment, number)
    run.place.check_divisible("config.classifier.batch_size", section.batch_size)
    run.place.check_divisible("config.eval.batch_size", settings.eval.batch_size)
    folder = run.folder / "classifier"
    claim(folder, classifier_settings(settings, number), "with its settings")

    keys = run.keys("classifier")
    batches = training_batches(experiment, source, section.batch_size)
    loop = Loop(folder, trainer, task, loop_settings(section), batches, run.place)
    if not loop.begin(keys["init"], experiment.shape):
        say(
            f"{folder} has been trained for {loop.step} steps already; raise "
            "config.classifier.steps to go on."
        )
        return
    losses = heldout_loss(run, task, heldout)
    if not loop.run(keys["train"], lambda params: losses(params, keys["eval"])):
        return
    times = level_times(experiment.process)
    measure = Accuracy(task, heldout_batches(experiment, heldout, False), run.place, losses.images)
    params = run.place.gather(loop.state.averages[0])
    found = measure(params, keys["eval"], times)
    if leads():
        with writing(folder, IN_RUN):
            _save(folder, experiment.process, times, found)
    use = command(f"--mode sample --workdir {quoted(run.folder)} --classes all")
    say(
        f"classifier trained for {loop.step} steps; right for {found[:, 0].mean():.1%} of "
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
    write_json(folder / "accuracy.json", {"images": len(found), "levels": rows})
    viz.shares(folder / "accuracy.png", sigma / alpha, share, error, "share of right classes")
