"""Ridge with a penalty per voxel against himalaya's RidgeCV, torch backend: n=1500, p=256, 4,000 voxels, 10 alphas, 5 folds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from floor import Work
from harness import compare

N, P, TARGETS, FOLDS = 1500, 256, 4000, 5
ALPHAS = np.logspace(0, 5, 10)


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, P)) * np.linspace(3, 0.3, P)
    weights = rng.normal(size=(P, TARGETS)) * (rng.random(TARGETS) < 0.7)
    y = x @ weights * 0.05 + rng.normal(size=(N, TARGETS)) + rng.normal(size=TARGETS)
    return x.astype(np.float32), y.astype(np.float32)


def ours(device: str) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
    from brainlens.solvers.ridge import fold_labels, ridge_cv

    x, y = data()
    fold, kept = fold_labels(N, folds=FOLDS), {}

    def run() -> None:
        kept["fit"] = ridge_cv(x, y, ALPHAS, fold=fold, device=device)

    def outputs() -> dict[str, np.ndarray]:
        fit = kept["fit"]
        return {"cv_score": fit.cv_score.numpy(), "weights": fit.weights.numpy(), "intercept": fit.intercept.numpy()}

    return run, outputs


def peer(device: str) -> tuple[Callable[[], Any], Callable[[], dict[str, np.ndarray]]]:
    from himalaya.backend import set_backend
    from himalaya.ridge import RidgeCV

    backend = set_backend("torch_cuda" if device.startswith("cuda") else "torch")
    x, y = data()
    model = RidgeCV(alphas=ALPHAS, fit_intercept=True, cv=FOLDS)

    def run() -> None:
        model.fit(backend.asarray(x), backend.asarray(y))

    def outputs() -> dict[str, np.ndarray]:
        names = {"cv_score": model.cv_scores_, "weights": model.coef_, "intercept": model.intercept_}
        return {name: backend.to_numpy(value) for name, value in names.items()}

    return run, outputs


def work(device: str, n: int = N, p: int = P, targets: int = TARGETS, folds: int = FOLDS, penalties: int = len(ALPHAS)) -> Work:
    """n >= p: U^T y, (E^T s) U^T y and the predictions of every penalty in every fold, their residuals, and the weights."""
    del device
    products = n * p * targets + folds * p * p * targets + penalties * n * p * targets + p * p * targets
    residuals = penalties * (penalties + 1) * n * targets
    grams = n * p * p + folds * n * p * p  # of all rows, of the training rows, and the validation rows times the eigenvectors
    return Work(macs=products + residuals, bytes=4 * (n * targets + p * targets), macs64=grams)


if __name__ == "__main__":
    compare("ridge", ours, peer, peer_name="himalaya RidgeCV (torch)", repeats=5, work=work)
