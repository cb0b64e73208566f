"""NICE with captions as a second target: its loss, what it finds, what is stored, and what it refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from brainlens.align.sensors import align_sensors
from brainlens.models.sensors.decoder import NICE_TRAINING, build
from brainlens.models.sensors.networks import NICE
from brainlens.models.sensors.training import step
from brainlens.subjects import Protocol
from brainlens.types import DataError, Features, Responses

N, C, T, D = 240, 6, 120, 10
QUICK = {"max_epochs": 15, "batch": 64, "lr": 1e-3, "options": {"validation": 40}}


def world(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recordings to which every number of image and caption adds a topography of its own, in its own rhythm."""
    rng = np.random.default_rng(seed)
    image, own = rng.normal(size=(N, D)), rng.normal(size=(N, D))
    text = 0.5 * image + own
    patterns = rng.normal(size=(2 * D, C, 1)) * np.sin(rng.uniform(0.1, 1, size=(2 * D, 1, 1)) * np.arange(T))
    data = np.einsum("nk,kct->nct", np.concatenate([image, text], axis=1), patterns) + rng.normal(size=(N, C, T))
    return data.astype(np.float32), image.astype(np.float32), text.astype(np.float32)


DATA, IMAGE, TEXT = world()
INFO = {"ch_names": [f"c{k}" for k in range(C)], "unit": "z"}


def test_the_loss_is_the_mean_of_both_targets() -> None:
    scale = torch.zeros(C, 1), torch.ones(C, 1)
    decoder = build("nice_llm_like", (C, T), (D, D), training=NICE_TRAINING, seed=0, device="cpu", scale=scale)
    decoder.model.eval()  # no dropout, so that two passes are the same
    decoder.model.encoder.filtered = False
    x, target = torch.from_numpy(DATA[:8]), torch.arange(8)
    tables = [torch.from_numpy(table[:8]) for table in (IMAGE, TEXT)]
    value, _ = step(decoder, (x, None, target), *tables, NICE_TRAINING, None)
    found = {name: p.grad.clone() for name, p in decoder.model.named_parameters()}
    decoder.model.zero_grad()
    brain = F.normalize(decoder.model(x), dim=1)
    total = 0.0
    for table in tables:
        logits = brain @ F.normalize(table, dim=1).T / NICE_TRAINING.temperature
        for rows in (logits, logits.T):
            total = total + F.cross_entropy(rows, target) / 4  # two directions of two targets
    total.backward()
    assert value == pytest.approx(float(total.detach()), rel=1e-5)
    for name, p in decoder.model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-6)


def tables(text: np.ndarray) -> tuple[Responses, Features, Features]:
    ids = np.array([f"s{k:03d}" for k in range(N)])
    trials = pd.DataFrame({"stimulus": ids, "split": np.where(np.arange(N) < N - 40, "train", "test"), "subject": "1"})
    units = pd.DataFrame({"name": INFO["ch_names"]})
    responses = Responses(DATA, trials, units, times=np.arange(T) / 250)
    return responses, Features({"image": IMAGE}, ids, "made up"), Features({"text": text}, ids, "made up")


def test_align_finds_images_and_captions() -> None:
    training = NICE(language=True, **QUICK).training
    result = align_sensors(*tables(TEXT), encoder="nice_llm_like", training=training, protocol=Protocol(subject="1"))
    for direction in ("brain->image", "brain->text"):
        assert result.metrics[f"retrieval/{direction}/top5"] > 3 * result.metrics[f"retrieval/{direction}/chance5"]


def test_a_stored_model_gives_the_same_to_the_bit(tmp_path) -> None:
    model = NICE(language=True, **QUICK, random_state=1).set_params(max_epochs=1)
    model.fit(DATA, IMAGE, TEXT, sfreq=250, info=INFO)
    again = NICE.load(model.save(tmp_path / "m"))
    np.testing.assert_array_equal(
        again.transform(DATA[:5], sfreq=250, info=INFO), model.transform(DATA[:5], sfreq=250, info=INFO)
    )
    rows = again.retrieve(DATA[:5], TEXT, k=3, modality="text", sfreq=250, info=INFO)
    assert rows.shape == (5, 3)


@pytest.mark.parametrize(
    "settings, texts, words",
    [
        ({"language": True}, None, "NICE with language is trained on captions too; give texts"),
        ({"language": True}, TEXT[:, :4], "images have 10 numbers and texts 4; it needs both in one space"),
        ({"language": True, "attention": "graph"}, TEXT, "language goes with attention=None, not with 'graph'"),
        ({}, TEXT, "NICE is trained on images alone; leave texts out"),
    ],
)
def test_mistakes(settings: dict, texts: np.ndarray | None, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        NICE(**QUICK, **settings).fit(DATA, IMAGE, texts, sfreq=250, info=INFO)
    assert "\n" not in str(error.value)
