"""The small recording on which the encoders of `align` are tested."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from brainlens.types import Features, Responses, Volume

Tables = tuple[Responses, Features, Features]


@pytest.fixture(scope="session")
def recording() -> Callable[..., Tables]:
    """The function that makes it anew, for a test may change what it gets."""
    return make


def make(n: int = 120, repeats: int = 2, noise: float = 1.0) -> Tables:
    """Responses of a 6 x 6 x 6 brain, half of whose voxels read a 12-dimensional embedding linearly."""
    rng = np.random.default_rng(5)
    z = rng.normal(size=(n, 12)).astype(np.float32)
    mask = np.zeros((6, 6, 6), dtype=bool)
    mask[:5, :, :] = True
    v = int(mask.sum())
    weights = rng.normal(size=(12, v)) * (np.arange(v) < v // 2)
    ids = np.array([f"i{i:03d}" for i in range(n)])
    stimulus = np.repeat(ids, repeats)
    data = np.repeat(z @ weights, repeats, axis=0) + noise * rng.normal(size=(n * repeats, v))
    split = np.where(np.arange(n) < n - 30, "train", "test")
    trials = pd.DataFrame({"stimulus": stimulus, "split": np.repeat(split, repeats), "repeat": np.tile(range(repeats), n)})
    order = rng.permutation(len(trials))
    units = pd.DataFrame({"roi": np.where(np.arange(v) < v // 2, "FFA", "")})
    responses = Responses(data[order].astype(np.float32), trials.iloc[order], units, Volume(mask, np.diag([4.0, 4, 4, 1])))
    text = (z + 0.1 * rng.normal(size=z.shape)).astype(np.float32)
    return responses, Features({"image": z}, ids, "made up"), Features({"text": text}, ids, "made up")
