"""The snippets of docs/guide/to_a_figure.md, and that of the README, run as they stand, on made data, to a figure."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Any

import mne
import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from brainlens import store
from brainlens.encode import encode
from brainlens.types import DataError, Features, Responses, Result

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "docs" / "guide" / "to_a_figure.md", ROOT / "README.md")
WRITTEN = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
SNIPPETS = dict(re.findall(r'```python title="(\w+)"\n(.*?)```', WRITTEN, re.S))
N = 100
IDS = [f"p{i:03d}" for i in range(N)]
SPLIT = ["train"] * 80 + ["test"] * 20


def run(name: str, **given: Any) -> dict[str, Any]:
    exec(compile(SNIPPETS[name], f"snippet {name}", "exec"), given)
    assert isinstance(given["figure"], Figure)
    given["figure"].canvas.draw()
    return given


def every_figure_is_drawn(result: Any) -> None:
    """What a result lists, it can draw."""
    assert list(result.plot)
    for name in result.plot:
        assert getattr(result.plot, name)().axes, name


def test_ridge_on_own_arrays() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 10))
    Y = X @ rng.normal(size=(10, 30)) + rng.normal(size=(N, 30))
    Y[:, :5] = rng.normal(size=(N, 5))
    found = run("ridge", X=X, Y=Y, ids=IDS, split=SPLIT)
    every_figure_is_drawn(found["result"])
    above = int((found["result"].arrays["r2"] > 0).sum())
    assert f"{above} of 30 units" in found["figure"].get_suptitle()
    bars = found["figure"].axes[0].patches
    assert sum(bar.get_height() for bar in bars) == 30


def test_regions_bring_bars_with_intervals() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 10))
    Y = X @ rng.normal(size=(10, 30)) + rng.normal(size=(N, 30))
    Y[:, 20:] = 0
    shown = np.repeat(np.arange(N), 3)
    Y = Y[shown] + 0.5 * rng.normal(size=(3 * N, 30))
    roi = np.repeat(["V1", "IT", "noise"], 10)
    responses = Responses.from_arrays(Y, [IDS[k] for k in shown], split=[SPLIT[k] for k in shown], roi=roi).zscore(by=None)
    result = encode(responses, Features.from_arrays({"mine": X}, IDS), method="ridge")
    assert {"model_bars_r2", "ceiling_scatter"} <= set(result.plot)
    assert result.plot.model_bars_r2().axes[0].get_yticklabels()[0].get_text() == "noise"
    table = result.tables["regions"].set_index("roi")
    units = result.arrays["scored"]  # those that the mean of this name is of; over a ceiling near 0 it is noise over noise
    for name in table.index:
        mine = units & (roi == name)
        expected = (result.arrays["r2"][mine] / result.arrays["ceiling"][mine]).mean() if mine.any() else np.nan
        np.testing.assert_allclose(table.loc[name, "r2_of_ceiling"], expected, rtol=1e-6)
    assert table.loc["noise", "r2_of_ceiling undefined"] >= 7
    assert table.loc["V1", "r2_of_ceiling"] > 0.5


def test_words_of_voxels_from_arrays() -> None:
    rng = np.random.default_rng(0)
    nouns = ["cat", "boat", "tree", "house"]
    shows = rng.integers(0, 4, N)
    X = np.eye(4)[shows] @ rng.normal(size=(4, 12)) + 0.2 * rng.normal(size=(N, 12))
    Y = np.repeat(np.eye(4)[shows], 5, axis=1) + 0.3 * rng.normal(size=(N, 20))
    captions = {name: [f"a {nouns[k]} on a table"] for name, k in reversed(list(zip(IDS, shows, strict=True)))}
    pictures = np.zeros((N, 8, 8, 3), np.uint8)
    given = {"X": X, "Y": Y, "ids": IDS, "split": SPLIT, "roi": np.repeat(nouns, 5), "captions": captions}
    found = run("describe", picture_ids=IDS, pictures=pictures, **given)["result"]
    first = found.tables["labels"]["label1"].to_numpy()
    assert (first == np.repeat(nouns, 5)).mean() > 0.8
    assert set(found.tables["histogram"]["roi"]) == set(nouns)


def test_the_snippet_of_the_readme() -> None:
    """Trials in any order, every test picture twice, and pictures named once: what the README says of its arrays."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 10))
    shown = rng.permutation([*range(N), *range(80, N)])
    Y = X[shown] @ rng.normal(size=(10, 30)) + rng.normal(size=(len(shown), 30))
    given = {"ids": [IDS[k] for k in shown], "split": [SPLIT[k] for k in shown]}
    found = run("readme", X=X, names=IDS, Y=Y, **given)["result"]
    scores = found.scores()
    assert {"value", "low", "high", "chance", "ceiling", "n"} <= set(scores.columns)
    assert found.metrics["encoding/r2_mean"] > 0.5
    assert np.isfinite(found.arrays["ceiling"]).all()


def test_a_result_is_kept_and_sent_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = Result("encode", {"encoding/r2_mean": 0.25, "encoding/r2_mean.low": 0.2}, {"r2": np.linspace(-0.1, 0.4, 30)})
    exec(compile(SNIPPETS["keep"], "snippet keep", "exec"), {"result": result})
    assert "My responses" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "encoding/r2_mean" in capsys.readouterr().out


def test_factortopy_on_own_states() -> None:
    rng = np.random.default_rng(0)
    states = tuple(rng.normal(size=(N, 1 + 16, 6)).astype(np.float32) for _ in range(3))
    Y = states[2][:, 1:].mean(1) @ rng.normal(size=(6, 8)) * 4 + 0.5 * rng.normal(size=(N, 8))
    found = run("factortopy", states=states, Y=Y, ids=IDS, split=SPLIT, xyz=rng.uniform(-40, 40, (8, 3)))
    every_figure_is_drawn(found["result"])
    heights = [bar.get_height() for bar in found["figure"].axes[0].patches]
    result = found["result"]
    chosen = result.arrays["r2"] > 0
    assert heights[:2] == pytest.approx(result.arrays["layer_weights"][chosen].mean(axis=0).tolist(), abs=1e-6)
    assert sum(heights[2:]) == pytest.approx(1.0)


def test_aligning_own_fmri() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((5, 6, 4), np.uint8)
    mask[1:4, 1:5, 1:3] = 1
    images = rng.normal(size=(N, 8))
    voxels = images @ rng.normal(size=(8, int(mask.sum()))) + rng.normal(size=(N, int(mask.sum())))
    volume = np.zeros((*mask.shape, N))
    volume[mask > 0] = voxels.T
    affine = np.diag([3.0, 3.0, 3.0, 1.0])
    given = {"betas": nib.Nifti1Image(volume, affine), "mask": nib.Nifti1Image(mask, affine)}
    found = run("align", **given, ids=IDS, split=SPLIT, images=images, image_ids=IDS)
    assert found["result"].metrics["retrieval/brain->image/top1"] > 0.3


def test_eeg_over_time(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kind = np.repeat([1, 2], 40)
    data = 5e-6 * rng.normal(size=(80, 8, 40))
    data[kind == 2, 3, 25:30] += 8e-6
    info = mne.create_info(["Fz", "Cz", "Pz", "Oz", "O1", "O2", "P3", "P4"], 100.0, "eeg")
    events = np.c_[np.arange(80) * 100, np.zeros(80, int), kind]
    epochs = mne.EpochsArray(data, info, events, -0.1, {"face": 1, "house": 2}, verbose="error")
    epochs.save(tmp_path / "my-epo.fif", verbose="error")
    found = run("decode", file=tmp_path / "my-epo.fif")
    assert 0.13 < found["result"].metrics["decode/peak_time"] < 0.21
    every_figure_is_drawn(found["result"])


def test_attribution_on_a_torch_model() -> None:
    torch.manual_seed(0)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1))
            self.head = nn.Linear(6, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.features(x).mean(dim=(2, 3)))

    found = run("attribute", network=Network(), pictures=torch.rand(6, 3, 16, 16))
    assert found["maps"].shape == (2, 16, 16)


@pytest.mark.parametrize(("verb", "name"), [("describe", "word_histograms"), ("reconstruct", "candidate_grid")])
def test_runs_of_commands_on_a_folder(tmp_path: Path, made_verbs: ModuleType, verb: str, name: str) -> None:
    store.save_result(getattr(made_verbs, verb)(), tmp_path / "run")
    snippet = SNIPPETS["words"]
    assert f"{name}()" in snippet
    given: dict[str, Any] = {"run": tmp_path / "run"}
    exec(compile(snippet.replace("word_histograms", name), "snippet words", "exec"), given)
    assert isinstance(given["figure"], Figure)


def test_a_word_of_another_function_is_answered_with_those_of_this_one() -> None:
    with pytest.raises(DataError, match=r"no column 'coordinates'; choose from split.*or, of units, xyz, mask_img"):
        Responses.from_arrays(np.ones((2, 1)), ["a", "b"], coordinates=np.zeros((1, 3)))
