"""Tables of results as Parquet files, with a digest of what they hold.

Checksums of Parquet's pages do not cover names, types and places of columns, so the digest is of
the columns as they are read. Files of older versions have none.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from score_sde.errors import UserError
from score_sde.files import kind_of, write_whole

KEY = b"score_sde.digest"


def write_table(path: Path, columns: Mapping[str, Any]) -> None:
    """Columns by name as a Parquet file, whole or not at all."""
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table(dict(columns))
    table = table.replace_schema_metadata({KEY: _digest(table).encode()})
    write_whole(path, lambda temporary: pyarrow.parquet.write_table(table, temporary))


def read_table(path: Path, advice: str) -> Any:
    """The pyarrow table of a file; raises UserError, with advice, for a damaged one."""
    import pyarrow
    import pyarrow.parquet

    try:
        if kind := kind_of(path):  # of a folder pyarrow reads what lies in it
            raise ValueError(f"it is {kind}")
        table = pyarrow.parquet.read_table(path)
        written = (table.schema.metadata or {}).get(KEY)
        if written not in (None, _digest(table).encode()):
            raise ValueError("its rows are not those that were written")
    except (pyarrow.ArrowException, OSError, ValueError, TypeError, KeyError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise UserError(f"{path} is damaged ({reason}). {advice}") from error
    return table


def _digest(table: Any) -> str:
    """BLAKE2b of names, types and values of a table's columns."""
    found = hashlib.blake2b(digest_size=16)
    for name, column in zip(table.column_names, table.columns, strict=True):
        found.update(repr((name, str(column.type), len(column), column.null_count)).encode())
        values = column.to_numpy()
        data = repr(values.tolist()).encode() if values.dtype == object else values.tobytes()
        found.update(data)
    return found.hexdigest()
