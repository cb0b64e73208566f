"""Captions and objects of COCO pictures, read from its annotation files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from brainlens import store
from brainlens.types import DataError, reading


def annotation_files(given: str | Path | None, default: Path, kind: str) -> list[Path]:
    """The files KIND_*.json (captions, instances) of a folder, or of the folder `default` where none is given.

    given: a folder, or one file. Raises DataError where what was given holds none.
    """
    if given is None:
        return sorted(default.glob(f"{kind}_*.json"))
    place = Path(given)
    if place.is_file() and kind == "captions":
        return [place]
    found = sorted((place.parent if place.is_file() else place).glob(f"{kind}_*.json"))
    if not found and kind == "captions":
        raise DataError(f"captions={given}: no file captions_train2017.json or captions_val2017.json of COCO is found")
    return found


def coco_captions(paths: Sequence[Path], wanted: Collection[int]) -> dict[int, list[str]]:
    """The captions of these pictures, by COCO's number. Raises DataError for files of another form."""
    out: dict[int, list[str]] = defaultdict(list)
    for path in paths:
        with reading(path, "fetch it again"):
            for row in _rows(path, ("image_id", "caption")):
                if row["image_id"] in wanted:
                    out[row["image_id"]].append(" ".join(str(row["caption"]).split()))
    return dict(out)


def coco_categories(paths: Sequence[Path], wanted: Collection[int]) -> dict[int, str]:
    """The kind of object that covers most of each picture, by COCO's number; pictures without objects are left out."""
    area: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for path in paths:
        with reading(path, "fetch it again"):
            names = {row["id"]: str(row["name"]) for row in _rows(path, ("id", "name"), part="categories")}
            for row in _rows(path, ("image_id", "category_id", "area")):
                if row["image_id"] in wanted:
                    area[row["image_id"]][names.get(row["category_id"], str(row["category_id"]))] += float(row["area"])
    return {image: max(sizes, key=lambda name: (sizes[name], name)) for image, sizes in area.items()}


def _rows(path: Path, columns: Sequence[str], part: str = "annotations") -> list[dict[str, Any]]:
    content = store.read_json(path)
    rows = content.get(part) if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and set(columns) <= set(row) for row in rows):
        raise DataError(f"{path} is no annotation file of COCO: it should hold {part!r} with {', '.join(columns)}")
    return rows
