"""The phantom loads like a recording: scenes, trials and truth fit together."""

from __future__ import annotations

import numpy as np
import pytest

from brainlens.datasets import phantom
from brainlens.phantom.ideal import ideal_scores
from brainlens.types import DataError, Responses, Stimuli, check_no_leak


@pytest.fixture(scope="module")
def loaded() -> tuple[Responses, Stimuli]:
    recording = phantom.load(n_train=120, n_validation=20, n_test=30)
    return recording.responses, recording.stimuli


def test_every_scene_is_seen_three_times_in_its_split(loaded) -> None:
    responses, stimuli = loaded
    assert len(responses) == 3 * len(stimuli) == 510
    counts = responses.trials.groupby("split")["stimulus"].nunique().to_dict()
    assert counts == {"train": 120, "validation": 20, "test": 30}
    assert responses.data.dtype == np.float16
    split = stimuli.table["split"].to_numpy()
    check_no_leak(stimuli.take(stimuli.ids[split != "test"]), stimuli.take(stimuli.ids[split == "test"]))


def test_units_carry_the_truth(loaded) -> None:
    units = loaded[0].units
    expected = [
        "x",
        "y",
        "z",
        "roi",
        "hemisphere",
        "ncsnr",
        "layer",
        "rf_x",
        "rf_y",
        "rf_size",
        "is_global",
        "domain",
        "informative",
    ]
    assert set(expected) <= set(units.columns)
    assert set(units["domain"]) == {"", "bodies", "faces", "places", "words", "food"}


def test_the_truth_is_that_of_the_recording(loaded) -> None:
    responses, stimuli = loaded
    truth = phantom.truth(stimuli)
    test = responses.zscore().where(split="test").average()
    names = test.trials["stimulus"].to_numpy(dtype=str)
    scores = ideal_scores(test.data, names, truth)
    assert (scores.argmax(axis=1) == np.arange(len(names))).mean() > 0.9


def test_features_and_texts_share_a_space(loaded) -> None:
    stimuli = loaded[1].take(loaded[1].ids[:40])
    image, text = phantom.features(stimuli)["image"].astype(np.float32), phantom.texts(stimuli)["text"]
    image = image / np.linalg.norm(image, axis=1, keepdims=True)
    assert image.shape == text.shape
    match = (image @ text.T).argmax(axis=1) == np.arange(40)
    assert match.mean() > 0.5


def test_an_empty_training_set_is_named() -> None:
    with pytest.raises(DataError, match="n_train"):
        phantom.load(n_train=0)
