"""Archives unpacked by a reader that looks at every member before it writes the first."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import IO

from brainlens.store import replacing
from brainlens.types import DataError

MAX_BYTES = 64e9
MAX_FILES = 200_000
MAX_RATIO = 200  # an archive that grows more than this is a bomb, not a recording


def extract(archive: str | Path, folder: str | Path, *, max_bytes: float = MAX_BYTES) -> list[Path]:
    """Unpacks a tar (plain, gz, bz2, xz) or zip archive below `folder` and returns the files.

    Raises DataError, before anything is written, for absolute paths, paths that lead outside, links, devices,
    names that occur twice, and archives larger than `max_bytes` or than 200 times their own size.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.exists():
        raise DataError(f"{archive} is missing")
    try:
        if zipfile.is_zipfile(archive):
            return _zip(archive, folder, max_bytes)
        if tarfile.is_tarfile(archive):
            return _tar(archive, folder, max_bytes)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise DataError(f"{archive} is damaged or cannot be unpacked ({error}); fetch it again") from None
    raise DataError(f"{archive} is neither a tar nor a zip archive")


def _zip(archive: Path, folder: Path, max_bytes: float) -> list[Path]:
    with zipfile.ZipFile(archive) as opened:
        files = [m for m in opened.infolist() if not m.is_dir()]
        for member in files:
            mode = member.external_attr >> 16
            if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG):
                raise DataError(f"{archive}: {member.filename!r} is a link or a device; nothing was written")
        targets = _targets(archive, folder, [m.filename for m in files], [m.file_size for m in files], max_bytes)
        for member, target in zip(files, targets):
            with opened.open(member) as source:
                _copy(source, target, member.file_size, archive)
    return targets


def _tar(archive: Path, folder: Path, max_bytes: float) -> list[Path]:
    with tarfile.open(archive, "r:*") as opened:
        files = []
        for member in opened:
            if not member.isreg() and not member.isdir():
                raise DataError(f"{archive}: {member.name!r} is a link or a device; nothing was written")
            if member.isreg():
                files.append(member)
            if len(files) > MAX_FILES or sum(m.size for m in files[-1:]) > max_bytes:
                raise DataError(f"{archive} is larger than allowed; nothing was written")
        targets = _targets(archive, folder, [m.name for m in files], [m.size for m in files], max_bytes)
        for member, target in zip(files, targets):
            source = opened.extractfile(member)
            assert source is not None  # regular files only
            _copy(source, target, member.size, archive)
    return targets


def _targets(archive: Path, folder: Path, names: list[str], sizes: list[int], max_bytes: float) -> list[Path]:
    """Where each member goes, all of them checked."""
    if len(names) > MAX_FILES or sum(sizes) > max_bytes or sum(sizes) > MAX_RATIO * archive.stat().st_size + (1 << 20):
        raise DataError(
            f"{archive} holds {len(names)} files of {sum(sizes) / 1e9:.3g} GB, more than allowed; nothing was written"
        )
    root = folder.resolve()
    targets = []
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/")).parts
        bad = not parts or parts[0] == "/" or ".." in parts or ":" in parts[0] or "\0" in name
        target = root.joinpath(*parts) if not bad else root
        if bad or not target.resolve().is_relative_to(root):
            raise DataError(f"{archive}: {name!r} leads outside the folder; nothing was written")
        targets.append(target)
    if len(set(targets)) < len(targets):
        raise DataError(f"{archive} holds one name twice; nothing was written")
    return targets


def _copy(source: IO[bytes], target: Path, size: int, archive: Path) -> None:
    with replacing(target) as handle:
        left = size
        while left and (block := source.read(min(left, 1 << 20))):
            handle.write(block)
            left -= len(block)
        if left or source.read(1):
            raise DataError(f"{archive}: {target.name!r} does not have the size it claims")
