"""Prepared TensorFlow Datasets folders as sources."""

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.data.sources import NO_NETWORK, Example, Shape, stack
from score_sde.errors import UserError


class TFDSSource:
    """A prepared TensorFlow Datasets folder in array_record format, read without TensorFlow.

    Args:
        name: "mnist", "lsun/church_outdoor", or with a version: "mnist:3.0.1" (otherwise the newest
            one found).
        split: any TFDS split: "train", "test", "train[:90%]", "train+test".
        data_dir: folder of prepared data sets; default: the environment variable TFDS_DATA_DIR,
            then ~/tensorflow_datasets.
        image_key: which feature is the image. The feature "label" is the label where it is a single
            integer.

    Images are decoded at each access (a few thousand small PNG a second): see `in_memory`.

    Raises:
        UserError: no prepared folder (never tries to download), another file format, unknown split
            or feature, or images that are not 8-bit.
    """

    levels = 256

    def __init__(
        self,
        name: str,
        split: str,
        data_dir: str | os.PathLike | None = None,
        image_key: str = "image",
    ) -> None:
        import tensorflow_datasets as tfds

        builder = tfds.builder_from_directory(_prepared_folder(name, data_dir))
        features = builder.info.features
        if image_key not in features:
            raise UserError(
                f"data set {name!r} has no feature {image_key!r}; its features are "
                f"{', '.join(sorted(features))}"
            )
        if features[image_key].np_dtype != np.uint8 or len(features[image_key].shape) != 3:
            raise UserError(
                f"feature {image_key!r} of data set {name!r} is {features[image_key]}, not an "
                f"8-bit image; its features are {features}"
            )
        try:
            files = builder.info.splits[split].filepaths
            self._records = builder.as_data_source(split=split)
        except (ValueError, KeyError) as error:
            known = ", ".join(sorted(builder.info.splits))
            raise UserError(
                f"data set {name!r} has no split {split!r}. Known splits: {known}; "
                "parts are written like 'train[:90%]'"
            ) from error
        missing = [os.fspath(file) for file in files if not file.exists()]
        if missing:
            raise UserError(
                f"{len(missing)} of {len(files)} record files of data set {name!r} are missing, "
                f"the first is {missing[0]}. Copy the whole prepared folder again"
            )
        self._has_label = "label" in features and _is_integer(features["label"])
        self.classes = getattr(features["label"], "num_classes", 0) if self._has_label else 0
        self._image_key = image_key
        shape = tuple(features[image_key].shape)
        self.shape: Shape | None = None if None in shape else shape  # type: ignore[assignment]
        self.name = name

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> Example:
        return self._example(self._records[i], i)

    def take(self, indices: Sequence[int] | np.ndarray) -> Example:
        """Stacked examples; many records at once are several times faster than one by one."""
        rows = [int(i) for i in indices]
        return stack(
            [
                self._example(r, i)
                for r, i in zip(self._records.__getitems__(rows), rows, strict=True)
            ]
        )

    def _example(self, record: dict[str, Any], i: int) -> Example:
        label = np.int32(record["label"] if self._has_label else 0)
        return {"image": record[self._image_key], "label": label, "index": np.int32(i)}


def _prepared_folder(name: str, data_dir: str | os.PathLike | None) -> str:
    """The folder DATA_DIR/NAME[/CONFIG]/VERSION.

    It is found by looking only: TFDS itself may go to the network.
    """
    if data_dir is None:
        data_dir = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    title, _, version = name.partition(":")
    root = Path(data_dir).expanduser().absolute()
    infos = [
        i
        for i in (root / title).glob(f"{version or '*'}/dataset_info.json")
        if _version(i.parent.name)
    ]
    if not infos:
        configs = sorted(
            {i.parent.parent.name for i in (root / title).glob("*/*/dataset_info.json")}
        )
        there = sorted(
            {
                i.parent.parent.relative_to(root).as_posix()
                for i in root.glob("*/*/dataset_info.json")
            }
        )
        raise UserError(
            f"data set {name!r} is not prepared: looked for "
            f"{root / title / (version or '*')}/dataset_info.json. "
            + (
                f"Its configurations there: {', '.join(f'{title}/{c}' for c in configs)}. "
                if configs
                else ""
            )
            + (f"Data sets there: {', '.join(there)}. " if there else "")
            + "Prepare it once on a machine with a network and TensorFlow (`pip install tensorflow "
            f"tensorflow-datasets`, then `tfds build {name} --file_format=array_record "
            "--data_dir=DIR`), copy DIR here and pass --config.data.path=DIR or set "
            f"TFDS_DATA_DIR=DIR. {NO_NETWORK}"
        )
    info = max(infos, key=lambda i: _version(i.parent.name) or (0,))
    file_format = json.loads(info.read_text()).get("fileFormat", "tfrecord")
    if file_format != "array_record":
        raise UserError(
            f"data set {name!r} in {info.parent} is stored as {file_format}, which has no random "
            f"access. Prepare it again on a machine with TensorFlow: `tfds build {name} "
            "--file_format=array_record --data_dir=DIR`"
        )
    return str(info.parent)


def _is_integer(feature: Any) -> bool:
    return feature.shape == () and np.issubdtype(feature.np_dtype, np.integer)


def _version(text: str) -> tuple[int, ...] | None:
    return tuple(map(int, text.split("."))) if re.fullmatch(r"\d+\.\d+\.\d+", text) else None
