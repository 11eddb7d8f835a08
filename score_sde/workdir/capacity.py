"""What training takes of this device: memory, the largest batch, time."""

import time

import jax
import jax.numpy as jnp

from score_sde.build.assemble import build
from score_sde.build.settings import Settings
from score_sde.data.health import Finding
from score_sde.devices import Placement
from score_sde.errors import UserError
from score_sde.files import memory
from score_sde.training import costs

SIDES = {"cpu": 1024}
"""Of the matrices whose product is timed; 4096 on accelerators, which are idle with less."""


SHARES = (1 / 3, 1 / 10)
"""Of the rate of a product of matrices, that networks reach in training."""


def capacity(
    settings: Settings, shape: tuple[int, int, int]
) -> tuple[dict[str, str], list[Finding]]:
    """What training with these settings takes, in words, and what is wrong with that.

    Memory is that of weights, averages, optimizer, gradients and what the forward pass keeps. Times
    are those of the operations at the `SHARES` of the rate of a product of matrices that networks
    reach. That rate is timed here.
    """
    training = settings.training
    try:
        experiment = build(settings, shape)
        place = Placement.of(fsdp=training.fsdp)
        cost = costs.estimate(experiment.trainer, experiment.task, shape, 1)
    except UserError as error:
        return {}, [Finding("the settings cannot be trained", str(error), "change what it says")]
    fixed = cost["state_bytes"] // training.fsdp + 4 * cost["parameters"]
    each = max(1, cost["activation_bytes"])
    room = _room(place)
    most = max(0, room - fixed) // each * training.accumulate * place.size
    rate = _rate(settings.model.dtype)
    seconds = cost["step_flops"] * training.batch_size / place.size / rate
    kind = place.mesh.devices.flat[0].device_kind
    told = {
        "devices": f"{place.size} x {kind}, {room / 2**30:,.1f} GiB each",
        "weights, averages, optimizer, gradients": f"{fixed / 2**20:,.1f} MiB on a device",
        "kept for the backward pass": f"{each / 2**20:,.2f} MiB an image, at most",
        "largest batch that fits": f"{most:,}; training.batch_size is {training.batch_size:,}",
        "rate of a product of matrices": f"{rate / 1e9:,.0f} GFLOP/s, {settings.model.dtype}",
        "a step, at a tenth to a third of that rate": " to ".join(
            _duration(seconds / share) for share in SHARES
        ),
        f"training.steps={training.steps:,}, once compiled": " to ".join(
            _duration(seconds * training.steps / share) for share in SHARES
        ),
    }
    if most >= training.batch_size:
        return told, []
    what = (
        f"training.batch_size={training.batch_size:,} needs more than the {room / 2**30:,.1f} GiB "
        f"of a device; {most:,} images fit"
    )
    return told, [Finding("the batch does not fit", what, _advice(most))]


def _advice(most: int) -> str:
    if not most:
        return "raise training.fsdp, which splits weights over devices, or take a smaller network"
    return f"set training.batch_size to {most:,} or less, or raise training.accumulate"


def _room(place: Placement) -> int:
    """Bytes of one device."""
    local = place.mesh.local_devices
    known = (local[0].memory_stats() or {}).get("bytes_limit")
    return int(known) if known else memory() // len(local)


def _rate(dtype: str) -> float:
    """Floating point operations a second of a product of matrices on one device."""
    side = SIDES.get(jax.default_backend(), 4096)
    matrix = jnp.ones((side, side), jnp.dtype(dtype))
    product = jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        product(matrix, matrix).block_until_ready()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds)


def _duration(seconds: float) -> str:
    for name, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {name}"
    return f"{seconds:,.1f} seconds" if seconds >= 1 else f"{1e3 * seconds:,.1f} ms"
