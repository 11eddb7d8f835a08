"""Whose a working directory is."""

import pytest

from golden import REPOSITORY
from score_sde import config as config_lib
from score_sde.errors import UserError
from score_sde.workdir import check_apart, claim

DDPM, DDPMPP = (str(REPOSITORY / "configs" / "vp" / f"{name}_cont.py:digits") for name in ("ddpm", "ddpmpp"))


def test_several_runs_have_a_directory_each(tmp_path) -> None:
    here, other = str(tmp_path / "a"), str(tmp_path / "b")
    (tmp_path / "link").symlink_to(here)
    check_apart([(None, here), (None, other)], [])
    check_apart([(DDPM, None), (DDPMPP, None)], [])
    check_apart([(None, here)], [])
    for runs in (
        [(None, here), (None, other), (None, f"{here}/")],
        [(None, here), (None, str(tmp_path / "b" / ".." / "a"))],
        [(None, here), (None, str(tmp_path / "link"))],
        [(DDPM, here), (DDPMPP, here)],
        [(DDPM, None), (DDPM, None)],
        [(DDPM, None), (None, "runs/vp_ddpm_cont_digits")],
    ):
        with pytest.raises(UserError, match=r"named twice\. Name each run once"):
            check_apart(runs, [])
    with pytest.raises(UserError, match="named twice"):
        check_apart([(DDPM, None), (DDPMPP, None)], [("name", "same")])


def test_how_quality_is_measured_may_change_between_starts(tmp_path) -> None:
    config = config_lib.load(DDPMPP)
    claim(tmp_path, config)
    names = ("quality.num_samples", "quality.seeds", "training.quality_every", "training.quality_samples")
    config_lib.override(config, [(name, "7") for name in names] + [("quality.extractor", "pixels")])
    claim(tmp_path, config)
