"""What was made in the app, kept in the folder of its run: RUN/app/TIME_KIND/.

A folder has the library's own files, `asked.json` from the beginning and `told.json` at the end.
Nothing else remembers anything, so a killed app loses nothing that was finished.
"""

import dataclasses
import datetime
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from score_sde.errors import UserError
from score_sde.files import writing
from score_sde.workdir.documents import read_document, write_document
from score_sde.workdir.folder import IN_RUN

FOLDER = "app"
"""Of a run, in which entries lie."""
AGAIN = "Remove its folder."


class Picture(NamedTuple):
    """A file in the folder of an entry, and what it shows."""

    file: str
    caption: str


@dataclasses.dataclass(frozen=True)
class Entry:
    """Something that was made.

    folder: where it lies. kind: "sample" and the like. title: in a line. asked: by what name what
    was asked for. told: lines of (name, value); empty while it is not finished. pictures: those to
    show. finished: False where it is under way, or its process was killed.
    """

    folder: Path
    kind: str
    title: str
    asked: Mapping[str, Any]
    told: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    finished: bool = False

    @property
    def at(self) -> str:
        """When it was begun, to the second."""
        stamp = self.folder.name.partition("_")[0]
        return datetime.datetime.strptime(stamp, "%Y%m%d-%H%M%S-%f").isoformat(" ", "seconds")

    def path(self, picture: Picture) -> Path:
        """The file of a picture.

        Raises:
            UserError: it lies elsewhere than in this entry.
        """
        found = (self.folder / picture.file).resolve()
        if not found.is_relative_to(self.folder.resolve()):
            raise UserError(f"{self.folder} names a picture outside of it, {picture.file!r}")
        return found

    def finish(self, told: Sequence[tuple[str, str]], pictures: Sequence[Picture]) -> "Entry":
        """Keep what came out, as the last file of all."""
        values = {"told": [list(line) for line in told], "pictures": [list(p) for p in pictures]}
        with writing(self.folder, IN_RUN):
            write_document(self.folder / "told.json", values)
        return dataclasses.replace(self, told=told, pictures=pictures, finished=True)

    def discard(self) -> None:
        """Remove it."""
        shutil.rmtree(self.folder, ignore_errors=True)


def begin(run: Path, kind: str, title: str, asked: Mapping[str, Any]) -> Entry:
    """A new entry of a run, with a folder of its own."""
    now = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    folder = run / FOLDER / f"{now}_{kind}_{secrets.token_hex(2)}"
    with writing(folder, IN_RUN):
        folder.mkdir(parents=True)
        write_document(folder / "asked.json", {"kind": kind, "title": title, "asked": dict(asked)})
    return Entry(folder, kind, title, dict(asked))


def entries(run: Path, kind: str, most: int = 24) -> list[Entry]:
    """The newest entries of a kind, the newest first; damaged ones are left out."""
    found: list[Entry] = []
    for folder in sorted((run / FOLDER).glob(f"*_{kind}_*"), reverse=True):
        if len(found) < most:
            try:
                found.append(_read(folder))
            except (UserError, ValueError, OSError):
                continue
    return found


def _read(folder: Path) -> Entry:
    like = {"kind": str, "title": str, "asked": dict}
    begun = read_document(folder / "asked.json", like, AGAIN)
    entry = Entry(folder, begun["kind"], begun["title"], begun["asked"])
    _ = entry.at  # a ValueError where the name is none of ours
    if not (folder / "told.json").exists():
        return entry
    ended = read_document(folder / "told.json", {"told": [[str]], "pictures": [[str]]}, AGAIN)
    told = [(name, value) for name, value in ended["told"]]
    pictures = [Picture(*names) for names in ended["pictures"]]
    return dataclasses.replace(entry, told=told, pictures=pictures, finished=True)
