"""Train, or go on training, the flow of variational dequantization for one checkpoint.

It lies in dequantizer/ of the run.
"""

from score_sde.build.data import training_batches
from score_sde.build.dequantizer import build_dequantizer
from score_sde.build.task import loop_settings
from score_sde.devices import say
from score_sde.errors import command, quoted
from score_sde.training.loop import Loop
from score_sde.workdir.dequantizer import claim_dequantizer
from score_sde.workdir.objects import heldout_loss
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which


def main(run: Run, checkpoint: Which | None = None) -> None:
    """The flow is fitted to the checkpoint's averaged weights, which stay as they are."""
    settings, experiment = run.settings, run.experiment
    section = settings.dequantizer
    source, heldout = run.source(train=True), run.source(train=False)
    params, step = run.weights(checkpoint)
    task, trainer = build_dequantizer(experiment, params)
    run.place.check_divisible("config.dequantizer.batch_size", section.batch_size)
    run.place.check_divisible("config.eval.batch_size", settings.eval.batch_size)
    folder = run.folder / "dequantizer"
    claim_dequantizer(folder, settings, step)

    keys = run.keys("dequantizer")
    batches = training_batches(experiment, source, section.batch_size)
    loop = Loop(folder, trainer, task, loop_settings(section), batches, run.place)
    if not loop.begin(keys["init"], experiment.shape):
        say(
            f"{folder} has been trained for {loop.step} steps already; raise "
            "config.dequantizer.steps to go on."
        )
        return
    losses = heldout_loss(run, task, heldout)
    if loop.run(keys["train"], lambda params: losses(params, keys["eval"])):
        use = command(
            f"--mode likelihood --workdir {quoted(run.folder)} --checkpoint {step} "
            "--config.eval.dequantization=variational"
        )
        say(f"dequantizer of checkpoint {step} trained for {loop.step} steps. Use it: {use}")
