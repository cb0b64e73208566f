"""Which image was seen? Ridge from fMRI of the phantom (a simulation) to the embedding of the picture, and a look-up.

Your own volumes come in by `Responses.from_images(betas, mask, ids)`; see "Your own data".
"""

from pathlib import Path

from brainlens.align import align
from brainlens.datasets import phantom
from brainlens.plots import retrieval
from brainlens.report.align import scores_by_encoder


def main(out: Path) -> Path:
    recording = phantom.load(n_train=300, n_test=60)
    regions = recording.responses.columns((recording.responses.units["roi"] != "none").to_numpy())
    images, texts = phantom.features(recording.stimuli), phantom.texts(recording.stimuli)

    found = align(regions.zscore(), images, texts, encoders=("ridge", "ridge_whitened"))

    result = found.result
    result.config["dataset"] = "phantom"  # the figure then says that this is a simulation
    figure = retrieval.topk_bars(scores_by_encoder(result), k=5, result=result)
    path = out / "retrieval_example.png"
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    print(main(Path()))
