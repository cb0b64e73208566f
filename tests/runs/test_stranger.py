"""fMRI of a stranger: photographs seen twice, voxels of 8 mm that read a real network, four commands and no Python."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from brainlens import store
from brainlens.backbones import vision
from brainlens.cli import main
from brainlens.types import Stimuli

PHOTOGRAPHS, VOXELS, NOISY = 90, 60, 40  # voxels that read the network, and voxels that read nothing


@pytest.fixture(scope="module")
def stranger(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """90 photographs x 2 sessions; 60 voxels are weighted sums of layers of MobileNetV2, 40 are noise; 8 mm MNI."""
    folder = tmp_path_factory.mktemp("stranger") / "my data"
    files = sorted((test_data / "things_eeg2_test_images").rglob("*.jpg"))[:PHOTOGRAPHS]
    images = [np.asarray(Image.open(file).convert("RGB").resize((96, 96))) for file in files]
    ids = np.array([f"{i:03d}" for i in range(len(images))])
    network = vision.load(test_data / "mobilenet_v2_1.0_224")
    found = vision.extract(network, Stimuli(ids, images))
    rng = np.random.default_rng(0)
    names = [found.layer[k] for k in (len(found.layer) // 3, -1)]
    signal = []
    for name in names:
        values = np.asarray(found.data[name], np.float64)
        values = (values - values.mean(0)) / (values.std(0) + 1e-9)
        u, s, _ = np.linalg.svd(values, full_matrices=False)
        read = u[:, :10] * s[:10] @ rng.normal(size=(10, VOXELS // 2))
        signal.append(read / read.std(0))
    brain = np.concatenate([*signal, np.zeros((len(ids), NOISY))], axis=1)
    order = [rng.permutation(len(ids)) for _ in range(2)]
    rows = np.concatenate(order)
    data = brain[rows] + rng.normal(size=(len(rows), VOXELS + NOISY))
    mask = np.zeros((23, 27, 23), np.uint8)
    mask.ravel()[rng.permutation(mask.size)[: VOXELS + NOISY]] = 1
    affine = np.array([[8.0, 0, 0, -90], [0, 8, 0, -126], [0, 0, 8, -72], [0, 0, 0, 1]])
    folder.mkdir(parents=True)
    np.save(folder / "responses.npy", data.astype(np.float32))
    nib.save(nib.Nifti1Image(mask, affine), folder / "mask.nii.gz")
    trials = pd.DataFrame({"stimulus": ids[rows], "session": np.repeat(["1", "2"], len(ids))})
    trials["split"] = np.where(trials["stimulus"].isin(ids[:20]), "test", "train")
    trials.to_csv(folder / "trials.csv", index=False)
    (folder / "images").mkdir()
    for name, image in zip(ids, images, strict=True):
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
    return folder


def command(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["brainlens", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0


@pytest.mark.realdata
def test_four_commands_and_no_python(
    stranger: Path, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("--dataset", "folder", "--data", str(stranger))
    network = str(test_data / "mobilenet_v2_1.0_224")
    command("encode", *given, "--model", network, monkeypatch=monkeypatch)
    said = capsys.readouterr().out
    assert "encoding/units_reliable" in said
    (encoded,) = (tmp_path / "runs").glob("encode-*")
    result = store.load_result(encoded)
    assert result.config["method"] == "ridge"  # few images
    reliable = result.metrics["encoding/units_reliable"]
    assert result.metrics["encoding/units_scored"] == reliable
    assert 30 <= reliable <= VOXELS + 6  # of 60 with signal as large as noise and 40 of noise alone
    assert result.metrics["encoding/r2_mean.low"] > 0
    command("align", *given, monkeypatch=monkeypatch)
    (aligned,) = (tmp_path / "runs").glob("align-*")
    result = store.load_result(aligned)
    best = result.config["main"]
    scores = {name: result.metrics[f"align/{name}/validation/mrr"] for name in result.config["encoders"]}
    assert scores[best] == max(scores.values())
    assert result.config["encoders"][-1] == best
    assert result.metrics["retrieval/brain->image/top5"] == result.metrics[f"align/{best}/retrieval/brain->image/top5"]
    assert result.config["training"]["steps"] == 1
    command("attribute", str(aligned), "--trials", "2", "--steps", "2", monkeypatch=monkeypatch)
    command("report", "runs", monkeypatch=monkeypatch)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"key numbers are of {best.replace('_', ' ')}" in page
    assert torch.get_default_dtype() == torch.float32
