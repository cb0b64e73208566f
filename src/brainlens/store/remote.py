"""Folders on S3-compatible storage: read by range into a local cache, whose files are known by their hashes.

    s3://BUCKET/PATH  ->  CACHE/NAME-HASH/files/...     CACHE: $BRAINLENS_CACHE, else ~/.cache/brainlens

A file is fetched in pieces of 8 MiB and takes its place when it is whole. What came before an interruption is kept in
CACHE/NAME-HASH/parts, and the next call goes on from it where the storage still has that version of the file. Beside the files
a note holds the size and the ETag that the storage gave each, and the SHA-256 of what was written: a file is fetched again where
the storage has another one, or where the local one was altered. A request that fails by a fault that may pass is made again after
1, 4 and 16 s, with a warning. Credentials and the address of the server are those of every S3 client (AWS_ACCESS_KEY_ID,
AWS_PROFILE, AWS_ENDPOINT_URL, ...).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from brainlens.store.files import check_seal, checked_sha256, read_json, save_json, seal
from brainlens.store.locks import PATIENCE, lock
from brainlens.store.parts import going_on, keep_only
from brainlens.types import DataError, reading
from brainlens.warned import warn

SCHEME = "s3:/"  # a Path has one slash where an address has two
PIECE = 1 << 23  # bytes of a range
NOTE, FILES, PARTS, FORMAT = "remote.json", "files", "parts", 1
WAITS = (1.0, 4.0, 16.0)  # s before a request is made again
BROKEN = {
    "ConnectionError",
    "HTTPClientError",
    "ClientConnectionError",
    "ClientPayloadError",
    "IncompleteRead",
    "ResponseParserError",
}
LATE = {
    "TimeoutError",
    "ReadTimeoutError",
    "ConnectTimeoutError",
}  # names of errors of Python, botocore and aiohttp, with their bases
LASTING = {"SSLError", "ClientSSLError", "ClientConnectorCertificateError", "PermissionError", "FileNotFoundError"}
Answer = TypeVar("Answer")


class Replaced(DataError):
    """The file there is another one than when its reading began."""


def is_remote(place: str | Path) -> bool:
    """Whether a place is an address on S3-compatible storage."""
    return str(place).startswith(SCHEME)


def address(place: str | Path) -> str:
    """The address in its usual form, s3://bucket/path. Raises DataError without a bucket."""
    inside = str(place)[len(SCHEME) :].strip("/")
    if not inside:
        raise DataError(f"{place} names no bucket; give s3://BUCKET/FOLDER")
    return f"s3://{inside}"


def cache_folder() -> Path:
    """Where remote files are kept."""
    named = os.environ.get("BRAINLENS_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "brainlens"


def cached(url: str) -> Path:
    """The place in the cache of what lies at an address."""
    return cache_folder() / f"{PurePosixPath(url).name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"


def here(place: str | Path, names: Collection[str] | None = None) -> Path:
    """The local folder of a place: itself, or for an address its copy in the cache, fetched as far as it is missing.

    names: files of the folder that are needed (None: all). Raises DataError for a bucket that is not found or gives no
    permission, an empty folder, a server that does not answer, and a cache without room for what is missing.
    """
    if not is_remote(place):
        return Path(place)
    url = address(place)
    where = cached(url)
    system = system_of()
    listed = answer(url, lambda: _listed(system, url))
    with lock(where, wait=PATIENCE):
        known = _known(where / NOTE, url)
        for gone in sorted(set(known) - set(listed)):
            (where / FILES / gone).unlink(missing_ok=True)
            known.pop(gone)
        wanted = listed if names is None else {name: entry for name, entry in listed.items() if name in names}
        missing = [name for name, entry in wanted.items() if not _is_here(where / FILES / name, entry, known.get(name))]
        parts = {name: where / PARTS / _part_name(name, entry) for name, entry in listed.items()}
        keep_only(where / PARTS, {part.name for part in parts.values()})
        begun = sum(parts[name].stat().st_size for name in missing if parts[name].is_file())
        check_room(url, where, sum(listed[name]["bytes"] for name in missing) - begun)
        for name in missing:
            digest = _fetch(system, f"{url}/{name}", listed[name], parts[name], where / FILES / name)
            known[name] = listed[name] | {"sha256": digest}
            save_json(where / NOTE, seal({"format": FORMAT, "address": url, "files": known}))
    return where / FILES


def system_of() -> Any:
    """The S3 file system of fsspec."""
    try:
        import fsspec
        import s3fs  # noqa: F401, which fsspec calls by the name "s3"
    except ImportError as error:
        raise DataError(f"addresses on S3 need {error.name}: pip install 'brainlens[remote]'") from None
    system = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    system.retries = 1  # AWS_MAX_ATTEMPTS says how often a request is made at once; what lasts longer is `answer`'s
    return system


def answer(url: str, ask: Callable[[], Answer]) -> Answer:
    """What `ask` gets from the storage, asked again after a fault that may pass. Raises DataError as `said`, for the last one."""
    for wait in WAITS:
        try:
            with said(url):
                return ask()
        except DataError as error:
            if not (fault := passing(error.__cause__)):
                raise
            warn(f"s3://{url.split('/')[2]}: {fault}; requests are made again, {len(WAITS)} times in {sum(WAITS):.3g} s each")
        time.sleep(wait)
    with said(url):
        return ask()


def passing(error: BaseException | None) -> str:
    """A fault that may pass, in words: no answer in time, a failed connection, HTTP 408, 429 and 5xx; empty for all others."""
    while error is not None:
        names = {each.__name__ for each in type(error).__mro__}
        response = getattr(error, "response", None)  # of botocore's ClientError
        if names & LASTING:
            return ""
        if isinstance(response, dict):
            status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
            return f"HTTP {status}" if status in (408, 429) or (status >= 500 and status != 501) else ""
        if names & LATE:
            return "no answer in time"
        if names & BROKEN:
            return "the connection failed"
        error = error.__cause__
    return ""


@contextmanager
def said(url: str) -> Iterator[None]:
    """Whatever the client raises, as one line that names the address."""
    try:
        yield
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(
            f"{url}: no permission ({_short(error)}); check AWS_PROFILE or AWS_ACCESS_KEY_ID, and what they may read"
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"{url}: the bucket or folder is not found; `aws s3 ls {url}/` lists what it holds") from error
    except OSError as error:
        raise DataError(f"{url}: {_short(error)}; does the server answer (AWS_ENDPOINT_URL)?") from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("botocore", "aiobotocore", "aiohttp", "s3fs", "fsspec"):
            raise
        raise DataError(f"{url}: {_short(error)}; check AWS_ENDPOINT_URL and the credentials") from error


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def state_of(system: Any, url: str) -> tuple[int, str]:
    """Bytes and ETag of a file, as they are there now."""
    now = system.info(url.removeprefix("s3://"), refresh=True)
    return int(now["size"]), str(now.get("ETag", "")).strip('"')


def _listed(system: Any, url: str) -> dict[str, dict[str, Any]]:
    """{name: bytes, etag} of the files below an address. Raises DataError for names that lead out of the folder, and for none."""
    root, found = url.removeprefix("s3://"), {}
    for key, entry in system.find(root, detail=True).items():
        name = str(key)[len(root) :].lstrip("/")
        if not name or name.endswith("/"):
            continue  # a folder, or the object of the same name as the address
        parts = PurePosixPath(name).parts
        if ".." in parts or PurePosixPath(name).is_absolute() or "\0" in name:
            raise DataError(f"{url}: the name {name!r} leads out of the folder; rename it there")
        found[name] = {"bytes": int(entry["size"]), "etag": str(entry.get("ETag", "")).strip('"')}
    if not found:
        raise DataError(f"{url}: the folder is not found, or it holds no file; `aws s3 ls {url}/` lists what it holds")
    return found


def _known(note: Path, url: str) -> dict[str, dict[str, Any]]:
    """What an earlier call noted; nothing where its note is damaged or of another address, and all is fetched again."""
    if not note.is_file():
        return {}
    try:
        content = read_json(note)
        with reading(note, "fetch again"):
            check_seal(note, content)
            return dict(content["files"]) if content["format"] == FORMAT and content["address"] == url else {}
    except DataError:
        return {}


def _is_here(path: Path, entry: dict[str, Any], known: dict[str, Any] | None) -> bool:
    if known is None or not path.is_file() or any(known.get(key) != value for key, value in entry.items()):
        return False
    return path.stat().st_size == entry["bytes"] and checked_sha256(path) == known.get("sha256")


def check_room(url: str, where: Path, need: int) -> None:
    free = shutil.disk_usage(where).free
    if need > free:
        raise DataError(
            f"{url}: {need / 1e9:.3g} GB are to be fetched and the cache {where.parent} has {free / 1e9:.3g} GB free; "
            "set BRAINLENS_CACHE to a folder on another disk"
        )


def fetched(system: Any, url: str, start: int, stop: int, state: tuple[int, str]) -> bytes:
    """Bytes start to stop of a file of which `state_of` was `state`. Raises DataError where it is another one by now."""

    def ask() -> bytes:
        piece: bytes = system.cat_file(url.removeprefix("s3://"), start=start, end=stop)
        if len(piece) != stop - start:
            check_state(system, url, state)
            raise ConnectionError(f"{len(piece)} bytes came where {stop - start} were asked for")
        return piece

    return answer(url, ask)


def check_state(system: Any, url: str, state: tuple[int, str]) -> None:
    """Raises Replaced where `state_of` a file is not `state` any more."""
    if answer(url, lambda: state_of(system, url)) != state:
        raise Replaced(f"{url} was replaced while it was read; run again")


def _part_name(name: str, entry: dict[str, Any]) -> str:
    """The name of what is kept of a file in this version."""
    return hashlib.sha256(f"{name}\0{entry['bytes']}\0{entry['etag']}".encode()).hexdigest()[:24] + ".part"


def _fetch(system: Any, url: str, entry: dict[str, Any], part: Path, path: Path) -> str:
    """Fetches one file by ranges, from where an earlier call was stopped; its SHA-256.

    Raises DataError where it is another one at the end than at the beginning.
    """
    state = entry["bytes"], entry["etag"]
    with going_on(part, path, anew=not entry["etag"]) as file:
        begun = file.size > 0
        try:
            while file.size < entry["bytes"]:
                file.add(fetched(system, url, file.size, min(file.size + PIECE, entry["bytes"]), state))
            if begun or entry["bytes"] > PIECE:  # what came in one piece is of one version
                check_state(system, url, state)
        except Replaced:
            file.remove()
            raise
    return file.digest.hexdigest()
