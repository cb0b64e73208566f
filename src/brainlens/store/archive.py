"""A run as one file to send on, and a fitted model as the folder of a model hub.

An archive is a zip whose first entry, `archive.json`, lists every file of the run with its SHA-256 and size. It is opened only
where every byte is what the list says, every name stays inside the run's folder, and the sizes are those that are listed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from brainlens.store.files import BLOCK, FULL, full_disk, read_json, replacing, save_text, sha256
from brainlens.store.locks import appearing, check_writable
from brainlens.store.models import NOTE, load_model
from brainlens.store.results import load_result
from brainlens.types import DataError, check_expansion, reading
from brainlens.types.scores import digits

LIST = "archive.json"
FORMAT = 1
LIST_BYTES = 16 << 20  # of the list itself
DATE = (1980, 1, 1, 0, 0, 0)  # of every entry, so that the same run is the same archive


def save_archive(run: str | Path, out: str | Path) -> Path:
    """Writes a finished run into one zip and returns its path; every listed file of the run is checked before.

    Raises DataError for a folder without a whole run, and for a link in it, which would bring files from elsewhere.
    """
    run, out = Path(run), Path(out)
    load_result(run)
    files = sorted(path for path in run.rglob("*") if not path.is_dir() and not path.name.startswith("."))
    for path in files:
        if path.is_symlink() or not path.resolve().is_relative_to(run.resolve()):
            raise DataError(f"{path} is a link; an archive holds the run's own files alone, so copy the file there")
    listed = {p.relative_to(run).as_posix(): {"sha256": sha256(p), "bytes": p.stat().st_size} for p in files}
    note = {"format": FORMAT, "name": run.name, "files": listed}
    with replacing(out) as handle, zipfile.ZipFile(handle, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        archive.writestr(zipfile.ZipInfo(LIST, DATE), json.dumps(note, indent=1))
        for path in files:
            info = zipfile.ZipInfo(path.relative_to(run).as_posix(), DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, BLOCK)
    return out


def open_archive(archive: str | Path, runs: str | Path) -> Path:
    """Unpacks an archive into `runs` and returns the run's folder; nothing is left there if a byte is wrong.

    Raises DataError for a file that is no archive, was altered, names a file outside, unpacks to more than 128 MB and 200 times
    its size, or whose run is there already, and for a disk that fills.
    """
    archive, runs = Path(archive), Path(runs)
    if not archive.is_file():
        raise DataError(f"{archive} is not a file; give an archive of `brainlens export`")
    check_writable(runs)
    with reading(archive, "ask for it again", fault="is damaged or no archive of a run"), zipfile.ZipFile(archive) as opened:
        note = _listed(opened, archive)
        with appearing(runs / note["name"]) as place:
            for name, entry in note["files"].items():
                try:
                    _unpack(opened, name, entry, place, archive)
                except OSError as error:
                    if error.errno in FULL:
                        raise full_disk(error, runs / note["name"]) from error
                    raise
            load_result(place)
    return runs / str(note["name"])


def _listed(opened: zipfile.ZipFile, archive: Path) -> dict[str, Any]:
    """The list of an archive, its names and entries checked."""
    names = opened.namelist()
    if LIST not in names or opened.getinfo(LIST).file_size > LIST_BYTES:
        raise DataError(f"{archive} has no {LIST}; it was not written by `brainlens export`")
    try:
        note = json.loads(opened.read(LIST))
        files, name = note["files"], note["name"]
        "".join((name, *files)).encode()  # texts, and names that a file system takes
        good = note["format"] <= FORMAT and all(isinstance(e["sha256"], str) and int(e["bytes"]) >= 0 for e in files.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(f"{archive}: its {LIST} is damaged; ask for the archive again") from None
    if not good:
        raise DataError(f"{archive} is of a newer format; update brainlens")
    for each in (*files, name):
        parts = PurePosixPath(each).parts
        strange = ".." in parts or "\\" in each or "\0" in each
        if not parts or PurePosixPath(each).is_absolute() or strange or (each == name and len(parts) > 1):
            raise DataError(f"{archive} names the file {each!r}, which lies outside of the run; it is not opened")
    check_expansion(archive, sum(int(entry["bytes"]) for entry in files.values()))
    if sorted(names) != sorted([LIST, *files]):
        raise DataError(f"{archive} holds other files than its list names; ask for it again")
    return dict(note)


def _unpack(opened: zipfile.ZipFile, name: str, entry: Mapping[str, Any], place: Path, archive: Path) -> None:
    """One file, read to its listed size and no further."""
    path, digest, left = place / name, hashlib.sha256(), int(entry["bytes"])
    path.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(name) as source, path.open("wb") as target:
        while block := source.read(min(BLOCK, left + 1)):
            left -= len(block)
            if left < 0:
                break
            digest.update(block)
            target.write(block)
    if left or digest.hexdigest() != entry["sha256"]:
        raise DataError(f"{archive}: {name} is not what its list says (altered or damaged); ask for the archive again")


CARD = """---
library_name: brainlens
tags: [neuroscience, {task}, brainlens]
---
# {model}

Fitted by brainlens {version} (`{task}`) on `{dataset}`{network}.

```python
from brainlens.models import load
model = load(".")  # the folder of this card; a {model}
```

| score | value | 95 % interval | chance | n |
|---|---|---|---|---|
{scores}

The weights are safetensors; `model.json` holds the parameters and the SHA-256 of the weights. Nothing here is a pickle, and
nothing is run when it is loaded.
"""
SHOWN = 12  # scores on a card


def save_hub_folder(run: str | Path, out: str | Path) -> Path:
    """The fitted model of a run as a hub's folder: README.md (the card), config.json, model.json and its safetensors.

    Raises DataError for a run without a model and for a folder that is there and holds something.
    """
    run, out = Path(run), Path(out)
    result = load_result(run)
    model = run / "model"
    if not (model / NOTE).is_file():
        raise DataError(f"{run} holds no fitted model; runs of encode, align, reconstruct and describe keep theirs in model/")
    stored = load_model(model)
    network = result.config.get("model")
    config = {"library_name": "brainlens", "model_type": stored.model, "task": result.task, "version": stored.version}
    config |= {"dataset": result.config.get("dataset"), "network": network}
    versions = result.provenance.get("versions", {})
    card = CARD.format(
        task=result.task, model=stored.model, version=str(versions.get("brainlens", "")).partition("+")[0],
        dataset=result.config.get("dataset"), network=f" with the network `{Path(str(network)).name}`" if network else "",
        scores=_card_rows(result),
    )  # fmt: skip
    with appearing(out) as place:
        for name in (NOTE, read_json(model / NOTE)["file"]):
            with (model / name).open("rb") as source, replacing(place / name) as target:
                shutil.copyfileobj(source, target, BLOCK)
        save_text(place / "config.json", json.dumps(config, indent=1) + "\n")
        save_text(place / "README.md", card)
    return out


def _card_rows(result: Any) -> str:
    """The first scores that are known and have an interval or a chance: what has neither is a count or a setting."""
    found, rows = result.scores(), []
    known = np.isfinite(found["value"]) & (np.isfinite(found["low"]) | np.isfinite(found["chance"]))
    for line in found[known].head(SHOWN).itertuples():
        interval = "" if line.low != line.low else f"{line.low:.3g} to {line.high:.3g}"
        chance, n = ("" if value != value else digits(value) for value in (line.chance, line.n))
        rows.append(f"| {line.metric} | {digits(line.value)} | {interval} | {chance} | {n} |")
    return "\n".join(rows)
