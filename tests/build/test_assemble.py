"""All objects of a run from its settings."""

import pytest
from small import settings

from score_sde.build.assemble import build
from score_sde.build.metrics import METRICS, metric_names
from score_sde.errors import UserError
from score_sde.networks import NCSNpp
from score_sde.sde import VE
from score_sde.training.ema import Average


def test_experiment_holds_what_the_configuration_says() -> None:
    found = settings("ve", "training.batch_size=48", "seed=5", "data.dequantize=True")
    experiment = build(found)
    assert experiment.process == VE(0.01, 10.0, 1e-5)
    assert experiment.settings is found and experiment.shape == (8, 8, 1)
    assert (found.name, found.seed) == ("ve_ncsnpp_cont_digits", 5)
    assert found.training.batch_size == 48
    assert (experiment.pixel_range.low, experiment.pixel_range.high) == (0.0, 1.0)
    assert experiment.trainer.averages == (Average(0.999, warmup=True),)
    network = experiment.model.network
    assert isinstance(network, NCSNpp) and network.fir
    made = experiment.model.parameterization
    assert made.centre and made.sigma is not None
    assert experiment.task.model is experiment.model
    centred = build(settings("vp"))
    assert not centred.model.parameterization.centre and centred.pixel_range.low == -1.0
    assert build(settings("ve"), (16, 24, 3)).shape == (16, 24, 3)


@pytest.mark.parametrize(
    ("recipe", "override", "message"),
    [
        (
            "ve",
            "data.image_size=0",
            r"config.data: images need at least 1 pixel.*Set\s+config.data.image_size",
        ),
        ("ve", "data.channels=0", r"config.data: images need at least 1 pixel and 1 channel"),
        ("ve", "eval.metrics=loss,foo", r"config.eval.metrics: foo is no metric; known.*: loss, l"),
        ("ve", "eval.metrics=", r"config.eval.metrics: nothing is no metric; known"),
        ("ve", "eval.solver=foo", r"config.eval.solver: unknown name 'foo'"),
        ("vp", "dequantizer.heads=5", r"config.dequantizer: .*heads"),
    ],
)
def test_impossible_experiments_are_refused(recipe: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(settings(recipe, override))


@pytest.mark.parametrize(
    "steps", [("keep_every=30", "checkpoint_every=20"), ("keep_every=20", "steps_per_call=3")]
)
def test_checkpoints_to_keep_must_be_written(steps: tuple[str, ...]) -> None:
    every = ["training.checkpoint_every=10", *(f"training.{step}" for step in steps)]
    with pytest.raises(
        UserError, match=r"config.training.keep_every must be a multiple of checkpoint_every"
    ):
        build(settings("ve", *every))


def test_metric_names() -> None:
    assert metric_names(settings("ve", "eval.metrics=fid, loss ,").eval) == ["fid", "loss"]
    assert metric_names(settings("ve", f"eval.metrics={','.join(METRICS)}").eval) == list(METRICS)
