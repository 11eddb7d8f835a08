"""Files of weights: fetched once, whole or not at all, and told apart by their checksums."""

import contextlib
import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

from score_sde.errors import UserError
from score_sde.files import kind_of

NAME = "pt_inception-2015-12-05-6726825d.pth"
ADDRESS = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{NAME}"
PUBLISHED_PREFIX = "6726825d"
"""The SHA-256 of the published file begins so, as its name says."""
CACHE = Path("~/.cache/score_sde")
ADVICE = f"the file {NAME} that pytorch-fid and torch-fidelity use ({ADDRESS})"
TIMEOUT = 60.0
"""Seconds without a byte after which a download is given up."""


def inception_file(cache: Path | None = None) -> Path:
    """Where the published weights lie once they have been fetched."""
    return (CACHE if cache is None else cache).expanduser() / NAME


def published(cache: Path | None = None) -> tuple[Path, str]:
    """(path, SHA-256) of the published weights of Inception.

    They are fetched into the folder `cache` unless they are there.

    Raises:
        UserError: they cannot be fetched or kept, or are not the published ones.
    """
    path = inception_file(cache)
    if not path.exists():
        return path, _fetch(ADDRESS, path)
    checksum = sha256(path)
    if not checksum.startswith(PUBLISHED_PREFIX):
        raise UserError(
            f"{path} is not the published file: its SHA-256 is {checksum} and should begin with "
            f"{PUBLISHED_PREFIX}. Delete it; it will be fetched again. {_by_hand(ADDRESS, path)}"
        )
    return path, checksum


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal digits. Raises UserError where it cannot be read."""
    try:
        if (kind := kind_of(path)) not in ("", "missing"):
            raise OSError(f"it is {kind}")
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(
            f"the weights {path} cannot be read: {error.strerror or error}. Name a file with "
            "--weights or --config.quality.weights, or leave it out: then the published one is "
            "fetched"
        ) from error


def _fetch(address: str, path: Path) -> str:
    """Download to `path`; returns its checksum.

    The file appears when it is complete and has the published checksum.
    """
    digest = hashlib.sha256()
    temporary = path.with_name(
        f".{path.name}.{uuid.uuid4().hex}.tmp"
    )  # others may be fetching it too
    print(f"fetching {address} into {path.parent}", file=sys.stderr)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            for chunk in _received(address, path):
                digest.update(chunk)
                file.write(chunk)
        checksum = digest.hexdigest()
        if not checksum.startswith(PUBLISHED_PREFIX):
            raise UserError(
                f"{address} gave another file than the published one: its SHA-256 is {checksum} "
                f"and should begin with {PUBLISHED_PREFIX}; a proxy or a log-in page may have "
                f"answered. {_by_hand(address, path)}"
            )
        os.replace(temporary, path)
        return checksum
    except OSError as error:
        raise UserError(
            f"the weights of Inception cannot be kept at {path}: {error.strerror or error}. Make "
            f"{path.parent} a folder that can be written to. {_by_hand(address, path)}"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _received(address: str, path: Path) -> Iterator[bytes]:
    """The bytes that come from an address; what goes wrong there is a UserError."""
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as response:
            length = response.headers.get("Content-Length")
            received = 0
            while chunk := response.read(2**20):
                received += len(chunk)
                yield chunk
        if length is not None and received != int(length):
            raise http.client.IncompleteRead(b"", int(length) - received)
    except urllib.error.HTTPError as error:
        reason = f"the server answers {error.code} {error.reason}"
    except urllib.error.URLError as error:
        reason = f"no connection ({error.reason})"
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = f"the download broke off ({type(error).__name__}: {error})"
    else:
        return
    raise UserError(
        f"the weights of Inception could not be fetched from {address}: {reason}. "
        f"{_by_hand(address, path)}"
    )


def _by_hand(address: str, path: Path) -> str:
    return (
        f"Or fetch {address} by hand and put it at {path}, or name a file that you have with "
        "--config.quality.weights (--weights where there is no configuration); extractors that "
        "need none are pixels and, for their data, digits and mnist"
    )
