"""Multivariate noise normalisation of 1,000 epochs of 63 x 250: batched, against one sklearn covariance at a time."""

from __future__ import annotations

import sys

sys.modules["bottleneck"] = None  # type: ignore[assignment]  # pandas would take bottleneck.py here for the package
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from floor import Work  # noqa: E402
from harness import compare  # noqa: E402

EPOCHS, CHANNELS, SAMPLES = 1000, 63, 250


def data() -> np.ndarray:
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((CHANNELS, CHANNELS)) * np.geomspace(1, 0.05, CHANNELS)
    return mixing @ rng.standard_normal((EPOCHS, CHANNELS, SAMPLES))


def ours(device: str) -> Any:
    from brainlens.signals.mvnn import mvnn_covariance, whiten, whitener

    epochs, kept = data(), {}

    def run() -> None:
        kept["covariance"] = mvnn_covariance(epochs)
        kept["whitened"] = whiten(whitener(kept["covariance"]), epochs)

    return run, lambda: {"covariance": kept["covariance"], "whitened": kept["whitened"][:50]}


def peer(device: str) -> Any:
    from scipy.linalg import fractional_matrix_power
    from sklearn.discriminant_analysis import _cov

    epochs, kept = data(), {}

    def run() -> None:
        kept["covariance"] = np.mean([_cov(epoch.T, shrinkage="auto") for epoch in epochs], axis=0)
        inverse = fractional_matrix_power(kept["covariance"], -0.5)
        kept["whitened"] = (epochs.swapaxes(1, 2) @ inverse).swapaxes(1, 2)

    return run, lambda: {"covariance": kept["covariance"], "whitened": kept["whitened"][:50]}


def work(device: str) -> Work:
    """X X' and Sigma^(-1/2) X of every epoch in double; epochs are read twice and written once."""
    del device
    return Work(macs64=2 * EPOCHS * CHANNELS**2 * SAMPLES, bytes=3 * 8 * EPOCHS * CHANNELS * SAMPLES)


if __name__ == "__main__":
    compare("mvnn", ours, peer, peer_name="sklearn covariance per epoch (THINGS-EEG2 pipeline)", epochs=EPOCHS, work=work)
