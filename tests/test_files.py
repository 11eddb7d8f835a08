"""Files are written whole or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest

from score_sde import files
from score_sde.errors import UserError
from score_sde.files import npz_names, read_npz, write_bytes, write_json, write_npz, writing


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
