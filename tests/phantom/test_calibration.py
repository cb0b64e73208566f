"""The calibration of the private share measures the recording that `simulate` makes, and finds the q it is asked for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from brainlens.metrics.retrieval import ranks, top_k
from brainlens.phantom.fmri import phantom_truth, read_network, simulate
from brainlens.types import Features, Responses, Stimuli


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    place = Path(__file__).parents[2] / "tools" / "calibrate_phantom.py"
    found = importlib.util.spec_from_file_location("calibrate_phantom", place)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # its dataclass looks itself up there
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def stage(tool: ModuleType, tmp_path_factory: pytest.TempPathFactory):
    rng = np.random.default_rng(0)
    n = 290
    ids = np.array([f"p{i:03d}" for i in range(n)])
    table = pd.DataFrame({"split": ["train"] * 80 + ["validation"] * 10 + ["test"] * 200})
    hidden = rng.standard_normal((n, 12))
    layers = {name: hidden @ rng.standard_normal((12, 20)) for name in ("a", "b")}
    features = Features({**layers, "image": hidden @ rng.standard_normal((12, 10))}, ids, "small")
    stimuli = Stimuli(ids, np.zeros((n, 2, 2, 3), np.uint8), table=table)
    work = tmp_path_factory.mktemp("work")
    return tool.set_stage(stimuli, read_network(stimuli, features), features["image"], work, "small"), features, work


@pytest.mark.parametrize(("private", "kappa"), [(0.0, 2.0), (0.4, 2.0), (0.4, 0.5)])
def test_the_quick_trials_are_those_of_the_simulation(tool: ModuleType, stage, private: float, kappa: float) -> None:
    kept, features, _ = stage
    truth = phantom_truth(kept.stimuli, features, private=private, kappa=kappa)
    expected = simulate(truth, kept.trials).data[:, truth.informative].astype(np.float32)
    # two roundings to float16 in place of one
    np.testing.assert_allclose(tool.informative_trials(truth, kept).astype(np.float32), expected, atol=2e-3, rtol=2e-3)


def test_the_quick_ridge_is_plain_kernel_ridge_on_all_voxels(tool: ModuleType, stage) -> None:
    kept, features, work = stage
    found = tool.measure(kept, work, private=0.2, kappa=2.0, key="small")
    truth = phantom_truth(kept.stimuli, features, private=0.2)
    whole: Responses = simulate(truth, kept.trials).zscore().average()
    row = {name: i for i, name in enumerate(whole.trials["stimulus"])}
    x = whole.data[[row[name] for name in truth.ids]].astype(np.float64)
    train, held, test = (np.flatnonzero(kept.stimuli.table["split"] == name) for name in ("train", "validation", "test"))
    x, goal = x - x[train].mean(axis=0), features["image"] - features["image"][train].mean(axis=0)
    goal = goal / np.linalg.norm(goal, axis=1, keepdims=True)
    gram, offset = x[train] @ x[train].T, goal[train].mean(axis=0)

    def predicted(alpha: float, rows: np.ndarray) -> np.ndarray:
        damped = gram + alpha * np.trace(gram) / len(train) * np.eye(len(train))
        return x[rows] @ x[train].T @ np.linalg.solve(damped, goal[train] - offset) + offset

    best = found["alpha"]
    assert found["top1"] == pytest.approx(top_k(ranks(predicted(best, test), goal[test]), 1), abs=1e-9)
    score = {a: (1 / (ranks(predicted(a, held), goal[held]) + 1.0)).mean() for a in tool.ALPHAS}
    place = int(np.flatnonzero(np.isclose(tool.ALPHAS, best))[0])
    assert score[tool.ALPHAS[place]] >= max(score[a] for a in tool.ALPHAS[max(place - 1, 0) : place + 2]) - 1e-9


@pytest.mark.parametrize("slope", [0.2, 0.5, 0.9])
def test_the_search_finds_q_and_says_when_there_is_none(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, slope: float
) -> None:
    asked = []

    def measure(stage: object, work: object, *, private: float, **rest: object) -> dict[str, float]:
        asked.append(private)
        return {"top1": level - slope * private**2}

    monkeypatch.setattr(tool, "measure", measure)
    level = 0.3
    q = tool.search(None, None, "small")
    exact = float(np.sqrt((level - tool.TARGET) / slope))
    assert abs(level - slope * q**2 - tool.TARGET) <= tool.CLOSE
    assert q == pytest.approx(exact, abs=0.03)
    assert len(asked) == len(set(asked)) <= 8
    level = 0.1
    assert tool.search(None, None, "small") == 0.0
    assert "cannot be reached" in capsys.readouterr().out
