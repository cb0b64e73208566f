"""Run folders: where a result goes, marked with the recording that it comes from, and found again when asked for once more."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from brainlens import datasets, store
from brainlens.datasets.source import Source
from brainlens.types import DataError, Responses, Result, reading
from brainlens.types.scores import COUNTS, is_difference
from brainlens.warned import warn

MODEL = "model"  # the folder of a run that holds what was fitted
UNREAD = ("dataset", "folder", "cache", "device")  # settings of a call that name nothing that is read, or what is stamped anyway


MINIATURE = (
    "The network is the shipped miniature CLIP, which knows drawn scenes alone: for photographs name another, "
    "e.g. --model openai/clip-vit-base-patch32 or a folder"
)


class Fitted(Protocol):
    """A model that can be written into a folder."""

    def save(self, folder: str | Path) -> Path: ...


def keep(
    result: Result,
    runs: str | Path,
    source: Source,
    *,
    arrays: dict[str, np.ndarray] | None = None,
    model: Fitted | None = None,
) -> Path:
    """Stores a result in its run folder, marked with the recording it comes from and a test part that was drawn, and returns it.

    arrays: further ones of any shape, by name. model: written into `model/`.
    """
    config = {**source.config(), **result.config}
    notes = datasets.split_note(source.dataset, source.options)
    config |= {"warnings": [*config.get("warnings", []), *notes]} if notes else {}
    folder = store.run_folder(runs, result.task, config, [str(d) for d in result.provenance.get("data", [])])
    if not notes and source.notes:  # neither is a part of the folder's name: older runs of the same call are found
        config |= {"warnings": [*config.get("warnings", []), *source.notes]}
    if _by_miniature(config, result.task, source):
        config |= {"warnings": [*config.get("warnings", []), MINIATURE]}
    with store.lock(folder, wait=store.PATIENCE):  # the model and the result are of one writer
        if model is not None:
            model.save(folder / MODEL)
        store.save_result(replace(result, config=config, arrays={**result.arrays, **(arrays or {})}), folder)
    return folder


def _by_miniature(config: Mapping[str, Any], task: str, source: Source) -> bool:
    """Whether the shipped network read the pictures of a real recording because no other was named."""
    if source.model not in (None, "miniature") or datasets.simulated(source.dataset):
        return False
    if task not in ("encode", "align", "describe", "reconstruct") or config.get("method") in ("words", "ridge_onehot"):
        return False
    return (config.get("images") or config.get("model")) in (None, "clip", "miniature")  # recordings may bring embeddings


Rows = list[dict[str, Any]]


def source_of(result: Result) -> Source:
    """The recording that a stored result came from."""
    config = result.config
    missing = [key for key in ("dataset", "n_train", "n_test", "source_seed") if key not in config]
    if missing:
        raise DataError(f"the run does not say where its data came from: {missing} are missing in its config")
    folder = None if config["folder"] is None else Path(config["folder"])
    sizes = {"n_train": config["n_train"], "n_test": config["n_test"], "n_validation": config["n_validation"]}
    source = Source(config["dataset"], folder, config["model"], seed=config["source_seed"], **sizes)
    parts = [tuple(config.get(name, ())) for name in ("subjects", "regions")]
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in config.get("dataset_options", {}).items()}
    source = replace(source, subjects=parts[0], regions=parts[1], captions=config.get("captions"))
    return replace(source, options=options, part=config.get("part"))


def check_same_recording(run: str | Path, result: Result, responses: Responses) -> None:
    """Raises DataError where a run's recording, opened again, is not the one that the run was made from.

    Another processor or other versions of numpy may give other last digits of what is filtered or scaled on reading: there it is
    a warning.
    """
    known = [str(value) for value in result.provenance.get("data", [])]
    if not known or store.fingerprint(responses) in known:
        return
    now, then = store.provenance(None, "cpu", [], store.Start()), result.provenance
    name = result.config.get("folder") or f"the simulation {result.config.get('dataset')!r}"
    text = f"{run} was made from another recording than {name} now gives: the fingerprint {known[0][:12]}... is not found"
    parts = [now.get("instructions") == then.get("instructions")]
    parts += [now["versions"].get(key) == then.get("versions", {}).get(key) for key in ("numpy", "scipy", "torch", "mne")]
    if all(parts):
        raise DataError(f"{text}; put the files back as they were, or run again on these")
    warn(f"{text}, as may be on another processor or with other versions")


def table(result: Result, prefix: str, *, ending: tuple[str, ...] | None = None) -> Rows:
    """The scores under a prefix as rows: value, 95 % interval, chance, n and p where they are known; counts by their own name.

    The paired difference of two methods says that it is one.
    """
    if prefix.startswith("data/") or prefix.rpartition("/")[2] in COUNTS:
        return [{"metric": key, "value": float(value)} for key, value in result.metrics.items() if key.startswith(prefix)]
    found = result.scores()
    found = found[[key.startswith(prefix) and (ending is None or key.endswith(ending)) for key in found["metric"]]]
    rows: Rows = []
    for line in found.itertuples():
        said = f"{line.metric} (difference)" if is_difference(line.metric) else line.metric
        row = {"metric": said, "value": float(line.value)}
        row["95 % interval"] = "" if np.isnan(line.low) else f"{line.low:.3g} to {line.high:.3g}"
        row["chance"] = "" if np.isnan(line.chance) else f"{line.chance:.3g}"
        row["n"] = "" if np.isnan(line.n) else f"{line.n:,.0f}"
        row |= {"p": f"{p:.2g}"} if (p := result.metrics.get(f"{line.metric}.p")) is not None else {}
        rows.append(row)
    return rows


def once(
    task: str,
    runs: str | Path,
    asked: Mapping[str, Any],
    run: Callable[[], tuple[Path | list[Path], Rows]],
    *,
    data: Path | Sequence[Path | None] | None = None,
    again: bool = False,
) -> tuple[list[Path], Rows, str]:
    """Runs, or finds the folders that the same call made before: (folders, rows to show, when they were made; "" for now).

    The same call: the same task in the same version, the same settings `asked`, and a data folder, and files and folders named in
    the settings, whose files have the names, sizes and times that they had. data: also several folders.
    The note `request.json` in the last folder holds what was shown. again: runs all the same.
    """
    settings = store.plain(dict(asked))
    read = [data] if data is None or isinstance(data, Path) else list(data)
    stamps = [_stamp(place, runs) for place in [*read, *_named(settings)]]
    text = json.dumps([task, store.TASKS.get(task, 1), settings, stamps], sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()
    if not again:
        for note in sorted(Path(runs).glob("*/request.json")):
            if (known := _noted(note, key)) is not None:
                return known
    store.check_writable(runs)  # before hours of work and not after
    place, rows = run()
    folders = place if isinstance(place, list) else [place]
    made = time.strftime("%Y-%m-%d %H:%M")
    if (folders[-1] / "result.json").is_file():  # of several processes the first one writes
        note_ = {
            "format": 2,
            "request": key,
            "made": made,
            "folders": [folder.name for folder in folders],
            "rows": store.plain(rows),
        }
        store.save_json(folders[-1] / "request.json", store.seal(note_))
    return folders, rows, ""


def _noted(note: Path, key: str) -> tuple[list[Path], Rows, str] | None:
    """What the note of a finished call says, where it is of this call and its runs are there; a damaged note is of no call.

    A note of before they had a hash (format 2) is taken with a warning: hours of work may stand behind it.
    """
    try:
        found = store.read_json(note)
        if not isinstance(found, dict) or found.get("request") != key:
            return None
        with reading(note):
            if {"format", "sha256"} & found.keys():
                store.check_seal(note, found)
            else:
                warn(f"{note} is of an older version and has no hash to check; --again makes it anew")
            folders = [note.parent.parent / Path(str(name)).name for name in found["folders"]]
            rows = [dict(row) for row in found["rows"]]
    except DataError:
        return None
    whole = all((folder / "result.json").is_file() for folder in folders)
    return (folders, rows, str(found.get("made"))) if whole else None


def _stamp(place: Path | None, runs: str | Path) -> list[list[Any]]:
    """Names, sizes and times of the files of a recording: enough to see that it is another one, without reading it.

    runs: the folder of runs, which may lie in that of the recording and changes by being written into.
    """
    if place is None or not place.exists():
        return []
    written = Path(runs).resolve()
    found = [place] if place.is_file() else sorted(path for path in place.resolve().rglob("*") if path.is_file())
    files = [path for path in found if written not in path.parents]
    return [[str(path), (state := path.stat()).st_size, state.st_mtime_ns] for path in files]


def _named(settings: Any) -> list[Path]:
    """Files and folders that settings name, as captions, an atlas or a network's folder. Runs are known by their result, caches
    are written and not read, and the recording's own folder is given beside the settings."""
    if isinstance(settings, dict):
        return [path for key in sorted(settings) if key not in UNREAD for path in _named(settings[key])]
    if isinstance(settings, list):
        return [path for each in settings for path in _named(each)]
    if not isinstance(settings, str) or not settings or "\0" in settings:
        return []
    try:
        path = Path(settings)
        if path.exists():
            return [] if (path / "result.json").is_file() else [path]
        pair = [Path(part) for part in settings.split(",")]  # the files of both hemispheres
        return pair if len(pair) > 1 and all(part.is_file() for part in pair) else []
    except OSError:  # a text that is too long for a name
        return []
