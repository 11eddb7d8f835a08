"""Large folders are checked once: what was found is kept, and believed while it fits."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from score_sde.data import checked, folders
from score_sde.data.folders import scan_folder

HOUR = 3600


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Six images, changed an hour ago, in a folder that counts as large."""
    monkeypatch.setattr(checked, "FROM", 4)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(6):
        save(folder / f"{i}.png", 4 + i)
    return folder


def save(path: Path, width: int, ago: float = HOUR) -> None:
    Image.fromarray(np.full((3, width), 7, np.uint8)).save(path)
    os.utime(path, (time.time() - ago,) * 2)


def scan(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list]:
    """(names that were checked, what is known of all) as a process of its own would do it."""
    names: list[str] = []

    def check(root: Path, name: str):
        names.append(name)
        return original(root, name)

    original = folders.check_file
    folders._scan.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(folders, "check_file", check)
        files = scan_folder(folder).files
    return sorted(names), list(files)


def tables(folder: Path) -> list[Path]:
    return list((folder.parent / "home").rglob("*.json"))


def test_unchanged_files_are_checked_once(images: Path, monkeypatch) -> None:
    names, first = scan(images, monkeypatch)
    assert len(names) == 6 and [file.size for file in first] == [(3, 4 + i) for i in range(6)]
    assert scan(images, monkeypatch) == ([], first)
    save(images / "2.png", 9, ago=HOUR / 2)
    (images / "4.png").write_bytes(b"no image")
    save(images / "new.png", 5)
    (images / "0.png").unlink()
    names, files = scan(images, monkeypatch)
    assert names == ["2.png", "4.png", "new.png"]
    assert [file.name for file in files] == [*(f"{i}.png" for i in range(1, 6)), "new.png"]
    assert files[1].size == (3, 9) and "not a readable image" in files[3].problem
    names, again = scan(images, monkeypatch)
    assert again == files and names == ["4.png"]  # changed a moment ago: it may change once more


def test_a_table_that_does_not_fit_is_not_believed(images: Path, monkeypatch) -> None:
    _, first = scan(images, monkeypatch)
    (table,) = tables(images)
    sound = table.read_bytes()
    for damaged in (
        sound.replace(b", 3, 4, true", b", 3, 9, true"),
        sound[:-1] + b" ",
        b"",
        b"{",
    ):
        assert damaged != sound
        table.write_bytes(damaged)
        names, files = scan(images, monkeypatch)
        assert len(names) == 6 and files == first
    with monkeypatch.context() as patched:  # another version of Pillow may find other things
        patched.setattr(checked.PIL, "__version__", "0")
        assert len(scan(images, monkeypatch)[0]) == 6
    other = images.parent / "other"
    images.rename(other)
    assert len(scan(other, monkeypatch)[0]) == 6


def test_without_a_place_to_keep_it_all_is_checked(images: Path, monkeypatch) -> None:
    (images.parent / "home").write_text("a file")
    for _ in range(2):
        assert len(scan(images, monkeypatch)[0]) == 6


def test_small_folders_leave_nothing_behind(images: Path, monkeypatch) -> None:
    monkeypatch.setattr(checked, "FROM", 7)
    assert len(scan(images, monkeypatch)[0]) == 6 and not tables(images)
