"""--mode sample: what it writes, of which checkpoint, and what it refuses."""

from pathlib import Path

import numpy as np
from commands import refused
from PIL import Image
from runs import call

from score_sde.data.inputs import read_inputs
from score_sde.workdir.drawing import _for_files


def drawn(workdir: Path, step: int) -> dict[str, np.ndarray]:
    with np.load(workdir / "samples" / f"step_{step}" / "samples.npz") as file:
        return dict(file)


def test_sample_writes_all_samples_of_any_checkpoint(trained: Path, capsys) -> None:
    """7 samples; a sample does not depend on the batch it is drawn in."""
    call("sample", trained, values={"sampling.num_samples": 19, "sampling.batch_size": 8})
    folder = trained / "samples" / "step_60"
    out = capsys.readouterr().out
    assert f"19 samples of checkpoint 60 (5 evaluations each): {folder}" in out
    found = drawn(trained, 60)
    many, levels = found["images"], found["levels"]
    assert many.shape == (19, 8, 8, 1) and many.dtype == np.uint8 and levels == 17
    assert many.max() <= 16 and len(np.unique(many)) > 5
    assert len({image.tobytes() for image in many}) == 19
    assert Image.open(folder / "grid.png").size > (8, 8)
    assert Image.open(folder / "reverse_diffusion.gif").n_frames >= 3
    assert not (folder / "images").exists()
    call("sample", trained, values={"sampling.files": "png"})
    images = drawn(trained, 60)["images"]
    assert images.shape == (7, 8, 8, 1)
    single = read_inputs([folder / "images"], (8, 8, 1), 17, ["images"])[0]
    np.testing.assert_array_equal(single.values, images)
    call("sample", trained)  # files of other samples do not stay
    assert not list((folder / "images").iterdir())
    np.testing.assert_array_equal(drawn(trained, 60)["images"], images)
    for levels, channels, top in ((256, 3, 255), (17, 1, 255), (4096, 1, 65535), (4096, 3, 255)):
        found = _for_files(np.full((1, 2, 2, channels), levels - 1), levels)
        assert found.dtype == (np.uint16 if top > 255 else np.uint8) and (found == top).all()
    assert np.abs(images.astype(int) - many[:7]).max() <= 1
    call("sample", trained, checkpoint="20")
    found = drawn(trained, 20)
    assert found["step"] == 20 and found["images"].shape == images.shape
    assert not np.array_equal(found["images"], images)


def test_modes_after_train_refuse_another_recipe(trained: Path) -> None:
    message = "is a run of vp_ddpmpp_cont_digits, not of ve_ncsnpp_cont_digits"
    refused(message, "sample", trained, "configs/ve/ncsnpp_cont.py:digits")
    refused("model.nf", "sample", trained, values={"model.nf": 16})


def test_missing_run_or_checkpoint(trained: Path, tmp_path: Path) -> None:
    refused("name a configuration with --config", "sample")
    refused("holds no config.json", "sample", tmp_path)
    refused(r"no checkpoint 31 in .*there are \[10, 20, .*60\]", "eval", trained, checkpoint="31")
    (tmp_path / "config.json").write_bytes((trained / "config.json").read_bytes())
    refused("no checkpoint in .*train first", "sample", tmp_path)
    refused("no checkpoint in .*train first", "report", tmp_path)
    refused("means nothing to --mode train", "train", tmp_path, checkpoint="3")
