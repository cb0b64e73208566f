"""Recordings that are sealed: a manifest of SHA-256 beside the files, held against them whenever they are read."""

from __future__ import annotations

from pathlib import Path

from brainlens import store
from brainlens.types import DataError, inside, reading
from brainlens.warned import warn

NOTE = "brainlens-seal.json"
FORMAT = 1


def seal_folder(folder: str | Path) -> tuple[Path, int]:
    """Writes the manifest of a recording: size and SHA-256 of every file below the folder; its path, and how many files.

    Hidden files are left out. An older seal is replaced. Raises DataError for what is no folder, and one that holds no file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder; name the one that holds the recording")
    files = {name: {"bytes": (folder / name).stat().st_size, "sha256": store.sha256(folder / name)} for name in _files(folder)}
    if not files:
        raise DataError(f"{folder} holds no file; name the folder of a recording")
    place = folder / NOTE
    store.save_json(place, store.seal({"format": FORMAT, "files": files}))
    return place, len(files)


def check_sealed(folder: str | Path) -> int:
    """Holds the files of a sealed recording against its manifest; how many were held, 0 where it is not sealed.

    Every file is read whole, once a process. Raises DataError for a file that was changed or is gone, and for an altered
    manifest; files that came later are counted in a warning, because they may be of other programs.
    """
    folder = Path(folder)
    place = folder / NOTE
    if not place.is_file():
        return 0
    content = store.read_json(place)
    with reading(place, "seal the folder again by `brainlens check FOLDER --seal`"):
        store.check_seal(place, content)
        files = {str(name): entry for name, entry in content["files"].items()}
        for name, path in zip(files, inside(folder, files, str(place)), strict=True):
            if not path.is_file():
                raise DataError(f"{path} is gone since {folder} was sealed; put it back, or seal again")
            if path.stat().st_size != files[name]["bytes"] or store.checked_sha256(path) != files[name]["sha256"]:
                raise DataError(
                    f"{path} was changed since {folder} was sealed; fetch it again, or seal again where that is meant"
                )
    more = [name for name in _files(folder) if name not in files]
    if more:
        warn(f"{folder}: {len(more)} files are not named in its seal, first {more[0]}")
    return len(files)


def _files(folder: Path) -> list[str]:
    """Names of the files below a folder, in order, without hidden ones and the seal itself."""
    found = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return sorted(name.as_posix() for name in found if name.name != NOTE and not any(p.startswith(".") for p in name.parts))
