"""The history lies on disk alone: what was finished is there after a kill, what was not says so."""

import json
from pathlib import Path

import pytest

from score_sde.app import history, markup
from score_sde.app.history import Entry, Picture
from score_sde.errors import UserError


def made(run: Path, title: str) -> Entry:
    entry = history.begin(run, "sample", title, {"seed": 0})
    (entry.folder / "grid.png").write_bytes(b"PNG")
    return entry.finish([("drawn", title)], [Picture("grid.png", "a <grid>")])


def test_entries_come_back_the_newest_first(tmp_path: Path) -> None:
    for title in ("one", "two"):
        made(tmp_path, title)
    history.begin(tmp_path, "sample", "killed", {})  # its process ends here
    history.begin(tmp_path, "fill", "another kind", {})
    found = history.entries(tmp_path, "sample")
    assert [entry.title for entry in found] == ["killed", "two", "one"]
    assert [entry.finished for entry in found] == [False, True, True]
    assert found[1].told == [("drawn", "two")] and found[1].asked == {"seed": 0}
    assert found[1].at.startswith("20") and len(history.entries(tmp_path, "sample", 1)) == 1
    text = markup.past(found, "Before")
    assert "a &lt;grid&gt;" in text and "not finished" in text


def test_damaged_entries_are_left_out(tmp_path: Path) -> None:
    good, bad = made(tmp_path, "good"), made(tmp_path, "bad")
    (bad.folder / "told.json").write_text("{")
    (tmp_path / "app" / "x_sample_y").mkdir()
    assert [entry.title for entry in history.entries(tmp_path, "sample")] == ["good"]
    values = {"told": [], "pictures": [["../../secret.png", "no"]]}
    (good.folder / "told.json").write_text(json.dumps(values))
    (tmp_path / "secret.png").write_bytes(b"secret")
    (entry,) = history.entries(tmp_path, "sample")
    with pytest.raises(UserError, match="outside of it"):
        entry.path(entry.pictures[0])
    assert "is not there" in markup.entry(entry)


def test_text_is_escaped() -> None:
    for text in (
        markup.error("<script>"),
        markup.note("<script>"),
        markup.table(["<b>"], [["<i>"]]),
    ):
        assert "<script>" not in text and "<b>" not in text and "<i>" not in text
