"""Train, or go on training, the flow of variational dequantization for one checkpoint.

It lies in dequantizer/ of the run.
"""

from score_sde.build.dequantizer import build_dequantizer
from score_sde.devices import say
from score_sde.errors import command, quoted
from score_sde.workdir.companion import train
from score_sde.workdir.dequantizer import dequantizer_settings
from score_sde.workdir.run import Run
from score_sde.workdir.which import Which, weights_checksum


def main(run: Run, checkpoint: Which | None = None) -> None:
    """The flow is fitted to the checkpoint's averaged weights, which stay as they are."""
    sources = run.source(train=True), run.source(train=False)
    params, step = run.weights(checkpoint)
    fit, mine = build_dequantizer(run.experiment, params), dequantizer_settings(run.settings, step)
    mine |= {"score_weights": weights_checksum(params)}
    advice = "with --checkpoint {score_checkpoint} and its settings"
    state = train(run, "dequantizer", fit, sources, mine, advice)
    use = command(
        f"--mode likelihood --workdir {quoted(run.folder)} --checkpoint {step} "
        "--config.eval.dequantization=variational"
    )
    say(f"dequantizer of checkpoint {step} trained for {int(state.step)} steps. Use it: {use}")
