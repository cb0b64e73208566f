"""The encode command on a real recording, against numbers that scikit-learn and himalaya gave for the same slice."""

from __future__ import annotations

import pytest

from brainlens import datasets, encode, store
from brainlens.datasets.source import Source
from brainlens.encode.run import run_encode


@pytest.mark.realdata
def test_haxby_2001_is_encoded_and_decoded_as_elsewhere(test_data, tmp_path):
    said: list[str] = []
    source = Source("haxby2001", test_data / "haxby2001")
    folder, rows = run_encode(source, tmp_path, tell=lambda text, share=None: said.append(text))
    stored = store.load_result(folder)
    assert stored.metrics["encoding/r2_max"] == pytest.approx(0.642, abs=0.03)
    assert stored.metrics["encoding/r2_share_positive"] == pytest.approx(0.319, abs=0.03)
    assert stored.config["dataset"] == "haxby2001"
    assert len(stored.arrays["r2"]) == 530
    assert {row["metric"] for row in rows} >= {"encoding/r2_max", "encoding/r2_share_positive"}
    assert said[0] == "reading haxby2001"
    responses = datasets.load("haxby2001", test_data / "haxby2001").responses
    found = encode.decode(responses).metrics  # one of eight categories, one run left out at a time
    assert found["decode/accuracy.chance"] == 0.125
    assert found["decode/groups"] == 12
    assert found["decode/accuracy"] >= 0.78
