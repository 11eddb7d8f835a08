"""Train, or go on training, the second-order score of one checkpoint.

It lies in second_order/ of the run.
"""

from score_sde.build.second_order import build_second_order
from score_sde.devices import say
from score_sde.errors import command, quoted
from score_sde.workdir.companion import train
from score_sde.workdir.run import Run
from score_sde.workdir.second_order import FOLDER, second_order_settings
from score_sde.workdir.which import Which, weights_checksum


def main(run: Run, checkpoint: Which | None = None) -> None:
    """s2 is fitted beside the checkpoint's averaged weights, which stay as they are.

    With config.second_order.gamma > 0 a copy of them is trained on, without dropout.
    """
    sources = run.source(train=True), run.source(train=False)
    params, step = run.weights(checkpoint)
    fit, mine = (
        build_second_order(run.experiment, params),
        second_order_settings(run.settings, step) | {"score_weights": weights_checksum(params)},
    )
    advice = "with --checkpoint {score_checkpoint} and its settings"
    state = train(run, FOLDER, fit, sources, mine, advice)
    use = command(f"--mode uncertainty --workdir {quoted(run.folder)} --checkpoint {step}")
    say(
        f"second-order score of checkpoint {step} trained for {int(state.step)} steps. "
        f"Use it: {use} --noise=0.5"
    )
