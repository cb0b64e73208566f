"""`embed` for runs of EEG and MEG: the embeddings of new recordings by the aligner that a run kept."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens import datasets, store
from brainlens.datasets.runs import Rows, keep, source_of, table
from brainlens.datasets.sensors import SENSOR_DATASETS, number_of, open_sensors, read_subject, subjects_in
from brainlens.datasets.source import Source, Tell, no_folder
from brainlens.models.sensors.aligner import SensorAligner
from brainlens.models.sensors.recordings import recorded
from brainlens.models.sensors.stored import load_aligner
from brainlens.stimuli.saliency import FilterSettings
from brainlens.subjects import Protocol
from brainlens.types import DataError, Responses, Result, check_fif

BLOCK = 256  # images


def embed_sensor_run(
    run: str | Path, runs: str | Path, *, source: Source | None = None, device: str = "cpu", tell: Tell
) -> tuple[Path, Rows]:
    """Embeds the mean recording of each image and stores `embedding/brain` (image, d), with `ids` and the table `rows`.

    source: the recording, or in its folder's place a file of epochs that mne reads (-epo.fif), of which every epoch is embedded
    by itself; None: the recording that the run was trained on. Raises DataError for a run without a model, and for other
    channels, another rate, window or unit than those of the model.
    """
    started = store.Start()
    model = load_aligner(run, device=device)  # before the recording is opened, which takes longer
    aligned = store.load_result(run)
    source = source_of(aligned) if source is None else source
    if source.folder is not None and source.folder.is_file():
        tell(f"reading {source.folder.name}", None)
        embedding, rows, data = of_epochs(model, source.folder)
    else:
        responses = _responses(source, aligned, Path(runs) / "prepared", device, tell)
        tell("embedding", None)
        found = list(of_images(model, responses))
        embedding = np.concatenate([values for values, _ in found])
        rows, data = pd.concat([part for _, part in found], ignore_index=True), store.fingerprint(responses)
    metrics = {"embed/rows": float(len(embedding)), "embed/dimensions": float(embedding.shape[1])}
    arrays = {"embedding/brain": embedding, "ids": rows["stimulus"].to_numpy(dtype=np.str_)}
    config = {"run": Path(run).resolve().name, "encoder": aligned.config["encoder"], "device": device}
    provenance = store.provenance(aligned.config.get("seed"), device, [data], started)
    result = Result("embed", metrics, arrays, aligned.units, {"rows": rows}, config, provenance, aligned.space)
    return keep(result, runs, source), table(result, "embed/")


def of_images(model: SensorAligner, responses: Responses) -> Iterator[tuple[np.ndarray, pd.DataFrame]]:
    """Embeddings (n, d) and rows of the mean recording of each image, some images at a time."""
    responses = recorded(responses).matched(model.layout_)
    _, group = np.unique(responses.trials["stimulus"].to_numpy(dtype=str), return_inverse=True)
    for start in range(0, int(group.max()) + 1, BLOCK):
        part = responses.rows((group >= start) & (group < start + BLOCK)).average()
        yield model.transform(part), part.trials


def of_epochs(model: SensorAligner, file: Path) -> tuple[np.ndarray, pd.DataFrame, str]:
    """Embeddings (n, d), rows and fingerprint of the epochs of a file; `stimulus` is the name of its event.

    A model of whitened recordings takes the numbers of the file as whitened.
    """
    import mne

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of the file's name, which says nothing of what is in it
            check_fif(file)
            epochs = mne.read_epochs(file, verbose=False)
    except (ValueError, OSError, RuntimeError, AttributeError, KeyError, TypeError) as error:  # what mne raises for other files
        said = " ".join(str(error).split())
        raise DataError(f"{file} is no file of epochs that mne reads ({said}); give one named -epo.fif") from None
    names = {number: name for name, number in epochs.event_id.items()}
    rows = pd.DataFrame({"stimulus": [names[number] for number in epochs.events[:, 2]]})
    info = {"unit": "z"} if model.unit_ == "z" else None
    return model.transform(epochs, info=info), rows, store.sha256(file)


def _responses(source: Source, aligned: Result, cache: Path, device: str, tell: Tell) -> Responses:
    """The single trials of one subject of a recording."""
    if source.dataset not in SENSOR_DATASETS:
        raise DataError(f"dataset {source.dataset!r} has no EEG or MEG of images; choose one of {', '.join(SENSOR_DATASETS)}")
    subject = source.subjects[0] if source.subjects else aligned.config["protocol"]["subject"]
    if len(source.subjects) > 1:
        raise DataError(f"subjects {list(source.subjects)}: one at a time is embedded; call it for each")
    if datasets.simulated(source.dataset):
        options = aligned.config.get("options", {})
        seen = {name: options.get(name) for name in ("repeats", "amplitude")}
        protocol, settings = Protocol(subject=subject), FilterSettings(**options.get("saliency", {}))
        return open_sensors(
            replace(source, subjects=()), protocol=protocol, cache=cache, device=device, settings=settings, tell=tell, **seen
        ).responses
    if source.folder is None or not source.folder.is_dir():
        raise DataError(no_folder(source))
    tell(f"reading {source.dataset}, subject {subject}", None)
    return read_subject(source, number_of(subject, subjects_in(source)), cache).responses
