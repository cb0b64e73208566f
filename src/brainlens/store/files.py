"""Whole files or none: every file is written beside its place, synchronised, and renamed over it.

A reader therefore sees the old file or the new one, never half of one, and a memory map of the old file stays
valid. A full disk removes the temporary file, leaves the old one and raises DataError.
"""

from __future__ import annotations

import errno
import glob
import gzip
import hashlib
import io
import json
import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import IO, Any
from urllib.parse import quote

import numpy as np

from brainlens.store.locks import claimed, clean
from brainlens.types import DataError, read_text, reading

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
BLOCK = 1 << 22  # bytes read at a time when a file is hashed


def file_name(name: str, suffix: str) -> str:
    """A file name for any array or table name: letters, digits and _.-~ stay, the rest is percent-encoded."""
    if not name:
        raise DataError("a stored array or table needs a name that is not empty")
    safe = quote(name, safe="")
    return ("%2E" + safe[1:] if safe.startswith(".") else safe) + suffix


def full_disk(error: OSError, path: Path) -> DataError:
    """The one-line error for a write that did not fit."""
    return DataError(f"{path}: could not be written ({error.strerror}); nothing was changed, free some space and run again")


@contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """A binary file that takes the place of `path` when the block ends well, and vanishes when it does not.

    Raises DataError when the disk is full; the old file is then untouched.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clean(path.parent, f".{glob.escape(path.name)}.*.part")
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        with open(claimed(part), "wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
            os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in FULL:
            raise full_disk(error, path) from error
        raise
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hex; DataError when the file is missing."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb", buffering=0) as handle:
            block = memoryview(bytearray(BLOCK))
            while size := handle.readinto(block):
                digest.update(block[:size])
    except FileNotFoundError:
        raise DataError(f"{path} is missing; run the step that writes it again") from None
    return digest.hexdigest()


_verified: dict[tuple[str, int, int], str] = {}


def checked_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes; each (path, mtime, size) is read once a process. Raises DataError when it is missing."""
    path = Path(path)
    try:
        state = path.stat()
    except FileNotFoundError:
        raise DataError(f"{path} is listed but missing; run the step that writes it again") from None
    key = (str(path.resolve()), state.st_mtime_ns, state.st_size)
    if key not in _verified:
        _verified[key] = sha256(path)
    return _verified[key]


def check_file(path: str | Path, expected: str) -> None:
    """Raises DataError unless the file has this SHA-256; see `checked_sha256`."""
    found = checked_sha256(path)
    if found != expected:
        raise DataError(
            f"{path} is damaged or half replaced: SHA-256 {found[:12]}..., {str(expected)[:12]}... expected; write it again"
        )


def save_text(path: str | Path, text: str) -> None:
    """Writes a text file (UTF-8), whole or not at all."""
    try:
        content = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(
            f"{path}: {text[error.start]!a} is half a character and no text; correct it where it comes from"
        ) from None
    with replacing(path) as handle:
        handle.write(content)


def save_json(path: str | Path, value: Any) -> None:
    """Writes strict JSON: NaN becomes null, infinities the strings "inf" and "-inf"."""
    save_text(path, json.dumps(plain(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """The content of a JSON file; DataError when it is missing or not JSON."""
    if not Path(path).is_file():
        raise DataError(f"{path} is missing; run the step that writes it, or name another folder")
    with reading(path, "write it again", fault="is not valid JSON"):
        return json.loads(read_text(path))


def seal(content: dict[str, Any]) -> dict[str, Any]:
    """The content of a note with the SHA-256 of all else that it says under `sha256`."""
    rest = {key: value for key, value in content.items() if key != "sha256"}
    text = json.dumps(plain(rest), sort_keys=True, ensure_ascii=False)
    return rest | {"sha256": hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()}


def check_seal(path: str | Path, content: dict[str, Any], *, required: bool = True) -> None:
    """Raises DataError for a note that was altered after it was written. required: False for notes of before they had a hash."""
    if (required or "sha256" in content) and content.get("sha256") != seal(content)["sha256"]:
        raise DataError(f"{path} was altered after it was written: its SHA-256 does not match; write it again")


def plain(value: Any) -> Any:
    """A value as JSON knows it: numpy numbers, paths, sets and small arrays become plain ones.

    Raises DataError for anything whose text would not be the same in the next process.
    """
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return number if math.isfinite(number) else None if math.isnan(number) else repr(number)
    if isinstance(value, (np.bool_, np.integer)):
        return value.item()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, dict) or hasattr(value, "items"):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(v) for v in value), key=repr)
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if kind.startswith("torch.") and kind.split(".")[-1] in ("device", "dtype"):
        return str(value)
    if callable(value) and hasattr(value, "__qualname__") and "<" not in value.__qualname__:
        return f"{value.__module__}.{value.__qualname__}"
    raise DataError(f"a value of type {kind} cannot be written as JSON; pass numbers, strings, lists or small arrays")


def append_log(folder: str | Path, record: dict[str, Any]) -> None:
    """Adds one line with its SHA-256 to `log.jsonl`; a line that does not fit on the disk is taken back."""
    path = Path(folder) / "log.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(seal(plain(record)), ensure_ascii=False, allow_nan=False).encode() + b"\n"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":  # a process was killed within its line
            line = b"\n" + line
        try:
            if os.write(handle, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            os.ftruncate(handle, size)
            if error.errno in FULL:
                raise full_disk(error, path) from error
            raise
    finally:
        os.close(handle)


def read_log(folder: str | Path, *, sealed: bool = False) -> list[dict[str, Any]]:
    """The records of `log.jsonl`; lines cut short by a kill or altered later are left out, a missing log is empty.

    sealed: leaves out lines of before they had a hash too.
    """
    path = Path(folder) / "log.jsonl"
    records = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, RecursionError, AttributeError, TypeError):  # whatever a kill or a disk made of a line
                record = json.loads(line)
                check_seal(path, record, required=sealed)
                records.append({key: value for key, value in record.items() if key != "sha256"})
    return records


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Writes an image (h, w) or (h, w, 3 or 4) uint8 in the format that the suffix names."""
    from PIL import Image

    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise DataError(f"{path}: an image is (h, w[, 3 or 4]) uint8, got {image.dtype} {image.shape}")
    picture = io.BytesIO()
    formats = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
    kind = formats.get(Path(path).suffix.lower())
    if kind is None:
        raise DataError(f"{path}: image suffix must be one of {sorted(formats)}")
    Image.fromarray(image).save(picture, format=kind)
    with replacing(path) as handle:
        handle.write(picture.getbuffer())


def save_figure(path: str | Path, figure: Any, *, dpi: int = 150) -> None:
    """Writes a matplotlib figure in the format that the suffix names (png, svg, pdf); the same figure, the same bytes."""
    picture = io.BytesIO()
    kind = Path(path).suffix.lower().lstrip(".")
    if kind not in ("png", "svg", "pdf"):
        raise DataError(f"{path}: figure suffix must be .png, .svg or .pdf")
    undated = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    figure.savefig(picture, format=kind, dpi=dpi, bbox_inches="tight", metadata=undated)
    with replacing(path) as handle:
        handle.write(picture.getbuffer())


def save_nifti(path: str | Path, volume: np.ndarray, affine: np.ndarray) -> None:
    """Writes a volume (x, y, z[, t]) with its affine (4, 4) to mm as `.nii` or `.nii.gz`; the same input, the same bytes."""
    import nibabel as nib

    if not str(path).endswith((".nii", ".nii.gz")):
        raise DataError(f"{path}: a NIfTI file ends in .nii or .nii.gz")
    if volume.ndim not in (3, 4) or np.shape(affine) != (4, 4):
        raise DataError(
            f"{path}: a NIfTI file needs (x, y, z[, t]) and a (4, 4) affine, got {volume.shape} and {np.shape(affine)}"
        )
    if volume.dtype == bool:
        volume = volume.astype(np.uint8)
    elif volume.dtype in (np.float64, np.float16):
        volume = volume.astype(np.float32)
    elif volume.dtype.kind in "iu" and volume.dtype.itemsize == 8:
        if np.abs(volume).max(initial=0) > np.iinfo(np.int32).max:
            raise DataError(f"{path}: integers above {np.iinfo(np.int32).max} do not fit the file; pass floats")
        volume = volume.astype(np.int32)
    image = nib.nifti1.Nifti1Image(volume, np.asarray(affine, dtype=np.float64))
    content = image.to_bytes()
    with replacing(path) as handle:
        handle.write(gzip.compress(content, 6, mtime=0) if str(path).endswith(".gz") else content)
