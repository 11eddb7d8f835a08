"""bfloat16 as documented: it computes in bfloat16, and learns what float32 learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import runs

from score_sde.build.assemble import build
from score_sde.data import digits, pipeline
from score_sde.devices import Placement
from score_sde.parallel.heldout import HeldoutLoss

STEPS = 200
SMALL = {
    "model.nf": 16,
    "model.ch_mult": (1, 2),
    "model.num_res_blocks": 1,
    "training.ema_rate": 0.9,
    "optim.lr": 2e-3,
    "optim.warmup": 20,
}


def trained(dtype: str) -> tuple[float, dict[str, np.ndarray], set[str]]:
    """Held-out loss after training on the digits, metrics of all steps, types of the state."""
    experiment = build(runs.load("vp/ddpmpp_cont:digits", SMALL | {"model.dtype": dtype}))
    place = Placement.of(jax.devices()[:1])
    trainer, fit = dataclasses.replace(experiment.trainer, place=place), experiment.task
    batches, heldout = (
        pipeline.Batches(digits(split), experiment.pixel_range, 64, seed=1, train=split == "train")
        for split in ("train", "test")
    )
    key = jax.random.key(3)
    state = jax.jit(trainer.init, static_argnums=2)(fit, key, experiment.shape)
    step, found = jax.jit(trainer.step, donate_argnums=1), []
    for k in range(STEPS):
        state, metrics = step(fit, state, key, place.put_part(batches[k]))
        found.append(metrics)
    losses = HeldoutLoss(fit, heldout, place, images=256, passes=2)(state.averages[0], key)
    values = {name: np.asarray([row[name] for row in found]) for name in found[0]}
    floats = (leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating))
    return float(losses.mean()), values, {str(leaf.dtype) for leaf in floats}


@pytest.mark.slow
def test_bfloat16_learns_what_float32_learns() -> None:
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam mixes types
        wide, low = trained("float32"), trained("bfloat16")
    assert not np.array_equal(wide[1]["loss"], low[1]["loss"])
    assert low[2] == wide[2] == {"float32"}
    for name in ("loss", "grad_norm"):
        assert np.isfinite(low[1][name]).all() and low[1][name].dtype == np.float32
    assert wide[0] < 0.4 * wide[1]["loss"][0]
    assert low[0] == pytest.approx(wide[0], rel=0.01)
