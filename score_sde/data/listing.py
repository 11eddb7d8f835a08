"""What lies below a folder: links to folders are followed, each folder is read once."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from score_sde.errors import UserError


class Folder(NamedTuple):
    """A folder below the one that was named.

    path: of it. name: below the first, with forward slashes; "" for the first. files: names of
    what is no folder, sorted. skipped: how many entries were left out, by reason.
    """

    path: Path
    name: str
    files: list[str]
    skipped: Counter[str]


def folders_below(root: Path) -> Iterator[Folder]:
    """`root` and the folders below it, each before its own, sorted by name.

    Hidden files and folders (names that begin with a dot) are left out. Links to folders come
    last, and only where they lead to a folder that has not been read: so a circle ends, and no
    file has two names.

    Raises:
        UserError: a folder that cannot be listed.
    """
    seen: set[tuple[int, int]] = set()
    waiting, links = [""], list[str]()
    while waiting or links:
        name = waiting.pop() if waiting else links.pop(0)
        path = root / name
        skipped: Counter[str] = Counter()
        try:
            status = os.stat(path)
            if (status.st_dev, status.st_ino) in seen:
                yield Folder(path, name, [], Counter({"links to folders already read": 1}))
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(path) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError as error:
            raise UserError(
                f"cannot list {path}: {error.strerror}. Check its permissions, or leave it out"
            ) from error
        files, inner = [], []
        for entry in entries:
            below = f"{name}/{entry.name}".lstrip("/")
            if entry.name.startswith("."):
                skipped["hidden"] += 1
            elif entry.is_symlink() and os.path.isdir(entry.path):
                links.append(below)
            elif entry.is_dir(follow_symlinks=False):
                inner.append(below)
            else:
                files.append(entry.name)
        waiting += reversed(inner)
        yield Folder(path, name, files, skipped)
