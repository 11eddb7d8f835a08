"""Make public scans a folder of slices that config.data.source=prepared reads."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from score_sde.data.preparation import SOURCES, Collection, places, volumes
from score_sde.data.prepared import About, Volume, write_prepared
from score_sde.devices import leads
from score_sde.errors import UserError, command, quoted
from score_sde.files import writing
from score_sde.workdir.folder import check_writable


def main(
    source: Path | None = None, input: list[Path] | None = None, output: Path | None = None
) -> Path:
    """Prepare the scans below the folders `input` into the new folder `output`; returns it.

    `source`: lidc, ldct, brats or fastmri. Of each folder, or file of fastMRI, a line says what was
    found, or why it is left out. Slices are split by patient. Nothing that tells a person, a date
    or a path is written.

    Raises:
        UserError: an unknown collection, no folders, nothing that can be used.
    """
    name = str(source or "")
    if name not in SOURCES:
        raise UserError(
            f"--mode prepare knows --source {', '.join(SOURCES)}; got {name or 'none'}. Folders of "
            "pictures need no preparation: --config.data.source=folder"
        )
    if not input:
        raise UserError("--mode prepare needs the folder of the scans: --input DIR")
    if output is None:
        raise UserError("--mode prepare needs a new folder for the slices: --output DIR")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} exists already; choose another --output")
    collection = SOURCES[name]
    for root in input:
        places(collection, root)
    if not leads():
        return output

    def found() -> Iterator[Volume]:
        for root in input:
            yield from volumes(collection, root, print)

    with writing(output):
        check_writable(output.parent)
        about = About(name, collection.unit, collection.labels)
        _tell(output, write_prepared(output, found(), about), collection)
    return output


def _tell(output: Path, index: dict[str, list[Any]], collection: Collection) -> None:
    total, split = len(index["split"]), index["split"]
    patients = dict(zip(index["patient"], split))
    held = list(patients.values()).count("test")
    published = collection.published
    there = f" (the dissertation has {published:,})" if published else ""
    print(
        f"{total:,} slices{there} of {len(patients)} patients: {split.count('train'):,} to train "
        f"on, {split.count('test'):,} of {held} patients held out: {output}"
    )
    if not held:
        print("One patient cannot be split: nothing is held out, and training needs two patients.")
    use = f"--mode train --config ve/ncsnpp_cont:{collection.recipe or 'folder'} "
    if not collection.recipe:
        use += "--config.data.source=prepared --config.data.levels=65536 "
    use += f"--config.data.path={quoted(output)}"
    print(f"Train: {command(use)}")
