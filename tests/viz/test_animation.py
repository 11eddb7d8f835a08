"""The GIF, decoded again: frames, times and colours."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from score_sde.viz.animation import HOLD_MS, save_animation
from score_sde.viz.grid import BACKGROUND, image_grid


def decode(path: Path) -> tuple[np.ndarray, list[int], int]:
    with Image.open(path) as image:
        frames, durations = [], []
        for frame in ImageSequence.Iterator(image):
            durations.append(frame.info["duration"])
            frames.append(np.asarray(frame.convert("RGB")))
        return np.stack(frames), durations, image.info["loop"]


def test_grey_frames_times_and_values(tmp_path: Path) -> None:
    frames = np.random.default_rng(0).random((6, 5, 4, 3, 1)).astype(np.float32)
    save_animation(tmp_path / "a.gif", frames, fps=10, columns=3, scale=2)
    decoded, durations, loop = decode(tmp_path / "a.gif")
    assert durations == [100] * 5 + [HOLD_MS]
    assert loop == 0
    expected = np.stack([image_grid(frame, columns=3, scale=2) for frame in frames])
    assert decoded.shape == expected.shape
    assert np.abs(decoded.astype(int) - expected).max() <= 1
    assert (decoded[:, :2] == BACKGROUND).all()


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_stay_pure(tmp_path: Path, level: float) -> None:
    save_animation(tmp_path / "a.gif", np.full((1, 1, 2, 2, 1), level), scale=1)
    decoded, durations, _ = decode(tmp_path / "a.gif")
    assert (decoded[0, 1:3, 1:3] == round(255 * level)).all()
    assert durations == [HOLD_MS]


def test_color_frames_of_few_colors(tmp_path: Path) -> None:
    colors = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 0, 0], [1, 1, 1]], np.float32
    )
    choice = np.random.default_rng(1).integers(0, len(colors), (5, 4, 8, 8))
    frames = colors[choice]
    save_animation(tmp_path / "a.gif", frames, scale=2)
    decoded, durations, _ = decode(tmp_path / "a.gif")
    assert len(durations) == 5
    expected = np.stack([image_grid(frame, scale=2) for frame in frames])
    np.testing.assert_array_equal(decoded, expected)


def test_color_frames_keep_smooth_colors(tmp_path: Path) -> None:
    # The sides of the cube of colours that 254 places must cover: noise first, a smooth picture
    # last.
    rng = np.random.default_rng(2)
    ramp = np.linspace(0, 1, 16)
    clean = np.stack(
        np.broadcast_arrays(ramp[:, None], ramp[None, :], 0.5 * ramp[:, None]), axis=-1
    )[None]
    frames = np.stack(
        [rng.random((1, 16, 16, 3)), 0.5 * rng.random((1, 16, 16, 3)) + 0.5 * clean, clean]
    )
    save_animation(tmp_path / "a.gif", frames, scale=1)
    decoded, _, _ = decode(tmp_path / "a.gif")
    error = np.abs(decoded[-1].astype(int) - image_grid(frames[-1], scale=1))
    assert error.mean() < 6
    assert error.max() < 40


def test_size_of_a_run_on_digits(tmp_path: Path) -> None:
    frames = np.random.default_rng(3).random((40, 36, 8, 8, 1))  # noise throughout: the worst case
    save_animation(tmp_path / "a.gif", frames)
    assert (tmp_path / "a.gif").stat().st_size < 2_000_000
    with Image.open(tmp_path / "a.gif") as image:
        assert image.size == (440, 440)  # 55 pixels, 8 times


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 1\)"):
        save_animation(tmp_path / "a.gif", np.zeros((2, 4, 4, 1)))
    with pytest.raises(ValueError, match="fps"):
        save_animation(tmp_path / "a.gif", np.zeros((2, 1, 4, 4, 1)), fps=0)
    with pytest.raises(ValueError, match="1 of 32"):
        frames = np.zeros((2, 1, 4, 4, 1))
        frames[1, 0, 0, 0] = np.nan
        save_animation(tmp_path / "a.gif", frames)
    assert not list(tmp_path.iterdir())
