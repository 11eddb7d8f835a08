"""Sizes that cannot fit are refused at once, with what would."""

import time

import pytest
from small import settings

from score_sde.build import sizes
from score_sde.build.assemble import build
from score_sde.build.sizes import check_fits
from score_sde.errors import UserError


@pytest.mark.parametrize(
    "override",
    [
        "model.nf=1000000000",
        "model.num_res_blocks=1000000000",
        "model.ch_mult=(1,1000000000)",
        "sampling.steps=1000000000000",
        "training.batch_size=1000000000000",
        "eval.batch_size=1000000000",
        "sampling.batch_size=1000000000",
        "data.image_size=1000000000",
        "sde.n=1000000000000",
    ],
)
def test_sizes_are_refused_before_anything_is_traced(override: str) -> None:
    """The message names the entry that was changed, or the one beside it."""
    wanted = settings("ddpm" if override.startswith("sde") else "ve", override)
    start = time.process_time()
    with pytest.raises(UserError, match=override.partition("=")[0] + "|config.model.nf"):
        build(wanted)
    assert time.process_time() - start < 5


def test_numbers_of_more_than_64_bits() -> None:
    for name in ("training.steps", "sampling.num_samples", "model.nf"):
        with pytest.raises(UserError, match=f"config.{name} must be a number of at most 64 bits"):
            settings("ve", f"{name}={10**30}")


def test_what_would_fit_is_said_and_fits(monkeypatch) -> None:
    monkeypatch.setattr(sizes, "memory", lambda: 2**20)
    with pytest.raises(UserError, match=r"config\.a\.b=2,049 .* GiB of memory\. Set it to 2,048"):
        check_fits("a.b", 2049, 512)
    check_fits("a.b", 2048, 512)
    with pytest.raises(UserError, match=r"free on the disk\. Set it to 10 or less"):
        check_fits("a.b", 11, 512, room=5120)


def test_large_sizes_that_fit_stay_possible() -> None:
    build(settings("ve", "sampling.steps=100000", "sampling.num_samples=100000000000"))
