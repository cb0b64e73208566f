"""Scores of a fitted encoder on a part of the split: four directions, each subject in a gallery of its own, and the mean."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from brainlens.metrics import retrieval as retrieval_metrics
from brainlens.models.volume.decoder import Decoder
from brainlens.models.volume.split import AlignmentPart


def embeddings(decoder: Decoder, part: AlignmentPart) -> dict[str, tuple[Tensor, Tensor]]:
    """Per modality: (brain embeddings, targets) of a part of the split, in the space in which cosines are taken. Both (n, d)."""
    for_image, for_text = decoder.embed(part.mean(), part.subject)
    pairs = {"image": (for_image, decoder.gallery(part.image, "image"))}
    if part.text is not None:
        pairs["text"] = (for_text, decoder.gallery(part.text, "text"))
    return pairs


def score(decoder: Decoder, part: AlignmentPart, *, resamples: int = 2000, seed: int = 0) -> dict[str, float]:
    """Retrieval metrics of a decoder in the four named directions.

    With several subjects `retrieval/...` is the mean over subjects, whose own scores stand under `subject/<name>/...`; a
    subject's responses are looked up among the images that it was tested with.
    """
    names = part.subjects
    if len(names) == 1:
        return _one(decoder, part, resamples, seed)
    metrics: dict[str, float] = {}
    ranks: dict[str, list[np.ndarray]] = {}
    for name in names:
        own = part.of(name)
        metrics |= {f"subject/{name}/{key}": value for key, value in _one(decoder, own, resamples, seed).items()}
        for direction, (query, gallery) in directions(decoder, own).items():
            ranks.setdefault(direction, []).append(retrieval_metrics.ranks(query, gallery))
    ids = [part.of(name).ids for name in names]
    for direction, each in ranks.items():
        found = retrieval_metrics.summary_over_subjects(each, ids, [len(i) for i in ids], resamples=resamples, seed=seed)
        metrics |= {f"retrieval/{direction}/{key}": value for key, value in found.items()}
    return metrics


def directions(decoder: Decoder, part: AlignmentPart) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Query and gallery, both (n, d), of each direction, for one subject."""
    out = {}
    for which, (brain, target) in embeddings(decoder, part).items():
        query, gallery = brain.cpu().numpy(), target.cpu().numpy()
        out[f"brain->{which}"], out[f"{which}->brain"] = (query, gallery), (gallery, query)
    return out


def hits(decoder: Decoder, part: AlignmentPart, *, k: int = 5) -> np.ndarray:
    """Whether each response finds its image among the first k of its subject's gallery, in the order of subjects and images.

    Returns (n,) of 0 and 1.
    """
    found = [retrieval_metrics.ranks(*directions(decoder, part.of(name))["brain->image"]) < k for name in part.subjects]
    return np.concatenate(found).astype(float)


def arrays(decoder: Decoder, part: AlignmentPart) -> dict[str, np.ndarray]:
    """Embeddings, ranks and neighbours of the main encoder; of the first subject, and of each under `subject/<name>/`.

    Embeddings (image, d), ranks (image,), neighbours (image, k).
    """
    names = part.subjects
    out = _arrays(decoder, part.of(names[0]))
    for name in names if len(names) > 1 else ():
        out |= {f"subject/{name}/{key}": value for key, value in _arrays(decoder, part.of(name)).items()}
    return out


def _one(decoder: Decoder, part: AlignmentPart, resamples: int, seed: int) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for which, (brain, target) in embeddings(decoder, part).items():
        found = retrieval_metrics.retrieval(brain.cpu().numpy(), target.cpu().numpy(), resamples=resamples, seed=seed)
        metrics |= {key.replace("image", which): value for key, value in found.items()}
    return metrics


def _arrays(decoder: Decoder, part: AlignmentPart) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {"ids": part.ids}
    for which, (brain, target) in embeddings(decoder, part).items():
        query, gallery = brain.cpu().numpy(), target.cpu().numpy()
        out[f"embedding/brain_for_{which}"], out[f"embedding/{which}"] = query, gallery
        for direction, a, b in ((f"brain->{which}", query, gallery), (f"{which}->brain", gallery, query)):
            out[f"ranks/{direction}"] = retrieval_metrics.ranks(a, b)
            out[f"neighbours/{direction}"] = retrieval_metrics.neighbours(a, b, min(10, len(b)))[0]
    out["embedding/brain"] = out.pop("embedding/brain_for_image")
    return out
