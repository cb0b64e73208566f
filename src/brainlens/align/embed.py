"""`embed` for runs of fMRI: the embeddings of new recordings by the aligner that a run kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from brainlens import store
from brainlens.datasets.runs import Rows, keep, source_of, table
from brainlens.datasets.source import Source, Tell, open_recording, standardised
from brainlens.models.volume.model import Aligner
from brainlens.models.volume.stored import run_aligner
from brainlens.subjects import check_same_volume
from brainlens.types import MAX_BAD_UNITS, DataError, Responses, Result, Volume


def embed_volume_run(
    run: str | Path,
    runs: str | Path,
    *,
    source: Source | None = None,
    device: str = "cpu",
    tell: Tell,
) -> tuple[Path, Rows]:
    """Embeds the mean responses to each image of a recording and stores `embedding/image` and `embedding/text` (image, D).

    source: the recording; None: the one that the run was trained on. Responses are z-scored by session, where there are
    sessions. Raises DataError for a run without a model, and voxels that are not those of the model.
    """
    started = store.Start()
    model = run_aligner(run).to(device)
    trained = source_of(store.load_result(run))
    source = trained if source is None else source
    responses = in_voxels(model, open_recording(source, embeddings=False, device=device, tell=tell).responses, run)
    there = responses.trials.columns
    if "split" in there and (responses.trials["split"] == "train").any():
        responses = standardised(responses)
    elif "session" in there:  # nothing was trained on here, so every trial may shape its session's mean
        responses = responses.zscore(by="session", fit_on=None)
    responses = responses.average()
    data, filled = _filled(np.asarray(responses.data))
    tell("embedding", None)
    whose = responses.trials["subject"].astype(str).tolist() if "subject" in there else None
    arrays = {
        f"embedding/{which}": model.transform(data, modality=which, subject=whose if model.subjects_ != [""] else None)
        for which in ("image", "text")
    }
    arrays["ids"] = responses.trials["stimulus"].to_numpy(dtype=np.str_)
    metrics = {"embed/images": float(len(data)), "embed/dimensions": float(arrays["embedding/image"].shape[1])}
    metrics |= {"embed/voxels": float(data.shape[1]), "embed/voxels_filled": float(filled)}
    config = {"run": Path(run).resolve().name, "encoder": model.encoder(), "device": device}
    provenance = store.provenance(model.seed, device, [store.fingerprint(responses)], started)
    result = Result("embed", metrics, arrays, tables={"rows": responses.trials}, config=config, provenance=provenance)
    return keep(result, runs, source), table(result, "embed/")


def in_voxels(model: Aligner, responses: Responses, run: str | Path) -> Responses:
    """The responses in the voxels of a model, which may be a part of those that were recorded."""
    space, own = responses.space, model.space_
    if own is not None and isinstance(space, Volume):
        if space.mask.shape == own.mask.shape and not (own.mask & ~space.mask).any():
            check_same_volume(Volume(own.mask, space.affine), own, "the recording", f"the model of {run}")
            return responses if len(space) == len(own) else responses.columns(own.mask[space.mask])
        check_same_volume(space, own, "the recording", f"the model of {run}")
    if responses.data.shape[1] != model.n_features_in_:
        raise DataError(
            f"{run}: its model reads {model.n_features_in_} voxels, the recording has {responses.data.shape[1]}; use one mask"
        )
    return responses


def _filled(data: np.ndarray) -> tuple[np.ndarray, int]:
    """Voxels without a value at their mean, which is 0 after z-scoring, and how many there are."""
    bad = ~np.isfinite(data).all(axis=0)
    if bad.mean() > MAX_BAD_UNITS:
        raise DataError(f"{bad.mean():.0%} of the {len(bad)} voxels that the model reads hold no value; use another recording")
    return np.where(np.isfinite(data), data, 0.0), int(bad.sum())
