"""`attribute` as the command line runs it: an alignment opened again, and brain, pixels or words of its test images explained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from brainlens import datasets, store
from brainlens.attribute import group
from brainlens.attribute.brain import METHODS, Options, attribute
from brainlens.attribute.counting import INPUT, PATCHES, blocks_run
from brainlens.attribute.methods import ALL, all_methods
from brainlens.attribute.sanity import sensitivity_table
from brainlens.attribute.stimuli import Aim, attribute_stimuli
from brainlens.backbones import clip as clips
from brainlens.datasets.runs import Rows, check_same_recording, keep, source_of, table
from brainlens.datasets.source import Opened, Source, Tell, network_folder, open_recording, prepared, standardised
from brainlens.metrics.attribution import pointing_game
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.models.volume.decoder import Decoder
from brainlens.models.volume.estimators import VolumeAligner
from brainlens.models.volume.split import Split, split_tables
from brainlens.models.volume.stored import check_recording, volume_aligner
from brainlens.nn.volume_encoder import VolumeEncoder
from brainlens.phantom.scenes import object_words, scene_masks
from brainlens.types import DataError, Features, Responses, Result, Stimuli, Volume

TARGETS = {
    "brain": ("image", "text", "both"),
    "pixels": ("brain", "text", "both"),
    "words": ("brain", "image", "both"),
    "stimuli": ("brain", "both"),
}


@dataclass(frozen=True)
class Ask:
    """What is explained (`of`), by its match with what (`target`), and how; "stimuli" are pixels and words side by side.

    layer: as the paper counts, the output of block "0", "1", ...; "input", what enters the first block; "patches" (brain only);
    or None for the method's own choice. method "all" (brain only): every method in one table. sensitivity: the bottleneck's
    settings are varied one at a time (the paper's Table 6) in place of one map.
    """

    of: str = "brain"
    target: str = "both"
    method: str = "bottleneck"
    layer: str | None = None
    trials: int = 32
    sensitivity: bool = False

    def __post_init__(self) -> None:
        if self.of not in TARGETS:
            raise DataError(f"attribute: of={self.of!r} is not one of {tuple(TARGETS)}")
        if self.target not in TARGETS[self.of]:
            raise DataError(f"attribute: {self.of} cannot be explained by target {self.target!r}; choose from {TARGETS[self.of]}")
        if self.method not in (*METHODS, ALL):
            raise DataError(f"attribute: method {self.method!r} is not one of {[*METHODS, ALL]}")
        if self.method == ALL and self.of != "brain":
            raise DataError(f"attribute: method 'all' compares brain maps; name one method for {self.of}")
        if self.trials < 1:
            raise DataError(f"attribute: {self.trials} trials are asked for; at least 1 is needed")
        if self.layer is not None and self.layer not in (PATCHES, INPUT) and not self.layer.isdecimal():
            raise DataError(f"attribute: layer {self.layer!r} is not the number of a block, {INPUT!r} or {PATCHES!r}")
        if self.layer == "patches" and self.of != "brain":
            raise DataError(f"attribute: layer 'patches' is one of the brain's encoder; {self.of} take the number of a block")
        if self.sensitivity and (self.of != "brain" or self.method != "bottleneck"):
            raise DataError(
                "attribute: the sensitivity table is of the brain's bottleneck; leave --of and --method at their defaults"
            )


@dataclass(frozen=True)
class Aligned:
    """A finished alignment, opened again: its recording, split and volume encoder."""

    folder: Path
    source: Source
    recording: Opened
    responses: Responses
    split: Split
    decoder: Decoder

    @property
    def model(self) -> VolumeEncoder:
        assert isinstance(self.decoder.module, VolumeEncoder)
        return self.decoder.module


def run_attribute(
    run: str | Path | Sequence[str | Path],
    runs: str | Path,
    *,
    ask: Ask | None = None,
    options: Options | None = None,
    captions: str | None = None,
    tell: Tell,
) -> tuple[Path, Rows]:
    """Explains the volume encoder of a finished align run on its own test images; writes the mean map as NIfTI too.

    captions: the source of the captions that are explained and are targets, as `Source.captions`; None: that of the align run.
    Several runs, one a subject in one space, also give the group's map, whose run folder is returned.
    """
    ask, options = Ask() if ask is None else ask, Options() if options is None else options
    folders = [run] if isinstance(run, (str, Path)) else list(run)
    if len(folders) > 1 and ask.of != "brain":
        raise DataError(f"attribute: {len(folders)} runs make a group map of the brain only; give one run for {ask.of}")
    results = []
    models = [volume_aligner(one) for one in folders]  # a run without a model ends here, before its recording is opened
    for one, model in zip(folders, models, strict=True):
        aligned = reopen(one, model.to(options.device), captions=captions, tell=tell)
        tell(f"attribution of {ask.of}, {ask.method}", None)
        how = {"brain": _brain, "stimuli": _pixels_and_words}.get(ask.of, _stimuli)
        result = how(aligned, ask, options)
        result = replace(result, config={**result.config, "run": Path(one).resolve().name})  # maps of two runs: two folders
        place = keep(result, runs, aligned.source)
        if "map/brain_mean" in result.arrays:
            space = aligned.split.space
            store.save_nifti(place / "map.nii.gz", space.fill(result.arrays["map/brain_mean"], 0.0), space.affine)
        results.append(result)
    if len(results) > 1:
        result = group(results)
        place = keep(result, runs, aligned.source)
        assert isinstance(result.space, Volume)
        store.save_nifti(place / "map.nii.gz", result.space.fill(result.arrays["map/brain_mean"], 0.0), result.space.affine)
    endings = ("drop_absolute", "increase", "area", "_auc", "passes") + (("empty",) if _any_empty(result) else ())
    rows = table(result, "truth/") + table(result, "attribution/", ending=endings)
    return place, [row for row in rows if not any(f"/{control}/" in row["metric"] for control in ("random", "ones", "shuffled"))]


def _any_empty(result: Result) -> bool:
    return any(key.endswith("maps_empty") and value > 0 for key, value in result.metrics.items())


def reopen(run: str | Path, model: VolumeAligner, *, captions: str | None = None, tell: Tell) -> Aligned:
    """Reads an align run's recording and makes its split again, for the volume encoder that it kept.

    captions: a source in place of the run's own; texts are then centred as the encoder's were. Raises DataError for a source that
    is not there, and for a run that learned no texts.
    """
    aligned = store.load_result(run)
    source = source_of(aligned)
    if captions is not None:
        if "text" not in model.centre_:
            raise DataError(
                f"attribute: {run} was aligned without captions, so that it has no text to compare with --captions {captions}; "
                "align with captions first"
            )
        source = replace(source, captions=captions)
    recording = open_recording(source, device=model.device, tell=tell)
    responses = standardised(recording.responses)
    check_same_recording(run, aligned, responses)
    check_recording(run, model, responses)
    split = split_tables(responses, prepared(recording), recording.texts, seed=int(aligned.config["seed"]), centre=model.centre_)
    return Aligned(Path(run), source, recording, responses, split, model.decoder_)


def _brain(aligned: Aligned, ask: Ask, options: Options) -> Result:
    """Voxels that carried the match of the first test images."""
    chosen = explained(aligned.responses, aligned.split, part="test", trials=ask.trials)
    options = replace(options, reference=explained(aligned.responses, aligned.split, part="validation", trials=200))
    aims = goals(aligned.decoder, aligned.split, "test")
    at = blocks_run(ask.layer, aligned.model.design.depth)
    if ask.sensitivity:
        return sensitivity_table(
            aligned.model, chosen, aims["image"], aims.get("text"), target=ask.target, layer=at, options=options
        )
    if ask.method == ALL:
        return all_methods(aligned.model, chosen, aims["image"], aims.get("text"), target=ask.target, layer=at, options=options)
    return attribute(
        aligned.model,
        chosen,
        aims["image"],
        aims.get("text"),
        method=ask.method,
        target=ask.target,
        layer=at,
        options=options,
    )


def _stimuli(aligned: Aligned, ask: Ask, options: Options) -> Result:
    """Pixels or words of the first test stimuli that their targets support."""
    split = aligned.split
    split = replace(split, tested=split.test.of(split.test.subjects[0]))  # the first subject's brain, where there are several
    aligned = replace(aligned, split=split)
    stimuli = aligned.recording.stimuli.take(split.test.ids[: ask.trials])
    model = clips.load_clip(network_folder(aligned.source), device=options.device)
    aims = _aims(aligned, "image" if ask.of == "pixels" else "text", ask.target)
    reference = aligned.recording.stimuli.take(list(dict.fromkeys(split.train.ids))[:200]) if ask.method == "bottleneck" else None
    tower = model.backbone.model.config.vision_config if ask.of == "pixels" else model.backbone.model.config.text_config
    at = blocks_run(ask.layer, int(tower.num_hidden_layers))
    layer = at if isinstance(at, int) else None
    result = attribute_stimuli(
        model, stimuli, aims, of=ask.of, method=ask.method, layer=layer, reference=reference, options=options
    )
    if not datasets.simulated(aligned.source.dataset):
        return result
    if ask.of == "pixels":
        masks = np.stack([np.any(scene_masks(stimuli, i), axis=0) for i in range(len(stimuli))])
        return _pointed(result, result.arrays["map/pixels"].reshape(len(masks), -1), masks.reshape(len(masks), -1), masks)
    found = result.tables["words"]
    right = _object_words(stimuli, found)
    groups = [rows.index.to_numpy() for _, rows in found.groupby("stimulus", sort=False)]
    weights, truth = found["weight"].to_numpy(dtype=float), right
    hits = np.array([pointing_game(truth[None, g], weights[None, g])[0] for g in groups])
    return _scored(result, hits, float(np.mean([truth[g].mean() for g in groups])))


def _pixels_and_words(aligned: Aligned, ask: Ask, options: Options) -> Result:
    """Both in one result, their metrics under `attribution/pixels`, `attribution/words` and likewise `truth`."""
    parts = {name: _stimuli(aligned, replace(ask, of=name), options) for name in ("pixels", "words")}
    metrics = {key.replace("/", f"/{name}/", 1): value for name, result in parts.items() for key, value in result.metrics.items()}
    arrays = {k: v for k, v in parts["pixels"].arrays.items() if not k.startswith(("deletion/", "insertion/"))}
    config = {**parts["pixels"].config, "of": "stimuli"}
    return replace(parts["pixels"], metrics=metrics, arrays=arrays, tables=parts["words"].tables, config=config)


def _aims(aligned: Aligned, own: str, target: str) -> dict[str, Aim]:
    """Targets of the network's tower `own` ("image" or "text"), each with the map into its space.

    The brain's embedding lies where the encoder was trained to put it, the other tower's embedding in the network's own space;
    both are centred by their training means, as the encoder's targets were.
    """
    split, aims = aligned.split, {}
    other = "text" if own == "image" else "image"
    centre = split.centre[own]

    def centred(z: Tensor) -> Tensor:
        return F.normalize(z - centre.to(z), dim=-1)

    if target in ("brain", "both"):
        with torch.no_grad():
            for_image, for_text = aligned.decoder.embed(split.test.mean(), split.test.subject)
        rows = (for_image if own == "image" else for_text).cpu().numpy()
        brain = Features({"brain": rows}, split.test.ids, aligned.decoder.name)
        aims["brain"] = Aim(brain, lambda z: aligned.decoder.gallery(centred(z), own))
    if target in (other, "both"):
        given = split.test.image if other == "image" else split.test.text
        if given is None:
            raise DataError("attribute: this recording has no captions, so there is no text target; choose --target brain")
        aims[other] = Aim(Features({other: given.cpu().numpy()}, split.test.ids, "network"), centred)
    return aims


def _object_words(stimuli: Stimuli, words: Any) -> np.ndarray:
    """Whether each word of the table names an object of its scene: kind, colour or size."""
    named = {}
    for name, text in zip(stimuli.ids, stimuli.table["objects"], strict=True):
        named[str(name)] = {w for o in json.loads(text) for w in (*object_words(o["kind"]), o["color"], o["size"])}
    return np.array([w in named[s] for s, w in zip(words["stimulus"], words["word"], strict=True)])


def _pointed(result: Result, maps: np.ndarray, inside: np.ndarray, masks: np.ndarray) -> Result:
    scored = _scored(result, pointing_game(inside, maps), float(inside.mean()))
    return replace(scored, arrays={**scored.arrays, "truth/masks": masks})


def _scored(result: Result, hits: np.ndarray, chance: float) -> Result:
    """With the share of maps whose maximum lies on any object of the scene, of which the phantom knows where they are."""
    names = ("truth/pointing_game", "truth/pointing_game.low", "truth/pointing_game.high")
    found = dict(zip(names, bootstrap_mean(hits), strict=True)) | {"truth/pointing_game.chance": chance}
    return replace(result, metrics={**result.metrics, **found})


def explained(responses: Responses, split: Split, *, part: str, trials: int) -> Responses:
    """The mean responses to the first images of a part of the split, as the encoder was tested on them."""
    ids = list(dict.fromkeys(getattr(split, part).ids))[:trials]
    return responses.clean()[0].rows(responses.trials["stimulus"].isin(ids).to_numpy()).average()


def goals(decoder: Decoder, split: Split, part: str) -> dict[str, Features]:
    """Targets of a part of the split by name, in the space in which the encoder's cosines are taken."""
    chosen = getattr(split, part)
    ids, first = np.unique(chosen.ids, return_index=True)  # an image stands there once a subject
    rows = {"image": chosen.image} | ({} if chosen.text is None else {"text": chosen.text})
    found = {name: decoder.gallery(t[first], name).detach().cpu().numpy() for name, t in rows.items()}
    return {name: Features({name: t}, ids, decoder.name) for name, t in found.items()}
