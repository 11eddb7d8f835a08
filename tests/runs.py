"""Runs with checkpoints of random weights: what modes do does not depend on training."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import program
from score_sde.build.assemble import build
from score_sde.build.settings import Settings
from score_sde.modes.table import FLAGS
from score_sde.training.checkpoint import Checkpoints
from score_sde.training.state import TrainState
from score_sde.workdir import config as configurations
from score_sde.workdir.folder import claim


def load(recipe: str, values: Mapping[str, Any] | None = None) -> Settings:
    """The settings of a recipe with other values of some entries, by their dotted names."""
    changes = [(name, str(value)) for name, value in (values or {}).items()]
    return configurations.override(configurations.load(recipe), changes)


def random_run(
    workdir: Path, recipe: str, values: Mapping[str, Any], steps: Sequence[int], scale: float = 0.2
) -> Path:
    """A run of `recipe` with checkpoints at `steps`: step N has weights N(0, scale^2) of seed N."""
    settings = load(recipe, values)
    experiment = build(settings)
    claim(workdir, settings)
    key, task = jax.random.key(0), experiment.task
    like = jax.eval_shape(lambda: experiment.trainer.init(task, key, experiment.shape))
    checkpoints = Checkpoints(workdir / "checkpoints", keep=len(steps))
    for step in steps:
        normal = np.random.default_rng(step).normal
        params = jax.tree.map(
            lambda a, normal=normal: jnp.asarray(normal(size=a.shape, scale=scale), a.dtype),
            like.params,
        )
        rest = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), like.opt_state)
        averages = (params,) * len(like.averages)
        checkpoints.save(TrainState(jnp.asarray(step, jnp.int32), params, averages, rest), {})
    checkpoints.close()
    return workdir


def call(
    mode: str,
    workdir=None,
    config: str | None = None,
    checkpoint: str | None = None,
    values=(),
    **flags,
) -> None:
    """A call of the command line in this process; `values` are overrides, `flags` are texts."""
    overrides = [(name, str(value)) for name, value in dict(values).items()]
    given = {"workdir": workdir and str(workdir), "config": config, "checkpoint": checkpoint}
    given |= {name: None if value is None else str(value) for name, value in flags.items()}
    several = {flag.name for flag in FLAGS if flag.several}
    texts = {n: [v] if n in several else v for n, v in given.items() if v is not None}
    program.run(mode, texts, overrides)
