"""Folders of prepared slices: a memory-mapped array of levels, and an index that says their units.

    slices.npy      (n, height, width, channels), uint16: levels 0 .. 65535
    index.parquet   a row for each slice, with the columns of `COLUMNS`
    prepared.json   source, unit and names of the labels; written last

A level k of slice i is low_i + (high_i - low_i) k / 65535 in physical units. Patients are told
apart by hashes, and all slices of a patient are in one split.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt16

from score_sde.data.pixels import PixelRange
from score_sde.data.scans import Spacing
from score_sde.data.sources import Example, Shape, check_split
from score_sde.errors import UserError
from score_sde.files import kind_of, write_json, write_whole

LEVELS = 65_536
HELD_OUT = 0.1
"""Share of the patients, not of their slices."""
COLUMNS = (
    *("patient", "volume", "slice", "slice_spacing", "row_spacing", "column_spacing"),
    *("low", "high", "label", "split"),
)
"""Of the index: patient's hash, number of the volume in the folder, number of the slice in it,
millimetres, the values of the lowest and the highest level, the label, train or test."""
ADVICE = "Make it with --mode prepare, and name it with --config.data.path=DIR"


class Volume(NamedTuple):
    """Slices of one scan on their way into a folder.

    levels: (n, height, width, channels). numbers: which slices of the scan they are. low, high:
    values of the lowest and the highest level. label: which of the names.
    """

    levels: UInt16[np.ndarray, "n h w c"]
    numbers: Sequence[int]
    patient: str
    spacing: Spacing
    low: float
    high: float
    label: int = 0


class About(NamedTuple):
    """What a whole folder says: name of the source, unit of the values, names of the labels."""

    source: str
    unit: str
    labels: tuple[str, ...] = ()


def write_prepared(folder: Path, volumes: Iterable[Volume], about: About) -> dict[str, list[Any]]:
    """Write a folder; returns the columns of its index.

    One volume is in memory at a time. Nothing that looks finished is there before the end.

    Raises:
        UserError: no slices, or volumes of different sizes.
    """
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}

    def write(path: Path) -> None:
        with path.open("wb") as file:
            size: tuple[int, ...] = ()
            for number, volume in enumerate(volumes):
                if not size:
                    size = volume.levels.shape[1:]
                    _write_header(file, (0, *size))
                if volume.levels.shape[1:] != size:
                    raise UserError(
                        f"volume {number} has slices of shape {volume.levels.shape[1:]}, those "
                        f"before have {size}; prepare them into folders of their own"
                    )
                file.write(np.ascontiguousarray(volume.levels, "<u2").data)
                _append(columns, volume, number)
            if not columns["patient"]:
                raise UserError("no slices were found that can be used; see the lines above")
            file.seek(0)
            _write_header(file, (len(columns["patient"]), *size))

    write_whole(folder / "slices.npy", write)
    splits = split_patients(columns["patient"])
    columns["split"] = [splits[patient] for patient in columns["patient"]]
    _write_index(folder / "index.parquet", columns)
    document = {**about._asdict(), "levels": LEVELS, "slices": len(columns["split"])}
    write_json(folder / "prepared.json", document)
    return columns


def split_patients(patients: Iterable[str]) -> dict[str, str]:
    """patient -> "train" or "test".

    A tenth of the patients is held out, by their hashes alone: more patients do not move the
    others. Of two patients or more at least one is on each side.
    """
    places = {
        one: int(hashlib.sha256(one.encode()).hexdigest()[:12], 16) / 16**12
        for one in set(patients)
    }
    test = {one for one, place in places.items() if place < HELD_OUT}
    if len(places) >= 2:
        test |= {min(places, key=places.__getitem__)}
    if len(test) == len(places):
        test -= {max(places, key=places.__getitem__)}
    return {one: "test" if one in test else "train" for one in places}


class PreparedSource:
    """Slices that --mode prepare has written, read from disk as they are asked for.

    Args:
        path: the folder.
        split: "train", "test", or "all".

    Attributes:
        index: the columns of `COLUMNS` for the slices of this split, in order.
        unit: of the values, "HU" or "arbitrary".
        class_names: names of the labels; empty where there are none.

    Raises:
        UserError: no finished folder of prepared slices, files that do not fit each other, an
            empty split.
    """

    levels = LEVELS

    def __init__(self, path: str | os.PathLike, split: str = "train") -> None:
        check_split(split, ("train", "test", "all"), "folder of prepared slices")
        root = _folder(path)
        about, index = _read_about(root), _read_index(root / "index.parquet")
        self._slices = _read_slices(root / "slices.npy", len(index["split"]))
        rows = np.arange(len(self._slices))
        self._rows = rows if split == "all" else rows[index["split"] == split]
        if not len(self._rows):
            patients = len(set(index["patient"].tolist()))
            raise UserError(
                f"split {split!r} of {root} is empty: the folder has {patients} patient(s), and "
                "none is in both splits. Prepare more patients, or set config.data.test_split"
            )
        self.index = {name: column[self._rows] for name, column in index.items()}
        self.unit: str = about["unit"]
        self.class_names = tuple(about["labels"])
        self.classes = len(self.class_names)
        self.shape: Shape | None = tuple(self._slices.shape[1:])  # type: ignore[assignment]
        self.name = root.name or "prepared"

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> Example:
        image, label = np.array(self._slices[self._rows[i]]), np.int32(self.index["label"][i])
        return {"image": image, "label": label, "index": np.int32(i)}

    def take(self, indices: Sequence[int] | np.ndarray) -> Example:
        """Stacked examples by one gather."""
        index = np.asarray(indices, np.int32)
        labels = self.index["label"][index].astype(np.int32)
        return {"image": self._slices[self._rows[index]], "label": labels, "index": index}

    def window(self, i: int) -> PixelRange:
        """The map between the levels of slice i and its physical values, low .. high."""
        return PixelRange(LEVELS, float(self.index["low"][i]), float(self.index["high"][i]))

    def values(self, i: int) -> Float[np.ndarray, "h w c"]:
        """Slice i in physical units: low + (high - low) k / 65535, float64."""
        return np.asarray(self.window(i).encode(self[i]["image"], np.float64))


def _write_header(file: Any, shape: tuple[int, ...]) -> None:
    """Of an npy file. NumPy leaves room for a first axis of any length, so it can be replaced."""
    description = {"descr": "<u2", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)


def _append(columns: dict[str, list[Any]], volume: Volume, number: int) -> None:
    for each in volume.numbers:
        row = (volume.patient, number, int(each), *volume.spacing, volume.low, volume.high)
        for name, value in zip(COLUMNS, (*row, volume.label)):
            columns[name].append(value)


def _write_index(path: Path, columns: dict[str, list[Any]]) -> None:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(columns)
    write_whole(path, lambda temporary: pyarrow.parquet.write_table(table, temporary))


def _folder(path: str | os.PathLike) -> Path:
    if not os.fspath(path):
        raise UserError(f"no folder of prepared slices was given. {ADVICE}")
    root = Path(path).expanduser().absolute()
    if not (root / "prepared.json").is_file():
        what = "is not finished, or no folder of prepared slices" if root.is_dir() else "is missing"
        raise UserError(f"{root} {what}: there is no prepared.json in it. {ADVICE}")
    return root


def _read_about(root: Path) -> dict[str, Any]:
    try:
        about = json.loads((root / "prepared.json").read_text())
        return {"unit": str(about["unit"]), "labels": [str(name) for name in about["labels"]]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{root / 'prepared.json'} is damaged ({error!r}). Copy the folder again, or prepare "
            "it anew"
        ) from error


def _read_index(path: Path) -> dict[str, np.ndarray]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path, columns=list(COLUMNS))
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path} is no readable index of prepared slices ({error}). Copy the folder again, or "
            "prepare it anew"
        ) from error
    if missing := set(COLUMNS) - set(table.column_names):
        raise UserError(
            f"{path} has no column {', '.join(sorted(missing))}; prepare the folder anew"
        )
    return {name: np.asarray(table[name].to_pylist()) for name in COLUMNS}


def _read_slices(path: Path, count: int) -> np.ndarray:
    try:
        if kind := kind_of(path):
            raise ValueError(f"it is {kind}")
        slices = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{path} is no readable array: missing, damaged or cut off ({error}). Copy the folder "
            "again, or prepare it anew"
        ) from error
    if slices.ndim != 4 or slices.dtype != np.uint16 or len(slices) != count:
        raise UserError(
            f"{path} holds {slices.dtype} of shape {slices.shape}, but the index says {count} "
            "slices (n, height, width, channels) of uint16. The files are not of one folder; "
            "prepare it anew"
        )
    return slices
