"""Weights and checkpoints: tensors as safetensors, everything else as JSON; never a pickle.

A checkpoint holds whatever a training loop needs to go on to the bit: nested dicts, lists and tuples of tensors,
arrays, numbers and text, such as the state of a model, of AdamW and of random generators.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from brainlens.store.arrays import entry_of, record
from brainlens.store.files import check_file, check_seal, file_name, read_json, replacing, save_text, seal
from brainlens.store.locks import folder_turn
from brainlens.types import DataError, reading
from brainlens.warned import warn

if TYPE_CHECKING:
    from torch import Tensor

KEPT = 2  # checkpoints kept: the newest and the one before, in case the newest is damaged


def save_weights(folder: str | Path, name: str, tensors: Mapping[str, Tensor]) -> Path:
    """Writes named tensors of any shape as `<name>.safetensors` and lists them in the manifest with their SHA-256."""
    path = Path(folder) / file_name(name, ".safetensors")
    record_ = {"file": path.name, "sha256": write_tensors(path, tensors), "tensors": len(tensors)}
    record(folder, name, record_)
    return path


def load_weights(folder: str | Path, name: str) -> dict[str, Tensor]:
    """The tensors, of any shape, that `save_weights` wrote, on the CPU. Raises DataError when they are missing or damaged."""
    entry = entry_of(folder, name)
    path = Path(folder) / entry["file"]
    check_file(path, entry["sha256"])
    return read_tensors(path)


def save_checkpoint(folder: str | Path, state: Mapping[str, Any]) -> Path:
    """Writes a checkpoint beside the last one and drops older ones; a kill at any moment leaves a whole one."""
    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    structure = encode_state(dict(state), tensors)
    folder.mkdir(parents=True, exist_ok=True)
    with folder_turn(folder):
        number = max(_numbers(folder), default=0) + 1
        path = folder / f"checkpoint-{number:08d}.safetensors"
        note = path.with_suffix(".json")
        content = seal({"tensors_sha256": write_tensors(path, tensors), "state": structure})
        try:
            save_text(note, json.dumps(content, separators=(",", ":")))
        except DataError:
            path.unlink(missing_ok=True)
            raise
        for old in folder.glob("checkpoint-*.safetensors"):  # also those whose note was never written
            if int(old.stem.split("-")[1]) <= number - KEPT:
                old.with_suffix(".json").unlink(missing_ok=True)
                old.unlink(missing_ok=True)
    return note


def load_checkpoint(folder: str | Path) -> dict[str, Any] | None:
    """The newest whole checkpoint, None when there is none.

    Falls back to the one before with a warning when the newest is damaged. Raises DataError when none is whole.
    """
    folder = Path(folder)
    numbers = sorted(_numbers(folder), reverse=True)
    for number in numbers:
        path = folder / f"checkpoint-{number:08d}.safetensors"
        try:
            note = read_json(path.with_suffix(".json"))
            with reading(path.with_suffix(".json"), "train again"):
                check_seal(path.with_suffix(".json"), note)
                check_file(path, note["tensors_sha256"])
                return decode_state(note["state"], read_tensors(path))
        except DataError as error:
            warn(f"checkpoint {number} is not used: {error}")
    if numbers:
        raise DataError(f"{folder}: none of {len(numbers)} checkpoints is whole; remove them to train from the start")
    return None


def remove_checkpoints(folder: str | Path) -> None:
    """Removes the checkpoints of a folder, whole or begun, and the folder where nothing else is in it."""
    folder = Path(folder)
    for pattern in ("checkpoint-*.json", "checkpoint-*.safetensors", ".checkpoint-*.part"):  # what has no note is not read
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _numbers(folder: Path) -> list[int]:
    return [int(p.stem.split("-")[1]) for p in folder.glob("checkpoint-*.json") if p.stem.split("-")[1].isdecimal()]


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> str:
    """Writes tensors of any shape as safetensors, whole or not at all; tensors that share memory are written each on its own."""
    from safetensors.torch import save

    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().contiguous()
        pointer = flat.untyped_storage().data_ptr()
        own[name] = flat.clone() if pointer in seen or flat.untyped_storage().nbytes() != flat.nbytes else flat
        seen.add(pointer)
    content = save(own)
    with replacing(path) as handle:
        handle.write(content)
    return hashlib.sha256(content).hexdigest()  # of what was written, not of what lies there now


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, of any shape."""
    from safetensors.torch import load_file

    with reading(path, "write it again", fault="is not a whole safetensors file"):
        return load_file(path)


def encode_state(value: Any, tensors: dict[str, Tensor]) -> Any:
    """A nested value as JSON with tensors, of any shape, put aside under numbers; every container says what it is."""
    import torch

    if type(value) is float and not math.isfinite(value):
        return {"float": repr(value)}  # JSON has no NaN and no infinity
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, torch.Tensor):
        tensors[str(len(tensors))] = value
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, (np.ndarray, np.generic)):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise DataError(f"a checkpoint cannot hold an array of {array.dtype}; use a list of texts")
        tensors[str(len(tensors))] = torch.from_numpy(np.array(array, order="C"))
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: str(len(tensors) - 1)}
    if isinstance(value, Mapping):
        return {"dict": [[encode_state(k, tensors), encode_state(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [encode_state(v, tensors) for v in value]}
    if isinstance(value, list):
        return [encode_state(v, tensors) for v in value]
    hint = ", save its get_state()" if isinstance(value, torch.Generator) else ""
    raise DataError(
        f"a checkpoint cannot hold a {type(value).__name__}{hint}; it holds tensors, arrays, numbers, text and containers"
    )


def decode_state(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The value that `encode_state` took apart, its tensors of any shape."""
    if isinstance(value, list):
        return [decode_state(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "dict":
        return {decode_state(k, tensors): decode_state(v, tensors) for k, v in content}
    if kind == "tuple":
        return tuple(decode_state(v, tensors) for v in content)
    if kind == "float":
        return float(content)
    if kind == "tensor":
        return tensors[content]
    array = tensors[content].numpy()
    return array if kind == "array" else array[()]
