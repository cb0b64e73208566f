"""`describe` as the command line runs it: pictures and captions of a recording, the bank, crops, and what the page shows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from brainlens import datasets, miniatures, store
from brainlens.backbones import captioner, clip, vision
from brainlens.backbones.class_words import load_class_space
from brainlens.backbones.folder import model_folder
from brainlens.backbones.places import place_features
from brainlens.datasets.runs import Rows, keep, table
from brainlens.datasets.source import Source, Tell, chosen_captions, network_folder, open_recording, standardised
from brainlens.describe import PAPER, RELEASED, SHOWN, Beside, Describing, Space, describe_words, fit_describe, label_agreement
from brainlens.describe.bank import PROMPT, Bank, bank_of, drawn_bank
from brainlens.describe.crops import MOST, STEP, Box, CropPool
from brainlens.models.generation.text_drawing import load_drawer
from brainlens.stimuli.nouns import read_concreteness, tagger, vocabulary
from brainlens.types import DataError, Features, Responses, Result, Stimuli
from brainlens.warned import warn

BANKS = ("real", "diffusion")
TEXT = "a picture of a {}"  # around a noun, for the baselines, and for text encoders that do not know the published prompt
MINIATURE = (None, "miniature")
SCENES = ("a large {} in the middle", 3.0)  # prompt and guidance of the miniature, which draws scenes and knows few words
CARDS, THUMB = 3, 96  # cards a region, pixels of a picture
PRESETS = {"default": Describing(), "paper": PAPER, "released": RELEASED}
BLIP, STABLE_DIFFUSION = "Salesforce/blip-image-captioning-base", "stable-diffusion-v1-5/stable-diffusion-v1-5"  # the published


@dataclass(frozen=True)
class Asked:
    """What the command line asks of `describe`.

    bank: "real" (training pictures by noun) or "diffusion" (a folder or hub name, or the miniature); prompt around its nouns
    (None: the published one, or "a picture of a {}" where the text encoder does not know its words; the miniature has its own);
    guidance of the drawing (None: 7.5, and 3 for the miniature);
    crops: add crops of the strongest pictures; captioner: a network that captions the crops; sentences: a sentence encoder that
    makes an image-text space of a classifier's class names (`backbones.class_words`); words: categories alone.
    """

    design: Describing = field(default_factory=Describing)
    bank: str = "real"
    diffusion: str | None = None
    prompt: str | None = None
    steps: int = 50
    guidance: float | None = None
    crops: bool = False
    captioner: str | None = None
    sentences: str | None = None
    words: bool = False


def preset(name: str, *, simulated: bool = False) -> Asked:
    """All that is asked, by name. Raises DataError listing the known names.

    "paper" has crops with captions of their own and a drawn bank, by BLIP and Stable Diffusion 1.5, and by the miniatures where
    the pictures are simulated scenes; "released" weights the scores as the code does.
    """
    if name not in PRESETS:
        raise DataError(f"describe: preset {name!r} is not one of {', '.join(PRESETS)}")
    if name == "default":
        return Asked()
    captioning, drawing = (MINIATURE[1], MINIATURE[1]) if simulated else (BLIP, STABLE_DIFFUSION)
    return Asked(PRESETS[name], "diffusion", drawing, crops=True, captioner=captioning)


def run_describe(
    source: Source, runs: str | Path, asked: Asked | None = None, *, seed: int = 0, device: str = "cpu", tell: Tell
) -> tuple[list[Path], Rows]:
    """Describes every subject of a source, each in a run folder of its own, and how far the words of several agree in a further
    one; returns the folders, that of the agreement last, and its scores or those of the one subject."""
    asked = asked if asked is not None else Asked()
    _check(source, asked)
    each = source.one_subject_each()
    folders, results = [], []
    for one in each:
        if asked.words:
            result, model = _words(one, device, tell), None
        else:
            result, model = _described(one, Path(runs), asked, seed, device, tell)
        folders.append(keep(result, runs, one, model=model))
        results.append(result)
    if len(each) == 1:
        return folders, _word_rows(results[0]) if asked.words else table(results[0], "describe/")
    tell("agreement of the subjects", None)
    source.take_notes(each)
    try:
        shared = label_agreement(dict(zip(source.subjects, results, strict=True)), seed=seed)
    except DataError as error:  # the descriptions stand without it
        warn(f"the words of the subjects were not compared: {error}")
        return folders, table(results[-1], "describe/")
    return [*folders, keep(shared, runs, source)], table(shared, "describe/")


def _check(source: Source, asked: Asked) -> None:
    datasets.module(source.dataset)
    if asked.bank not in BANKS:
        raise DataError(f"describe: bank {asked.bank!r} is not one of {', '.join(BANKS)}")
    if asked.bank == "diffusion":  # before anything is read
        model_folder(_pipeline(asked), holding="model_index.json")
    if asked.design.concreteness is not None:
        read_concreteness(asked.design.concreteness)
    tagger(asked.design.tagger)
    kind = str(datasets.module(source.dataset).FACTS["kind"])
    if kind != "fMRI" or datasets.offers(source.dataset, "dissimilarities"):
        what = "patterns without voxels" if kind == "fMRI" else f"{kind} channels"
        raise DataError(f"describe: {source.dataset} holds {what}; it describes voxels of an fMRI recording")
    if not asked.words and not datasets.offers(source.dataset, "pictures"):
        raise DataError(f"describe: {source.dataset} has no pictures; --words ranks the names of what was shown, by region")


def _words(source: Source, device: str, tell: Tell) -> Result:
    """Categories alone: the names of what was shown, from the trials or from the table of stimuli."""
    recording = open_recording(source, embeddings=False, device=device, tell=tell)
    responses = standardised(recording.responses)
    names = recording.stimuli.table
    column = next((c for c in ("category", "label", "kind", "domain") if c in names.columns), None)
    if column is None:
        return describe_words(responses)
    of = dict(zip(recording.stimuli.ids.tolist(), names[column].astype(str)))
    trials = responses.trials.assign(category=[of[str(s)] for s in responses.trials["stimulus"]])
    return describe_words(replace(responses, trials=trials), column="category")


def _described(source: Source, runs: Path, asked: Asked, seed: int, device: str, tell: Tell) -> tuple[Result, Any]:
    """The result of one subject with what the page shows beside it, and its encoding model."""
    recording = open_recording(source, embeddings=False, device=device, tell=tell)
    stimuli = recording.stimuli
    if source.captions is not None and not datasets.simulated(source.dataset):
        stimuli = chosen_captions(stimuli, source.captions)
    responses = standardised(recording.responses)
    network = vision.load(network_folder(source), device=device)
    layers = asked.design.layers or ("image",)
    tell("pooled features", None)
    features = recording.layers if recording.layers is not None else None
    if features is None or any(name not in features.data for name in layers):
        features = vision.extract(network, stimuli, list(layers), cache=runs / "features")
    features = Features({name: features.data[name] for name in features.data}, features.ids, features.model)
    space = _space(network, source, stimuli, features, layers, asked.sentences, device)

    def pooled_of(pictures: Stimuli) -> Features:
        return vision.extract(network, pictures, list(layers))

    drawn = asked.bank == "diffusion"
    bank = drawn_for(asked, stimuli, responses, pooled_of, runs, device=device, tell=tell, seed=seed) if drawn else None
    crops = None
    if asked.crops:
        if tuple(layers) != ("image",):
            raise DataError(
                f"describe: crops need places of the layer 'image', not of {list(layers)}; leave --layer out, or take --no-crops"
            )
        tell("places of the pictures", None)
        caption = caption_by(asked.captioner, device) if asked.captioner is not None else None
        places = place_features(network, stimuli.take(features.ids))
        crops = CropPool(stimuli.take(features.ids), places, pooled_of, ("image",), caption=caption, tagger=asked.design.tagger)
    result, model = fit_describe(
        responses, features, stimuli, design=asked.design, beside=Beside(bank, crops, space), seed=seed, tell=tell
    )
    nouns = tuple(result.tables["nouns"]["noun"])
    cut = None if crops is None else partial(_boxes, crops, model)
    arrays = dict(result.arrays) | cards(result, stimuli, boxes=cut)
    if space is not None:
        arrays["noun_embedding"] = space.texts(nouns).astype(np.float32)
    read = {"name": source.model or "miniature", "layers": list(layers), "steps": None, "grid": None}  # for `brainlens predict`
    return replace(result, arrays=arrays, config={**result.config, "network": read}), model


def _space(
    network: vision.Backbone, source: Source, stimuli: Stimuli, features: Features, layers: tuple[str, ...],
    sentences: str | None, device: str,
) -> Space | None:  # fmt: skip
    """The image-text space of the network: that of a CLIP, or a classifier's class names read by a sentence encoder."""
    if sentences is not None:
        words = load_class_space(network_folder(source), sentences)
        return Space(words.images(stimuli.take(features.ids)).data["image"], words.texts)
    if str(network.model.config.model_type) != "clip":
        return None
    reader = clip.load_clip(network_folder(source), device=device)
    images = features.data["image"] if "image" in features.data else vision.extract(network, stimuli, ["image"]).data["image"]

    def texts(nouns: tuple[str, ...]) -> np.ndarray:
        several = [[TEXT.format(noun)] for noun in nouns]
        return clip.embed_texts(reader, several, [str(i) for i in range(len(nouns))])["text"]

    return Space(np.asarray(images, np.float32), texts, readout=tuple(layers) == ("image",))


def drawn_for(
    asked: Asked, stimuli: Stimuli, responses: Responses, pooled_of: Callable[[Stimuli], Features], runs: Path, *,
    device: str = "cpu", tell: Tell, seed: int = 0,
) -> Bank:  # fmt: skip
    """The drawn bank of the training captions' nouns, kept under `runs`; nouns that the text encoder cannot hold are left out.

    pooled_of: what reads the drawn pictures as the encoding model reads the recording's. Raises DataError where no noun fits, and
    for trials without splits.
    """
    place = _pipeline(asked)
    if "split" not in responses.trials.columns:
        raise DataError("describe: trials have no column 'split'; add one with values train and test")
    prompts: tuple[str, ...] = (PROMPT, TEXT)
    drawer = load_drawer(place, steps=asked.steps, device=device)
    if asked.diffusion in MINIATURE:
        prompts, drawer = (SCENES[0],), replace(drawer, guidance=SCENES[1])
    prompts = prompts if asked.prompt is None else (asked.prompt,)
    drawer = drawer if asked.guidance is None else replace(drawer, guidance=asked.guidance)
    fitted = responses.where(split=[s for s in responses.trials["split"].unique() if s != "test"])
    shown = set(fitted.trials["stimulus"].astype(str))
    found = tagger(asked.design.tagger).nouns(stimuli.captions)
    rows = [i for i, name in enumerate(stimuli.ids) if str(name) in shown]
    words = vocabulary([found[i] for i in rows], least=asked.design.least)
    held = {prompt: [noun for noun in words.nouns if drawer.fits(prompt.format(noun))] for prompt in prompts}
    prompt = next((each for each in prompts if held[each]), None)
    if prompt is None:
        tried = " or ".join(map(repr, prompts))
        raise DataError(f"describe: the text encoder of {place} holds none of {len(words.nouns)} nouns under {tried}")
    key = drawer.key
    folder = runs / "bank" / store.ids_hash([key, prompt, str(seed)])[:16]
    drawn = drawn_bank(
        held[prompt], drawer.draw, folder, pictures=asked.design.pictures, seed=seed, key=key, prompt=prompt, tell=tell
    )
    return bank_of(pooled_of(drawn), drawn, asked.design.layers or ("image",))


def _pipeline(asked: Asked) -> str:
    """Folder or hub name of the diffusion model. Raises DataError where the miniature is asked for and missing."""
    if asked.diffusion not in MINIATURE:
        return str(asked.diffusion)
    try:
        return str(miniatures.folder("diffusion"))
    except DataError:
        raise DataError(
            "describe: no diffusion model is shipped; give the folder of one with --diffusion, or use --bank real, which "
            "takes training pictures by noun"
        ) from None


def caption_by(name: str, device: str = "cpu") -> Callable[[Stimuli], list[list[str]]]:
    """What gives pictures one caption each by the captioner of that name, none where it says nothing."""
    model = captioner.load_captioner(name, device=device)
    return lambda pictures: [[text] if text else [] for text in captioner.caption_images(model, pictures)]


def _boxes(crops: CropPool, model: Any, unit: int, name: str) -> list[Box]:
    """What a unit cuts from the picture of a name."""
    return crops.boxes(model, unit, int(np.flatnonzero(crops.stimuli.ids == name)[0]))


def cards(result: Result, stimuli: Stimuli, *, boxes: Callable[[int, str], list[Box]] | None = None) -> dict[str, np.ndarray]:
    """Arrays of the voxels that get a card: cards/unit (card,) and cards/images (card, 5, side, side, 3), the strongest first.

    Of each region the significant voxels whose labels are best borne out by the test images. boxes(unit, id of a picture): what
    the unit cuts from it, kept as cards/boxes (card, 5, 4, 4): top, left, bottom, right as shares of the picture, NaN for none.
    """
    arrays, units = result.arrays, result.units
    assert units is not None
    roi = units["roi"].astype(str).to_numpy() if "roi" in units.columns else np.full(len(units), "all")
    value = np.where(arrays["significant"], arrays["label_r"], -np.inf)
    chosen: list[int] = []
    for name in np.unique(roi):
        rows = np.flatnonzero((roi == name) & np.isfinite(value))
        chosen += [int(v) for v in rows[np.argsort(-value[rows], kind="stable")][:CARDS]]
    if not chosen:
        return {}
    pool = result.tables["pool"]["stimulus"].astype(str).to_numpy()
    number = {str(name): i for i, name in enumerate(stimuli.ids)}
    pictures = np.zeros((len(chosen), SHOWN, THUMB, THUMB, 3), np.uint8)
    places = np.full((len(chosen), SHOWN, MOST, 4), np.nan, np.float32)
    for card, unit in enumerate(chosen):
        strongest = [row for row in arrays["strongest"][unit] if row >= 0][:SHOWN]
        for place, row in enumerate(strongest):
            image = Image.fromarray(np.asarray(stimuli.images[number[pool[row]]]))
            pictures[card, place] = np.asarray(image.resize((THUMB, THUMB), Image.Resampling.BILINEAR))
            if boxes is not None and (found := boxes(unit, pool[row])):
                places[card, place, : len(found)] = np.asarray(found) / STEP
    made: dict[str, np.ndarray] = {"cards/unit": np.array(chosen, np.int32), "cards/images": pictures}
    return made if boxes is None else made | {"cards/boxes": places}


def _word_rows(result: Result) -> Rows:
    """The first three words of each region, with the ceiling of its order."""
    words = result.tables["words"]
    rows: Rows = []
    for name, part in words.groupby("roi", sort=True):
        first = ", ".join(f"{w} ({s:.2f})" for w, s in part.head(3)[["label", "score"]].itertuples(index=False))
        ceiling = part["ceiling"].iloc[0]
        rows.append({"region": str(name), "words": first, "ceiling": "" if np.isnan(ceiling) else f"{ceiling:.2f}"})
    return rows
