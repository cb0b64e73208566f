"""What `align` may be asked of EEG and MEG: encoders, recipes and parts, and the training that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from brainlens import choices, datasets
from brainlens.datasets.sensors import SENSOR_DATASETS
from brainlens.datasets.source import Source
from brainlens.models.sensors.decoder import (
    COMPARED,
    NICE_TRAINING,
    SMALL,
    THINGS_EEG2,
    THINGS_MEG,
    UBP_ACROSS,
    UBP_TRAINING,
    UNFILTERED,
    SensorTraining,
    without,
)
from brainlens.models.sensors.linear import LINEAR
from brainlens.nn.sensor_baselines import SENSOR_ENCODERS
from brainlens.stimuli.saliency import PAPER, FilterSettings
from brainlens.subjects import WITHIN, Protocol
from brainlens.types import DataError, Responses

TRI = ("neuroalign", "unfiltered")  # with captions; the second is the first without saliency extraction
DEFAULT = ("linear", "nice", "ridge", "canonical", "neuroalign", "unfiltered")
PRESETS = ("default", "paper")
FEW = 1000  # training images, below which networks are not trained unless asked for
QUICK = ("canonical", "ridge")  # encoders that are solved in seconds


@dataclass(frozen=True)
class SensorOptions:
    """What `align` does with a sensor recording.

    encoders: fitted one after the other, of several the best on validation images is the main one; "unfiltered" is
    neuroalign without saliency, "sensors" neuroalign by another name. leave_out: parts of NeuroAlign that are left out
    (saliency, guidance, adjustment). epochs, batch: None for the preset's; precision: None for bfloat16 on matrix units, else
    float32; repeats: None for all; amplitude: the phantom's, uV.
    preset: "default" trains on the phantom as long as its few images need, "paper" as published.
    saliency: how pictures are filtered for it.
    ablation, prompts: the comparisons of Tables 4 and 5, three and five more fits of NeuroAlign. start: a run whose model the
    training of the same encoder goes on from.
    """

    encoders: tuple[str, ...] = DEFAULT
    protocol: Protocol = WITHIN
    epochs: int | None = None
    batch: int | None = None
    precision: str | None = None
    repeats: int | None = None
    amplitude: float | None = None
    leave_out: tuple[str, ...] = ()
    ablation: bool = False
    prompts: bool = False
    preset: str = "default"
    start: str | None = None
    saliency: FilterSettings = PAPER

    def __post_init__(self) -> None:
        known = choices.SENSOR_ENCODERS
        for name in self.encoders:
            if name not in known:
                raise DataError(f"encoder {name!r} is not one of {list(known)}, the encoders of EEG and MEG")
        if self.preset not in PRESETS:
            raise DataError(f"preset {self.preset!r} is not one of {', '.join(PRESETS)}")
        for part in self.leave_out:
            without(THINGS_EEG2, part)  # says which there are
        for name, value, least in (("epochs", self.epochs, 1), ("batch", self.batch, 2)):
            if value is not None and value < least:
                raise DataError(f"--{name} {value} must be at least {least}")
        if self.start is not None and (self.ablation or self.prompts):
            raise DataError("--from is for one training; leave --ablation and --prompts out")


def is_sensors(dataset: str, encoders: Sequence[str] | None) -> bool:
    """Whether `align` was asked for EEG or MEG: by the recording, or, where none was named, by an encoder that only they have.

    Raises DataError for such an encoder with a recording of fMRI, listing those of fMRI.
    """
    only = {*SENSOR_ENCODERS, *TRI, *LINEAR, "sensors"} - {"linear", "ridge"}
    asked = [name for name in encoders or () if name in only]
    if asked and dataset != datasets.DEFAULT and datasets.facts(dataset)["kind"] == "fMRI":
        known, there = ", ".join(choices.VOLUME_ENCODERS), ", ".join(SENSOR_DATASETS)
        raise DataError(f"encoder {asked[0]!r} is of EEG and MEG ({there}), and {dataset} is fMRI; its encoders are {known}")
    return dataset in SENSOR_DATASETS or bool(asked)


def sensor_dataset(dataset: str) -> str:
    """The recording of a sensor encoder: the phantom of EEG where the phantom was named."""
    return datasets.DEFAULT_SENSORS if dataset == datasets.DEFAULT else dataset


def preset(dataset: str, encoder: str, options: SensorOptions, *, subjects: int = 1) -> SensorTraining:
    """The training of an encoder on a recording: Table 3 of NeuroAlign, UBP's, or NICE's; on the phantom shorter, for its size.

    Across subjects on the phantom the epochs are shared by the subjects, so that all fits see as many trials.
    """
    published = {"neuroalign": THINGS_EEG2, "sensors": THINGS_EEG2, "unfiltered": UNFILTERED}
    published["ubp_like"] = replace(UBP_TRAINING, lr=UBP_ACROSS) if options.protocol.kind == "across" else UBP_TRAINING
    chosen = published.get(encoder, NICE_TRAINING if encoder.startswith("nice") else COMPARED)
    facts = datasets.facts(dataset)
    chosen = replace(chosen, epochs=THINGS_MEG.epochs) if facts["kind"] == "MEG" and encoder != "ubp_like" else chosen
    if facts["simulated"] and options.preset == "default":
        chosen = replace(chosen, **SMALL | {"epochs": max(1, SMALL["epochs"] // subjects)})
    given = {name: getattr(options, name) for name in ("epochs", "batch", "precision") if getattr(options, name) is not None}
    chosen = replace(chosen, **given)
    for part in options.leave_out if encoder in TRI else ():
        chosen = without(chosen, part)
    return chosen


def suited(options: SensorOptions, source: Source, responses: Responses) -> SensorOptions:
    """The options with encoders that are solved in place of trained ones, where nothing else was asked of a small recording.

    Published networks were trained on 16,540 images; on a few hundred they take long and learn little.
    """
    trials = responses.trials
    images = trials.loc[trials["split"] == "train", "stimulus"].nunique()
    untouched = options == SensorOptions(protocol=options.protocol, repeats=options.repeats)
    if datasets.simulated(source.dataset) or not untouched or images >= FEW:
        return options
    return replace(options, encoders=QUICK)


def filters(options: SensorOptions) -> bool:
    """Whether any fit is trained to find filtered pictures; others need no picture filtered."""
    named = {"neuroalign", "sensors"} & set(options.encoders)
    return "saliency" not in options.leave_out and bool(named or options.ablation or options.prompts)


def blurs(options: SensorOptions) -> bool:
    """Whether any fit is trained to find blurred pictures."""
    return "ubp_like" in options.encoders
