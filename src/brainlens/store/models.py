"""Fitted models on disk: parameters and learned attributes as JSON, arrays and tensors as safetensors; never a pickle.

A model folder holds `model-<hash>.safetensors` and `model.json`, which is written last, names the tensors with their SHA-256
and carries the SHA-256 of its own content. A folder without it holds no model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brainlens.store.files import check_file, read_json, save_json
from brainlens.store.locks import PATIENCE, lock
from brainlens.store.training import decode_state, encode_state, read_tensors, write_tensors
from brainlens.types import DataError, reading

FORMAT = 1
NOTE = "model.json"
KEYS = ("format", "model", "version", "parameters", "state", "file", "tensors_sha256", "brainlens")


@dataclass(frozen=True)
class StoredModel:
    """A model as it lies on disk: its class, the version of what it stores, its parameters, and what it learned."""

    model: str
    version: int
    parameters: dict[str, Any]
    state: dict[str, Any]


def save_model(folder: str | Path, *, model: str, version: int, parameters: Mapping[str, Any], state: Mapping[str, Any]) -> Path:
    """Writes a model and returns the path of `model.json`, which takes the place of an older one at the very end.

    parameters and state: nested dicts, lists and tuples of numbers, text, None, numpy arrays and torch tensors.
    Raises DataError naming what cannot be stored, and for a disk that is full; the model before then stays whole.
    """
    import brainlens

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {}
    content: dict[str, Any] = {
        "format": FORMAT,
        "model": model,
        "version": version,
        "parameters": encode_state(dict(parameters), tensors),
        "state": encode_state(dict(state), tensors),
        "brainlens": brainlens.__version__,
    }
    name = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    with lock(folder, wait=PATIENCE, shared=True):
        part = folder / f"model-{name}.new.safetensors"
        digest = write_tensors(part, tensors)
        path = folder / f"model-{name}-{digest[:12]}.safetensors"
        part.replace(path)
        content |= {"file": path.name, "tensors_sha256": digest}
        save_json(folder / NOTE, content | {"sha256": _digest(content)})
        for old in folder.glob("model-*.safetensors"):
            if old != path:
                old.unlink(missing_ok=True)
    return folder / NOTE


def load_model(folder: str | Path) -> StoredModel:
    """The model of a folder. Raises DataError when there is none, or when a piece is missing, altered or of a newer format."""
    note = Path(folder) / NOTE
    if not note.is_file():
        raise DataError(f"{folder} holds no model: {NOTE} is missing; save one there first, or name another folder")
    content = read_json(note)
    if not isinstance(content, dict) or any(key not in content for key in KEYS):
        raise DataError(f"{note} was not written by this library, or only in part; save the model again")
    if not isinstance(content["format"], int) or content["format"] > FORMAT:
        raise DataError(f"{note} has format {content['format']!r}, this version reads up to {FORMAT}; update brainlens")
    if content.get("sha256") != _digest(content):
        raise DataError(f"{note} was altered after it was written: its SHA-256 does not match; save the model again")
    name = content["file"]
    if not isinstance(name, str) or Path(name).name != name:
        raise DataError(f"{note} names the file {name!r}, which is not a file of its own folder; save the model again")
    path = Path(folder) / name
    check_file(path, content["tensors_sha256"])
    tensors = read_tensors(path)
    with reading(note, "save the model again"):
        parameters, state = (decode_state(content[key], tensors) for key in ("parameters", "state"))
        return StoredModel(str(content["model"]), int(content["version"]), parameters, state)


def _digest(content: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
