"""What the command line asks of `reconstruct`, and the presets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from brainlens import store
from brainlens.choices import (
    CHOOSERS,
    LESIONS,
    PICTURE_NETWORKS,
    PICTURE_PROTOCOLS,
    RECONSTRUCT_PRESETS,
    STARTS,
    TOKENS,
)
from brainlens.models.generation.adapter_tables import SHIPPED
from brainlens.models.generation.sampling import Sampling
from brainlens.reconstruct.regions import Partition
from brainlens.types import DataError

MINIATURE = f"{SHIPPED}diffusion"
PRESETS = RECONSTRUCT_PRESETS
WIDTH = 0.4  # chosen on held-back training pictures of the phantom
# a run that asks for none of these keeps its old name
LATER = {"protocol": None, "features": (), "repeat_ceiling": False, "scheduler": "ddim"}


@dataclass(frozen=True)
class Asked:
    """What the command line asks of `reconstruct`.

    pipeline: a Stable Diffusion folder or name (None: the miniature). parcels: how units are cut; regions: how many are kept
    (None: the preset's, or all where no image is repeated). start: what tokens and attention begin with, over `pretrain` other
    pictures in `pretrain_steps` (None: attention that ships with the miniature, else 4,000 in 1,500); steps: of training on the
    recording (None: the preset's, and none where candidates are drawn near training pictures). tokens: "joint", which all regions
    write together, or "region", one each as published (None: joint with the start "attention", which they need). chooser:
    "evidence" (joint tokens alone), or an encoding model, "ridge" or "predictor" (None: evidence with joint tokens, else ridge).
    width: candidates of joint tokens are drawn near the training pictures that fit best (None: .4; 0: at the prediction itself).
    scheduler: ddim, ddpm, euler or dpm, by which the steps of drawing go (`schedules`).
    trials: test images that are drawn (None: all). explain: of so many of them contributions, maps and lesions are drawn;
    lesions: sets of regions that are removed, lesion_by "removal" from the model or by a "refit" without them. changes: of the
    estimator's parameters, beyond the preset. repeat_ceiling: pictures are drawn from each repetition of test images alone, too.
    protocol: published scores of the pictures beside ours; features: pairs of a network of it and its folder, name or weights.
    """

    preset: str = "default"
    pipeline: str | None = None
    parcels: Partition = field(default_factory=Partition)
    regions: int | None = None
    start: str = "attention"
    tokens: str | None = None
    pretrain: int | None = None
    pretrain_steps: int | None = None
    steps: int | None = None
    low_level: float | None = None
    candidates: int = 4
    guidance: float = 4.0
    sampling_steps: int = 20
    scheduler: str = "ddim"
    trials: int | None = None
    chooser: str | None = None
    width: float | None = None
    explain: int = 8
    lesions: tuple[str, ...] = ()
    lesion_by: str = "removal"
    changes: dict[str, Any] = field(default_factory=dict)
    repeat_ceiling: bool = False
    protocol: str | None = None
    features: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        for name, known in (
            ("preset", PRESETS), ("start", STARTS), ("chooser", (None, *CHOOSERS)), ("lesion_by", LESIONS),
            ("protocol", (None, *PICTURE_PROTOCOLS)),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise DataError(f"reconstruct: {name} {getattr(self, name)!r} is not one of {', '.join(n for n in known if n)}")
        if self.tokens not in (None, *TOKENS):
            raise DataError(f"reconstruct: tokens {self.tokens!r} is not one of {', '.join(TOKENS)}")
        if self.tokens == "joint" and (self.start != "attention" or self.preset == "paper"):
            raise DataError("reconstruct: joint tokens are read by attention that was trained before; ask for start attention")
        for name, least in (("pretrain", 20), ("pretrain_steps", 1), ("steps", 0), ("trials", 2), ("explain", 0), ("regions", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise DataError(f"reconstruct: {name} {value} is too few; {least} or more")
        if self.low_level is not None and not 0 < self.low_level <= 1:
            raise DataError(f"reconstruct: low-level {self.low_level} is a share of noise above 0 and up to 1")
        if self.lesions and self.explain < 2:
            raise DataError("reconstruct: lesions are drawn of the trials that are explained; ask for 2 or more")
        if not self.joint and (self.chooser == "evidence" or self.width):
            raise DataError("reconstruct: evidence and width are of joint tokens; ask for --tokens joint, or leave them out")
        if self.width is not None and not 0 <= self.width <= 1:
            raise DataError(f"reconstruct: width {self.width} lies in (0, 1]; 0 draws at the prediction itself")
        if self.features and self.protocol is None:
            raise DataError("reconstruct: features are networks of a protocol; name it too, such as --protocol mindeye")
        Sampling(self.candidates, self.guidance, self.sampling_steps, scheduler=self.scheduler)  # refuses what cannot be drawn

    @property
    def grey(self) -> bool:
        """Whether drawing begins at a noised grey picture, as the released code does."""
        return self.preset == "paper" and self.scheduler == "ddpm" and self.low_level is None

    @property
    def drawing(self) -> dict[str, Any]:
        """Arguments of `NeuroAdapter.reconstruct` that every picture of a run is drawn by."""
        return {
            "guidance": self.guidance, "steps": self.sampling_steps, "width": self.near, "scheduler": self.scheduler,
            "grey": self.grey,
        }  # fmt: skip

    @property
    def drawn(self) -> Asked:
        """What is asked of the pictures alone, without published scores of them."""
        return replace(self, protocol=None, features=())

    def settings(self) -> dict[str, Any]:
        """Its fields by name, without those of `LATER` that are not asked for: what tells one call from another."""
        return store.settings_of(self, LATER)

    @property
    def joint(self) -> bool:
        """Whether all regions write the tokens together."""
        return self.start == "attention" and self.preset != "paper" and self.tokens != "region"

    @property
    def choosing(self) -> str:
        """What chooses among candidates."""
        return self.chooser or ("evidence" if self.joint else "ridge")

    @property
    def near(self) -> float | None:
        """The width around training pictures in which candidates are drawn; None for the prediction itself."""
        width = WIDTH if self.width is None else self.width
        return width if self.joint and width > 0 else None

    @property
    def training_steps(self) -> int | None:
        """Steps on the recording; None for the preset's. Near training pictures the attention reads what it was trained on."""
        return 0 if self.steps is None and self.near is not None else self.steps

    @property
    def place(self) -> str:
        return MINIATURE if self.pipeline is None else self.pipeline


def preset(name: str) -> dict[str, Any]:
    """The fields of `Asked` that a preset sets: "paper" trains from the start, draws eight candidates in fifty steps of DDPM from
    a noised grey picture, and lets a transformer choose. Raises DataError listing the known ones."""
    if name not in PRESETS:
        raise DataError(f"reconstruct: preset {name!r} is not one of {', '.join(PRESETS)}")
    paper = {
        "preset": "paper", "start": "random", "candidates": 8, "sampling_steps": 50, "scheduler": "ddpm", "chooser": "predictor",
    }  # fmt: skip
    return paper if name == "paper" else {}


def networks(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Pairs (network of a protocol, its folder, hub name or weights) from texts "clip=FOLDER".

    Raises DataError for a text without "=", another network, and one that is given twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, given, place = text.partition("=")
        if not given or not place:
            raise DataError(f"reconstruct: features {text!r} are not NAME=FOLDER; such as clip=openai/clip-vit-large-patch14")
        if name not in PICTURE_NETWORKS:
            raise DataError(f"reconstruct: network {name!r} is not one of {', '.join(PICTURE_NETWORKS)}")
        if name in found:
            raise DataError(f"reconstruct: network {name!r} is given twice, as {found[name]} and as {place}; give it once")
        found[name] = place
    return tuple(sorted(found.items()))
