"""The group `judges` and the claims on real recordings that go with it; `tools/claims.py` runs them.

Each fit is kept in claims/work/judges-SCALE; the same command goes on from there:

    BRAINLENS_TEST_DATA=FOLDER python tools/claims.py --only judges --go-on [--encoders ridge mlp] [--parts digits69]
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from brainlens.claims.encode import Plan
from brainlens.claims.judges import ALIGNERS, ENCODERS, Judging, order_table, single_mismatches, worlds
from brainlens.claims.real_encoding import digit_encoding, it_similarity, layers_of
from brainlens.claims.real_judge import digit_judge, open_digits
from brainlens.datasets import digits69
from brainlens.models.volume.fit import LINEAR, TRAINING

SIZES = {"full": (1200, 200), "half": (600, 200), "small": (120, 40)}
PHOTOGRAPHS = ("coco_captions", "images92", "things_eeg2_test_images")
DINO, MOBILE = "dinov2_vits14_11blocks", "mobilenet_v2_1.0_224"
TARGETS = {"digits69/encode/dinov2_p95": ".67", "digits69/encode/pixels_p95": ".62", "images92/rsa/dinov2": ".38"}
Tell = Callable[..., None]


def judges_group(
    scale: str, work: Path, tell: Tell, *, aligners: tuple[str, ...] = ALIGNERS, done: Callable[[dict[str, float]], None]
) -> dict[str, float]:
    """Every aligner and encoder on the linear phantom and on the mismatched ones; with the test data the brain reads DINOv2.

    Without the folder of the test data the mismatched brain reads an untrained network and there are no photographs.
    """
    images, tests = SIZES[scale]
    place, data = work / f"judges-{scale}", os.environ.get("BRAINLENS_TEST_DATA")
    found = worlds(images=images, tests=tests, cache=place / "layers")
    if data:
        folder = Path(data)
        photographs = tuple(str(folder / name) for name in PHOTOGRAPHS)
        found = worlds(
            images=images, tests=tests, cache=place / "layers", brain_network=str(folder / DINO), other=str(folder / MOBILE),
            photographs=photographs,
        )  # fmt: skip
    training = TRAINING if scale == "full" else replace(TRAINING, steps=20)
    linear = LINEAR if scale == "full" else replace(LINEAR, steps=20)
    metrics: dict[str, float] = {}

    def keep(more: dict[str, float]) -> None:
        metrics.update(more)
        done(metrics)

    for verb in ("align", "encode"):  # the judges of decoding first, since their order is what was seen to turn round
        for world in found:
            encoders = ENCODERS if scale == "full" else ENCODERS[:2]
            chosen = replace(world, aligners=aligners if world.aligners else (), encoders=encoders)
            judging = Judging(chosen, place, training, linear, plan=Plan(noise=0))
            (judging.align if verb == "align" else judging.encode)(tell, keep)
    if data:
        digits_judged(Path(data), scale, work, tell, keep)
    return metrics


def taken_apart(scale: str, work: Path, tell: Tell, done: Callable[[dict[str, float]], None]) -> dict[str, float]:
    """Which of the mismatches costs what: each alone, as strong as in all of them together."""
    images, tests = SIZES[scale]
    place, data = work / f"judges-{scale}", os.environ.get("BRAINLENS_TEST_DATA")
    network = {"brain_network": str(Path(data) / DINO)} if data else {}
    metrics: dict[str, float] = {}
    for world in single_mismatches(images=images, tests=tests, cache=place / "layers", **network):
        judging = Judging(world, place, TRAINING, LINEAR, plan=Plan(noise=0))
        for judge in (judging.align, judging.encode):
            judge(tell, metrics.update)
            done(metrics)
    return metrics


def digits_judged(data: Path, scale: str, work: Path, tell: Tell, done: Callable[[dict[str, float]], None]) -> dict[str, float]:
    """Every aligner without a volume and every encoder on the real voxels that saw the digits, through DINOv2."""
    tell("layers of the digits", None)
    digits = open_digits(data / "digits69", data / DINO, cache=work / "real-layers")
    names = {} if scale == "full" else {"aligners": ("ridge",), "encoders": ("ridge",)}
    return digit_judge(digits, work / f"judges-{scale}", tell, done, **names)


def digit_encoding_claims(data: Path, work: Path, tell: Tell) -> dict[str, float]:
    """Pixels and DINOv2 against the voxels of the digits."""
    tell("layers of the digits", None)
    stimuli = digits69.load(data / "digits69", standardise=False).stimuli
    layers = layers_of(data / DINO, stimuli, cache=work / "real-layers")
    tell("ridge on the digits, ten folds", None)
    return digit_encoding(data / "digits69", {"dinov2": layers})


def it_claims(data: Path, work: Path, tell: Tell) -> dict[str, float]:
    """DINOv2 against human IT on the 92 photographs."""
    tell("layers of the 92 images", None)
    return it_similarity(data / "images92", data / DINO, "dinov2", cache=work / "real-layers")


def order(metrics: dict[str, float]) -> list[str]:
    """Which ranking survives: one line a method, its score in every world with its interval."""
    lines = [
        "Decoding: brain->image, top-1 of 200. Encoding: mean test R2. Columns are brains; digits69 is real fMRI of V1 to V3,"
    ]
    lines += ["100 digits in ten folds, DINOv2: top-1 of 10, and the 95th percentile over voxels of r. Haxby has no pictures"]
    lines += ["and the 92 images no voxels: what they say stands below.", ""]
    lines += table(order_table(metrics))
    apart = order_table(metrics, "only_")
    if apart:
        lines += ["", "The mismatches one at a time, each as strong as in `mismatch`, whose brain has all of them:", ""]
    return [*lines, *table(apart), ""]


def table(rows: list[dict[str, object]]) -> list[str]:
    """Markdown; the columns in the order in which they come."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    body = [f"| {' | '.join(str(row.get(head, '')) for head in heads)} |" for row in rows]
    return [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads), *body] if rows else []
