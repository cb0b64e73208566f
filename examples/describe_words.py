"""What does each voxel mean, in words? Words of regions of the phantom, whose voxels prefer kinds of things (a simulation)."""

from dataclasses import replace
from pathlib import Path

from brainlens.datasets import phantom
from brainlens.describe import Describing, describe
from brainlens.plots import words


def main(out: Path) -> Path:
    recording = phantom.load(n_train=400, n_test=80, concepts="kinds")
    units = recording.responses.units
    chosen = recording.responses.columns((units["roi"] != "none").to_numpy())
    features = phantom.features(recording.stimuli)

    design = Describing(permutations=100, resamples=100)
    result = describe(chosen.zscore(), features, recording.stimuli, design=design)

    result = replace(result, config={**result.config, "dataset": "phantom"})
    figure = words.word_histograms(result)
    path = out / "describe_words.png"
    figure.savefig(path, dpi=100)
    return path


if __name__ == "__main__":
    print(main(Path()))
