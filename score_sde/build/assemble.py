"""All objects of a run from its settings, each of them checked."""

from score_sde.build.data import build_pixel_range
from score_sde.build.dequantizer import build_dequantizer
from score_sde.build.experiment import Experiment
from score_sde.build.likelihood import build_likelihood
from score_sde.build.metrics import metric_names
from score_sde.build.names import blame
from score_sde.build.network import build_network
from score_sde.build.objective import check_size
from score_sde.build.process import build_process
from score_sde.build.sampler import build_sampler
from score_sde.build.settings import Settings, Training
from score_sde.build.sizes import check_sizes
from score_sde.build.task import build_task, build_trainer
from score_sde.errors import UserError
from score_sde.sde import GaussianSDE


def build(settings: Settings, shape: tuple[int, int, int] | None = None) -> Experiment:
    """The experiment that the settings describe, for images of `shape` (by default as they say).

    Raises:
        UserError: anything unknown or impossible; the message names the entry.
    """
    if shape is None:
        data = settings.data
        shape = (data.image_size, data.image_size, data.channels)
    if min(shape) < 1:
        raise UserError(
            "config.data: images need at least 1 pixel and 1 channel; got (height, width, "
            f"channels) = {shape}. Set config.data.image_size and config.data.channels"
        )
    check_sizes(settings, shape)
    check_size(settings, shape)
    process = build_process(settings.sde)
    network = build_network(settings.model, process)
    task = build_task(settings, process, network)
    trainer = build_trainer(settings.optim, settings.training)
    pixels = build_pixel_range(settings.data)
    sampler = build_sampler(settings.sampling, process, pixels)
    experiment = Experiment(settings, process, task.model, task, trainer, sampler, pixels, shape)
    _check_intervals(settings.training)
    metric_names(settings.eval)
    with blame("model"):
        trainer.like(task, shape)
    if isinstance(process, GaussianSDE):
        build_likelihood(settings.eval, process, shape)
        build_dequantizer(experiment, params=())
    return experiment


def _check_intervals(training: Training) -> None:
    """Raises UserError where checkpoints to keep would never be written.

    They are written between calls of the compiled program alone.
    """
    kept, checkpoint = training.keep_every, training.checkpoint_every
    call = training.steps_per_call
    if kept and (kept % checkpoint or checkpoint % call):
        raise UserError(
            "config.training.keep_every must be a multiple of checkpoint_every, and that of "
            f"steps_per_call; got keep_every={kept}, checkpoint_every={checkpoint}, "
            f"steps_per_call={call}"
        )
