"""Features on disk: an extraction that was killed goes on where it was, and no more than a block is in memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from brainlens.backbones import vision
from brainlens.backbones.preprocess import Preprocess
from brainlens.types import Stimuli

KILLED = """
import os, signal, sys
import numpy as np
from brainlens.backbones import vision
from brainlens.backbones.preprocess import Preprocess
from brainlens.types import Stimuli
vision.BLOCK = 8
plain, calls = Preprocess.batch, []
def counted(self, images):
    calls.append(len(images))
    if len(calls) == 6:
        os.kill(os.getpid(), signal.SIGKILL)  # in the middle of the third block
    return plain(self, images)
Preprocess.batch = counted
images = np.load(sys.argv[2])
ids = np.array([f"p{i:03d}" for i in range(len(images))])
vision.extract(vision.load(sys.argv[1]), Stimuli(ids, images), batch=4, cache=sys.argv[3])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("vit")
    size = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    transformers.ViTModel(transformers.ViTConfig(**size, image_size=64, patch_size=4)).save_pretrained(place)
    half = {"size": {"height": 64, "width": 64}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (place / "preprocessor_config.json").write_text(json.dumps(half))
    return place


def pictures(n: int) -> Stimuli:
    images = np.random.default_rng(0).integers(0, 256, size=(n, 64, 64, 3), dtype=np.uint8)
    return Stimuli(np.array([f"p{i:03d}" for i in range(n)]), images)


def test_a_killed_extraction_goes_on_where_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stimuli = pictures(30)
    np.save(tmp_path / "images.npy", stimuli.images)
    arguments = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "images.npy"), str(tmp_path / "cache")]
    assert subprocess.run(arguments, check=False, capture_output=True).returncode == -signal.SIGKILL
    seen: list[int] = []
    plain = Preprocess.batch

    def counted(self: Preprocess, images: list[np.ndarray]) -> np.ndarray:
        seen.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(vision, "BLOCK", 8)
    monkeypatch.setattr(Preprocess, "batch", counted)
    backbone = vision.load(folder)
    resumed = vision.extract(backbone, stimuli, batch=4, cache=tmp_path / "cache")
    # two blocks of 8 were whole; the first block is computed once more to learn the layers' sizes, then 14 images are left
    assert sum(seen) == 8 + 14
    direct = vision.extract(backbone, stimuli, batch=4)
    for layer in direct.layer:
        assert resumed[layer].dtype == np.float16
        np.testing.assert_array_equal(resumed[layer], direct[layer])
    np.testing.assert_array_equal(resumed.tokens["vision.1"], direct.tokens["vision.1"])


def test_no_more_than_a_block_is_in_memory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stimuli, backbone = pictures(120), vision.load(folder)
    monkeypatch.setattr(vision, "BLOCK", 8)

    def peak(cache: Path | None) -> int:
        tracemalloc.start()
        found = vision.extract(backbone, stimuli, batch=8, cache=cache)
        assert len(found) == 120
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    whole = 120 * 3 * 257 * 96 * 2  # images x layers x tokens x channels x bytes
    assert peak(None) > whole
    assert peak(tmp_path / "cache") < whole / 2  # a quarter of it is the buffer in which files are hashed
