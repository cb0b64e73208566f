"""Models on disk: the same to the bit in another process, and one line for whatever is wrong with a folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone

from brainlens import store
from brainlens.models.estimator import Model
from brainlens.types import DataError


class Scaler(Model):
    """A model as small as one can be: y = x * scale + shift."""

    def __init__(self, shift: float = 0.5, names: tuple[str, ...] = ("a",)) -> None:
        self.shift = shift
        self.names = names

    def fit(self, x: np.ndarray) -> Scaler:
        self.scale_ = 1 / x.std(axis=0)
        self.table_ = {"rows": len(x), "ids": ["1", "2"], "half": torch.ones(2, dtype=torch.float16)}
        self.edges_ = (float("nan"), float("inf"), -float("inf"))
        return self

    def predict(self, x: np.ndarray) -> np.ndarray:
        return x * self.scale_ + self.shift


X = np.random.default_rng(0).normal(size=(20, 3))
READ = """
import sys, numpy as np
from test_store_models import Scaler, X
np.save(sys.argv[2], Scaler.load(sys.argv[1]).predict(X))
"""


def test_a_model_is_the_same_to_the_bit_in_another_process(tmp_path: Path) -> None:
    model = Scaler(0.25, ("x", "y")).fit(X)
    assert model.save(tmp_path / "model") == tmp_path / "model"
    out = tmp_path / "prediction.npy"
    subprocess.run([sys.executable, "-c", READ, str(tmp_path / "model"), str(out)], check=True, cwd=Path(__file__).parent)
    assert np.array_equal(np.load(out), model.predict(X))
    again = Scaler.load(tmp_path / "model")
    assert again.names == ("x", "y")
    assert again.table_["ids"] == ["1", "2"]
    assert again.table_["half"].dtype == torch.float16
    assert np.array_equal(again.edges_, model.edges_, equal_nan=True)


def test_a_model_can_be_cloned_and_saved_over_an_older_one(tmp_path: Path) -> None:
    model = Scaler(1.0).fit(X)
    assert clone(model).get_params() == model.get_params()
    assert not hasattr(clone(model), "scale_")
    model.save(tmp_path)
    Scaler(2.0).fit(X * 3).save(tmp_path)
    assert Scaler.load(tmp_path).shift == 2.0
    assert len(list(tmp_path.glob("model-*.safetensors"))) == 1


def spoilt(folder: Path, how: str) -> None:
    note = folder / "model.json"
    content = json.loads(note.read_text())
    (tensors,) = folder.glob("model-*.safetensors")
    if how == "missing":
        tensors.unlink()
    elif how == "flipped":
        raw = bytearray(tensors.read_bytes())
        raw[-1] ^= 1
        tensors.write_bytes(raw)
    elif how == "no note":
        note.unlink()
    elif how == "half":
        note.write_text(note.read_text()[:40])
    elif how == "other file":
        note.write_text(json.dumps(content | {"file": "../model.safetensors"}))
    elif how == "newer":
        note.write_text(json.dumps(content | {"format": 99}))
    elif how == "text format":
        note.write_text(json.dumps(content | {"format": "1"}))
    elif how == "other parameter":
        note.write_text(json.dumps(content | {"parameters": {"dict": [["shift", 3.0]]}}))
    elif how == "other class":
        store.save_model(folder, model="Ridge", version=1, parameters={}, state={"a_": 1})
    elif how == "other version":
        store.save_model(folder, model="Scaler", version=7, parameters={}, state={"a_": 1})
    elif how == "other settings":
        store.save_model(folder, model="Scaler", version=1, parameters={"tilt": 1}, state={"a_": 1})


@pytest.mark.parametrize(
    "how, says",
    [
        ("missing", "missing"),
        ("flipped", "damaged"),
        ("no note", "holds no model"),
        ("half", "model.json"),
        ("other file", "altered"),
        ("newer", "format 99"),
        ("text format", "format '1'"),
        ("other parameter", "altered"),
        ("other class", "use Ridge.load"),
        ("other version", "saved in version 7"),
        ("other settings", "no parameter 'tilt'"),
    ],
)
def test_a_spoilt_folder_is_one_line(tmp_path: Path, how: str, says: str) -> None:
    Scaler().fit(X).save(tmp_path)
    spoilt(tmp_path, how)
    with pytest.raises(DataError, match=says) as caught:
        Scaler.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not fitted"):
        Scaler().save(tmp_path / "a")
    with pytest.raises(DataError, match="cannot hold"):
        Scaler(shift=object()).fit(X).save(tmp_path / "b")  # type: ignore[arg-type]
    assert not list((tmp_path / "b").glob("model*"))
