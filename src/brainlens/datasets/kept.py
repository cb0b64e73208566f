"""The folder that a converted recording has in a cache: named after everything its values depend on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


def kept_folder(cache: str | Path, name: str, files: Iterable[Path], options: Mapping[str, Any]) -> Path:
    """`cache/name-<hash>`, the hash over each source file's path, size and modification time, and over the options.

    Options are numbers, texts, lists of them, or arrays (hashed with shape and type). A file or an option that changes
    gives another folder, so that what was converted before is never taken for it; the old folder stays and may be deleted.
    """
    digest = hashlib.sha256()
    for path in sorted(Path(file).resolve() for file in files):
        state = path.stat()
        digest.update(json.dumps([str(path), state.st_size, state.st_mtime_ns]).encode() + b"\n")
    for key in sorted(options):
        value = options[key]
        if isinstance(value, np.ndarray):
            plain = np.ascontiguousarray(value)
            digest.update(json.dumps([key, plain.shape, plain.dtype.str]).encode() + plain.tobytes())
        else:
            digest.update(json.dumps([key, value]).encode() + b"\n")
    return Path(cache) / f"{name}-{digest.hexdigest()[:16]}"
