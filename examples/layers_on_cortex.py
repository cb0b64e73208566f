"""Which layer does each voxel read, and where on the cortex? FactorTopy on the phantom, a simulation, and its layer maps.

The selectors are those of the searched start: leave `training` out for the whole recipe. Only voxels of named regions are fitted.
"""

from dataclasses import replace
from pathlib import Path

from brainlens.datasets import phantom
from brainlens.encode import EncodingTraining, encode


def main(out: Path) -> tuple[Path, Path]:
    recording = phantom.load(n_train=240, n_test=40)
    units = recording.responses.units
    responses = recording.responses.columns((units["roi"] != "none").to_numpy())
    features = phantom.features(recording.stimuli)  # global and spatial tokens of every layer of the shipped CLIP

    result = encode(responses.zscore(), features, training=EncodingTraining(steps=0))

    result = replace(result, config={**result.config, "dataset": "phantom"})  # figures then say "simulation"
    paths = out / "layers_on_cortex.png", out / "layers_of_regions.png"
    result.plot.layer_map().savefig(paths[0], dpi=90)
    result.plot.region_profiles().savefig(paths[1], dpi=110)
    return paths


if __name__ == "__main__":
    print(*main(Path()), sep="\n")
