"""What did the picture look like? Scenes drawn from simulated responses by a diffusion model, beside what retrieval finds.

All regions write the tokens together, each candidate is drawn near a training picture that fits the response, and the one whose
embedding fits it best is framed. The same from the command line: `brainlens reconstruct --train 240 --trials 6`.
"""

import tempfile
from pathlib import Path

from brainlens import store
from brainlens.datasets.source import Source
from brainlens.reconstruct.asked import Asked
from brainlens.reconstruct.run import run_reconstruct


def main(out: Path) -> Path:
    asked = Asked(trials=6, candidates=2, sampling_steps=8, explain=0)
    with tempfile.TemporaryDirectory() as runs:
        folder, _ = run_reconstruct(Source("phantom", n_train=240, n_test=20), runs, asked, tell=lambda text, share: None)
        figure = store.load_result(folder).plot.candidate_grid()
    path = out / "scenes_reconstruction.png"
    figure.savefig(path, dpi=100)
    return path


if __name__ == "__main__":
    print(main(Path()))
