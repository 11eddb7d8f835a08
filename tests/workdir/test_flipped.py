"""A flipped bit in what results are kept in is told, or changes nothing: never other numbers."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from score_sde.errors import UserError
from score_sde.training.log import MetricsLog
from score_sde.viz.curves import read_metrics
from score_sde.workdir.documents import read_document, write_document
from score_sde.workdir.parquet import read_table, write_table
from score_sde.workdir.rows import Pieces
from score_sde.workdir.store import RowStore, SampleStore

RANDOM = np.random.default_rng(0)
BITS = {
    "index": np.arange(40),
    "pass": np.zeros(40, np.int64),
    "bits_per_dim": RANDOM.normal(3, 1, 40),
    "logp": RANDOM.normal(-99, 1, 40).astype(np.float32),
    "success": np.ones(40, bool),
}
IMAGES = RANDOM.integers(0, 17, (4, 8, 8, 1)).astype(np.uint8)


def rows(folder: Path) -> Callable[[], Any]:
    Pieces(folder, {"rtol": 1e-5}).write(BITS)
    return lambda: Pieces(folder, {"rtol": 1e-5}).read()


def compared(folder: Path) -> Callable[[], Any]:
    path = folder / "metrics.parquet"
    write_table(path, {"name": ["a.png", "b.png", None], "psnr": [20.5, 21.0, 3.0]})
    return lambda: read_table(path, "Remove it.").to_pydict()


def samples(folder: Path) -> Callable[[], Any]:
    SampleStore(folder, {}, 17).write(np.arange(4), IMAGES)
    return lambda: SampleStore(folder, {}, 17).read(np.arange(4))


def reconstructed(folder: Path) -> Callable[[], Any]:
    RowStore(folder, {}).write(2, {"samples": IMAGES / np.float32(17), "nfe": np.arange(4)})
    return lambda: RowStore(folder, {}).read(2)


def metrics(folder: Path) -> Callable[[], Any]:
    log = MetricsLog(folder, 1, 9)
    log.steps(0, {"loss": RANDOM.normal(size=6), "grad_norm": RANDOM.normal(size=6)})
    log.row(6, {"eval_loss": 0.25})
    log.close()
    return lambda: read_metrics(folder / "metrics.jsonl")


def document(folder: Path) -> Callable[[], Any]:
    path = folder / "step_7.json"
    write_document(path, {"rows": [{"metric": "fid", "value": 3.25, "how": {"samples": 10}}]})
    return lambda: read_document(path, {"rows": list}, "Remove it.")["rows"]


KINDS = {
    document: "*.json",
    rows: "*.parquet",
    compared: "*.parquet",
    samples: "*.npz",
    reconstructed: "*.npz",
    metrics: "*.jsonl",
}


def equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, Mapping):
        return found.keys() == wanted.keys() and all(equal(found[n], wanted[n]) for n in wanted)
    found, wanted = np.asarray(found), np.asarray(wanted)
    return found.dtype == wanted.dtype and found.tolist() == wanted.tolist()


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_flipped_bit_gives_no_other_numbers(tmp_path: Path, make: Callable) -> None:
    tmp_path.mkdir(exist_ok=True)
    read = make(tmp_path)
    wanted = read()
    (file,) = tmp_path.glob(KINDS[make])
    whole, random, told = file.read_bytes(), np.random.default_rng(1), 0
    for _ in range(150):
        data = bytearray(whole)
        data[random.integers(len(data))] ^= 1 << int(random.integers(8))
        file.write_bytes(data)
        try:
            found = read()
        except UserError as error:
            assert str(tmp_path) in str(error)
            told += 1
        else:
            assert equal(found, wanted)
    assert told > 30  # the others are in names of writers, times and the like
    file.write_bytes(whole)
    assert equal(read(), wanted)


def test_tables_of_older_versions_are_read(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table(BITS), tmp_path / "pass0.parquet")
    (tmp_path / "settings.json").write_text("{}")
    assert equal(Pieces(tmp_path, {}).read(), BITS)


def test_rows_of_older_versions_are_read_and_new_ones_added(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "lo')
    log = MetricsLog(tmp_path, 1, 9, step=1)
    log.row(2, {"loss": 0.25})
    log.close()
    assert read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 1, "loss": 0.5},
        {"step": 2, "loss": 0.25},
    ]


def test_a_changed_digit_of_the_metrics_is_told_with_its_line(tmp_path: Path) -> None:
    metrics(tmp_path)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace('"eval_loss": 0.25', '"eval_loss": 0.15'))
    for read in (read_metrics, lambda _: MetricsLog(tmp_path, 1, 9, step=6)):
        with pytest.raises(UserError, match=rf"line 7 of {path} is not as it was written"):
            read(path)
