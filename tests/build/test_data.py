"""config.data: the images."""

import numpy as np
import pytest
from PIL import Image
from small import settings

from score_sde.build.data import build_pixel_range, image_shape, open_source
from score_sde.errors import UserError


def test_open_source_checks_shape_and_levels() -> None:
    assert open_source(settings("ve").data, train=True).shape == (8, 8, 1)
    assert len(open_source(settings("ve").data, train=False)) == 360
    for override, message in (
        ("data.image_size=16", r"'digits' has images of shape \(8, 8, 1\).*says \(16, 16, 1\)"),
        ("data.channels=3", r"'digits' has images of shape \(8, 8, 1\).*says \(8, 8, 3\)"),
        ("data.levels=256", r"'digits' has 17 levels.*256; set config.data.levels=17"),
        ("data.train_split=foo", r"no split 'foo'; known splits: train, test"),
        ("data.crop=4", r"config.data.crop=4 is for prepared data sets"),
        ("data.source=folder", r"config.data.path is empty.*--config.data.path=DIR"),
    ):
        with pytest.raises(UserError, match=message):
            open_source(settings("ve", override).data, train=True)


def test_pixel_ranges() -> None:
    unit, centred = (build_pixel_range(settings(name).data) for name in ("ve", "vp"))
    assert (unit.low, unit.high, unit.levels) == (0.0, 1.0, 17)
    assert (centred.low, centred.high, centred.levels) == (-1.0, 1.0, 17)


@pytest.mark.parametrize(("height", "width"), [(6, 6), (6, 4)])
def test_what_is_left_open_is_read_off_the_files(tmp_path, height: int, width: int) -> None:
    for i in range(3):
        pixels = np.full((height, width, 3), i, np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    folder = ("data.source=folder", f"data.path={tmp_path}", "data.levels=256")
    open_size = ("data.image_size=0", "data.channels=0")
    shape, section = image_shape(settings("ve", *folder, *open_size).data)
    assert shape == (height, width, 3)
    # A rectangle stays open: the files say it each time.
    assert (section.image_size, section.channels) == (height if height == width else 0, 3)
    said = settings("ve", *folder, "data.image_size=5", "data.channels=3").data
    assert image_shape(said) == ((5, 5, 3), said)
