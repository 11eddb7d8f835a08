"""Prepared slices: levels are physical values, patients are on one side, damage is named."""

import json

import numpy as np
import pytest

from score_sde.build.data import open_source
from score_sde.build.settings import Data
from score_sde.data import PreparedSource, Source, classes, take
from score_sde.data.prepared import (
    COLUMNS,
    LEVELS,
    About,
    Volume,
    split_patients,
    write_prepared,
)
from score_sde.errors import UserError

RNG = np.random.default_rng(0)
ABOUT = About("lidc", "HU", ("head", "chest"))
PATIENTS = [f"{i:016x}" for i in range(40)]


def volume(patient: str, n: int = 3, size: int = 4, label: int = 0, low: float = -10.0) -> Volume:
    levels = RNG.integers(0, LEVELS, (n, size, size, 1), np.uint16)
    return Volume(levels, range(5, 5 + n), patient, (2.5, 0.5, np.nan), low, 20.0, label)


def written(folder, patients=PATIENTS[:5], **options) -> list[Volume]:
    given = [volume(one, **options) for one in patients]
    write_prepared(folder, iter(given), ABOUT)
    return given


def test_levels_and_units_come_back(tmp_path) -> None:
    """Volumes of different lengths; NumPy reads the array, and the source its own rows."""
    given = [volume(one, n, label=n % 2, low=-float(n)) for n, one in enumerate(PATIENTS[:5], 1)]
    write_prepared(tmp_path, iter(given), ABOUT)
    whole = np.concatenate([one.levels for one in given])
    np.testing.assert_array_equal(np.load(tmp_path / "slices.npy"), whole)
    source = PreparedSource(tmp_path, "all")
    assert isinstance(source, Source) and (len(source), source.shape) == (15, (4, 4, 1))
    assert (source.levels, source.unit, source.class_names) == (LEVELS, "HU", ("head", "chest"))
    assert classes(source) == 2 and set(source.index) == set(COLUMNS)
    assert source.index["slice"].tolist()[:3] == [5, 5, 6]
    assert source.index["volume"].tolist()[:3] == [0, 1, 1]
    assert source.index["slice_spacing"][0] == 2.5 and np.isnan(source.index["column_spacing"][0])
    example = source[14]
    np.testing.assert_array_equal(example["image"], whole[14])
    assert (example["label"], example["index"]) == (1, 14)
    wanted = -5.0 + 25.0 * whole[14] / 65535.0
    np.testing.assert_allclose(source.values(14), wanted, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(source.window(14).decode(source.values(14)), whole[14])
    rows = take(source, [14, 0])
    np.testing.assert_array_equal(rows["image"], whole[[14, 0]])
    assert rows["label"].tolist() == [1, 1] and rows["index"].dtype == np.int32


def test_no_patient_is_in_both_splits(tmp_path) -> None:
    """A patient with several volumes too; the sides together are everything."""
    given = written(tmp_path, [*PATIENTS, *PATIENTS[:7]], n=2)
    train, test = (PreparedSource(tmp_path, split) for split in ("train", "test"))
    assert not set(train.index["patient"]) & set(test.index["patient"])
    assert len(train) + len(test) == 94 and len(test) >= 2
    of = {one.patient: [] for one in given}
    for one in given:
        of[one.patient] += list(one.levels)
    for source in (train, test):
        seen = [source[i]["image"] for i in range(len(source))]
        for patient in set(source.index["patient"]):
            rows = np.flatnonzero(source.index["patient"] == patient)
            np.testing.assert_array_equal([seen[i] for i in rows], of[patient])


def test_splits_stay_when_patients_come() -> None:
    many = split_patients(f"{i}" for i in range(2000))
    assert 0.08 < list(many.values()).count("test") / 2000 < 0.12
    few = split_patients(f"{i}" for i in range(500))
    assert all(many[one] == split for one, split in few.items())
    for i in range(30):
        assert sorted(split_patients([f"{i}", f"{i + 1}"]).values()) == ["test", "train"]
    assert split_patients(["a"]) == {"a": "train"}


def test_the_command_line_opens_it(tmp_path) -> None:
    written(tmp_path)
    section = Data(source="prepared", path=str(tmp_path), levels=LEVELS, image_size=4, channels=1)
    train, test = open_source(section, train=True), open_source(section, train=False)
    assert isinstance(train, PreparedSource) and len(train) + len(test) == 15
    with pytest.raises(UserError, match=r"config\.data\.levels=65536"):
        open_source(Data(source="prepared", path=str(tmp_path)), train=True)
    with pytest.raises(UserError, match=r"shape \(4, 4, 1\)"):
        section = Data(source="prepared", path=str(tmp_path), levels=LEVELS, image_size=8)
        open_source(section, train=True)


def test_folders_that_cannot_be_used(tmp_path) -> None:
    for path, message in (
        ("", "no folder of prepared slices was given"),
        (tmp_path / "none", "is missing"),
        (tmp_path, "is not finished"),
    ):
        with pytest.raises(UserError, match=f"{message}.*--mode prepare"):
            PreparedSource(path)
    folder = tmp_path / "one"
    written(folder, PATIENTS[:1])
    with pytest.raises(UserError, match=r"split 'test' of .* is empty: the folder has 1 patient"):
        PreparedSource(folder, "test")
    with pytest.raises(UserError, match="no split 'validation'"):
        PreparedSource(folder, "validation")
    whole = (folder / "slices.npy").read_bytes()
    np.save(folder / "slices.npy", np.zeros((2, 4, 4, 1), np.uint16))
    with pytest.raises(UserError, match=r"uint16 of shape \(2, 4, 4, 1\), but the index says 3"):
        PreparedSource(folder)
    (folder / "slices.npy").write_bytes(whole[:-5])
    with pytest.raises(UserError, match="no readable array"):
        PreparedSource(folder)
    (folder / "index.parquet").write_bytes(b"no index")
    with pytest.raises(UserError, match="no readable index"):
        PreparedSource(folder)
    (folder / "prepared.json").write_text(json.dumps({"unit": "HU"}))
    with pytest.raises(UserError, match=r"prepared\.json is damaged"):
        PreparedSource(folder)


def test_nothing_is_left_where_writing_fails(tmp_path) -> None:
    def volumes(second):
        yield volume("a")
        yield second()

    with pytest.raises(UserError, match=r"slices of shape \(5, 5, 1\), those before have"):
        write_prepared(tmp_path, volumes(lambda: volume("b", size=5)), ABOUT)
    with pytest.raises(ZeroDivisionError):
        write_prepared(tmp_path, volumes(lambda: 1 // 0), ABOUT)
    with pytest.raises(UserError, match="no slices"):
        write_prepared(tmp_path, iter(()), ABOUT)
    assert not list(tmp_path.iterdir())
