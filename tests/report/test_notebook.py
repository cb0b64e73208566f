"""How results, recordings and models look in a notebook."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from brainlens import Recording, Responses, Result, RidgeCV, Stimuli
from brainlens.types import DataError


def test_a_result_shows_its_key_numbers_and_a_figure(made: ModuleType) -> None:
    result = made.eeg()
    text = result._repr_html_()
    assert "14.0 %" in text
    assert "data:image/png;base64," in text
    assert "result.plot: topk_bars_top1()" in text
    assert isinstance(result.plot.topk_bars_top1(), Figure)
    with pytest.raises(DataError, match="no figure 'nothing'"):
        _ = result.plot.nothing


def test_nothing_from_data_is_markup(made: ModuleType) -> None:
    nasty = made.NASTY
    ids = [f"s{i}" for i in range(6)]
    responses = Responses.from_arrays(np.zeros((6, 4)), ids, roi=[nasty] * 4, split="train")
    recording = Recording(
        responses, Stimuli(np.array(ids), np.zeros((6, 8, 8, 3), np.uint8), [[nasty]] * 6, pd.DataFrame({"kind": [nasty] * 6}))
    )
    for text in (recording._repr_html_(), Result("encode", {"encoding/r2_mean": 0.1}, config={"method": nasty})._repr_html_()):
        assert "<script" not in text
        assert "onerror" not in text or "&lt;img" in text
    assert "train (6)" in recording._repr_html_()
    assert "(4)" in recording._repr_html_()


def test_a_model_shows_its_settings_and_what_it_learned() -> None:
    model = RidgeCV()
    assert "not fitted" in model._repr_html_()
    rng = np.random.default_rng(0)
    model.fit(rng.normal(size=(30, 5)), rng.normal(size=(30, 3)))
    text = model._repr_mimebundle_()["text/html"]
    assert "coef_" in text
    assert "(3,)" in text
