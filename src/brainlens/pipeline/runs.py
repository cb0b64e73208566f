"""Run folders: where a result goes, marked with the recording that it comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from brainlens import store
from brainlens.pipeline.source import Source
from brainlens.types import Result


def keep(result: Result, runs: str | Path, source: Source, *, arrays: dict[str, np.ndarray] | None = None) -> Path:
    """Stores a result in its run folder, marked with the recording it comes from, and returns the folder."""
    config = {**source.config(), **result.config}
    folder = store.run_folder(runs, result.task, config, [str(d) for d in result.provenance.get("data", [])])
    store.save_result(replace(result, config=config, arrays={**result.arrays, **(arrays or {})}), folder)
    return folder
