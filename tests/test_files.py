"""Files are written whole or not at all."""

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from score_sde import files
from score_sde.convert import read_file
from score_sde.data.image_sets import open_images
from score_sde.data.inputs import read_inputs, read_mask
from score_sde.data.scans import read_nifti
from score_sde.data.tables import read_table
from score_sde.errors import UserError
from score_sde.exchange.find import read_json
from score_sde.files import npz_names, read_npz, write_bytes, write_json, write_npz, writing
from score_sde.metrics.statistics import load_statistics
from score_sde.metrics.weights import sha256


def test_a_file_comes_back(tmp_path) -> None:
    path = tmp_path / "new" / "a.npz"
    write_npz(path, {"x": np.arange(3), "y": np.asarray("words")})
    assert npz_names(path) == ["x", "y"]
    assert read_npz(path)["x"].tolist() == [0, 1, 2] and str(read_npz(path)["y"]) == "words"
    assert list(read_npz(path, ["y", "z"])) == ["y"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / "a.npz"
    write_npz(path, {"x": np.arange(3)})

    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.np, "savez", full)
    monkeypatch.setattr(files.np, "savez_compressed", full)
    for compress in (True, False):
        with pytest.raises(OSError, match="No space left"):
            write_npz(path, {"x": np.zeros(9)}, compress)
    message = r"cannot write to .*a.npz \(No space left on device\); look elsewhere"
    with pytest.raises(UserError, match=message), writing(path, "look elsewhere"):
        write_npz(path, {"x": np.zeros(9)})
    monkeypatch.undo()
    assert read_npz(path)["x"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_bytes_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "new" / "a"
    write_bytes(path, b"old")

    def disk_full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:1])
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="no space"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert len(list(path.parent.iterdir())) == 1


def test_what_is_not_known_is_null_in_json(tmp_path: Path) -> None:
    write_json(
        tmp_path / "a.json",
        {"x": float("nan"), "more": {"y": float("nan"), "z": 1.5}, "l": [float("nan"), 2]},
    )
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "x": None,
        "more": {"y": None, "z": 1.5},
        "l": [None, 2],
    }
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("inf")})


def test_a_single_array_is_none(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"no readable npz file: .*one array without a name"):
        read_npz(tmp_path / "a.npz")


def lying(path: Path, header: dict, data: bytes, method: int = zipfile.ZIP_STORED) -> Path:
    """An npz file whose one array says `header` of itself."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, header)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("images.npy", stream.getvalue() + data)
    return path


@pytest.mark.parametrize("shape", [(2**40,), (2**62, 2**62), (3,), (-1, 8), (0, 2**62)])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_shapes_that_lie_are_refused_before_memory_is_taken(tmp_path, shape, method) -> None:
    header = {"descr": "<f8", "fortran_order": False, "shape": shape}
    path = lying(tmp_path / "a.npz", header, bytes(64), method)
    for read in (read_npz, open_images):
        with pytest.raises(UserError, match=r"a\.npz is no readable npz file: .*images"):
            read(path)


def test_a_bomb_of_3_gb_is_refused_unread(tmp_path, monkeypatch) -> None:
    """3 MB that say 3 GB, as zipfile would unpack them."""
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, images=np.zeros((1, 1000, 1000, 3), np.uint8))
    infolist = zipfile.ZipFile.infolist

    def promised(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        entries = infolist(archive)
        for entry in entries:
            entry.file_size *= 1000
        return entries

    monkeypatch.setattr(zipfile.ZipFile, "infolist", promised)
    for read in (read_npz, open_images, load_statistics):
        with pytest.raises(UserError, match=r"bomb\.npz .*unpack to 3,000,128,000"):
            read(path)


def test_what_is_no_file_is_never_opened(tmp_path) -> None:
    """A pipe without a writer would wait for ever."""
    pipe = tmp_path / "a.npz"
    os.mkfifo(pipe)
    readers = [read_npz, open_images, load_statistics, read_file, sha256, read_json, read_table]
    readers += [lambda path: read_inputs([path], (4, 4, 1), 256, ["images"]), read_nifti]
    readers += [lambda path: read_mask(str(path), (4, 4, 1))]
    for read in readers:
        with pytest.raises(UserError, match=r"a\.npz.*a named pipe"):
            read(pipe)
    (tmp_path / "b.npz").symlink_to("/dev/zero")
    for read in readers:
        with pytest.raises(UserError, match=r"b\.npz.*a device"):
            read(tmp_path / "b.npz")
    for name in ("a" * 300, "a" * 300 + ".npz", "a\0b.npz"):
        for read in readers:
            with pytest.raises(UserError, match=r"aaaa|a.b"):
                read(tmp_path / name)
