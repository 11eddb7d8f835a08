"""Folders of images: trained on and sampled; what is missing or damaged is named."""

from pathlib import Path

import numpy as np
import pytest
from commands import SMALL, refused, train_here
from PIL import Image
from runs import call

FOLDER = "configs/ve/ncsnpp_cont.py:folder"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "images"
    path.mkdir()
    generator = np.random.default_rng(0)
    for i in range(20):
        Image.fromarray(generator.integers(0, 256, (16, 16, 3), np.uint8)).save(path / f"{i}.png")
    return path


def test_folder_of_images_trains_and_samples(folder: Path, tmp_path: Path, capsys) -> None:
    workdir = tmp_path / "run"
    values = {
        "data.path": folder,
        "training.steps": 2,
        "training.sample_every": 0,
        "training.eval_every": 0,
    }
    train_here(workdir, values | {"eval.batch_size": 16}, FOLDER)
    assert "trained for 2 steps" in capsys.readouterr().out
    call("sample", workdir)
    with np.load(workdir / "samples" / "step_2" / "samples.npz") as file:
        assert file["images"].shape == (7, 16, 16, 3) and file["levels"] == 256


def test_unusable_images_are_named(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_bytes((folder / "1.png").read_bytes()[:60])
    (folder / "empty.jpg").write_bytes(b"")
    Image.new("RGB", (20, 16)).save(folder / "large.png")
    values = SMALL | {"data.path": folder, "training.steps": 1}
    for name in ("broken.png", "empty.jpg", "large.png"):
        message = rf"(?s){name}.*skip_bad"
        refused(message, "train", tmp_path / "none", FOLDER, values=values)
    assert not (tmp_path / "none").exists()
    with pytest.warns(UserWarning, match="broken.png"):
        call("dry_run", config=FOLDER, values=values | {"data.skip_bad": True})


def test_folder_that_is_missing_or_empty(tmp_path: Path) -> None:
    message = "config.data.path is empty; name your image folder: --config.data.path=DIR"
    refused(message, "train", config=FOLDER)
    for path, message in ((tmp_path / "none", "does not exist"), (tmp_path, "holds no images")):
        refused(message, "train", config=FOLDER, values={"data.path": path})
