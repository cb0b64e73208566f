"""The whole chain on the phantom, at a size for a laptop: the same functions as the claims, with smaller numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from brainlens import store
from brainlens.claims.align import align_claims
from brainlens.claims.attribute import attribute_claims
from brainlens.claims.describe import describe_demo
from brainlens.claims.encode import Plan, encode_claims
from brainlens.datasets.source import Opened, Source, Tell, open_recording
from brainlens.models.generation.adapter_tables import open_pipeline
from brainlens.reconstruct.asked import Asked
from brainlens.reconstruct.run import reconstruct_opened
from brainlens.reconstruct.starting import shipped_attention
from brainlens.types import DataError

DRAWN = Asked(  # about two minutes: 24 images, four candidates of twelve steps
    trials=24, candidates=4, sampling_steps=12, explain=4, lesions=("V1+V2V3",), regions=100,
    changes={"training": {"draws": 64}},
)  # fmt: skip
SHOWN = (
    ("align/ideal/retrieval/brain->image", "ideal observer"),
    ("align/volume/retrieval/brain->image", "volume transformer"),
    ("align/ridge_projected/retrieval/brain->image", "ridge, reliable voxels and learned metric"),
    ("align/linear/retrieval/brain->image", "linear contrastive"),
    ("align/ridge_whitened/retrieval/brain->image", "ridge, whitened metric"),
    ("align/ridge/retrieval/brain->image", "ridge"),
    ("align/shuffled/retrieval/brain->image", "shuffled pairs (control)"),
)

ENCODE = ("encode/factortopy/r2_mean", "encode/ridge/r2_mean", "encode/factortopy/truth/layer_spearman")
DESCRIBE = ("describe/domain_top1", "describe/majority/domain_top1", "describe/clip_msm/domain_top1")


def run_demo(
    out: str | Path, *, n_train: int = 1200, n_test: int = 200, seed: int = 0, device: str = "cpu", tell: Tell
) -> tuple[Path, list[dict[str, Any]]]:
    """Aligns, attributes, encodes, describes and reports on the phantom; returns the report and a short table.

    `out/result.json` holds the metrics under the names that the claims use, at this smaller size.
    """
    from brainlens.report import build

    started = store.Start()
    out = Path(out)
    source = Source(n_train=n_train, n_test=n_test, seed=seed)
    recording = open_recording(source, layers=True, device=device, tell=tell)
    recording = replace(recording, responses=recording.responses.zscore())
    metrics: dict[str, float] = {}
    alignment, found = align_claims(recording, source, out / "runs", seed=seed, device=device, tell=tell)
    metrics |= found
    metrics |= attribute_claims(alignment, recording, source, out / "runs", checks=False, seed=seed, device=device, tell=tell)
    metrics |= encode_claims(recording, source, out / "runs", plan=Plan(seed=seed), device=device, tell=tell)
    metrics |= _reconstruct(recording, source, out / "runs", seed=seed, device=device, tell=tell)
    metrics |= describe_demo(recording, source, out / "runs", seed=seed, tell=tell)
    tell("report", None)
    _pictures(recording, out / "pictures")
    made = sorted(f.parent for f in (out / "runs").glob("*/result.json") if f.stat().st_mtime >= started.date - 1)
    report = build(made, out / "report.html", title="brainlens on the phantom")  # not what an older demo left there
    provenance = store.provenance(seed, device, [store.fingerprint(recording.responses)], started)
    content = {"task": "demo", "metrics": metrics, "config": source.config(), "provenance": provenance, "arrays": {}}
    store.save_json(out / "result.json", content)
    return report, short_table(metrics)


def _reconstruct(recording: Opened, source: Source, runs: Path, *, seed: int, device: str, tell: Tell) -> dict[str, float]:
    """Pictures of a few test responses, from the attention that ships and a short training; nothing where the miniature is not
    there, which is said in one line."""
    try:
        diffusion = open_pipeline(DRAWN.place, device)
    except DataError as error:
        tell(f"reconstruct is left out: {error}", None)
        return {}
    asked = DRAWN if shipped_attention(diffusion.files) is not None else replace(DRAWN, start="ridge", steps=40)
    folder = reconstruct_opened(recording, source, runs, asked, diffusion=diffusion, seed=seed, device=device, tell=tell)
    return {key: value for key, value in store.load_result(folder).metrics.items() if key.startswith("reconstruct/")}


def _pictures(recording: Opened, folder: Path) -> None:
    """Eight pictures of the test as files, for `brainlens predict`."""
    split = recording.stimuli.table["split"].to_numpy(dtype=str)
    for name in recording.stimuli.ids[split == "test"][:8]:
        store.save_image(folder / f"{name}.png", np.asarray(recording.stimuli.take([str(name)]).images[0]))


def next_commands(out: str | Path) -> list[str]:
    """Commands to try on what the demo has made, each with what it is for."""
    runs = Path(out) / "runs"
    made = {}
    for place in sorted(runs.glob("*/result.json")):
        content = store.read_json(place)
        made[content["task"], content["config"].get("method", "")] = place.parent
    align, encode = made.get(("align", "")), made.get(("encode", "factortopy"))
    commands = []
    if align is not None:
        commands += [f"brainlens attribute {align} --method gradcam --runs {runs}", f"brainlens embed {align} --runs {runs}"]
    if encode is not None:
        commands.append(f"brainlens predict {encode} --images {Path(out) / 'pictures'}")
    return [*commands, f"brainlens report {runs} --out {Path(out) / 'again.html'}"]


def short_table(metrics: dict[str, float]) -> list[dict[str, Any]]:
    """What the demo prints: retrieval of each encoder beside chance, and how much of the truth was found."""
    rows: list[dict[str, Any]] = []
    for prefix, name in SHOWN:
        if f"{prefix}/top1" in metrics:
            rows.append(
                {
                    "what": f"brain->image, {name}",
                    "value": _range(metrics, f"{prefix}/top1"),
                    "top 5": _range(metrics, f"{prefix}/top5"),
                }
            )
    chance = "align/volume/retrieval/brain->image"
    if f"{chance}/chance1" in metrics:
        gallery = round(1 / metrics[f"{chance}/chance1"])
        rows.append(
            {
                "what": f"chance, {gallery} images",
                "value": f"{metrics[f'{chance}/chance1']:.3f}",
                "top 5": f"{metrics[f'{chance}/chance5']:.3f}",
            }
        )
    for key in metrics:
        if key.endswith("/truth_auroc") and "-" not in key:  # not the differences of two methods
            rows.append(
                {"what": f"informative voxels found, AUROC, {key.split('/')[1]}", "value": _range(metrics, key), "top 5": ""}
            )
    drawn = (("chosen", ""), ("nearest training picture by ridge", "retrieval/"), ("the same by evidence", "evidence_retrieval/"))
    for name, row in (*drawn, ("shuffled brain (control)", "shuffled/")):
        key = f"reconstruct/{row}two_way_clip"
        if key in metrics:
            rows.append({"what": f"pictures, two-way identification, {name}", "value": _range(metrics, key), "top 5": ""})
    for key in (*ENCODE, *DESCRIBE):
        if key in metrics:
            rows.append({"what": key, "value": _range(metrics, key), "top 5": ""})
    return rows


def _range(metrics: dict[str, float], key: str) -> str:
    value = f"{metrics[key]:.3f}"
    low, high = metrics.get(f"{key}.low"), metrics.get(f"{key}.high")
    return value if low is None or high is None else f"{value} ({low:.3f} to {high:.3f})"
