"""From a recording to its result: each verb as a command beside a plain script of the usual libraries, both as whole processes.

    python benchmarks/recording_to_result.py [--device cpu] [--threads N] [--images 900]

The recording is made in the shape of an NSD subject in small: 900 training and 100 test pictures, three trials each, 4,000 voxels
in a plain folder. Both sides start a process, read the folder, extract the features of the shipped CLIP and end with scores on
the test pictures. The scripts are what is written by hand: transformers and himalaya for `encode` (class token of every layer,
the best layer of a voxel by cross-validation) and `align` (ridge to the embedding, retrieval). The commands also check the
recording, count what is left out, give intervals and store the run; `encode` reads more of each layer (five places).
`same` sets the scores of both beside each other: they are not the same features, so they are near and not equal. A script whose
libraries are not installed is skipped, and named. Verbs without a script of usual libraries have their own time alone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness import parser, use_threads

TEST, REPEATS, VOXELS, NOISE = 100, 3, 4000, 5.0  # noise of a trial in standard deviations of the signal
ALPHAS = [10.0**k for k in range(-1, 6)]
LIBRARIES = {"encode": ("himalaya", "transformers"), "align": ("himalaya", "transformers"), "attribute": ("captum",)}
VOLUME = "<a run of align>"  # the volume encoder that `attribute` explains, trained before it and not timed
DOES = {
    "encode": "transformers, himalaya RidgeCV on each layer",
    "align": "transformers, himalaya KernelRidgeCV to the embedding, retrieval",
    "attribute": "captum",
}


# ------------------------------------------------------------------------------------------------------------- the recording


def make(folder: Path, images: int) -> None:
    """Drawn scenes, and voxels that read their embedding under noise."""
    import nibabel
    import numpy as np
    import pandas as pd
    from PIL import Image

    from brainlens import miniatures
    from brainlens.backbones.clip import embed_images, load_clip
    from brainlens.phantom.scenes import make_scenes

    rng = np.random.default_rng(0)
    scenes = make_scenes(images + TEST, seed=11)
    (folder / "images").mkdir(parents=True)
    names = [f"{i:05d}.png" for i in range(len(scenes.ids))]
    for name, picture in zip(names, np.asarray(scenes.images), strict=True):
        Image.fromarray(picture).save(folder / "images" / name)
    embedded = np.asarray(embed_images(load_clip(miniatures.folder("clip")), scenes)["image"])
    embedded = (embedded - embedded.mean(0)) / embedded.std(0)
    signal = embedded @ rng.standard_normal((embedded.shape[1], VOXELS), dtype=np.float32)
    row = np.repeat(np.arange(len(names)), REPEATS)
    y = (signal / signal.std(0))[row] + NOISE * rng.standard_normal((len(row), VOXELS), dtype=np.float32)
    np.save(folder / "responses.npy", ((y - y.mean(0)) / y.std(0)).astype(np.float32))
    split = np.where(row < images, "train", "test")
    pd.DataFrame({"stimulus": [names[i] for i in row], "split": split}).to_csv(folder / "trials.csv", index=False)
    side = int(np.ceil(VOXELS ** (1 / 3)))
    mask = (np.arange(side**3) < VOXELS).reshape(side, side, side)
    nibabel.save(nibabel.Nifti1Image(mask.astype(np.uint8), np.diag([2.0, 2.0, 2.0, 1.0])), folder / "mask.nii.gz")
    pd.DataFrame({"roi": ["visual"] * VOXELS}).to_csv(folder / "units.csv", index=False)
    captions = {name: scenes.captions[i][0] for i, name in enumerate(names)}
    (folder / "captions.json").write_text(json.dumps(captions))


# -------------------------------------------------------------------------------------------------------------- the scripts


def opened(folder: Path) -> Any:
    """Training and test pictures with their mean responses: (paths, y) of each."""
    import numpy as np
    import pandas as pd

    trials, y = pd.read_csv(folder / "trials.csv"), np.load(folder / "responses.npy")
    found = []
    for split in ("train", "test"):
        part = trials[trials["split"] == split]
        groups = part.groupby("stimulus").indices
        rows = part.index.to_numpy()
        mean = np.stack([y[rows[index]].mean(0) for index in groups.values()])
        found.append(([folder / "images" / name for name in groups], mean))
    return found


def clip_features(paths: list[Path], network: Path, layers: bool) -> Any:
    """Class tokens (layer, image, channel), or image embeddings (image, channel)."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, CLIPModel

    model, processor = CLIPModel.from_pretrained(network).eval(), AutoImageProcessor.from_pretrained(network)
    found = []
    for start in range(0, len(paths), 32):
        pictures = [Image.open(path).convert("RGB") for path in paths[start : start + 32]]
        pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            out = model.vision_model(pixels, output_hidden_states=True)
            if layers:
                found.append(torch.stack([hidden[:, 0] for hidden in out.hidden_states[1:]]))
            else:
                found.append(model.visual_projection(out.pooler_output)[None])
    every = torch.cat(found, dim=1)
    return every if layers else every[0]


def script_encode(folder: Path, network: Path) -> dict[str, float]:
    import numpy as np
    from himalaya.backend import set_backend
    from himalaya.ridge import RidgeCV

    backend = set_backend("torch")
    (seen, y), (unseen, y_test) = opened(folder)
    x, x_test = clip_features(seen, network, True), clip_features(unseen, network, True)
    scores, predictions = [], []
    for layer in range(len(x)):
        mean, std = x[layer].mean(0), x[layer].std(0)
        model = RidgeCV(alphas=np.array(ALPHAS), fit_intercept=True, cv=5)
        model.fit((x[layer] - mean) / std, backend.asarray(y))
        scores.append(backend.to_numpy(model.cv_scores_).reshape(-1, y.shape[1])[-1])
        predictions.append(backend.to_numpy(model.predict((x_test[layer] - mean) / std)))
    best = np.argmax(scores, axis=0)
    predicted = np.take_along_axis(np.stack(predictions), best[None, None], axis=0)[0]
    r2 = 1 - ((y_test - predicted) ** 2).sum(0) / ((y_test - y_test.mean(0)) ** 2).sum(0)
    return {"r2": float(r2.mean())}


def script_align(folder: Path, network: Path) -> dict[str, float]:
    import numpy as np
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import KernelRidgeCV

    backend = set_backend("torch")
    (seen, y), (unseen, y_test) = opened(folder)
    aim, aim_test = clip_features(seen, network, False), clip_features(unseen, network, False).numpy()
    mean, middle = y.mean(0), aim.mean(0)
    model = KernelRidgeCV(alphas=np.array([10.0**k for k in range(8)]), kernel="linear", cv=5)  # more voxels than images
    model.fit(backend.asarray(y - mean), aim - middle)
    predicted = backend.to_numpy(model.predict(backend.asarray(y_test - mean)) + middle)
    one, other = (a / np.linalg.norm(a, axis=1, keepdims=True) for a in (predicted, aim_test))
    return {"top1": float((np.argmax(one @ other.T, axis=1) == np.arange(len(one))).mean())}


SCRIPTS: dict[str, Callable[[Path, Path], dict[str, float]]] = {"encode": script_encode, "align": script_align}


# ------------------------------------------------------------------------------------------------------------- measuring


def timed(command: list[str]) -> tuple[float, float, str]:
    """Seconds, peak MB and standard output of a process of its own."""
    begun = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err)
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        taken = time.perf_counter() - begun
        out.seek(0)
        err.seek(0)
        if child.returncode:
            raise SystemExit(f"{' '.join(command[:4])} ended with exit code {child.returncode}: {err.read().strip()[-300:]}")
        return taken, used.ru_maxrss / 1024, out.read()


def commands(folder: Path, runs: Path, device: str) -> dict[str, list[str]]:
    """The command of each verb."""
    common = ["--dataset", "folder", "--data", str(folder), "--device", device, "--runs", str(runs)]
    return {
        "encode": ["encode", *common, "--method", "ridge"],
        "align": ["align", *common, "--encoder", "ridge"],
        "attribute": ["attribute", VOLUME, "--method", "gradcam", "--trials", "20", "--runs", str(runs), "--device", device],
        "describe": ["describe", *common],
        "reconstruct": ["reconstruct", *common, "--steps", "50", "--trials", "8", "--candidates", "2", "--explain", "0"],
    }


def reached(run: Path, verb: str) -> float:
    """The score of a run that the script has, too."""
    from brainlens import store

    metrics = store.load_result(run).metrics
    return float(metrics[{"encode": "encoding/r2_mean", "align": "align/ridge/retrieval/brain->image/top1"}[verb]])


def trained(own: Path, runs: Path, device: str) -> Path:
    """A run of align with a volume encoder."""
    common = ["--dataset", "folder", "--data", str(own), "--device", device, "--runs", str(runs)]
    timed([sys.executable, "-m", "brainlens", "align", *common, "--encoder", "volume", "--steps", "20"])
    return next(runs.glob("align-*"))


def row_of(verb: str, command: list[str], own: Path, runs: Path, network: Path, skipped: list[str]) -> dict[str, Any]:
    """One verb beside its script."""
    taken, peak, _ = timed([sys.executable, "-m", "brainlens", *command])
    run = max(runs.glob(f"{verb}-*"), key=lambda place: place.stat().st_mtime)
    row: dict[str, Any] = {"verb": verb, "time_s": taken, "peak_mb": peak, "does": "-", "same": "-"}
    missing = [name for name in LIBRARIES.get(verb, ()) if importlib.util.find_spec(name) is None]
    if missing:
        skipped.append(f"{verb} beside {', '.join(missing)}, which is not installed")
    if verb not in SCRIPTS or missing:
        return row
    other = [sys.executable, __file__, "--script", verb, "--folder", str(own), "--network", str(network)]
    seconds, script_peak, said = timed(other)
    theirs = json.loads(said.strip().splitlines()[-1])
    ((name, value),) = theirs.items()
    row |= {"script_time_s": seconds, "script_peak_mb": script_peak, "time_ratio": seconds / taken, "does": DOES[verb]}
    return row | {"same": f"{name} {reached(run, verb):.3f} and {value:.3f}"}


def main() -> None:
    options = parser("recording_to_result", repeats=1)
    options.add_argument("--images", type=int, default=900, help="training pictures")
    options.add_argument("--only", nargs="*", default=None, help="verbs")
    options.add_argument("--script", help=argparse.SUPPRESS)
    options.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--network", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.script == "make":
        make(chosen.folder, chosen.images)
    elif chosen.script:
        print(json.dumps(SCRIPTS[chosen.script](chosen.folder, chosen.network)))
    else:
        use_threads(chosen.threads)
        print(json.dumps(measured(chosen)))


def measured(chosen: argparse.Namespace) -> dict[str, Any]:
    """Every verb; the JSON object."""
    from floor import machine

    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    network = Path(str(importlib.util.find_spec("brainlens.miniatures").submodule_search_locations[0])) / "clip"  # type: ignore
    with tempfile.TemporaryDirectory() as place:
        own, runs = Path(place) / "own", Path(place) / "runs"
        os.environ["BRAINLENS_CACHE"] = str(Path(place) / "cache")  # the network's layers are extracted by every command anew
        timed([sys.executable, __file__, "--script", "make", "--folder", str(own), "--images", str(chosen.images)])
        for verb, command in commands(own, runs, chosen.device).items():
            if chosen.only and verb not in chosen.only:
                continue
            try:
                line = [str(trained(own, Path(place) / "trained", chosen.device)) if p == VOLUME else p for p in command]
                rows.append(row_of(verb, line, own, runs, network, skipped))
            except SystemExit as fault:  # the other verbs are measured
                skipped.append(f"{verb}: {fault}")
                continue
            one = rows[-1]
            script = f"{one['script_time_s']:8.1f} s" if "script_time_s" in one else "       -"
            print(f"{verb:12} {one['time_s']:8.1f} s   script {script}   {one['same']}", flush=True)
    return {
        "name": "recording_to_result", "device": chosen.device, "machine": machine(chosen.device),
        "threads": chosen.threads or int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "about": (
            f"A made recording of {chosen.images} training and {TEST} test pictures, {REPEATS} trials each, {VOXELS} voxels; "
            "whole processes, imports included (`benchmarks/recording_to_result.py` says what the scripts do and leave out)."
        ),
        "rows": rows, "skipped": skipped,
    }  # fmt: skip


if __name__ == "__main__":
    main()
