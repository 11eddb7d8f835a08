"""Print the resolved settings, costs, devices and all flags; run nothing."""

import json

import jax

from score_sde.devices import say
from score_sde.modes.table import flag_lines
from score_sde.training import costs
from score_sde.workdir.run import Run


def main(run: Run) -> None:
    """Everything that training would begin with."""
    experiment, place = run.experiment, run.place
    size = run.settings.training.batch_size
    place.check_divisible("config.training.batch_size", size)
    cost = costs.estimate(experiment.trainer, experiment.task, experiment.shape, size // place.size)
    say(json.dumps(run.settings.to_dict(), indent=2))
    say(f"working directory    {run.folder}")
    say(f"images               {experiment.shape}, range {experiment.pixel_range}")
    say(f"parameters           {cost['parameters']:,}")
    say(f"mesh                 {dict(place.mesh.shape)} of {jax.devices()[0].device_kind}")
    say(f"weights, EMA, Adam   {cost['state_bytes'] / 2**20:,.1f} MiB on each device")
    mebibytes = cost["activation_bytes"] / 2**20
    say(f"stored activations   {mebibytes:,.1f} MiB on each device (estimate)")
    say(f"one forward pass     {cost['forward_flops'] / 1e9:,.3f} GFLOP per image")
    say(f"one training step    {cost['step_flops'] / 1e12:,.4f} TFLOP on each device (estimate)")
    say(f"one sample           {experiment.sampler.evaluations} network evaluations")
    say("flags, and the modes that take them:")
    for name, text in flag_lines():
        say(f"  --{name:<14} {text}")
