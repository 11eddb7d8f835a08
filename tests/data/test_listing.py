"""What lies below a folder: endings, links, hidden and special files, depth and length."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from score_sde.data import FolderSource, folders
from score_sde.data.image_sets import open_images
from score_sde.data.inputs import read_inputs
from score_sde.data.listing import folders_below
from score_sde.data.preparation import SOURCES, places
from score_sde.errors import UserError


def save(path: Path, *shape: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros(shape or (4, 6, 3), np.uint8)).save(path)
    return path


def names(source: FolderSource, root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in source.files]


def test_every_promised_ending_in_any_case(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    wanted = ["a.png"]
    for i, kind in enumerate(("JPG", "jpeg", "jfif", "TIF", "tiff", "Webp", "bmp", "GIF")):
        wanted.append(f"{i}.{kind}")
        save(tmp_path / f"{i}.{kind}")
    assert names(FolderSource(tmp_path, split="all"), tmp_path) == sorted(wanted)


def test_links_are_followed_once(tmp_path: Path) -> None:
    """To a folder elsewhere, to one that is there already, and in circles."""
    save(tmp_path / "elsewhere" / "0.png")
    root = tmp_path / "root"
    save(root / "real" / "1.png")
    save(root / "real" / "deep" / "2.png")
    (root / "away").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(root / "real")
    (root / "real" / "up").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "one.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    found = names(FolderSource(root, split="all"), root)
    assert found == ["away/0.png", "one.png", "real/1.png", "real/deep/2.png"]
    skipped = sum((folder.skipped for folder in folders_below(root)), start=folders.Counter())
    assert skipped == {"links to folders already read": 2}
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    assert len(FolderSource(linked, split="all")) == 4


def test_one_line_says_what_was_used_and_left_out(tmp_path: Path, capsys) -> None:
    for i in range(3):
        save(tmp_path / f"{i}.png")
    save(tmp_path / "g.png", 4, 6)
    save(tmp_path / ".hidden.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "README").touch()
    (tmp_path / "circle").symlink_to(tmp_path)
    for split in ("train", "test"):
        with pytest.warns(UserWarning, match=r"broken\.png"):
            FolderSource(tmp_path, split=split, skip_bad=True)
    (line,) = capsys.readouterr().out.splitlines()
    for part in (
        *(f"images of {tmp_path}: 4 used", "4 x 6 pixels", "3 colour and 1 grey", "8 bits"),
        *("1 unusable", "1 hidden", "1 links to folders", "2 with other endings (1", "1 .txt"),
    ):
        assert part in line
    (tmp_path / "broken.png").unlink()
    save(tmp_path / "large.png", 8, 8, 3)
    FolderSource(tmp_path, image_size=4)
    assert "5 used (4 x 6 to 8 x 8 pixels" in capsys.readouterr().out
    (tmp_path / "large.png").unlink()
    read_inputs([tmp_path], (4, 6, 3), 256, ["images"])
    assert f"images of {tmp_path}: 4 used" in capsys.readouterr().out


def special(folder: Path) -> dict[str, str]:
    """Names of files that must never be opened, and what they are."""
    folder.mkdir(exist_ok=True)
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    here = os.getcwd()
    os.chdir(folder)  # names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("socket.png")
    finally:
        os.chdir(here)
    return {"pipe.png": "a named pipe", "device.png": "a device", "socket.png": "a socket"}


def test_pipes_devices_and_sockets_are_never_opened(tmp_path: Path) -> None:
    root = tmp_path / "images"
    found = special(root)
    save(root / "a.png")
    with pytest.raises(UserError) as caught:
        FolderSource(root)
    for name, kind in found.items():
        assert f"{name}: {kind}" in str(caught.value)
        with pytest.raises(UserError, match=f"{name}: {kind}"):
            read_inputs([root / name], (4, 6, 3), 256, ["images"])
    with pytest.warns(UserWarning, match="pipe"):
        assert len(FolderSource(root, skip_bad=True, split="all")) == 1
    for path in (root / "pipe.png", root / "a.png"):
        with pytest.raises(UserError, match=f"{path.name} is a .*, not a folder"):
            FolderSource(path)


def test_1500_nested_folders(tmp_path: Path) -> None:
    """Every walk: a recursive one ends in a RecursionError. Deeper than a path can be: refused."""
    here = os.getcwd()
    try:
        os.chdir(tmp_path)
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        os.chdir(tmp_path)
        save(tmp_path / Path(*["d"] * 1500) / "a.png")
        assert len(FolderSource(tmp_path, split="all")) == 1
        assert open_images(tmp_path).count == 1
        with pytest.raises(UserError, match="holds no files that end"):
            places(SOURCES["brats"], tmp_path)
        os.chdir(tmp_path / Path(*["d"] * 1500))
        for _ in range(700):
            os.mkdir("d")
            os.chdir("d")
        with pytest.raises(UserError, match=r"cannot list .*too long"):
            FolderSource(tmp_path)
    finally:
        os.chdir(here)
        remove(tmp_path)


def remove(folder: Path) -> None:
    """Also what is nested too deep for a path, and for pytest."""
    here = os.getcwd()
    os.chdir(folder)
    depth = 0
    while os.path.isdir("d"):
        os.chdir("d")
        depth += 1
    for _ in range(depth):
        if os.path.exists("a.png"):
            os.unlink("a.png")
        os.chdir("..")
        os.rmdir("d")
    os.chdir(here)


def test_long_scans_show_their_progress(tmp_path: Path, monkeypatch, capsys) -> None:
    for i in range(5):
        save(tmp_path / f"{i}.png")
    bars = []

    class Bar(folders.tqdm):
        def __init__(self, *args, **options) -> None:
            super().__init__(*args, **options | {"delay": 0})
            bars.append(self)

    monkeypatch.setattr(folders, "tqdm", Bar)
    FolderSource(tmp_path)
    assert [bar.n for bar in bars] == [5, 5] and bars[1].total == 5
    assert "checking images" in capsys.readouterr().err
    FolderSource(tmp_path)
    assert len(bars) == 3  # files that have not changed are checked once
