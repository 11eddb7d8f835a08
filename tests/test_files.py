"""Files are written whole or not at all."""

import numpy as np
import pytest

from score_sde import files
from score_sde.errors import UserError
from score_sde.files import npz_names, read_npz, write_npz


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
    with pytest.raises(UserError, match=r"cannot write .*a.npz \(No space left on device\)"):
        write_npz(path, {"x": np.zeros(9)})
    monkeypatch.undo()
    assert read_npz(path)["x"].tolist() == [0, 1, 2]
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_single_array_is_none(tmp_path) -> None:
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"no readable npz file: .*one array without a name"):
        read_npz(tmp_path / "a.npz")
