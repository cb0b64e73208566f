"""Which features predict which voxel? Arrays of your own, and ridge regression with a penalty for each voxel.

The arrays here are made on the spot, so that the answer is known: 20 of 60 voxels read the features, the others are noise.
Yours are X (image, feature) and Y (image, voxel), one row an image, repeats averaged.
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from brainlens import RidgeCV
from brainlens.metrics import bootstrap_score


def main(out: Path) -> Path:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 50))
    weights = rng.normal(size=(50, 60)) * (np.arange(60) < 20) / np.sqrt(50)
    Y = X @ weights + rng.normal(size=(400, 60))

    model = RidgeCV().fit(X[:300], Y[:300])
    scored = bootstrap_score(Y[300:], model.predict(X[300:]), resamples=1000)

    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    ax = figure.subplots()
    order = np.argsort(-scored.value)
    value, low, high = (part[order] for part in (scored.value, scored.low, scored.high))
    tones = np.where(order < 20, "#0072B2", "#9aa3af")
    ax.vlines(np.arange(60), low, high, colors=tones, lw=1.4)
    ax.scatter(np.arange(60), value, c=tones, s=16, zorder=3)
    ax.axhline(0, color="#1d2430", ls="--", lw=1)
    ax.set(xlabel="voxel, best first (blue: those that read the features)", ylabel="test R²")
    ax.set_title("Ridge on own arrays, 100 test images, 95 % intervals over images", fontsize=10, loc="left")
    path = out / "own_arrays_ridge.png"
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    print(main(Path()))
