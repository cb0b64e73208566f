"""The snippets of docs/own_data.md run as they stand, on made data, and find what was put in."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import mne
import nibabel as nib
import numpy as np
import torch
from torch import nn

PAGE = Path(__file__).parents[1] / "docs" / "own_data.md"
SNIPPETS = dict(re.findall(r'```python title="(\w+)"\n(.*?)```', PAGE.read_text(encoding="utf-8"), re.S))
N, TRAIN = 100, 80


def run(name: str, **given: Any) -> dict[str, Any]:
    """The namespace after a snippet."""
    exec(compile(SNIPPETS[name], f"docs/own_data.md, {name}", "exec"), given)
    return given


def test_there_are_five_snippets_of_six_lines_at_most() -> None:
    assert list(SNIPPETS) == ["ridge", "factortopy", "align", "neuroalign", "bottleneck"]
    for name, code in SNIPPETS.items():
        assert len([line for line in code.splitlines() if line.strip()]) <= 6, name
    assert PAGE.read_text(encoding="utf-8").count("```python") == 5


def test_ridge() -> None:
    rng = np.random.default_rng(0)
    X, weights = rng.normal(size=(N, 10)), rng.normal(size=(10, 4))
    Y = X @ weights + rng.normal(size=(N, 4))
    found = run("ridge", X=X, Y=Y)
    r = [np.corrcoef(found["predicted"][:, i], Y[TRAIN:, i])[0, 1] for i in range(4)]
    assert min(r) > 0.5  # .78 to .94 over ten seeds
    assert found["best_penalty"].shape == (4,)


def test_factortopy() -> None:
    rng = np.random.default_rng(0)
    states = tuple(rng.normal(size=(N, 1 + 16, 6)).astype(np.float32) for _ in range(3))
    Y = states[2][:, 1:].mean(1) @ rng.normal(size=(6, 8)) * 4 + 0.5 * rng.normal(size=(N, 8))
    xyz = rng.uniform(-40, 40, size=(8, 3))
    found = run("factortopy", states=states, Y=Y.astype(np.float32), xyz=xyz)
    assert found["predicted"].shape == (N - TRAIN, 8)
    assert found["which_layer"].shape == (8, 2)
    np.testing.assert_allclose(found["which_layer"].sum(1), 1, atol=1e-4)
    assert np.isfinite(found["predicted"]).all()
    assert found["which_layer"][:, 1].mean() > 0.55  # the layer that Y was made from; .65 to .92 over ten seeds


def pictured(rng: np.random.Generator, d: int = 8) -> np.ndarray:
    rows = rng.normal(size=(N, d))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_align() -> None:
    rng = np.random.default_rng(0)
    images, inside = pictured(rng), rng.random((5, 6, 4)) > 0.4
    volumes = np.zeros((*inside.shape, N), np.float32)
    volumes[inside] = (images @ rng.normal(size=(8, inside.sum())) * 3 + rng.normal(size=(N, inside.sum()))).T
    affine = np.diag([4.0, 4, 4, 1])
    ids, split = [f"image-{i:03d}" for i in range(N)], ["train"] * TRAIN + ["test"] * (N - TRAIN)
    given = {"betas": nib.Nifti1Image(volumes, affine), "mask": nib.Nifti1Image(inside.astype(np.uint8), affine)}
    found = run("align", **given, ids=ids, split=split, images=images)
    first = found["best_first"]
    assert first.shape == (N - TRAIN, 5)
    assert np.mean(first[:, 0] == np.arange(N - TRAIN)) > 0.5  # chance 1/20; 1 over ten seeds


def test_neuroalign() -> None:
    rng = np.random.default_rng(0)
    images, texts = pictured(rng), pictured(rng)
    names = ["Oz", "Pz", "Cz", "Fz"] + [f"E{i}" for i in range(4)]
    data = 1e-5 * (np.einsum("nd,dct->nct", images, rng.normal(size=(8, 8, 250))) + rng.normal(size=(N, 8, 250)))
    events = np.column_stack([np.arange(N) * 300, np.zeros(N, int), np.arange(N) + 1])
    code = {f"image-{i:03d}": i + 1 for i in range(N)}
    epochs = mne.EpochsArray(data, mne.create_info(names, 250.0, "eeg"), events, event_id=code, verbose="error")
    found = run("neuroalign", epochs=epochs, images=images, texts=texts)
    assert len(found["embeddings"]) == N - TRAIN
    assert np.isfinite(found["embeddings"]).all()
    assert found["best_first"].shape == (N - TRAIN, 5)


def test_bottleneck() -> None:
    torch.manual_seed(0)

    class Network(nn.Module):
        """Class 3 reads the brightness of the upper left corner."""

        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(4))
            self.head = nn.Linear(4 * 16, 5)
            with torch.no_grad():
                self.features[0].weight.fill_(0)
                self.features[0].bias.fill_(0)
                self.features[0].weight[0, :, 1, 1] = 1 / 3
                self.head.weight.fill_(0)
                self.head.bias.fill_(0)
                self.head.weight[3, 0] = 20  # channel 0, place (0, 0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.features(x).flatten(1))

    network = Network()
    pictures = torch.rand(40, 3, 16, 16) ** 2
    pictures[:2, :, :4, :4] = 1  # bright where class 3 looks
    embedding = torch.eye(5)[3]
    found = run("bottleneck", network=network, pictures=pictures, embedding=embedding)
    for name in ("maps", "smooth", "towards"):
        assert found[name].shape == (2, 16, 16), name
    assert (found["maps"].flatten(1).argmax(1) // 16 < 6).all()
    assert (found["maps"].flatten(1).argmax(1) % 16 < 6).all()
    assert (found["maps"][:, 1, 1] > 3 * found["maps"][:, 14, 14]).all()  # no bits are needed where nothing is read
    assert network.training
