"""Sizes that cannot fit: estimated and refused before anything is traced or kept."""

import math

from score_sde.build.settings import Section, Settings
from score_sde.devices import processes
from score_sde.errors import UserError
from score_sde.files import memory

MOST_BLOCKS = 10_000
"""Residual blocks of a network, which are traced one by one."""
STEP_BYTES = 32
"""What one step takes in a grid, or one noise level in a table."""


def check_fits(entry: str, number: int, each: float, room: int | None = None) -> None:
    """Raises UserError where `number` things of `each` bytes are more than there is room for.

    Args:
        entry: the number's name: an entry, as sampling.num_samples, or a flag, as --copies.
        number: how many.
        each: bytes that one takes at the least.
        room: bytes there are; by default this machine's memory.
    """
    have = memory() if room is None else room
    name = entry if entry.startswith("--") else f"config.{entry}"
    if number * each > have:
        raise UserError(
            f"{name}={number:,} takes {number * each / 2**30:,.1f} GiB or more, and there "
            f"are {have / 2**30:,.1f} GiB {'of memory' if room is None else 'free on the disk'}. "
            f"Set it to {int(have // each):,} or less"
        )


def check_sizes(settings: Settings, shape: tuple[int, int, int]) -> None:
    """Raises UserError for images, batches, grids and networks that no memory here can hold."""
    pixels = math.prod(shape)
    check_fits("data.image_size", max(shape[:2]), 4 * pixels / max(shape[:2]))
    batch = -(-settings.training.batch_size // processes()[1])
    check_fits("training.batch_size", batch, 4 * pixels)
    check_fits("eval.batch_size", settings.eval.batch_size, 4 * pixels)
    check_fits("sampling.batch_size", settings.sampling.batch_size, 4 * pixels)
    check_fits("sampling.steps", settings.sampling.steps, STEP_BYTES)
    levels = settings.sde.get("n", 1)
    if isinstance(levels, int | float):
        check_fits("sde.n", int(levels), STEP_BYTES)
    _check_network(settings.model)


def _check_network(section: Section) -> None:
    """By one convolution of the widest level, 3 x 3, and by the number of blocks."""
    levels = section.get("ch_mult", (1,))
    nf, blocks = section.get("nf", 1), section.get("num_res_blocks", 0)
    if not all(type(number) is int for number in (nf, blocks, *levels)):
        return  # the network says what is wrong with it
    if blocks * len(levels) > MOST_BLOCKS:
        raise UserError(
            f"config.model.num_res_blocks={blocks:,} on {len(levels)} levels are more than "
            f"{MOST_BLOCKS:,} blocks; set it to {MOST_BLOCKS // len(levels):,} or less"
        )
    widest, have = max(levels, default=1), memory()
    need = 36 * (nf * widest) ** 2
    if nf > 0 and widest > 0 and need > have:
        raise UserError(
            f"config.model.nf={nf:,} with ch_mult={tuple(levels)}: one convolution takes "
            f"{need / 2**30:,.0f} GiB, and there are {have / 2**30:,.1f} GiB of memory. Set "
            f"nf times the largest of ch_mult to much less than {math.isqrt(have // 36):,}"
        )
