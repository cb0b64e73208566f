"""One door for the bytes of files: whatever a parser raises on them is one line that names the file and the way out.

Parsers raise what they like on damaged bytes: recursion, huge numbers, half a character, a library's own kinds. None of it is
of use to a user. What a file claims is held against its size before anything is allocated, and what a table names must lie in
the folder that the user gave.
"""

from __future__ import annotations

import base64
import gzip
import math
import os
import struct
import xml.parsers.expat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from brainlens.types.ids import DataError
from brainlens.warned import BrainlensWarning

FREE = 1 << 27  # bytes that any file may expand to
RATIO = 200  # times its own size that a larger one may; brain images reach 50, deflate cannot go beyond 1,032
PIECE = 1 << 20  # bytes of a packed file that are unpacked at a time to count
VALUE = {"NIFTI_TYPE_UINT8": 1, "NIFTI_TYPE_INT32": 4, "NIFTI_TYPE_FLOAT32": 4}  # bytes of a value of GIFTI
GRID = 16e9  # bytes of the values of an image
OUTSIDE = "BRAINLENS_ALLOW_OUTSIDE"  # the environment reaches the processes that a command starts


@contextmanager
def reading(
    path: str | Path, way_out: str = "fetch it again, or write it again", *, fault: str = "is damaged or of another format"
) -> Iterator[None]:
    """Turns whatever is raised inside into a DataError of one line that names the file and ends in the way out.

    A DataError passes, with the file's name before it where it has none. An interruption passes as it is, and so does a warning
    that a filter of the user made an error.
    """
    try:
        yield
    except BrainlensWarning:  # which a filter of the user made an error
        raise
    except DataError as error:
        if str(path) in str(error):
            raise
        raise DataError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise DataError(f"{error.filename or path} is missing") from error
    except PermissionError as error:
        raise DataError(f"{error.filename or path} may not be read ({error.strerror}); give yourself the right to") from error
    except MemoryError as error:
        raise DataError(f"{path} needs more memory than there is; use a machine with more, or a smaller file") from error
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise DataError(f"{path} {fault} ({type(error).__name__}: {said}); {way_out}") from error


def check_expansion(path: str | Path, claimed: float, stored: float | None = None) -> None:
    """Raises DataError where a file claims to unpack to more than its size lets anyone believe, before it is unpacked.

    claimed: bytes in memory; stored: bytes on disk that they come from (None: those of the whole file).
    """
    have = Path(path).stat().st_size if stored is None else stored
    if claimed > FREE and claimed > RATIO * have:
        raise DataError(
            f"{path}: {have / 1e6:.3g} MB unpack to {claimed / 1e6:,.0f} MB, more than {RATIO} times; "
            "do not use it, or store it unpacked where you trust it"
        )


def check_gzip(path: str | Path) -> None:
    """`check_expansion` of a gzip file by unpacking it piece by piece, nothing of which is kept."""
    path = Path(path)
    size, total = path.stat().st_size, 0
    with reading(path), gzip.open(path, "rb") as handle:
        while piece := handle.read(PIECE):
            total += len(piece)
            check_expansion(path, total, size)


def check_fif(path: str | Path) -> None:
    """Raises DataError where the tags of a FIF file (.fif, .fif.gz) lead back to one another, which MNE would follow without end.

    A tag is four big-endian integers (kind, type, bytes, next): the next one follows its bytes (0), lies elsewhere (a position),
    or there is none (-1).
    """
    path = Path(path)
    seen: set[int] = set()
    with reading(path), gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as handle:
        at = 0
        while len(head := handle.read(16)) == 16:
            seen.add(at)
            _, _, size, following = struct.unpack(">iIii", head)
            if following < 0:
                return
            at = following or at + 16 + size
            if at < 0 or at in seen:
                raise DataError(f"{path} is damaged: its tags lead in a circle; fetch it again, or write it again")
            handle.seek(at)


def check_gifti(path: str | Path) -> None:
    """`check_expansion` of a GIFTI file (.gii, .gii.gz) by the sizes that its arrays declare and by what they unpack to.

    Raises DataError for a file of values outside its folder too.
    """
    path = Path(path)
    packed_whole = path.suffix == ".gz"
    if packed_whole:
        check_gzip(path)
    with reading(path), gzip.open(path, "rb") if packed_whole else path.open("rb") as handle:
        _Gifti(path).parser.ParseFile(handle)


class _Gifti:
    """Counts the bytes of a GIFTI file's arrays while its XML passes, none of which is kept."""

    def __init__(self, path: Path) -> None:
        self.path, self.size, self.claimed, self.total = path, path.stat().st_size, 0.0, 0
        self.unpacker: Any = None  # of the array that passes, where it is packed
        self.inside, self.rest = False, b""
        self.parser = xml.parsers.expat.ParserCreate()
        self.parser.buffer_text, self.parser.buffer_size = True, PIECE
        self.parser.StartElementHandler, self.parser.EndElementHandler = self._start, self._end
        self.parser.CharacterDataHandler = self._text

    def _start(self, name: str, given: dict[str, str]) -> None:
        self.inside = name == "Data"
        if name != "DataArray":
            return
        dims = [int(given.get(f"Dim{k}", 0)) for k in range(int(given.get("Dimensionality", 0)))]
        self.claimed += float(math.prod(dims)) * VALUE.get(given.get("DataType", ""), 8)
        check_expansion(self.path, self.claimed, self.size)
        if given.get("ExternalFileName"):
            inside(self.path.parent, [given["ExternalFileName"]], str(self.path))
        self.unpacker = zlib.decompressobj() if given.get("Encoding") == "GZipBase64Binary" else None
        self.rest = b""

    def _end(self, name: str) -> None:
        self.inside = False

    def _text(self, text: str) -> None:
        if not self.inside or self.unpacker is None:
            return
        self.rest += "".join(text.split()).encode()
        whole = len(self.rest) - len(self.rest) % 4  # letters of base64 stand for three bytes by fours
        packed, self.rest = base64.b64decode(self.rest[:whole]), self.rest[whole:]
        for piece in unpacked(self.unpacker, packed):
            self.total += len(piece)
            check_expansion(self.path, self.total, self.size)


def unpacked(unpacker: Any, packed: bytes) -> Iterator[bytes]:
    """What the next bytes of a deflated stream unpack to, a piece of at most `PIECE` bytes at a time."""
    while packed and not unpacker.eof:
        yield unpacker.decompress(packed, PIECE)
        packed = unpacker.unconsumed_tail


def read_grid(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Values (x, y, z[, t]) and affine (4, 4) of an image file in any format of nibabel; a packed one is read to its checksum.

    Raises DataError for a file that is damaged, no image, or claims more than 16 GB.
    """
    import nibabel as nib

    path = Path(path)
    if path.suffix in (".gz", ".mgz"):
        check_gzip(path)
    with reading(path, "fetch it again", fault="is damaged or no image of a brain"):
        image: Any = nib.load(path)  # type: ignore[attr-defined]
        claim = math.prod(image.shape) * 8.0
        if claim > GRID:
            raise DataError(f"{path} claims {image.shape}, {claim / 1e9:.3g} GB; the limit is {GRID / 1e9:.3g} GB")
        return np.asarray(image.dataobj), np.asarray(image.affine, dtype=float)


def outside_allowed() -> bool:
    """Whether files that lie outside the folder that names them are read (`--allow-outside`)."""
    return os.environ.get(OUTSIDE, "") not in ("", "0")


def inside(folder: str | Path, names: Iterable[str | Path], what: str) -> list[Path]:
    """The paths of files in a folder by the names that a table, a manifest or a recording gives.

    what: who names them, for the error. Raises DataError for an absolute name, one with `..`, and a link that leads out of the
    folder: a picture that lies elsewhere would end in a report that people share. Files need not exist.
    """
    folder = Path(folder)
    listed = list(names)
    paths = [folder / name for name in listed]
    for word in map(str, listed):
        if "\0" in word or len(word) > 1024 or any(len(os.fsencode(part)) > 255 for part in word.split("/")):
            raise DataError(f"{what} names the file {word[:60]!r}, which is no file name")
    if outside_allowed():
        return paths
    root = folder.resolve()
    parents: dict[Path, Path] = {}  # many files, few folders
    for name, path in zip(listed, paths, strict=True):
        parent = parents.setdefault(path.parent, path.parent.resolve())
        end = parent / path.name if path.name != ".." and not path.is_symlink() else path.resolve()
        if Path(name).is_absolute() or ".." in Path(name).parts or not end.is_relative_to(root):
            raise DataError(
                f"{what} names {str(name)!r}, which lies outside {folder}; copy it into the folder, or give "
                "`brainlens --allow-outside COMMAND` where you trust it"
            )
    return paths
