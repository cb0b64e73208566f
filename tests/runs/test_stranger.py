"""fMRI of a stranger: photographs seen twice, voxels of 8 mm that read a real network, four commands and no Python."""

from __future__ import annotations

import json
import shutil
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
from brainlens.metrics.statistics import auroc
from brainlens.types import Stimuli

PHOTOGRAPHS, VOXELS, NOISY = 221, 120, 60  # voxels that read the network, half of them each layer, and voxels that read nothing
EARLY, LATE = "stage.4", "stage.16"


@pytest.fixture(scope="module")
def stranger(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """221 photographs as they come x 2 sessions in numbers of no unit, 8 mm MNI, captions, no split of her own.

    Voxels of the first half read an early layer of MobileNetV2, of the second a late one; the last 60 are noise alone.
    """
    folder = tmp_path_factory.mktemp("stranger") / "my data"
    (folder / "images").mkdir(parents=True)
    told = json.loads((test_data / "coco_captions" / "manifest.json").read_text())
    captions = {Path(entry["file"]).stem: entry["captions"] for entry in told}
    files = [test_data / "coco_captions" / entry["file"] for entry in told]
    files += sorted((test_data / "things_eeg2_test_images" / "images").glob("*.jpg"))
    files = files[:PHOTOGRAPHS]
    ids = np.array([file.stem for file in files])
    for file in files:
        shutil.copy(file, folder / "images" / file.name)
    captions |= {
        file.stem: [f"a photograph of a {file.stem[6:].replace('_', ' ')}"] for file in files if file.stem not in captions
    }
    network = vision.load(test_data / "mobilenet_v2_1.0_224")
    images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    found = vision.extract(network, Stimuli(ids, images), layers=[EARLY, LATE])
    rng = np.random.default_rng(0)
    signal = []
    for name in (EARLY, LATE):
        values = np.asarray(found.data[name], np.float64).reshape(len(ids), -1)
        values = (values - values.mean(0)) / (values.std(0) + 1e-9)
        u, s, _ = np.linalg.svd(values, full_matrices=False)
        read = u[:, :10] * s[:10] @ rng.normal(size=(10, VOXELS // 2))
        signal.append(read / read.std(0))
    brain = np.concatenate([*signal, np.zeros((len(ids), NOISY))], axis=1)
    rows = np.concatenate([rng.permutation(len(ids)) for _ in range(2)])
    data = 400 + 30 * (brain[rows] + rng.normal(size=(len(rows), VOXELS + NOISY)))
    mask = np.zeros((23, 27, 23), np.uint8)
    mask.ravel()[rng.permutation(mask.size)[: VOXELS + NOISY]] = 1
    affine = np.array([[8.0, 0, 0, -90], [0, 8, 0, -126], [0, 0, 8, -72], [0, 0, 0, 1]])
    np.save(folder / "responses.npy", data.astype(np.float32))
    nib.save(nib.Nifti1Image(mask, affine), folder / "mask.nii.gz")
    trials = pd.DataFrame({"stimulus": ids[rows], "session": np.repeat(["1", "2"], len(ids))})
    trials.to_csv(folder / "trials.csv", index=False)
    (folder / "captions.json").write_text(json.dumps(captions))
    return folder


def command(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["brainlens", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0


@pytest.mark.realdata
@pytest.mark.filterwarnings("default")  # that a test part is drawn is for the user to read
def test_four_commands_and_no_python(
    stranger: Path, test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ("--dataset", "folder", "--data", str(stranger))
    network = str(test_data / "mobilenet_v2_1.0_224")
    early, late, none = (np.arange(VOXELS + NOISY) // (VOXELS // 2) == k for k in range(3))
    read = early | late
    with pytest.warns(UserWarning, match="44 of 221 images are drawn for the test"):
        command("encode", *given, "--model", network, monkeypatch=monkeypatch)
    said = capsys.readouterr()
    assert "encoding/units_reliable" in said.out
    (encoded,) = (tmp_path / "runs").glob("encode-*")
    result = store.load_result(encoded)
    assert result.config["method"] == "ridge"  # few images
    reliable = result.metrics["encoding/units_reliable"]
    assert result.metrics["encoding/units_scored"] == reliable
    assert VOXELS <= reliable <= VOXELS + 15  # signal as large as noise, and five in a hundred of those found may be noise
    assert (
        0 < result.metrics["encoding/r2_mean.low"] < result.metrics["encoding/r2_mean"] < result.metrics["encoding/ceiling_mean"]
    )
    assert (result.arrays["q"][none] < 0.05).mean() <= 0.05  # R2 > 0 where nothing is read
    assert (result.arrays["q"][read] < 0.05).mean() > 0.5
    layer = result.arrays["layer"]
    assert auroc(late[read], layer[read]) > 0.9  # which half reads the late layer
    command("align", *given, monkeypatch=monkeypatch)
    said = capsys.readouterr()
    (aligned,) = (tmp_path / "runs").glob("align-*")
    result = store.load_result(aligned)
    best = result.config["main"]
    scores = {name: result.metrics[f"align/{name}/validation/mrr"] for name in result.config["encoders"]}
    assert scores[best] == max(scores.values())
    assert result.config["encoders"][-1] == best
    start = " (at its linear start)" if best == "volume" else ""
    assert f"headline: {best}{start}, the best on {result.metrics['data/validation_images']:.0f} validation images" in said.out
    top5 = "retrieval/brain->image/top5"
    assert result.metrics[top5] == result.metrics[f"align/{best}/{top5}"]
    assert result.metrics[f"{top5}.low"] > result.metrics["retrieval/brain->image/chance5"]
    assert result.config["training"]["steps"] == 1
    command("attribute", str(aligned), monkeypatch=monkeypatch)
    (carried,) = (tmp_path / "runs").glob("attribute-*")
    found = store.load_result(carried).arrays["map/brain_mean"]
    assert auroc(read, found) > 0.6  # voxels that read the network carry the match
    command("report", "runs", monkeypatch=monkeypatch)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"key numbers are of {best.replace('_', ' ')}, the best on validation images" in page
    assert "44 test pictures" in page
    assert torch.get_default_dtype() == torch.float32
    changed = np.load(stranger / "responses.npy")
    changed[0, 0] += 1
    np.save(stranger / "responses.npy", changed)
    monkeypatch.setattr("sys.argv", ["brainlens", "attribute", str(aligned)])
    with pytest.raises(SystemExit) as end:  # and not the map of what was there before
        main()
    assert end.value.code == 2
    assert "was made from another recording" in capsys.readouterr().err
