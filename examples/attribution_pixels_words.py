"""Which pixels and which words support a target? The bottleneck on both towers of a CLIP (here the shipped miniature).

The target of the pixels is the caption and that of the words the picture. In the place of either stands the embedding that
a decoder reads from the brain (`Aim(brain_embeddings, space)`), as `brainlens attribute RUN --of stimuli` does it.
"""

from pathlib import Path

from brainlens import Features, miniatures
from brainlens.attribute import Aim, attribute_stimuli
from brainlens.backbones import clip
from brainlens.datasets import phantom
from brainlens.plots import attribution


def main(out: Path) -> Path:
    network = clip.load_clip(miniatures.folder("clip"))
    scenes = phantom.scenes(n_train=60, n_test=4)
    test = scenes.take([name for name, split in zip(scenes.ids, scenes.table["split"], strict=True) if split == "test"])
    reference = scenes.take([name for name, split in zip(scenes.ids, scenes.table["split"], strict=True) if split == "train"])
    images, texts = clip.embed_images(network, test), clip.embed_texts(network, test.captions, test.ids)

    pixels = attribute_stimuli(network, test, {"text": Aim(only(texts))}, of="pixels", reference=reference)
    words = attribute_stimuli(network, test, {"image": Aim(only(images))}, of="words", reference=reference)

    groups = [rows for _, rows in words.tables["words"].groupby("stimulus", sort=False)]
    figure = attribution.stimulus_rows(
        pixels.arrays["pixels/images"],
        pixels.arrays["map/pixels"],
        [list(rows["word"]) for rows in groups],
        [list(rows["weight"]) for rows in groups],
    )
    figure.suptitle("What caption and picture support in each other (drawn scenes)", fontsize=11)
    path = out / "attribution_pixels_words.png"
    figure.savefig(path, dpi=110)
    return path


def only(features: Features) -> Features:
    """The embedding as the only layer."""
    name = "image" if "image" in features.data else "text"
    return Features({name: features[name]}, features.ids, features.model)


if __name__ == "__main__":
    print(main(Path()))
