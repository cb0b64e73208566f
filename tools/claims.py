"""Every ground-truth claim at its full size, group by group: claims/result.json, docs/claims.md, and the figures of the guide.

    python tools/claims.py [--only GROUP] [--again] [--go-on] [--scale full|half|small]
    python tools/claims.py --page           the pages alone, from what was measured

A group that is done is not run again (--again runs it again); its numbers are kept in claims/GROUP.json with the date, the
commit, the device and the size. A claim that is missed stays on the page with its value.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import claims_judges
import claims_page
import claims_reconstruct
import guide_page
from brainlens import store
from brainlens.align import Alignment, one_result
from brainlens.claims.align import ideal_claims
from brainlens.claims.align_study import ABLATIONS, Study
from brainlens.claims.attribute import attribute_claims, paper_claims
from brainlens.claims.describe import OPTIONS as KINDS
from brainlens.claims.describe import DescribePlan, describe_claims
from brainlens.claims.encode import BESIDE, EQ1, Plan, encode_claims, informative_and_noise
from brainlens.claims.pointing import pointing_claims
from brainlens.claims.recipes import PUBLISHED, recipe_claims
from brainlens.datasets.runs import keep
from brainlens.datasets.source import Opened, Source, open_recording
from brainlens.describe import BASELINES as DESCRIBED
from brainlens.encode.categories import decode, haxby2001_encode
from brainlens.models.encoding.training import EncodingTraining as EncodeTraining
from brainlens.models.volume.aligners import DESIGN, ENCODERS
from brainlens.models.volume.fit import LINEAR, TRAINING
from brainlens.models.volume.split import split_tables
from claims_page import Versus, others

ROOT = Path(__file__).resolve().parent.parent
CLAIMS = ROOT / "claims"
BEFORE = CLAIMS / "before"  # the figures on the phantom and the miniature before their rebuild, for comparison
WORK = CLAIMS / "work"
CONTROLS = ("control", "unfiltered", "enhancing")  # parts of eeg_control
SIZES = {"full": (9000, 500, 1000), "half": (3000, 300, 1000), "small": (1200, 150, 200)}
BASELINES = EncodeTraining(steps=3000, batch=16, lr=5e-3, epoch=250, patience=3)  # class token, patch token, gnet
FIRST = ("ridge", "ridge_whitened", "ridge_projected", "volume")  # of the alignment, before those that take long
ORDER = (
    *(
        "align",
        "attribute",
        "pointing",
        "encode",
        "recipes",
        "volume_paper",
        "judges",
        "describe",
        "haxby2001",
        "images92",
        "eeg_control",  # before eeg, which has its figures of more subjects where it was run after
        "eeg",
    ),
    *("diffusion", "reconstruct", "digits69"),
)
SEEN = "align/{row}/retrieval/brain->image/top1"
SMALLER = "align/curve/volume/3000/retrieval/{way}/top1"  # the ablations are trained on so many images
TARGETS: dict[str, str | Versus] = {
    "align/volume/retrieval/brain->image/top1": Versus(
        "highest below ideal",
        above=others(claims_page.ALIGNERS, SEEN, but=("ideal", "volume", "shuffled")),
        below=(SEEN.format(row="ideal"),),
    ),
    "align/shuffled/retrieval/brain->image/top1": Versus("at chance", at="align/shuffled/retrieval/brain->image/chance1"),
    "align/volume/visual_only/retrieval/brain->text/top1": Versus(
        "below the whole brain, 3,000 images", below=(SMALLER.format(way="brain->text"),)
    ),
    "align/volume/image_only/retrieval/brain->text/top1": Versus(
        "below both modalities, 3,000 images", below=(SMALLER.format(way="brain->text"),)
    ),
    "align/volume/text_only/retrieval/brain->image/top1": Versus(
        "below both modalities, 3,000 images", below=(SMALLER.format(way="brain->image"),)
    ),
    "align/volume_paper_small/retrieval/brain->image/top1": Versus(
        "above its ridge", above=(SEEN.format(row="volume_paper_small/ridge"),)
    ),
    "align/volume_paper_small_remedied/retrieval/brain->image/top1": Versus(
        "above ridge", above=(SEEN.format(row="volume_paper_small/ridge"), SEEN.format(row="ridge"))
    ),
    "attribute/bottleneck/truth_auroc": ">= .9",
    "attribute/random/truth_auroc": ".5",
    "attribute/randomised/truth_auroc": ".5",
    "attribute/pixels/pointing_game": ">= .8",
    "attribute/words/pointing_game": ">= .8",
    "encode/factortopy/r2_mean": Versus(
        "highest below oracle",
        above=others(claims_page.ENCODERS, "encode/{row}/r2_mean", but=("oracle", "oracle_common", "factortopy", "shuffled")),
        below=("encode/oracle_common/r2_mean",),  # eq. 1 alone has no common reading, and its oracle no longer is a bound
    ),
    "encode/shuffled/r2_mean": "<= 0",
    "encode/factortopy/noise_voxels/r2_mean": "<= 0",
    "encode/factortopy/r2_of_ceiling": ">= .7",
    "encode/factortopy/truth/layer_spearman": ">= .8",
    "encode/factortopy/truth/rf_error_median": "<= .15",
    "encode/factortopy/truth/scale_auroc": ">= .9",
    "encode/factortopy/hierarchy_slope": "> 0",
    "encode/factortopy/hierarchy_slope.p": "< .01",
    "encode/curve/factortopy_released/1200/truth/layer_spearman": ">= .9",
    "encode/curve/factortopy_released/1200/truth/rf_error_median": "<= .12",
    "encode/curve/factortopy_released/1200/truth/scale_auroc": ">= .95",
    "describe/domain_top1": ">= .8",
    "describe/kind_top3": ">= .6, or >= .9 of describe/ideal/kind_top3",
    "describe/clip_msm/domain_top1": Versus("below describe", below=("describe/domain_top1",)),
    "describe/two_kinds_top4": Versus(
        "above every baseline", above=tuple(f"describe/{name}/two_kinds_top4" for name in DESCRIBED)
    ),
    "describe/noise_significant": "<= .06",
    "haxby2001/encode/r2_max": ".642 +- .03",
    "haxby2001/encode/r2_share_positive": ".319 +- .03",
    "haxby2001/decode/accuracy": ">= .78",
    "images92/rsa/best_layer": Versus("above pixels", above=("images92/rsa/pixels",)),
    "eeg/neuroalign/within/top1": Versus(
        "highest", above=others(claims_page.SENSORS, "eeg/{row}/within/top1", but=("neuroalign", "shuffled"))
    ),
    "eeg/topography_correlation": ">= .7",
    **claims_reconstruct.TARGETS,
    **claims_judges.TARGETS,
}


def tell(text: str, share: float | None = None) -> None:
    """Progress, one line whenever the text changes."""
    if text != getattr(tell, "last", None):
        tell.last = text  # type: ignore[attr-defined]
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def opened(scale: str, *, layers: bool) -> tuple[Source, Opened]:
    """The phantom at a size, z-scored by session; float16, which halves the memory of 30,000 volumes."""
    train, validation, test = SIZES[scale]
    source = Source(n_train=train, n_validation=validation, n_test=test)
    recording = open_recording(source, layers=layers, tell=tell)
    standard = recording.responses.zscore()
    return source, replace(recording, responses=replace(standard, data=standard.data.astype(np.float16)))


def align_group(scale: str, encoders: tuple[str, ...] = ENCODERS) -> dict[str, float]:
    """Every encoder, curves, ablations, controls; and the attribution of the volume encoder. A second call goes on.

    encoders: only these are fitted, without curves, and every other figure stays as it was measured.
    """
    source, recording, study = studied(scale)
    long, split, some = scale != "small", study.split, encoders != ENCODERS
    metrics = (earlier("align") if some else {}) | ideal_claims(recording, split)

    def done(more: dict[str, float]) -> None:
        metrics.update(more)
        store.save_json(CLAIMS / "align.json", record(metrics, scale))

    for name in [n for n in (*FIRST, *encoders) if n in encoders]:
        done(study.encoder(name))
        if name == "volume" and not some:
            store.save_json(CLAIMS / "attribute.json", record(attribution(source, recording, study), scale))
    if "volume" in encoders:
        done(study.differences(tuple(n for n in encoders if n != "volume")))
    if some:
        return metrics
    sizes = (3000, 1000) if long else (600,)
    for size in sizes:
        done(study.curve((size,)))
        if size == sizes[0]:
            for label in ABLATIONS:
                done(study.ablation(label, images=size))
            done(study.differences(ABLATIONS[1:], base=f"curve/volume/{size}"))
    return metrics


def studied(scale: str) -> tuple[Source, Opened, Study]:
    """The phantom, and the study of its encoders as far as it got."""
    source, recording = opened(scale, layers=False)
    assert recording.images is not None
    long = scale != "small"
    training = replace(TRAINING, steps=300, batch=256, patience=6, checkpoint_every=15) if long else TRAINING
    linear = replace(LINEAR, steps=3000 if long else LINEAR.steps, evaluate_every=50)
    split = split_tables(recording.responses, recording.images, recording.texts)
    return source, recording, Study(split, WORK / f"align-{scale}", training, linear, tell=tell)


def attribute_group(scale: str) -> dict[str, float]:
    """The attribution of the volume encoder alone, which is fitted where the align group did not leave it."""
    return attribution(*studied(scale))


def published_attribution(scale: str) -> dict[str, float]:
    """Only IB-BA in its paper's form; every other figure stays as it was measured."""
    _, recording, study = studied(scale)
    return earlier("attribute") | paper_claims(study.volume(), study.split, recording.responses, seed=study.seed)


def attribution(source: Source, recording: Opened, study: Study) -> dict[str, float]:
    """All attribution methods on the same 32 test images; the run and the weights of the volume encoder are kept."""
    decoder = study.volume()
    assert decoder.module is not None
    result = one_result({"volume": decoder}, study.split, seed=study.seed)
    gallery = recording.stimuli.take(study.split.test.ids)
    pictures = {"gallery/images": np.stack(list(gallery.images)), "domain": gallery.table["domain"].to_numpy(dtype=np.str_)}
    config = {"encoders": ["volume"], "design": asdict(DESIGN), "seed": study.seed}
    keep(replace(result, config=config), WORK / "runs", source, arrays=pictures)
    store.save_weights(WORK, "volume", decoder.module.state_dict())
    methods = ("bottleneck", "gradcam", "integrated_gradients", "chefer", "rise", "random")
    alignment = Alignment(result, {"volume": decoder}, study.split)
    return attribute_claims(
        alignment, recording, source, WORK / "runs", methods=methods, trials=32, masks=1000, tell=tell
    )  # fmt: skip


def encode_group(scale: str) -> dict[str, float]:
    """FactorTopy, its baselines and controls on the same images and voxels; what a killed run has finished is not run again.

    Voxels are chosen before they are z-scored: all 29,000 of 31,500 trials are never held as single floats.
    """
    train, validation, test = SIZES[scale]
    source = Source(n_train=train, n_validation=validation, n_test=test)
    methods = ("factortopy", EQ1, BESIDE, "oracle", "oracle_common", "ridge", "shuffled", "class_token", "patch_token", "gnet")
    plan = Plan(methods=methods, baselines=BASELINES)
    recording = open_recording(source, layers=True, tell=tell)
    chosen = informative_and_noise(recording.responses, noise=plan.noise, seed=plan.seed)
    recording = replace(recording, responses=chosen.zscore(), images=None, texts=None, truth=None)
    file = WORK / f"encode-{scale}.json"

    def done(method: str, metrics: dict[str, float] | None) -> dict[str, float] | None:
        kept = store.read_json(file) if file.exists() else {}
        if metrics is not None:
            store.save_json(file, kept | {method: metrics})
        return kept.get(method)

    metrics = encode_claims(recording, source, WORK / "runs", plan=plan, tell=tell, done=done)
    file.unlink()
    return metrics


def recipes_group(scale: str, parts: tuple[str, ...] = ()) -> dict[str, float]:
    """FactorTopy as its paper and as its code say, trained, at 1,200 images beside our default and, at full size, at 9,000.

    parts: recipes that are trained at full size alone; they join the figures of the others.
    """
    before = earlier("recipes") if parts else {}
    metrics: dict[str, float] = {}
    sizes = (scale,) if parts or scale == "small" else ("small", scale)
    for size in sizes:
        train, validation, test = SIZES[size]
        source = Source(n_train=train, n_validation=validation, n_test=test)
        recording = open_recording(source, layers=True, tell=tell)
        plan = Plan()
        chosen = informative_and_noise(recording.responses, noise=plan.noise, seed=plan.seed)
        recording = replace(recording, responses=chosen.zscore(), images=None, texts=None, truth=None)
        place, number = WORK / f"recipes-{size}", train if size == "small" else None
        steps = 20_000 if size == "small" else 60_000
        for recipes in [(recipe,) for recipe in parts] or [PUBLISHED]:
            metrics |= recipe_claims(recording, place, plan=plan, size=number, steps=steps, recipes=recipes, tell=tell)
            store.save_json(CLAIMS / "recipes.json", record(before | metrics, f"{size}, not finished"))
    return before | metrics


def recordings() -> Path:
    """The folder of real recordings."""
    folder = os.environ.get("BRAINLENS_TEST_DATA")
    if not folder:
        raise SystemExit("set BRAINLENS_TEST_DATA to the folder of the real recordings, or leave this group out")
    return Path(folder)


def haxby2001_group(scale: str) -> dict[str, float]:
    """Ridge on categories and 8-way decoding, one run left out, on the real slice."""
    from brainlens import datasets

    folder = recordings() / "haxby2001"
    responses = datasets.load("haxby2001", folder).responses
    result, found = haxby2001_encode(responses), decode(responses)
    keep(result, WORK / "runs", Source("haxby2001", folder))
    metrics = {k.replace("encoding/", "haxby2001/encode/"): v for k, v in result.metrics.items()}
    metrics |= {f"haxby2001/{k}" if k.startswith("decode") else f"haxby2001/decode/{k}": v for k, v in found.metrics.items()}
    return metrics


def images92_group(scale: str) -> dict[str, float]:
    """Layers of the real MobileNetV2 against human IT dissimilarities."""
    from brainlens.backbones import vision
    from brainlens.datasets import images92
    from brainlens.encode.patterns import encode_patterns
    from brainlens.metrics import similarity
    from brainlens.types import Features

    folder = recordings()
    stimuli = images92.load_stimuli(folder / "images92")
    known = images92.load_rdms(folder / "images92")
    upper = np.triu_indices(len(stimuli), 1)
    rdms = np.stack([known[f"subject{i}"].mean(axis=0)[upper] for i in range(1, 5)])  # two sessions averaged
    network = vision.extract(vision.load(folder / "mobilenet_v2_1.0_224"), stimuli, dtype=np.float32)
    result = similarity.rsa(network, rdms)
    keep(result, WORK / "runs", Source("images92", folder / "images92", str(folder / "mobilenet_v2_1.0_224")))
    responses = images92.load(folder / "images92").responses
    fitted = encode_patterns(responses, network, rdms=rdms)
    keep(fitted, WORK / "runs", Source("images92", folder / "images92", str(folder / "mobilenet_v2_1.0_224")))
    small = np.stack([thumbnail(image) for image in stimuli.images])
    plain = Features({"pixels": small}, stimuli.ids, "RGB 32 x 32")
    pixels = similarity.rsa(plain, rdms)
    metrics = {f"images92/{k}": v for k, v in result.metrics.items()}
    for name, model in (("encode", fitted), ("encode_pixels", encode_patterns(responses, plain, rdms=rdms))):
        metrics |= {k.replace("encoding/", f"images92/{name}/"): v for k, v in model.metrics.items()}
    metrics |= claims_judges.it_claims(folder, WORK, tell)
    return metrics | {
        k.replace("rsa/best_layer", "images92/rsa/pixels"): v for k, v in pixels.metrics.items() if "best_layer" in k
    }


def thumbnail(image: np.ndarray) -> np.ndarray:
    """RGB at 32 x 32, flattened."""
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR), np.float32).ravel()


def eeg_group(scale: str, minutes: float = 60.0) -> dict[str, float]:
    """NeuroAlign, its baselines and its ablations, two at a time; each fit is kept, so that a second run goes on.

    minutes: no fit is begun after them; the ten subjects take some three hours in all.
    """
    from brainlens.claims.sensors import SensorStudy, sensor_claims

    half = {"train": 4000, "subjects": (1, 2), "across": (1,), "across_train": 4000}
    sizes = {"full": {}, "half": half, "small": {"train": 1000, "subjects": (1,), "across": (), "epochs": 10}}
    return sensor_claims(SensorStudy(minutes=minutes, **sizes[scale]), WORK / f"eeg-{scale}", tell=tell, workers=2)  # type: ignore[arg-type]


def eeg_control_group(scale: str, minutes: float = 60.0, parts: tuple[str, ...] = CONTROLS) -> dict[str, float]:
    """Sources that read the filtered picture; the parts of NeuroAlign on the unfiltered base; and the filter's other sign.

    Three subjects, one process; of the other sign ten where the sources read the picture as shown. minutes: of each part, no fit
    is begun after them.
    """
    from brainlens.claims.sensors import SensorStudy, control_claims, enhancing_claims, unfiltered_claims

    sizes = {"full": {}, "half": {"train": 4000}, "small": {"train": 1000, "epochs": 10}}
    study = SensorStudy(minutes=minutes, **sizes[scale])  # type: ignore[arg-type]
    three = replace(study, subjects=study.controlled)
    metrics = earlier("eeg_control")
    for part in parts:
        if part == "enhancing":
            metrics |= enhancing_claims(study if scale != "small" else three, WORK / f"eeg-{scale}", tell)
        else:
            metrics |= {"control": control_claims, "unfiltered": unfiltered_claims}[part](three, WORK / f"eeg-{scale}", tell)
        store.save_json(CLAIMS / "eeg_control.json", record(metrics, f"{scale}, not finished"))
    return metrics


def pointing_group(scale: str) -> dict[str, float]:
    """Whether maps of pictures and captions point at the object that is asked for; the shipped miniature CLIP."""
    return pointing_claims(scenes={"full": 200, "half": 100, "small": 40}[scale], tell=tell)


def describe_group(scale: str, parts: tuple[str, ...] = ()) -> dict[str, float]:
    """Labels of voxels on the phantom that prefers kinds, beside the ideal describer and the baselines.

    On the brain and the pictures of seed 1: the numbers of pictures were chosen on seed 0. parts: "drawn", the banks that the
    diffusion miniature draws, alone; every other figure stays as it was measured.
    """
    train, test = {"full": (3000, 400), "half": (1500, 300), "small": (600, 150)}[scale]
    source = Source(n_train=train, n_test=test, seed=1, options=KINDS)
    plan = DescribePlan()
    if parts:
        plan = replace(plan, designs={"": plan.designs[""]}, cropped={})
    recording = open_recording(source, layers=True, tell=tell)
    metrics, result = describe_claims(recording, plan=plan, folder=WORK, tell=tell)
    keep(result, WORK / "runs", source)
    if not parts:
        return metrics
    drawn = tuple(f"describe/{name}{end}/" for name in plan.drawn for end in ("", "_rendered"))
    return earlier("describe") | {key: value for key, value in metrics.items() if key.startswith(drawn)}


def diffusion_group(scale: str) -> dict[str, float]:
    """What the diffusion miniature draws from captions."""
    return claims_reconstruct.diffusion_group(scale, WORK, tell)


def reconstruct_group(scale: str, parts: tuple[str, ...] = claims_reconstruct.FIRST) -> dict[str, float]:
    """Pictures from the phantom's brain; parts that are asked for singly join the figures of the others."""
    before = earlier("reconstruct")

    def done(metrics: dict[str, float]) -> None:
        store.save_json(CLAIMS / "reconstruct.json", record(before | metrics, scale))

    return before | claims_reconstruct.reconstruct_group(scale, WORK, tell, parts=parts, done=done)


def digits69_group(scale: str) -> dict[str, float]:
    """Pictures from real fMRI, and what layers of a network and pixels say of its voxels."""
    encoding = claims_judges.digit_encoding_claims(recordings(), WORK, tell)
    return claims_reconstruct.digits_group(scale, WORK, tell) | encoding


def volume_paper_group(scale: str, asked: tuple[str, ...] = (), epochs: int | None = None) -> dict[str, float]:
    """The paper's form of the whole-brain aligner at a small size, beside ridge; hours at full size, checkpointed."""
    from brainlens.claims.volume_paper import REMEDIES, volume_paper_claims

    _, recording = opened(scale, layers=False)
    before = earlier("volume_paper") if asked else {}  # remedies that are asked for singly join the others

    def done(metrics: dict[str, float]) -> None:
        store.save_json(CLAIMS / "volume_paper.json", record(before | metrics, f"{scale}, not finished"))

    remedies = asked or (tuple(REMEDIES) if scale != "small" else ("",))
    place, training = WORK / f"volume-paper-{scale}", None if epochs is None else {"epochs": epochs}
    return before | volume_paper_claims(recording, place, remedies=remedies, training=training, tell=tell, done=done)


def judges_group(scale: str, aligners: tuple[str, ...] = claims_judges.ALIGNERS, parts: tuple[str, ...] = ()) -> dict[str, float]:
    """The same methods under brains that are linear and that are not; methods that are asked for singly join the others."""
    before = earlier("judges")

    def done(metrics: dict[str, float]) -> None:
        store.save_json(CLAIMS / "judges.json", record(before | metrics, f"{scale}, not finished"))

    found: dict[str, float] = {}
    if "digits69" in parts:
        found |= claims_judges.digits_judged(recordings(), scale, WORK, tell, done)
    if "taken_apart" in parts:
        found |= claims_judges.taken_apart(scale, WORK, tell, done)
    if parts:
        return before | found
    return before | claims_judges.judges_group(scale, WORK, tell, aligners=aligners, done=done)


GROUPS: dict[str, Callable[[str], dict[str, float]]] = {
    "haxby2001": haxby2001_group,
    "images92": images92_group,
    "align": align_group,  # also runs the attribution of its volume encoder
    "attribute": attribute_group,
    "encode": encode_group,
    "recipes": recipes_group,
    "volume_paper": volume_paper_group,
    "judges": judges_group,
    "eeg": eeg_group,
    "eeg_control": eeg_control_group,
    "pointing": pointing_group,
    "describe": describe_group,
    "diffusion": diffusion_group,
    "reconstruct": reconstruct_group,
    "digits69": digits69_group,
}


def earlier(name: str) -> dict[str, float]:
    """The metrics of a group as they were measured last."""
    file = CLAIMS / f"{name}.json"
    return dict(store.read_json(file)["metrics"]) if file.exists() else {}


def record(metrics: dict[str, float], scale: str) -> dict[str, object]:
    """What is kept of a group."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    today, where = datetime.date.today().isoformat(), claims_page.where()
    return {"date": today, "commit": commit.stdout.strip(), "device": where, "scale": scale, "metrics": metrics}


def ran() -> dict[str, dict[str, Any]]:
    """The groups that were run: {group: {date, commit, device, scale, metrics}}."""
    return {name: store.read_json(CLAIMS / f"{name}.json") for name in ORDER if (CLAIMS / f"{name}.json").exists()}


def pages() -> tuple[dict[Path, str], list[str]]:
    """docs/claims.md and the pages of the guide, from the groups that were run; and what a person has to change on them."""
    groups = ran()
    before: dict[str, float] = {}
    for name, kept in groups.items():
        if (BEFORE / f"{name}.json").exists() and kept["date"] >= claims_page.REBUILT:
            before |= store.read_json(BEFORE / f"{name}.json")["metrics"]
    texts = {ROOT / "docs" / "claims.md": claims_page.page(groups, before, TARGETS, claims_judges.order)}
    wrong = []
    for path in guide_page.PAGES:
        texts[path], said = guide_page.filled(path.read_text(encoding="utf-8"), groups)
        wrong += [f"{path.relative_to(ROOT)}: {each}" for each in said]
    return texts, wrong


def merge() -> list[str]:
    """Writes claims/result.json and the pages; what a person has to change on them."""
    metrics = {key: value for kept in ran().values() for key, value in kept["metrics"].items()}
    store.save_json(CLAIMS / "result.json", {"task": "claims", "metrics": metrics})
    texts, wrong = pages()
    for path, text in texts.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            store.save_text(path, text)
    return wrong


IN_PARTS = {  # groups of which parts can be run singly
    "recipes": PUBLISHED,
    "reconstruct": claims_reconstruct.PARTS,
    "attribute": ("ib_ba_paper",),
    "describe": ("drawn",),
    "eeg_control": CONTROLS,
    "judges": ("digits69", "taken_apart"),
}


def main() -> None:
    """Runs what is asked for and is not done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(GROUPS), default=None)
    parser.add_argument("--again", action="store_true", help="run a group that is done, from the start")
    parser.add_argument("--go-on", action="store_true", help="run it again, but keep the fits that are finished")
    parser.add_argument("--scale", choices=list(SIZES), default="full")
    parser.add_argument("--encoders", nargs="+", default=None, help="align, judges: only these; others keep theirs")
    parser.add_argument("--remedies", nargs="+", default=None, help="volume_paper: only these, such as remedied")
    parser.add_argument("--epochs", type=int, default=None, help="volume_paper: in place of the preset's")
    parser.add_argument("--minutes", type=float, default=60.0, help="eeg, eeg_control: no fit is begun after so long")
    parser.add_argument(
        "--parts",
        nargs="+",
        default=None,
        help="of the group of --only: only these, which join its other figures",
    )
    parser.add_argument("--page", action="store_true", help="measure nothing: write the pages from what was measured")
    chosen = parser.parse_args()
    parts = tuple(chosen.parts or ())
    GROUPS["eeg"] = partial(eeg_group, minutes=chosen.minutes)
    GROUPS["eeg_control"] = partial(eeg_control_group, minutes=chosen.minutes)
    if parts and (chosen.only not in IN_PARTS or not set(parts) <= set(IN_PARTS[chosen.only])):
        parser.error("--parts of --only GROUP: " + "; ".join(f"{name}: {', '.join(some)}" for name, some in IN_PARTS.items()))
    if parts and chosen.only == "attribute":
        GROUPS["attribute"] = published_attribution
    elif parts:
        GROUPS[chosen.only] = partial(GROUPS[chosen.only], parts=parts)
    GROUPS["volume_paper"] = partial(volume_paper_group, asked=tuple(chosen.remedies or ()), epochs=chosen.epochs)
    if chosen.encoders:
        GROUPS["align"] = partial(align_group, encoders=tuple(chosen.encoders))
        GROUPS["judges"] = partial(judges_group, aligners=tuple(chosen.encoders))
    wanted = [] if chosen.page else [chosen.only] if chosen.only else list(GROUPS)
    if chosen.again and "align" in wanted:
        shutil.rmtree(WORK / f"align-{chosen.scale}", ignore_errors=True)
    for name in wanted:
        file = CLAIMS / f"{name}.json"
        if file.exists() and not (chosen.again or chosen.go_on) and store.read_json(file)["scale"] == chosen.scale:
            print(f"{name}: done already, claims/{name}.json")
            continue
        tell(f"group {name}")
        store.save_json(file, record(GROUPS[name](chosen.scale), chosen.scale))
        merge()
    if wrong := merge():
        said = "\n".join(["the figures are written; to be changed by hand:", *wrong])
        if chosen.page:
            raise SystemExit(said)
        print(said)


if __name__ == "__main__":
    main()
