"""Samples that are kept: in any order, in batches of any size, whole or not at all."""

import errno
from pathlib import Path

import numpy as np
import pytest

from score_sde.errors import UserError
from score_sde.workdir.store import RowStore, SampleStore


def images(number: int, levels: int = 17) -> np.ndarray:
    return np.random.default_rng(0).integers(0, levels, (number, 2, 2, 1)).astype(np.uint8)


def test_store_gives_back_what_was_written_in_any_order(tmp_path: Path) -> None:
    """And it says what is missing."""
    store, whole = SampleStore(tmp_path, {"seed": 1}, 17), images(30)
    assert store.missing(30).tolist() == list(range(30))
    store.write(np.arange(8), whole[:8])
    store.write(np.asarray([12, 13, 15]), whole[[12, 13, 15]])
    assert [path.name for path in sorted(tmp_path.glob("*.npz"))] == [
        "samples_0000000_0000008.npz",
        "samples_0000012_0000014.npz",
        "samples_0000015_0000016.npz",
    ]
    again = SampleStore(tmp_path, {"seed": 1}, 17)
    assert again.missing(17).tolist() == [8, 9, 10, 11, 14, 16]
    numbers = np.asarray([15, 3, 3, 13, 0])
    wanted = np.rint(whole[numbers] * (255 / 16)).astype(np.uint8)
    np.testing.assert_array_equal(again.read(numbers), wanted)
    with np.load(tmp_path / "samples_0000012_0000014.npz") as file:
        np.testing.assert_array_equal(file["images"], whole[12:14])  # levels, for other programs
        assert file["levels"] == 17


def test_pieces_that_overlap_are_read_once(tmp_path: Path) -> None:
    """Two runs that drew the same numbers at once leave both files."""
    store, whole = SampleStore(tmp_path, {}, 256), images(6, 256)
    store.write(np.arange(4), whole[:4])
    store.write(np.arange(2, 6), whole[2:])
    assert not len(store.missing(6)) and store.missing(7).tolist() == [6]
    np.testing.assert_array_equal(store.read(np.arange(6)), whole)


def test_nothing_is_made_before_the_first_samples(tmp_path: Path) -> None:
    folder = tmp_path / "eval" / "seed_1"
    store = SampleStore(folder, {"seed": 1}, 17)
    assert store.missing(2).tolist() == [0, 1] and not (tmp_path / "eval").exists()
    store.write(np.asarray([1]), images(1))
    assert sorted(path.name for path in folder.iterdir()) == [
        "samples_0000001_0000002.npz",
        "settings.json",
    ]


def test_store_refuses_other_settings_damage_and_gaps(tmp_path: Path) -> None:
    settings = {"seed": 1, "step": 10}
    SampleStore(tmp_path, settings, 17).write(np.arange(4), images(4))
    with pytest.raises(UserError, match=r"other settings \(seed: 1 there, 2 here\)"):
        SampleStore(tmp_path, settings | {"seed": 2}, 17)
    store = SampleStore(tmp_path, settings, 17)
    with pytest.raises(UserError, match=r"lacks samples \[4\]"):
        store.read(np.arange(5))
    path = tmp_path / "samples_0000000_0000004.npz"
    whole, damaged = path.read_bytes(), r"is damaged .*Remove it; .* draws its samples again"
    path.write_bytes(whole[:-40])
    with pytest.raises(UserError, match=damaged):
        SampleStore(tmp_path, settings, 17).read(np.arange(2))
    path.unlink()
    (tmp_path / "samples_0000000_0000009.npz").write_bytes(whole)  # its name says nine images
    with pytest.raises(UserError, match=rf"{damaged}"):
        SampleStore(tmp_path, settings, 17).read(np.arange(2))


def test_a_full_disk_leaves_no_half_written_samples(tmp_path: Path, monkeypatch) -> None:
    """The error of the system comes through: who calls knows what to do about it."""
    store = SampleStore(tmp_path, {}, 17)
    store.write(np.arange(2), images(2))

    def full(file, **arrays):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match="No space left"):
        store.write(np.arange(2, 4), images(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "samples_0000000_0000002.npz",
        "settings.json",
    ]
    assert store.missing(4).tolist() == [2, 3]


def test_rows_are_kept_one_by_one(tmp_path: Path) -> None:
    """What is there is not missing; a damaged row, or another way of making it, is named."""
    store, numbers = RowStore(tmp_path / "rows", {"seed": 1}), np.arange(4)
    assert store.missing(numbers).tolist() == [0, 1, 2, 3]
    for number in (2, 0):
        store.write(number, {"a": np.full(3, number), "b": 1.5})
    assert store.missing(numbers).tolist() == [1, 3]
    found = RowStore(tmp_path / "rows", {"seed": 1}).read(2)
    assert found["a"].tolist() == [2, 2, 2] and found["b"] == 1.5
    with pytest.raises(UserError, match=r"other settings.*seed: 1 there, 2 here"):
        RowStore(tmp_path / "rows", {"seed": 2})
    (tmp_path / "rows" / "row_0000002.npz").write_bytes(b"PK and nothing")
    for number in (1, 2):
        with pytest.raises(UserError, match=rf"row_000000{number}.npz.*the same command makes it"):
            store.read(number)
