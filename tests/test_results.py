"""Tables and pictures of several runs."""

import os

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.results import (
    check_solved,
    check_writable,
    comparison,
    levels_file,
    likelihood_folders,
    load_levels,
    save_curves,
    summarize_rows,
    writing,
)


def rows(level: float, bound: bool = False) -> dict[str, np.ndarray]:
    bits = level + np.linspace(-0.1, 0.1, 9)
    columns = {
        "index": np.arange(9),
        "pass": np.zeros(9, int),
        "bits_per_dim": bits,
        "nfe": np.arange(9) + 96,
    }
    return columns | ({"bound_bits_per_dim": bits + 0.5} if bound else {})


def test_table_has_a_line_for_each_run_and_step() -> None:
    found = {
        "one": {10: summarize_rows(rows(2.5, bound=True), 10)},
        "longer": {5: summarize_rows(rows(3.25), 5), 20: summarize_rows(rows(2.75), 20)},
    }
    head, one, five, twenty = comparison(found).splitlines()
    assert head.split()[:3] == ["run", "step", "bits/dim"]
    low, high = (2.5 + sign * 2.306004 * np.std(np.linspace(-0.1, 0.1, 9), ddof=1) / 3 for sign in (-1, 1))
    assert one.split() == [
        *("one", "10", "2.5000", f"{low:.4f}", "..", f"{high:.4f}"),
        *("3.0000", f"{low + 0.5:.4f}", "..", f"{high + 0.5:.4f}", "100", "9", "1"),
    ]
    assert five.split()[:3] == ["longer", "5", "3.2500"] and twenty.split()[1:3] == ["20", "2.7500"]
    assert five.split()[-5:] == ["-", "-", "100", "9", "1"]


def test_curves_are_drawn_where_there_is_something_to_compare(tmp_path) -> None:
    one = {10: summarize_rows(rows(2.5), 10)}
    save_curves({"a": one}, tmp_path, "test")
    assert not list(tmp_path.iterdir())
    save_curves({"a": one, "b": one}, tmp_path, "test")
    assert [path.name for path in tmp_path.iterdir()] == ["bits_per_dim_test.png"]


def test_folders_are_ordered_by_step(tmp_path) -> None:
    for step in ("100", "20", "3", "20_old", "20_1", "9.bak"):  # the last three were moved away
        folder = tmp_path / "eval" / f"likelihood_test_step_{step}"
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text("{}")
    (tmp_path / "eval" / "likelihood_test_step_7").mkdir()  # killed before the first row
    assert list(likelihood_folders(tmp_path, "test")) == [3, 20, 100]
    with pytest.raises(UserError, match="no likelihoods of the train images"):
        likelihood_folders(tmp_path, "train")


def test_places_that_cannot_be_written_are_refused_and_nothing_is_made(tmp_path, monkeypatch) -> None:
    check_writable(tmp_path)
    check_writable(tmp_path / "new" / "deep")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=rf"cannot write to {folder} \(.*file is a file\); .*--output"):
            check_writable(folder)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(UserError, match="no permission to write into"):
        check_writable(tmp_path / "new")


def test_a_failure_to_write_is_a_message(tmp_path) -> None:
    (tmp_path / "latents.npz").mkdir()
    with pytest.raises(UserError, match=r"cannot write to .*Is a directory"), writing(tmp_path):
        (tmp_path / "latents.npz").write_bytes(b"")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("column", ["bits_per_dim", "bound_bits_per_dim"])
def test_rows_that_are_not_finite_are_refused_by_image(tmp_path, column: str, bad: float) -> None:
    found = rows(2.5, bound=True)
    check_solved(found, tmp_path)
    found["index"] = found["index"] + 40
    found[column][3] = bad
    with pytest.raises(UserError, match=rf"^{column} of 1 images .*images \[43\].*kept in {tmp_path}"):
        check_solved(found, tmp_path)


def test_unsolved_rows_say_what_to_move_away(tmp_path) -> None:
    found = rows(2.5) | {"success": np.arange(9) % 4 != 2}
    with pytest.raises(
        UserError, match=rf"ODE of 2 images .*images \[2, 6\].*kept in {tmp_path}; .*move it away"
    ):
        check_solved(found, tmp_path)


def test_files_that_hold_no_losses_per_level_are_named(tmp_path) -> None:
    assert load_levels(tmp_path, 3) is None
    (tmp_path / "eval").mkdir()
    for text in ("{", '{"levels": []}', '{"levels": [{"train": 1}]}', "[1]", "null"):
        levels_file(tmp_path, 3).write_text(text)
        with pytest.raises(UserError, match=r"levels_step_3.json does not hold losses .*--mode eval"):
            load_levels(tmp_path, 3)
