"""The stimuli of a folder of one's own: pictures found by id, captions from a table, and the split into training and test."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens import store
from brainlens.datasets.pictures import ImageFiles, NoImages
from brainlens.datasets.stored_arrays import find_array
from brainlens.datasets.text_tables import read_table
from brainlens.stimuli.captions import CaptionSource
from brainlens.types import DataError, Stimuli, as_captions, inside
from brainlens.warned import BrainlensWarning, warn

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
SPLITS = ("train", "validation", "test")


def shown_stimuli(
    folder: Path, shown: Iterable[str], *, images: str = "images", files: Mapping[str, str] | None = None
) -> Stimuli:
    """The stimuli `shown` (ids, in order of first appearance) with what a folder holds of them.

    Pictures: `stimuli.csv` (columns stimulus and file, others are kept) where it is there, else the file in `images/` or a
    folder in it that is named by the id, with or without its ending and the folder. Captions: `captions.json` or `captions.csv`.
    Names are the same whether their umlauts are written as one sign or as two, and with / or \\ between folders.
    files: id -> path in the folder, where a recording says it itself.
    Raises DataError for stimuli without a file, two files for one id, files outside the folder, and captions of other ids.
    """
    ids = np.array(list(dict.fromkeys(shown)), dtype=np.str_)
    table = pd.DataFrame(index=range(len(ids)))
    listed = folder / "stimuli.csv"
    if files is None and listed.is_file():
        rows = read_table(listed, ("stimulus",), ("file", "category")).drop_duplicates("stimulus").set_index("stimulus")
        missing = [name for name in ids if name not in rows.index]
        if missing:
            raise DataError(f"{listed} lacks {len(missing)} of {len(ids)} stimuli, first {str(missing[0])!r}; add them")
        table = rows.loc[ids].reset_index(drop=True)
        files = dict(zip(ids, table["file"], strict=True)) if "file" in table.columns else None
    paths = _listed_files(folder, ids, files) if files is not None else _found_files(folder / images, ids)
    pictures = (
        NoImages(len(ids), f"{folder} has no folder {images!r} with pictures; copy them there, each named by its id")
        if paths is None
        else ImageFiles(paths)
    )
    return Stimuli(ids, pictures, read_captions(folder, ids), table.drop(columns=["file"], errors="ignore"))


def _listed_files(folder: Path, ids: np.ndarray, files: Mapping[str, str]) -> list[Path]:
    empty = [str(name) for name in ids if not files[name]]
    if empty:
        raise DataError(f"{len(empty)} of {len(ids)} stimuli have no file, first {empty[0]!r}: its cell in the table is empty")
    inside(folder, [files[name] for name in ids], "the table of stimuli")
    paths = inside(folder, [_as_stored(folder, files[name]) for name in ids], "the table of stimuli")
    missing = [name for name, path in zip(ids, paths, strict=True) if not path.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(ids)} stimuli have no file, first {str(missing[0])!r}: "
            f"{folder / files[missing[0]]} is missing"
        )
    return paths


def _found_files(folder: Path, ids: np.ndarray) -> list[Path] | None:
    """The picture of each id in a folder, None where there is no folder."""
    if not folder.is_dir():
        return None
    by_name: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PICTURES and path.is_file():
            within = path.relative_to(folder)
            for name in (path.name, path.stem, str(within), str(within.with_suffix("")), f"{folder.name}/{within}"):
                if path not in by_name.setdefault(spelled(name), []):
                    by_name[spelled(name)].append(path)
    missing = [str(name) for name in ids if spelled(name) not in by_name]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(ids)} stimuli have no file in {folder}, first {missing[0]!r}; name each picture by its id, "
            "or list the files in stimuli.csv (columns stimulus, file)"
        )
    twice = [str(name) for name in ids if len(by_name[spelled(name)]) > 1]
    if twice:
        several = " and ".join(path.relative_to(folder).as_posix() for path in by_name[spelled(twice[0])][:2])
        raise DataError(f"{folder}: stimulus {twice[0]!r} has the files {several}; keep one, or write ids with their endings")
    found = [by_name[spelled(name)][0] for name in ids]
    inside(folder.parent, [path.relative_to(folder.parent) for path in found], f"the folder {folder.name!r}")
    return found


def spelled(name: object) -> str:
    """One spelling of a name: Unicode NFC (some systems store an umlaut as two signs), and / between folders."""
    return unicodedata.normalize("NFC", str(name)).replace("\\", "/")


def _as_stored(folder: Path, name: str) -> str:
    """The name as the disk has it, where it has it in another spelling."""
    usual = spelled(name)
    ways = (name, usual, unicodedata.normalize("NFD", usual))
    return next((way for way in ways if (folder / way).is_file()), name)


def read_captions(folder: Path, ids: np.ndarray) -> list[list[str]]:
    """The captions of each id of ids (n,) from `captions.json` ({id: text or texts}) or `captions.csv` (stimulus, caption).

    A file of `brainlens captions` is read as well. An id may be the name of the picture's file, with its ending and folder or
    without them, where that tells pictures apart. Raises DataError where no id of the file is one of the stimuli.
    """
    path = find_array(folder, "captions", (".json", ".csv", ".tsv"))
    if path is None:
        return [[] for _ in ids]
    found: dict[str, list[str]] = {}
    if path.suffix == ".json":
        content: Any = store.read_json(path)
        content = content["captions"] if isinstance(content, dict) and isinstance(content.get("captions"), dict) else content
        if not isinstance(content, dict):
            raise DataError(f"{path} should hold {{id: caption or list of captions}}, it holds a {type(content).__name__}")
        for name, given in content.items():
            found.setdefault(spelled(name), []).extend(as_captions(given, f"{name!r} in {path}"))
    else:
        for name, several in listed_captions(path).captions.items():
            found.setdefault(spelled(name), []).extend(several)
    captions = [found.get(key, []) if key is not None else [] for key in _keys(list(found), [str(name) for name in ids])]
    if not any(captions) and len(ids):
        first = next(iter(found), "none")
        raise DataError(f"{path}: none of its ids is a stimulus of the trials; it has {first!r}, the trials {str(ids[0])!r}")
    return captions


def _keys(keys: list[str], ids: list[str]) -> list[str | None]:
    """For each id (n,) the key that means it: the same name, else the one whose last part, without an ending, is its alone."""
    by_last, last_of_ids = Counter(map(_last, keys)), Counter(_last(name) for name in ids)
    alone = {_last(key): key for key in keys if by_last[_last(key)] == 1}
    there = set(keys)
    out: list[str | None] = []
    for name in ids:
        key, last = spelled(name), _last(name)
        other = alone.get(last) if last_of_ids[last] == 1 else None
        out.append(key if key in there else other if other is not None and _one_place(key, other) else None)
    return out


def _last(name: str) -> str:
    last = spelled(name).rsplit("/", 1)[-1]
    return Path(last).stem if Path(last).suffix.lower() in PICTURES else last


def _one_place(a: str, b: str) -> bool:
    """Whether the folders of one name end as those of the other do: cats/1 is 1.png, and not dogs/1.png."""
    one, two = ([*reversed(name.split("/")[:-1])] for name in (a, b))
    return all(x == y for x, y in zip(one, two, strict=False))


def listed_captions(path: Path) -> CaptionSource:
    """A source of captions from a table with the columns stimulus and caption, one caption a line."""
    found: dict[str, list[str]] = {}
    for name, text in read_table(path, ("stimulus", "caption"))[["stimulus", "caption"]].itertuples(index=False):
        found.setdefault(str(name), []).append(str(text))
    return CaptionSource(path.stem, found)


class DrawnTest(BrainlensWarning):
    """The test part was drawn, since the recording names none: a result says so, too."""


def with_split(
    trials: pd.DataFrame, *, test: float, seed: int, where: Path, why: str = "has no column split",
    way: str = "; add the column to choose them",
) -> pd.DataFrame:  # fmt: skip
    """Trials with the column split: as it is, or drawn by image where there is none, a share `test` of them for the test.

    A drawn split is said in a warning: `where` and `why` it is drawn, and the `way` to another one. Raises DataError for other
    names of the parts, an image in two of them, and a share that leaves less than 2 images in one.
    """
    if "split" in trials.columns:
        wrong = [name for name in pd.unique(trials["split"]) if name not in SPLITS]
        if wrong:
            raise DataError(f"{where}: split {str(wrong[0])!r} is not one of {', '.join(SPLITS)}; rename it")
        parts = trials.groupby("stimulus")["split"].nunique()
        if (parts > 1).any():
            raise DataError(f"{where}: stimulus {str(parts.index[parts > 1][0])!r} is in two parts; give each image one")
        return trials
    ids = np.unique(trials["stimulus"].to_numpy(dtype=str))
    count = round(test * len(ids))
    if not 0 < test < 1 or min(count, len(ids) - count) < 2:
        raise DataError(f"{where} {why}, and a share test={test:g} of {len(ids)} images leaves no two parts")
    drawn = np.random.default_rng([seed, 61]).permutation(ids)[:count]
    warn(
        f"{where} {why}: {count} of {len(ids)} images are drawn for the test (--option test=, draw=){way}",
        DrawnTest,
    )
    return trials.assign(split=np.where(trials["stimulus"].isin(drawn), "test", "train"))
