"""Runs with checkpoints of random weights: what modes do with a run does not depend on its training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import run_lib
from score_sde import config as config_lib
from score_sde.build import build
from score_sde.training.checkpoint import Checkpoints
from score_sde.training.state import TrainState
from score_sde.workdir import claim


def random_run(
    workdir: Path, recipe: str, values: Mapping[str, Any], steps: Sequence[int], scale: float = 0.2
) -> Path:
    """A run of `recipe` with checkpoints at `steps`, the weights of step N drawn from N(0, scale^2) with seed N."""
    config = config_lib.load(recipe)
    config_lib.override(config, [(name, str(value)) for name, value in values.items()])
    experiment = build(config)
    claim(workdir, config)
    config_lib.save(config, workdir / "config.json")
    like = jax.eval_shape(lambda: experiment.trainer.init(jax.random.key(0), experiment.shape))
    checkpoints = Checkpoints(workdir / "checkpoints", keep=len(steps))
    for step in steps:
        normal = np.random.default_rng(step).normal
        params = jax.tree.map(
            lambda a, normal=normal: jnp.asarray(normal(size=a.shape, scale=scale), a.dtype), like.params
        )
        rest = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like.opt_state)
        checkpoints.save(TrainState(jnp.asarray(step, jnp.int32), params, params, rest), {})
    checkpoints.close()
    return workdir


def call(
    mode: str, workdir=None, config: str | None = None, checkpoint: str | None = None, values=(), **flags
):
    """`run_lib.run` as the command line calls it; `values` are overrides."""
    overrides = [(name, str(value)) for name, value in dict(values).items()]
    run_lib.run(mode, config, overrides, workdir and str(workdir), checkpoint, None, **flags)
