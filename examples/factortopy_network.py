"""Which layer of a network does each voxel read? FactorTopy on MobileNetV2, or on the miniature where it is not at hand.

The voxels are simulated: each reads one layer of the network at one place, with noise, so that the answer is known.
Give a folder of your own network in the place of `network_folder()`, and your responses in the place of `voxels`.
"""

import os
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from brainlens import FactorTopy, miniatures
from brainlens.backbones import vision
from brainlens.datasets import phantom


def network_folder() -> Path:
    """MobileNetV2 of the test data where it is there, else the shipped miniature CLIP."""
    data = os.environ.get("BRAINLENS_TEST_DATA")
    mobilenet = Path(data or "") / "mobilenet_v2_1.0_224"
    return mobilenet if data and mobilenet.is_dir() else miniatures.folder("clip")


def main(out: Path) -> Path:
    scenes = phantom.scenes(n_train=240, n_test=60)
    network = vision.load(network_folder())
    names = [name for name in network.layers if name != "image"]
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, 4).astype(int))]
    features = vision.extract(network, scenes, layers=chosen, batch=32)

    rng = np.random.default_rng(0)
    truth = np.repeat(np.arange(len(chosen)), 15)
    xyz = np.stack([20.0 * truth, rng.uniform(-8, 8, len(truth)), rng.uniform(-8, 8, len(truth))], axis=1)
    signal = np.stack([voxels(features.tokens[chosen[layer]], rng) for layer in truth], axis=1)
    Y = (signal + rng.normal(size=signal.shape)).astype(np.float32)

    train = {layer: features.tokens[layer][:240] for layer in chosen}
    grids = {layer: features.grid[layer] for layer in chosen}
    model = FactorTopy(training={"steps": 0}).fit(as_maps(train, grids), Y[:240], xyz)
    weights = np.stack([model.layer_weights_[truth == layer].mean(axis=0) for layer in range(len(chosen))])

    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    ax = figure.subplots()
    image = ax.imshow(weights, vmin=0, vmax=1, cmap="cividis")
    ax.set_xticks(range(len(chosen)), chosen, rotation=30, ha="right", fontsize=8)
    ax.set_yticks(range(len(chosen)), chosen, fontsize=8)
    ax.set(xlabel="layer that FactorTopy selects", ylabel="layer that the voxels read")
    figure.suptitle(f"{Path(network.name).name}, 15 simulated voxels a row", fontsize=10)
    figure.colorbar(image, label="mean selector weight")
    path = out / "factortopy_network.png"
    figure.savefig(path, dpi=110)
    return path


def voxels(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A voxel that reads a random direction of a layer's channels at one place, z-scored."""
    place = rng.integers(tokens.shape[1])
    read = tokens[:, place].astype(np.float64)
    value = (read - read.mean(axis=0)) / (read.std(axis=0) + 1e-6) @ rng.normal(size=read.shape[1])
    return (value - value.mean()) / value.std()


def as_maps(tokens: dict[str, np.ndarray], grids: dict[str, tuple[int, int]]) -> dict[str, np.ndarray]:
    """Tokens (image, place, channel) as maps (image, channel, rows, columns), which need no class token."""
    return {name: t.transpose(0, 2, 1).reshape(len(t), t.shape[2], *grids[name]) for name, t in tokens.items()}


if __name__ == "__main__":
    print(main(Path()))
