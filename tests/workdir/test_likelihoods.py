"""Summaries, tables and pictures of likelihoods; rows that are refused."""

import json

import numpy as np
import pytest

from score_sde import devices
from score_sde.data import PixelRange, digits
from score_sde.errors import UserError
from score_sde.workdir import likelihoods
from score_sde.workdir.likelihoods import (
    check_solved,
    comparison,
    likelihood_folders,
    save_curves,
    save_likelihood,
    summarize_rows,
)
from score_sde.workdir.rows import Pieces


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
    low, high = (
        2.5 + sign * 2.306004 * np.std(np.linspace(-0.1, 0.1, 9), ddof=1) / 3 for sign in (-1, 1)
    )
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


def test_folders_are_ordered_by_step(tmp_path, capsys) -> None:
    for step in ("100", "20", "3", "20_old", "20_1", "9.bak"):  # the last three were moved away
        folder = tmp_path / "eval" / f"likelihood_test_step_{step}"
        folder.mkdir(parents=True)
        (folder / "settings.json").write_text("{}")
    (tmp_path / "eval" / "likelihood_test_step_7").mkdir()  # killed before the first row
    assert list(likelihood_folders(tmp_path, "test")) == [3, 20, 100]
    assert not capsys.readouterr().out
    (tmp_path / "eval" / "likelihood_test_step_7" / "pass0.parquet").touch()
    assert list(likelihood_folders(tmp_path, "test")) == [3, 20, 100]
    assert "likelihood_test_step_7 is left out: it holds rows but no" in capsys.readouterr().out
    with pytest.raises(UserError, match="no likelihoods of the train images"):
        likelihood_folders(tmp_path, "train")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("column", ["bits_per_dim", "bound_bits_per_dim"])
def test_rows_that_are_not_finite_are_refused_by_image(tmp_path, column: str, bad: float) -> None:
    found = rows(2.5, bound=True)
    check_solved(found, tmp_path)
    found["index"] = found["index"] + 40
    found[column][3] = bad
    with pytest.raises(
        UserError, match=rf"^{column} of 1 images .*images \[43\].*kept in {tmp_path}"
    ):
        check_solved(found, tmp_path)


def test_unsolved_rows_are_kept_and_left_out_of_means(tmp_path, capsys) -> None:
    found = rows(2.5) | {"success": np.arange(9) % 4 != 2}
    found["bits_per_dim"] = np.where(found["success"], found["bits_per_dim"], np.nan)
    check_solved(found, tmp_path)
    assert "ODE of 2 images" in capsys.readouterr().out
    pieces = Pieces(tmp_path, {})
    pieces.write(found)
    again = found | {"pass": np.ones(9, int), "success": np.ones(9, bool)}
    pieces.write(again | {"bits_per_dim": rows(2.5)["bits_per_dim"]})
    summary = save_likelihood(pieces, digits("test"), PixelRange(17), (9, 2), step=7)
    assert summary["unsolved"] == [2, 6] and summary["bits_per_dim"]["images"] == 7
    wanted = np.delete(rows(2.5)["bits_per_dim"], [2, 6]).mean()
    assert summary["bits_per_dim"]["mean"] == pytest.approx(wanted)
    assert "2 images are left out" in capsys.readouterr().out


def test_nothing_that_was_solved_is_refused(tmp_path) -> None:
    found = rows(2.5) | {"success": np.zeros(9, bool)}
    with pytest.raises(UserError, match=rf"ODE of 9 images .*kept in {tmp_path}; .*move it away"):
        check_solved(found, tmp_path)
    with pytest.raises(UserError, match="none of 9 images could be solved"):
        summarize_rows(found, 7)


@pytest.mark.parametrize("leading", [True, False])
def test_the_leading_process_alone_writes_the_summary(
    tmp_path, monkeypatch, capsys, leading: bool
) -> None:
    """All of them get it."""
    for module in (likelihoods, devices):
        monkeypatch.setattr(module, "leads", lambda: leading)
    pieces = Pieces(tmp_path, {})
    pieces.write(rows(2.5, bound=True))
    before = sorted(tmp_path.iterdir())
    pixels = PixelRange(17)
    found = save_likelihood(pieces, digits("test"), pixels, (9, 1), step=7)
    assert found == summarize_rows(pieces.read(), 7)
    made = sorted(path.name for path in tmp_path.iterdir() if path not in before)
    if not leading:
        assert not made and not capsys.readouterr().out
        return
    assert made == ["histogram.png", "least_likely.png", "most_likely.png", "summary.json"]
    written = json.loads((tmp_path / "summary.json").read_text())
    assert written["bound_bits_per_dim"]["mean"] == pytest.approx(3.0)
    assert written["bits_per_dim"]["variance_data"] is None  # of one pass nothing is known
    assert "step 7: bits_per_dim 2.5000, 95% interval" in capsys.readouterr().out
