"""Losses per noise level of a run, kept as JSON."""

from pathlib import Path

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.parallel.levels import Levels
from score_sde.workdir.documents import read_document
from score_sde.workdir.levels import levels_file, load_levels, save_levels


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    """A loss that is not finite is null, and the file says what the numbers are."""
    times = np.asarray([0.25, 0.5])
    train, heldout = np.asarray([[1.0, 2.0], [3.0, 2.0]]), np.asarray([[2.0, np.nan], [4.0, 1.0]])
    rows = Levels(times, np.asarray([0.8, 0.6]), np.asarray([0.6, 0.8]), train, heldout).rows()
    path = save_levels(tmp_path, 7, rows, {"images": 2, "seed": 3})
    assert path == levels_file(tmp_path, 7) == tmp_path / "eval" / "levels_step_7.json"
    written = read_document(path, {}, "")
    assert written == load_levels(tmp_path, 7) == written | {"step": 7, "images": 2, "seed": 3}
    assert written["unit"] == "E|sigma score + z|^2/D"
    assert [row["train"] for row in written["levels"]] == [2.0, 2.0]
    assert [row["heldout"] for row in written["levels"]] == [3.0, None]


def test_files_that_hold_no_losses_per_level_are_named(tmp_path: Path) -> None:
    assert load_levels(tmp_path, 3) is None
    (tmp_path / "eval").mkdir()
    for text in ("{", '{"levels": []}', '{"levels": [{"train": 1}]}', "[1]", "null"):
        levels_file(tmp_path, 3).write_text(text)
        named = r"levels_step_3.json does not hold losses .*--mode eval"
        with pytest.raises(UserError, match=named):
            load_levels(tmp_path, 3)
