"""Per-image results of likelihood evaluation: Parquet pieces that survive a kill."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from score_sde.errors import UserError
from score_sde.files import as_read
from score_sde.likelihood.summary import Rows
from score_sde.workdir.documents import read_document, write_document
from score_sde.workdir.parquet import read_table, write_table

SETTINGS = "settings.json"
ADDED = ("weights",)
"""Settings that older versions did not keep."""


class Pieces:
    """A folder of Parquet files, each written at once or not at all, that together make one table.

    A piece is named after what it holds, so an interrupted evaluation goes on with the pieces that
    are missing. Jobs that work on different shards write into one folder without knowing of each
    other.

    Args:
        folder: where they lie; made when the first piece is written.
        settings: what the results depend on. A folder written with other settings is refused.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder = folder
        self._settings = claim_settings(folder, settings)

    def missing(self, indices: np.ndarray, number_of_pass: int) -> np.ndarray:
        """Those of `indices` that no piece holds for this pass yet."""
        done = self.read() if self.folder.exists() else {}
        if not done:
            return indices
        return np.setdiff1d(indices, done["index"][done["pass"] == number_of_pass])

    def write(self, rows: Rows) -> None:
        """Add a piece."""
        keep_settings(self.folder, self._settings)
        index = rows["index"]
        name = f"pass{rows['pass'][0]}_{index[0]:07d}_{index[-1]:07d}_{len(index)}.parquet"
        write_table(self.folder / name, rows)

    def read(self) -> Rows:
        """All rows, ordered by pass and index.

        Raises UserError for a row that is there twice, or a damaged piece.
        """
        import pyarrow

        again = "Remove it; the same command makes it again."
        tables = [read_table(path, again) for path in sorted(self.folder.glob("*.parquet"))]
        if not tables:
            return {}
        try:
            table = pyarrow.concat_tables(tables)
        except pyarrow.ArrowException as error:
            raise UserError(
                f"{self.folder} holds pieces with different columns, of different versions; move "
                "it away to evaluate anew"
            ) from error
        rows = {name: column.to_numpy() for name, column in zip(table.column_names, table.columns)}
        order = np.lexsort((rows["index"], rows["pass"]))
        rows = {name: column[order] for name, column in rows.items()}
        twice = (np.diff(rows["index"]) == 0) & (np.diff(rows["pass"]) == 0)
        if twice.any():
            where = rows["index"][1:][twice][:5].tolist()
            raise UserError(
                f"{self.folder} holds {int(twice.sum())} rows twice (images {where} ...). Remove "
                "one of the pieces."
            )
        return rows

    def complete(self, images: int, passes: int) -> Rows:
        """All rows, of `passes` passes or of more where more were begun.

        Raises UserError, naming the first gap, where images 0 .. images-1 in each pass are not all
        there.
        """
        rows = self.read()
        passes = max(passes, int(rows["pass"].max()) + 1) if rows else passes
        have = set(zip(rows["index"].tolist(), rows["pass"].tolist())) if rows else set()
        gaps = [(i, p) for p in range(passes) for i in range(images) if (i, p) not in have]
        if gaps:
            raise UserError(
                f"{self.folder} lacks {len(gaps)} of {images * passes} rows (first: image "
                f"{gaps[0][0]} in pass {gaps[0][1]}). Run the missing shards, or finish the pass "
                "begun, first."
            )
        return rows


def claim_settings(folder: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` as settings.json in `folder` is to have them.

    Folders of older versions have none of `ADDED`; then these are not compared.

    Raises UserError where it has others, or results of settings that nobody knows any more.
    """
    wanted, path = as_read(settings), folder / SETTINGS
    kept = [p.name for p in folder.glob("*") if p.suffix in (".parquet", ".npz")]
    if kept and not path.exists():
        raise UserError(
            f"{folder} holds results, like {min(kept)}, but no settings.json, which says what they "
            "are of. Put it back, or move the folder away; the same command makes it again."
        )
    if not path.exists():
        return wanted
    old = read_document(path, {}, "Move the folder away; the same command makes it again.")
    new = {name: value for name, value in wanted.items() if name in old or name not in ADDED}
    listed = [
        f"{k}: {old.get(k)!r} there, {new.get(k)!r} here"
        for k in new | old
        if old.get(k) != new.get(k)
    ]
    if listed:
        raise UserError(
            f"{folder} holds results of other settings ({'; '.join(listed)}). Move it away, or go "
            "back to its settings."
        )
    return wanted


def keep_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write what `claim_settings` gave, where it is not there yet."""
    if not (folder / SETTINGS).exists():
        write_document(folder / SETTINGS, settings)
