"""Which voxels carried the match? The information bottleneck on a whole-brain encoder, beside the truth of the phantom.

The phantom is a simulation: which voxels carry information is known, and the map is scored against it.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from brainlens import VolumeAligner
from brainlens.attribute import Options, attribute
from brainlens.datasets import phantom
from brainlens.plots import attribution


def main(out: Path) -> Path:
    recording = phantom.load(n_train=200, n_test=20)
    responses = recording.responses.zscore()
    images = phantom.features(recording.stimuli)
    train, test = responses.where(split="train"), responses.where(split="test").average()

    seen = images.take(list(dict.fromkeys(train.trials["stimulus"])))
    rows = dict(zip(seen.ids, seen["image"], strict=True))
    embeddings = np.stack([rows[name] for name in train.trials["stimulus"]]).astype(np.float32)
    model = VolumeAligner(training={"steps": 1})  # its linear start; leave `training` out for the whole recipe
    model.fit(train.data, embeddings, mask_img=train.space, ids=train.trials["stimulus"])

    result = attribute(model, test.rows(np.arange(6)), images, target="image", options=Options())
    result = replace(result, config={**result.config, "dataset": "phantom"})  # figures then say "simulation"
    informative = test.units["informative"].to_numpy()
    figure = attribution.brain_beside_truth(result, truth=informative, scores={"found": result.metrics["truth/auroc"]})
    path = out / "attribution_brain.png"
    figure.savefig(path, dpi=90)
    return path


if __name__ == "__main__":
    print(main(Path()))
