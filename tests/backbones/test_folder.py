"""Where models are found, and what is said when they are not there, incomplete or unsafe."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import transformers

from brainlens.backbones import vision
from brainlens.types import DataError

TINY = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 8,
    "image_size": 8,
    "patch_size": 4,
}
SQUARE = {"size": {"height": 8, "width": 8}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    transformers.ViTModel(transformers.ViTConfig(**TINY), add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(SQUARE))
    return tmp_path / "vit"


def test_a_hub_model_that_is_not_there_names_the_folder_to_provide(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("Network is unreachable")

    for key in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(socket, "create_connection", no_network)
    start = time.monotonic()
    with pytest.raises(
        DataError, match=r"'nobody/no-such-model' is not found locally and the hub cannot be reached; put its files"
    ):
        vision.load("nobody/no-such-model")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="the hub is switched off; put its files"):
        vision.load("nobody/no-such-model")
    assert time.monotonic() - start < 5


def test_a_hub_that_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, local_files_only: bool = False, **__: object) -> None:
        raise OSError("401 Client Error.\nRepository not found")

    monkeypatch.setattr("huggingface_hub.snapshot_download", refused)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: socket.socket())
    with pytest.raises(
        DataError, match=r"cannot be fetched \(OSError: 401 Client Error. Repository not found\); put its"
    ) as error:
        vision.load("nobody/no-such-model")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a/b/c", "no such/model", "../models", "/nowhere/at/all", "hub:model"])
def test_a_name_that_is_neither_folder_nor_hub_name(name: str) -> None:
    with pytest.raises(DataError, match="neither a folder nor a hub name"):
        vision.load(name)


def test_only_safetensors_are_read(vit: Path) -> None:
    weights = vit / "model.safetensors"
    torch.save({}, vit / "pytorch_model.bin")
    vision.load(vit)
    weights.unlink()
    with pytest.raises(DataError, match=r"no \*\.safetensors; it has \['pytorch_model.bin'\]; convert"):
        vision.load(vit)


def test_code_in_a_model_folder_is_not_run(vit: Path, tmp_path: Path) -> None:
    (vit / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: ...\n")
    config = json.loads((vit / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModel": "evil.Evil"}}
    (vit / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="not understood"):
        vision.load(vit)
    assert not (tmp_path / "ran").exists()


def test_missing_and_damaged_weights_are_never_left_at_random(vit: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(vit / "model.safetensors")
    less = {name: value for name, value in weights.items() if "layernorm_before" not in name}
    save_file(less, vit / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DataError, match="lacks 2 weights that the network needs"):
        vision.load(vit)
    (vit / "model.safetensors").write_bytes((vit / "model.safetensors").read_bytes()[:500])
    with pytest.raises(DataError, match="cannot be loaded") as error:
        vision.load(vit)
    assert "\n" not in str(error.value)


def test_a_folder_without_configuration_or_with_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no config\.json"):
        vision.load(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(SQUARE))
    with pytest.raises(DataError, match="not understood"):
        vision.load(tmp_path)


BROKEN = """
import sys
sys.path.insert(0, sys.argv[1])
from brainlens.backbones import vision
from brainlens.types import DataError
try:
    vision.load(sys.argv[2])
except DataError as error:
    print("DataError:", error)
"""


def test_a_broken_torchvision_is_one_clear_sentence(tmp_path: Path, vit: Path) -> None:
    package = tmp_path / "site" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    facts = tmp_path / "site" / "torchvision-0.29.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.29.0\n")
    done = subprocess.run(
        [sys.executable, "-c", BROKEN, str(package.parent), str(vit)], capture_output=True, text=True, check=False
    )
    assert done.stdout.count("\n") == 1, done.stderr
    assert "the installed torchvision is broken (operator torchvision::nms does not exist)" in done.stdout
    assert "pip uninstall torchvision" in done.stdout
