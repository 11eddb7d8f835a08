"""What is recognized by its first bytes, and the help for what is no checkpoint."""

from pathlib import Path

import pytest
from convert import crafted

from score_sde.convert import read_file
from score_sde.errors import UserError


@pytest.mark.parametrize("container", ["zip", "pickle", "msgpack"])
def test_containers_are_recognized(tmp_path: Path, container: str) -> None:
    path = tmp_path / "any name"
    path.write_bytes(crafted.small_files()[container])
    found, tree = read_file(path)
    assert found == container and tree["step"] == (7 if container == "msgpack" else 70_000)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("empty", "an empty file"),
        ("web page", "a web page.*open it in a browser"),
        ("web page in capitals", "a web page"),
        ("git-lfs pointer", "git lfs pull"),
        ("text", "a text file"),
        ("gzip", "gzip; unpack it first"),
        ("tar", "tar xf"),
        ("hdf5", "an HDF5 file"),
        ("zeros", "starts with the bytes 00 00"),
        ("png", "starts with the bytes 89 50"),
    ],
)
def test_other_files(tmp_path: Path, name: str, message: str) -> None:
    path = tmp_path / "checkpoint_8.pth"
    path.write_bytes(crafted.refused_others()[name])
    with pytest.raises(UserError, match=f"checkpoint_8.pth: .*{message}"):
        read_file(path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["_METADATA", "manifest.ocdbt"], "Orbax"),
        (["config.json", "checkpoints"], "use it as --workdir"),
        (["model.index", "model.data-00000-of-00001"], "TensorFlow"),
        (["checkpoint_8.pth", "readme"], "name the file in it, say checkpoint_8.pth"),
        ([], "a folder; name the file in it$"),
    ],
)
def test_folders(tmp_path: Path, names: list[str], message: str) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=message):
        read_file(tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="checkpoint cannot be read: No such file"):
        read_file(tmp_path / "checkpoint")


def test_part_of_a_tensorflow_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.data-00000-of-00001"
    path.write_bytes(bytes(100))
    with pytest.raises(UserError, match="TensorFlow"):
        read_file(path)
