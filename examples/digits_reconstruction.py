"""What did the picture look like? Handwritten digits reconstructed from real fMRI, beside the pictures that were seen.

Needs the recording in $BRAINLENS_TEST_DATA/digits69. Every picture is decoded by models that saw neither it nor its response.
"""

import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import brainlens
from brainlens.metrics import two_way
from brainlens.reconstruct.low_level import PictureAxes, low_level


def main(out: Path) -> Path:
    recording = brainlens.load("digits69", Path(os.environ["BRAINLENS_TEST_DATA"]) / "digits69", standardise=False)
    seen = np.asarray(recording.stimuli.images)[..., 0].astype(np.float32) / 255
    drawn = low_level(np.asarray(recording.responses.data), seen, space=PictureAxes(20)).pictures

    each = two_way(seen.reshape(len(seen), -1), drawn.reshape(len(seen), -1))
    shown = np.linspace(0, len(seen) - 1, 10).astype(int)  # evenly spaced, not chosen

    figure = Figure(figsize=(8, 2.3), layout="constrained")
    axes = figure.subplots(2, len(shown))
    for column, row in enumerate(shown):
        axes[0, column].imshow(seen[row], cmap="gray", vmin=0, vmax=1)
        axes[1, column].imshow(drawn[row], cmap="gray", vmin=0, vmax=1)
    for ax in axes.ravel():
        ax.set_axis_off()
    figure.suptitle(
        f"Seen (above) and reconstructed: two-way identification {100 * each.mean():.1f} %, chance 50 %, n = {len(seen)}"
    )
    path = out / "digits_reconstruction.png"
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    print(main(Path()))
