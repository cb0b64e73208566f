"""Responses to new pictures, by the model that a run of `encode` or `describe` has kept and the network that it read."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from brainlens import store
from brainlens.backbones.diffusion import Steps
from brainlens.backbones.layers import extract_layers, network_label
from brainlens.datasets.runs import MODEL, Rows
from brainlens.datasets.source import Tell, check_device, picture_folder
from brainlens.models.encoding import load
from brainlens.models.encoding.layered import pooled
from brainlens.types import DataError, Features, Result, Stimuli


def run_predict(
    run: str | Path, images: str | Path, *, out: str | Path | None = None, device: str = "cpu", tell: Tell
) -> tuple[Path, Rows]:
    """Writes predicted responses (image, unit), float32, as one `.npy`, and beside it the ids of its rows as `.csv`.

    run: a folder of `encode` or `describe` that holds a model; images: a folder of pictures; out: the file (default: in the run
    folder, `predictions/`, named after the folder of pictures). Units are those of the run's table `units`, in its order, in the
    units of the responses that the run was fitted on. Returns the file and what was done, in rows.
    Raises DataError for a run without a model, a folder without pictures, and a file that does not end in .npy.
    """
    check_device(device)
    folder = Path(run)
    result = store.load_result(folder)
    file = Path(out) if out is not None else folder / "predictions" / f"{Path(images).resolve().name}.npy"
    if file.suffix != ".npy":
        raise DataError(f"predictions go into a .npy file, got {file}; use {file.with_suffix('.npy')}")
    if result.task not in ("encode", "describe"):
        raise DataError(
            f"{folder} is a run of {result.task}; predict takes a run of `brainlens encode` or `brainlens describe` on the same "
            "recording, whose model reads the layers of a network"
        )
    if not (folder / MODEL).is_dir() or "network" not in result.config:
        raise DataError(
            f"{folder} is a run of {result.task} that holds no fitted model; `brainlens {result.task}` makes one from pictures"
        )
    model, stimuli = load(folder / MODEL), picture_folder(images)
    tell(f"layers of {network_label(result.config['network']['name'])}", None)
    features = layers_as_in(result, stimuli, device=device)
    read = features if result.task == "encode" else pooled(features, result.config["network"]["layers"])
    predicted = model.set_params(device=device).predict(read)
    listed = io.StringIO(newline="")
    csv.writer(listed, lineterminator="\n").writerows([("row", "stimulus"), *enumerate(map(str, stimuli.ids))])
    with store.lock(file.parent, wait=store.PATIENCE):  # rows and their names are of one writer
        path = store.save_array(file.parent, file.stem, predicted, ids=[str(name) for name in stimuli.ids])
        store.save_text(path.with_suffix(".csv"), listed.getvalue())
    facts: dict[str, Any] = {"images": predicted.shape[0], "units": predicted.shape[1], "model": type(model).__name__}
    facts |= {"network": result.config["model"], "ids": str(path.with_suffix(".csv")), "units are": str(folder / "units.csv")}
    return path, [{"fact": name, "value": str(value)} for name, value in facts.items()]


def layers_as_in(result: Result, stimuli: Stimuli, *, device: str = "cpu") -> Features:
    """The layers of new pictures, of the network and in the form that a run has read."""
    asked = result.config["network"]
    steps = None if asked["steps"] is None else Steps(**{**asked["steps"], "at": tuple(asked["steps"]["at"])})
    grid = None if asked["grid"] is None else tuple(asked["grid"])
    return extract_layers(asked["name"], stimuli, asked["layers"], steps=steps, pool_grid=grid, device=device)
