"""The claims of `describe`: labels against the phantom's true kinds and domains, beside the ideal describer and the baselines.

The phantom is the one with `concepts="kinds"`. All methods are scored on the same voxels: category voxels whose encoding model is
significant on test images, which none of the labelling methods had a part in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from brainlens import miniatures
from brainlens.backbones import clip, vision
from brainlens.backbones.places import place_features
from brainlens.datasets.runs import keep
from brainlens.datasets.source import Opened, Source, Tell
from brainlens.describe import BASELINES, PAPER, RELEASED, Beside, Describing, Space, baseline_scores, fit_describe
from brainlens.describe.bank import Bank, real_rows
from brainlens.describe.crops import CropPool
from brainlens.describe.labelling import label_voxels
from brainlens.describe.run import TEXT, Asked, caption_by, cards, drawn_for
from brainlens.metrics.semantic_evidence import concept_maps
from brainlens.metrics.statistics import bootstrap_mean, paired_bootstrap
from brainlens.models.encoding import RidgeCV
from brainlens.models.encoding.layered import pooled
from brainlens.phantom.scenes import KINDS, make_scenes, object_words
from brainlens.stimuli.nouns import presence, tagger
from brainlens.types import Features, Responses, Result, Stimuli

LAYERS = ("vision.4", "vision.5", "vision.6", "image")  # the last third of the miniature and its embedding
OPTIONS = {"concepts": "kinds"}
SIGNIFICANT = 0.05
RENDERED, SCENES_SEED = 4000, 97  # scenes that stand in for drawn pictures, which no recording shows


@dataclass(frozen=True)
class DescribePlan:
    """noise: voxels outside the regions; designs by name: the first is the claim, "image_only" reads CLIP's embedding alone,
    where every baseline can be computed; cropped: the same with crops of the strongest pictures, whose words are those of the
    whole picture (None) or a captioner's; drawn: with a bank that the diffusion miniature draws, and the captioner of crops
    (None: whole pictures); "published" is the paper's way from end to end, "released" that of its code; level of significance."""

    noise: int = 500
    designs: dict[str, Describing] = field(
        default_factory=lambda: {
            "": Describing(layers=LAYERS),
            "image_only": Describing(layers=("image",)),
            "paper": replace(PAPER, layers=LAYERS),
        }
    )
    cropped: dict[str, str | None] = field(default_factory=lambda: {"crops": None, "crops_captioned": "miniature"})
    drawn: dict[str, tuple[Describing, str | None]] = field(
        default_factory=lambda: {
            "drawn": (Describing(layers=LAYERS, pictures=10), None),
            "published": (replace(PAPER, layers=("image",)), "miniature"),
            "released": (replace(RELEASED, layers=("image",)), "miniature"),
        }
    )
    level: float = 0.05
    seed: int = 0


def describe_claims(
    recording: Opened, *, plan: DescribePlan | None = None, folder: Path, tell: Tell
) -> tuple[dict[str, float], Result]:
    """Metrics `describe/...` and the result of the first design, from the phantom with kinds, opened with its layers.

    folder: for drawn pictures, which are not drawn again.
    """
    plan = plan or DescribePlan()
    units = recording.responses.units
    chosen = chosen_voxels(units, plan.noise, plan.seed)
    responses = recording.responses.columns(chosen).zscore()
    assert recording.layers is not None
    layers = recording.layers
    space = _space(np.asarray(layers.data["image"], np.float32))
    metrics: dict[str, float] = {}
    first: Result | None = None
    scored = np.zeros(len(chosen), dtype=bool)
    for name, design in plan.designs.items():
        tell(f"describe, {name or 'claim'}", None)
        readout = design.layers == ("image",)
        result, model = fit_describe(
            responses,
            layers,
            recording.stimuli,
            design=design,
            beside=Beside(space=replace(space, readout=readout)),
            seed=plan.seed,
        )
        prefix = f"describe/{name}".rstrip("/")
        if first is None:
            first = result
            category = (responses.units["domain"] != "").to_numpy()
            scored = category & (np.where(np.isfinite(result.arrays["q_r2"]), result.arrays["q_r2"], 1.0) <= plan.level)
            metrics |= _first(result, responses.units, category, scored)
            tell("the ideal describer", None)
            metrics |= truth_scores(_ideal(recording, result, design, chosen, plan.seed), result, scored, prefix="describe/ideal")
            metrics |= _maps(recording, responses, result, model, space, design, plan.seed)
        metrics |= truth_scores(result.arrays["label"], result, scored, prefix=prefix)
        others = {key: value for key, value in result.arrays.items() if key.startswith("baseline/")}
        for key, number in others.items():
            other = key.removeprefix("baseline/")
            if f"describe/{other}/domain_top1" not in metrics:
                metrics |= truth_scores(number, result, scored, prefix=f"describe/{other}")
    assert first is not None
    for name, pool in _pools(recording, plan.cropped):
        tell(f"describe, {name}", None)
        result, _ = fit_describe(
            responses, layers, recording.stimuli, design=Describing(layers=("image",)), beside=Beside(crops=pool), seed=plan.seed
        )
        metrics |= truth_scores(result.arrays["label"], result, scored, prefix=f"describe/{name}")
    for name in plan.drawn:
        tell(f"describe, {name}", None)
        metrics |= _drawn(recording, responses, name, plan, folder, scored, tell)
    return metrics, first


def _drawn(
    recording: Opened, responses: Responses, name: str, plan: DescribePlan, folder: Path, scored: np.ndarray, tell: Tell
) -> dict[str, float]:
    """A design with a drawn bank: its scores, the pictures drawn, and how many a bank for each voxel's candidates would need.

    `NAME_rendered`: the same with scenes that show the noun for sure, so that what the drawing costs stands alone.
    """
    design, captioner = plan.drawn[name]
    layers, stimuli = recording.layers, recording.stimuli
    assert layers is not None
    network = vision.load(miniatures.folder("clip"))
    read = partial(vision.extract, network, layers=list(design.layers or ("image",)))
    bank = drawn_for(Asked(design, "diffusion"), stimuli, responses, read, folder, tell=tell, seed=plan.seed)
    crops = dict(_pools(recording, {name: captioner}))[name] if captioner is not None else None
    metrics: dict[str, float] = {}
    outside = ~responses.units["informative"].to_numpy(dtype=bool)
    for prefix, pictures in ((f"describe/{name}", bank), (f"describe/{name}_rendered", rendered_bank(bank.nouns, read, design))):
        result, _ = fit_describe(responses, layers, stimuli, design=design, beside=Beside(pictures, crops), seed=plan.seed)
        metrics |= truth_scores(result.arrays["label"], result, scored, prefix=prefix)
        metrics[f"{prefix}/noise_significant"] = float(result.arrays["significant"][outside].mean())
        metrics[f"{prefix}/noise_significant.n"] = int(outside.sum())
        each = result.metrics["describe/labelled"] * result.metrics["describe/candidates"] * design.pictures
        metrics |= {f"{prefix}/pictures": len(pictures), f"{prefix}/pictures_voxel_by_voxel": each}
    return metrics


@cache
def _scenes() -> Stimuli:
    """The scenes that stand in for drawn pictures, rendered once for all designs."""
    return make_scenes(RENDERED, seed=SCENES_SEED, split="validation")


def rendered_bank(nouns: tuple[str, ...], read: Callable[[Stimuli], Features], design: Describing) -> Bank:
    """`design.pictures` scenes of every noun that no recording shows, those of fewest objects first, as `read` sees them."""
    scenes = _scenes()
    present = presence(tagger(design.tagger).nouns(scenes.captions), nouns)
    order = np.argsort(scenes.table["n_objects"].to_numpy(), kind="stable")
    chosen = [order[present[order, c]][: design.pictures] for c in range(len(nouns))]
    rows, back = np.unique(np.concatenate(chosen), return_inverse=True)
    x = pooled(read(scenes.take(scenes.ids[rows])), design.layers or ("image",))
    return Bank(x[back], np.repeat(np.arange(len(nouns)), [len(each) for each in chosen]), nouns, "rendered", rows[back])


def _pools(recording: Opened, cropped: dict[str, str | None]) -> Iterator[tuple[str, CropPool]]:
    """Crops by the shipped CLIP, each with the captioner of its name."""
    if not cropped or recording.layers is None:
        return
    network = vision.load(miniatures.folder("clip"))
    stimuli = recording.stimuli.take([str(name) for name in recording.layers.ids])
    places, extract = place_features(network, stimuli), partial(vision.extract, network, layers=["image"])
    for name, captioner in cropped.items():
        yield name, CropPool(stimuli, places, extract, caption=None if captioner is None else caption_by(captioner))


def describe_demo(
    recording: Opened, source: Source, runs: Path, *, noise: int = 300, seed: int = 0, tell: Tell
) -> dict[str, float]:
    """The verb on a phantom that is opened with its layers and z-scored, at the size of the demo; the run is kept.

    The demo's voxels prefer domains, so that the first label's domain is what is scored.
    """
    tell("describe", None)
    assert recording.layers is not None
    responses = recording.responses.columns(chosen_voxels(recording.responses.units, noise, seed))
    space = _space(np.asarray(recording.layers.data["image"], np.float32))
    result, model = fit_describe(
        responses, recording.layers, recording.stimuli, design=Describing(layers=LAYERS), beside=Beside(space=space), seed=seed
    )
    nouns = tuple(result.tables["nouns"]["noun"].astype(str))
    more = cards(result, recording.stimuli) | {"noun_embedding": space.texts(nouns).astype(np.float32)}
    keep(replace(result, arrays=result.arrays | more), runs, source, model=model)
    units, q = responses.units, result.arrays["q_r2"]
    scored = (units["domain"] != "").to_numpy() & (np.where(np.isfinite(q), q, 1.0) <= SIGNIFICANT)
    metrics = truth_scores(result.arrays["label"], result, scored, prefix="describe")
    for name in BASELINES:
        if f"baseline/{name}" in result.arrays:
            metrics |= truth_scores(result.arrays[f"baseline/{name}"], result, scored, prefix=f"describe/{name}")
    outside = ~units["informative"].to_numpy(dtype=bool)
    metrics["describe/noise_significant"] = float(result.arrays["significant"][outside].mean())
    return metrics | {"describe/noise_significant.n": int(outside.sum())}


def chosen_voxels(units: pd.DataFrame, noise: int, seed: int) -> np.ndarray:
    """Numbers (n,) of all informative voxels and some of the others, in their order."""
    informative = units["informative"].to_numpy(dtype=bool)
    others = np.flatnonzero(~informative)
    some = np.random.default_rng([seed, 61]).choice(others, min(noise, len(others)), replace=False)
    return np.sort(np.concatenate([np.flatnonzero(informative), some]))


def truth_scores(label: np.ndarray, result: Result, scored: np.ndarray, *, prefix: str) -> dict[str, float]:
    """domain_top1, kind_top3 and two_kinds_top4 of labels (unit, k) with intervals over voxels, chance and n.

    domain_top1: the first label names a kind of the voxel's domain (of either kind's domain where a voxel has two);
    domain_top1_own: of the region's own domain; kind_top3: the voxel's first kind is among three labels; two_kinds_top4: both
    kinds are among four. A voxel without a label counts as wrong. Where voxels prefer domains alone, only domains are scored.
    """
    units, nouns = result.units, result.tables["nouns"]["noun"].astype(str).tolist()
    assert units is not None
    word = {kind: object_words(kind)[-1] for kind in KINDS}
    domains: dict[str, set[str]] = {noun: set() for noun in nouns}
    for kind, domain in KINDS.items():
        for part in object_words(kind):
            domains.setdefault(part, set()).add(domain)
    hits: dict[str, list[float]] = {name: [] for name in ("domain_top1", "domain_top1_own", "kind_top3", "two_kinds_top4")}
    chance: dict[str, list[float]] = {name: [] for name in ("domain_top1", "domain_top1_own")}
    fine = "kind" in units.columns  # else voxels prefer domains and nothing finer
    for unit in np.flatnonzero(scored):
        own = str(units["domain"].iloc[unit])
        kind, second = (str(units[column].iloc[unit]) if fine else "" for column in ("kind", "kind2"))
        true = {own} | ({KINDS[second]} if second else set())
        said = [nouns[number] for number in label[unit] if number >= 0]
        top = domains[said[0]] if said else set()
        hits["domain_top1"].append(float(bool(top & true)))
        hits["domain_top1_own"].append(float(own in top))
        if kind:
            hits["kind_top3"].append(float(word[kind] in said[:3]))
        chance["domain_top1"].append(float(np.mean([bool(domains[noun] & true) for noun in nouns])))
        chance["domain_top1_own"].append(float(np.mean([own in domains[noun] for noun in nouns])))
        if second:
            hits["two_kinds_top4"].append(float({word[kind], word[second]} <= set(said[:4])))
    out: dict[str, float] = {}
    for name, values in hits.items():
        if len(values) < 2:
            continue
        key = f"{prefix}/{name}"
        out[key], out[f"{key}.low"], out[f"{key}.high"] = bootstrap_mean(np.array(values), seed=0)
        out[f"{key}.n"] = len(values)
        if name in chance:
            out[f"{key}.chance"] = float(np.mean(chance[name]))
    n = len(nouns)
    by_chance = {"kind_top3": 3 / n, "two_kinds_top4": 4 * 3 / (n * (n - 1))}
    return out | {f"{prefix}/{name}.chance": value for name, value in by_chance.items() if f"{prefix}/{name}" in out}


def _first(result: Result, units: pd.DataFrame, category: np.ndarray, scored: np.ndarray) -> dict[str, float]:
    """What is measured of the claim alone: noise voxels, shares, stability, labels of voxels whose label is significant."""
    noise = ~units["informative"].to_numpy(dtype=bool)
    significant, p = result.arrays["significant"], result.arrays["label_p"]
    metrics = {
        "describe/noise_significant": float(significant[noise].mean()),
        "describe/noise_significant.n": int(noise.sum()),
        "describe/noise_p05_share": float((p[noise] <= 0.05).sum() / max(1, np.isfinite(p[noise]).sum())),
        "describe/category_voxels": int(category.sum()),
        "describe/category_scored": int(scored.sum()),
        "describe/category_significant_share": float(significant[category].mean()),
        "describe/r2_category": float(np.mean(result.arrays["r2"][category])),
    }  # fmt: skip
    kept = ("split_half_share", "split_half_share.chance", "map_correlation", "map_correlation.low", "map_correlation.high")
    metrics |= {f"describe/{name}": result.metrics[f"describe/{name}"] for name in kept}
    return metrics | truth_scores(result.arrays["label"], result, category & significant, prefix="describe/significant")


def _ideal(recording: Opened, result: Result, design: Describing, chosen: np.ndarray, seed: int) -> np.ndarray:
    """Labels (unit, k) by the same procedure from the true noise-free responses to the same pictures and bank."""
    truth, stimuli = recording.truth, recording.stimuli
    signal = np.zeros((len(chosen), len(truth.ids)), dtype=np.float32)
    place = {int(unit): number for number, unit in enumerate(truth.informative)}
    rows = [number for number, unit in enumerate(chosen) if int(unit) in place]
    signal[rows] = truth.signal[:, [place[int(chosen[number])] for number in rows]].T
    order = {str(name): i for i, name in enumerate(truth.ids)}
    fitted = np.array([order[str(name)] for name in result.tables["pool"]["stimulus"]])
    nouns = tuple(result.tables["nouns"]["noun"].astype(str))
    present = presence(tagger(design.tagger).nouns(stimuli.take(truth.ids).captions), nouns)
    bank, noun = real_rows(nouns, present, fitted, pictures=design.pictures, seed=seed)
    return label_voxels(
        lambda part: signal[part][:, fitted], lambda part: signal[part][:, bank], voxels=len(chosen), present=present[fitted],
        noun=noun, top=design.top, a=design.best, labels=design.labels,
    ).number  # fmt: skip


def _maps(
    recording: Opened, responses: Responses, result: Result, model: RidgeCV, space: Space, design: Describing, seed: int
) -> dict[str, float]:
    """Fig. 5: each concept's predicted map against the measured one of test images, ours minus CLIP-MSM's, over concepts."""
    assert recording.layers is not None
    stimuli = recording.stimuli.take(recording.layers.ids)
    nouns = tuple(result.tables["nouns"]["noun"].astype(str))
    number = {str(name): i for i, name in enumerate(stimuli.ids)}
    fitted = np.array([number[str(name)] for name in result.tables["pool"]["stimulus"]])
    x = pooled(recording.layers, design.layers or ("image",), fitted)
    counts = np.ones((len(model.coef_), len(nouns)))
    scores = baseline_scores(model, x, counts, nouns=nouns, space=replace(space, readout=False), rows=fitted)["clip_msm"]
    ours = result.tables["nouns"]["map_r"].to_numpy()
    shown = np.flatnonzero(np.isfinite(ours))
    mean = responses.where(split="test").average()
    present = presence(tagger(design.tagger).nouns(stimuli.captions), nouns)
    there = present[[number[str(name)] for name in mean.trials["stimulus"]]]
    y = np.asarray(mean.data, np.float64)
    measured = np.stack([y[there[:, c]].mean(axis=0) - y[~there[:, c]].mean(axis=0) for c in shown])
    theirs = concept_maps(scores[:, shown].T, measured)
    difference, low, high, p = paired_bootstrap(ours[shown], theirs, seed=seed)
    key = "describe/describe-clip_msm/map_correlation"
    found = {key: difference, f"{key}.low": low, f"{key}.high": high, f"{key}.p": p, f"{key}.n": len(shown)}
    return found | {"describe/clip_msm/map_correlation": float(theirs.mean())}


def _space(images: np.ndarray) -> Space:
    """The miniature CLIP's space; nouns as captions name pictures."""
    reader = clip.load_clip(miniatures.folder("clip"))

    def texts(nouns: tuple[str, ...]) -> np.ndarray:
        return clip.embed_texts(reader, [[TEXT.format(noun)] for noun in nouns], [str(i) for i in range(len(nouns))])["text"]

    return Space(images, texts)


def rows_of(metrics: dict[str, float]) -> list[dict[str, str]]:
    """The main figures as rows for the terminal."""
    rows = []
    for name in ("", "ideal", "image_only", "paper", "clip_msm", "text_readout", "majority", "brainscuba"):
        prefix = f"describe/{name}".rstrip("/")
        if f"{prefix}/domain_top1" in metrics:
            cells = {key: f"{metrics[f'{prefix}/{key}']:.3f}" for key in ("domain_top1", "kind_top3", "two_kinds_top4")
                     if f"{prefix}/{key}" in metrics}  # fmt: skip
            rows.append({"labels": name or "describe"} | cells)
    return rows
