"""--mode inpaint: what is known stays, what is hidden does not matter."""

from pathlib import Path

import numpy as np
import pytest
from commands import refused
from PIL import Image
from runs import call

from score_sde.data import digits, take


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def test_inpaint_keeps_what_is_known(langevin, tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[2:5, 1:7] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    flags = {"output": tmp_path / "out", "mask": tmp_path / "mask.png", "copies": 3}
    call("inpaint", langevin, values={"eval.num_examples": 4}, **flags)
    found = read(tmp_path / "out" / "inpaint.npz")
    images, originals, known = found["images"], found["originals"], found["known"][..., 0]
    np.testing.assert_array_equal(known, mask == 255)
    np.testing.assert_array_equal(originals, take(digits("test"), np.arange(8))["image"])
    assert images.shape == (8, 3, 8, 8, 1) and found["step"] == 4
    np.testing.assert_array_equal(
        images[:, :, known], np.broadcast_to(originals[:, None, known], images[:, :, known].shape)
    )
    unknown = images[:, :, ~known]
    assert (unknown[:, 0] != unknown[:, 1]).any() and (unknown != originals[:, None, ~known]).any()
    assert (tmp_path / "out" / "grid.png").exists()


def test_inpaint_depends_neither_on_the_batch_nor_on_what_is_hidden(langevin, tmp_path):
    given, images = take(digits("test"), np.arange(8))["image"], []
    for size in (8, 16):
        np.savez(tmp_path / "given.npz", images=given)
        flags = {"input": tmp_path / "given.npz", "output": tmp_path / str(size)}
        values = {"sampling.batch_size": size}
        call("inpaint", langevin, mask="top", copies=2, values=values, **flags)
        images.append(read(tmp_path / f"{size}" / "inpaint.npz")["images"].astype(int))
        given[:, 4:] = 16 - given[:, 4:]
    assert np.abs(images[0] - images[1]).max() <= 1  # rounding to levels
    assert (images[0] != images[1]).mean() < 0.01


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"mask": "middle"}, "middle is no file.* left, right, top, bottom"),
        ({"mask": "tests"}, "--mask tests is no file"),
        ({"copies": 0}, "--copies .* at least 1; got 0"),
        ({"values": {"sampling.grid": "uniform"}}, "needs config.sampling.grid=levels"),
    ],
)
def test_refusals(langevin, flags, message):
    refused(message, "inpaint", langevin, **flags)


def test_masks_that_say_nothing(langevin, tmp_path):
    for value, word in ((255, "everything"), (0, "nothing")):
        Image.fromarray(np.full((8, 8), value, np.uint8)).save(tmp_path / "m.png")
        message = f"says that {word} is known"
        refused(message, "inpaint", langevin, mask=tmp_path / "m.png")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "m.png")
    message = r"m.png: 8 x 9 pixels, not 8 x 8"
    refused(message, "inpaint", langevin, mask=tmp_path / "m.png")
