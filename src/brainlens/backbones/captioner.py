"""Captions of images by a vision-language model (`KINDS`: BLIP to LLaVA-1.6), resumable; how good they are under a CLIP.

The prompt asks for what the whole-brain alignment paper found useful: what is there, how it looks, what it does, where
things are to each other, in as much text as CLIP's text encoder can read.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from brainlens import miniatures
from brainlens.backbones.clip import Clip, embed_images, embed_texts, token_counts
from brainlens.backbones.folder import files_hash, library, load_tokenizer, load_weights, model_folder, read_json
from brainlens.backbones.llava_tiles import tile_tokens, tiles
from brainlens.backbones.preprocess import Preprocess, as_rgb, read_preprocess
from brainlens.backbones.vision import read_images
from brainlens.metrics.retrieval import retrieval
from brainlens.store import append_log, read_log
from brainlens.types import DataError, Stimuli, image_key, read_text, reading
from brainlens.warned import warn

KINDS = {
    "blip": "BlipForConditionalGeneration",
    "blip-2": "Blip2ForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
}
LLAVA = ("llava", "llava_next")
CHAT = ("qwen2_5_vl", *LLAVA)  # they answer an instruction, the others continue a text
TEMPLATES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json", "processor_config.json")
PROMPT = (
    "Describe this picture in one or two plain sentences of at most 50 words: the main things in it, their colours and "
    "what they do, where they are to each other, and the place. Say only what can be seen."
)
KNOWN = "{captions}"  # in a prompt: the place of the captions that are known of an image
WITH_CAPTIONS = (
    f"People described this picture like this: {KNOWN} Keep what they say where the picture shows it, and add what they "
    f"left out. {PROMPT}"
)


@dataclass(frozen=True)
class Captioner:
    """A loaded vision-language model: `model`, `tokenizer`, preprocessing or (Qwen) patch settings, kind, name, files.

    template: LLaVA's form of a conversation (jinja), which differs between its language models.
    """

    model: Any
    tokenizer: Any
    preprocess: Preprocess | None
    patches: dict[str, Any]
    kind: str
    name: str
    files: str
    template: str = ""


def load_captioner(name_or_folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Captioner:
    """BLIP, BLIP-2, Qwen2.5-VL, LLaVA-1.5 or -1.6 from a local folder or by hub name, from safetensors, without remote code.

    "miniature" is the shipped BLIP, which knows drawn scenes and crops of them.
    Raises DataError if the folder is of another kind or incomplete, as a LLaVA without its chat template.
    """
    transformers = library()
    folder = model_folder(miniatures.folder("captioner") if name_or_folder == "miniature" else name_or_folder)
    kind = str(read_json(folder / "config.json").get("model_type"))
    if kind not in KINDS:
        raise DataError(f"model folder {str(folder)!r} is of type {kind!r}; captioners are {', '.join(KINDS)}")
    template = chat_template(folder) if kind in LLAVA else ""
    model = load_weights(getattr(transformers, KINDS[kind]), folder)
    if kind == "llava_next" and model.config.vision_feature_select_strategy != "default":
        raise DataError(
            f"model folder {str(folder)!r}: vision_feature_select_strategy "
            f"{model.config.vision_feature_select_strategy!r} leaves class tokens among its tiles; it is 'default' in LLaVA-1.6"
        )
    qwen = kind == "qwen2_5_vl"
    settings, steps = (_qwen_settings(folder), None) if qwen else ({}, read_preprocess(folder))
    tokenizer = load_tokenizer(folder, vocabulary=int(model.config.text_config.vocab_size))
    model = model.to(device=device, dtype=dtype)
    return Captioner(model, tokenizer, steps, settings, kind, Path(name_or_folder).name, files_hash(folder), template)


def _qwen_settings(folder: Path) -> dict[str, Any]:
    """How Qwen's pictures are cut, tried on a black one."""
    settings = read_json(folder / "preprocessor_config.json")
    with reading(folder / "preprocessor_config.json", "copy it again from the model's page"):
        qwen_patches(np.zeros((56, 56, 3), np.uint8), settings)
    return settings


def chat_template(folder: Path) -> str:
    """The form of a conversation that a model folder states. Raises DataError where none of its files does."""
    for name in TEMPLATES:
        if not (folder / name).is_file():
            continue
        found = read_text(folder / name) if name.endswith(".jinja") else read_json(folder / name).get("chat_template")
        if isinstance(found, str) and found.strip():
            return found
    raise DataError(
        f"model folder {str(folder)!r} has no chat template in {', '.join(TEMPLATES)}; copy one from the model's page"
    )


def default_prompt(captioner: Captioner) -> str:
    """What is asked where nothing else is given: an instruction to a chat model, nothing to one that only continues."""
    return PROMPT if captioner.kind in CHAT else ""


def prompts_with(captioner: Captioner, captions: Sequence[Sequence[str]], prompt: str | None = None) -> list[str]:
    """A prompt for each image that tells the captioner what is known of it: its captions, each as a sentence, in place of KNOWN.

    prompt: with KNOWN in it; default: WITH_CAPTIONS for a chat model. A caption is closed by a full stop where it has no end.
    Raises DataError for an image without captions, a prompt without that place, and a captioner that continues a text and was
    given no prompt.
    """
    if prompt is None and captioner.kind not in CHAT:
        raise DataError(
            f"captions: {captioner.name} ({captioner.kind}) continues a text and follows no instruction, so known captions have "
            f"no room; give a beginning with --prompt '... {KNOWN} ...', or take one of {', '.join(CHAT)}"
        )
    asked = WITH_CAPTIONS if prompt is None else prompt
    if KNOWN not in asked:
        raise DataError(f"captions: the prompt {asked!r} has no place for known captions; write {KNOWN} where they go")
    texts = [[" ".join(c.split()) for c in several] for several in captions]
    bare = [i for i, several in enumerate(texts) if not any(several)]
    if bare:
        raise DataError(f"captions: {len(bare)} of {len(texts)} images have no known caption, first number {bare[0]}; write one")
    said = [" ".join(c if c[-1] in ".!?" else f"{c}." for c in several if c) for several in texts]
    return [asked.replace(KNOWN, text) for text in said]


def caption_images(
    captioner: Captioner,
    stimuli: Stimuli,
    *,
    prompt: str | Sequence[str] | None = None,
    max_new_tokens: int = 70,
    batch: int = 8,
    folder: str | Path | None = None,
) -> list[str]:
    """One caption per image, decoded greedily, in the order of the stimuli.

    prompt: for Qwen and LLaVA an instruction (default PROMPT), for BLIP and BLIP-2 the beginning of the caption (default none);
    or one for each image (`prompts_with`).
    folder: captions are noted there one by one in log.jsonl, and those noted before for the same pixels, model and
    prompt are not made again. An empty caption is kept as it came and counted in the log of the process.

    Raises DataError for an image that cannot be read, a batch below 1, and prompts that are not one an image.
    """
    if batch < 1 or max_new_tokens < 1:
        raise DataError(f"captions: batch {batch} and max_new_tokens {max_new_tokens} must be 1 or more")
    one = default_prompt(captioner) if prompt is None else prompt
    asked = [one] * len(stimuli) if isinstance(one, str) else list(one)
    if len(asked) != len(stimuli):
        raise DataError(f"captions: {len(asked)} prompts for {len(stimuli)} images; give one an image")
    settings = [json.dumps([captioner.files, str(captioner.model.dtype), text, max_new_tokens]).encode() for text in asked]
    noted = {} if folder is None else {r["key"]: str(r["caption"]) for r in read_log(folder) if {"key", "caption"} <= set(r)}
    keys = [hashlib.sha256(setting + image_key(read_images(stimuli, [i])[0])).hexdigest() for i, setting in enumerate(settings)]
    todo = [i for i in range(len(stimuli)) if keys[i] not in noted]
    say = {"blip": _blip, "blip-2": _blip2, "qwen2_5_vl": _qwen_each, "llava": _llava, "llava_next": _llava_next}[captioner.kind]
    together = [list(same) for _, same in groupby(todo, key=lambda i: asked[i])]  # a batch has one prompt
    for here in [same[start : start + batch] for same in together for start in range(0, len(same), batch)]:
        with torch.inference_mode():
            found = say(captioner, read_images(stimuli, here), asked[here[0]], max_new_tokens)
        for i, caption in zip(here, found, strict=True):
            noted[keys[i]] = " ".join(caption.split())
            if folder is not None:
                append_log(folder, {"stimulus": str(stimuli.ids[i]), "key": keys[i], "caption": noted[keys[i]]})
    captions = [noted[key] for key in keys]
    if not all(captions):
        warn(f"{captioner.name} gave no text for {sum(not c for c in captions)} of {len(captions)} images")
    return captions


def caption_quality(
    clip: Clip, stimuli: Stimuli, sources: Mapping[str, Sequence[Sequence[str]]], *, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """How well the captions of each source find their image, and each other's captions, under one CLIP.

    One row per source and gallery: source, gallery ("image", another source, or "<source>, others": the first caption of
    every image against the mean of its others), gallery -> source and source -> gallery top-1, top-5 with intervals and
    chance (the paper's Fig. 11), n, captions, and `cut`, those beyond the text limit.

    Raises DataError for a source with missing or empty captions.
    """
    image = embed_images(clip, stimuli)["image"]
    text = {name: embed_texts(clip, several, stimuli.ids)["text"] for name, several in sources.items()}
    rows = []
    for number, (name, several) in enumerate(sources.items()):
        flat = [caption for captions in several for caption in captions]
        cut = int((token_counts(clip, flat) > clip.max_tokens).sum())
        galleries = {"image": (text[name], image)}
        if all(len(captions) > 1 for captions in several):
            parts = [embed_texts(clip, [c[at] for c in several], stimuli.ids)["text"] for at in (slice(1), slice(1, None))]
            galleries[f"{name}, others"] = (parts[0], parts[1])
        galleries |= {other: (text[name], text[other]) for other in list(sources)[number + 1 :]}
        for gallery, (query, embedded) in galleries.items():
            found = retrieval(query, embedded, ks=(1, 5), resamples=resamples, seed=seed)
            row: dict[str, Any] = {"source": name, "gallery": gallery, "captions": len(flat), "cut": cut, "n": len(stimuli)}
            for direction, way in (("brain->image", "source->gallery"), ("image->brain", "gallery->source")):
                for score in ("top1", "top1.low", "top1.high", "chance1", "top5", "top5.low", "top5.high", "chance5"):
                    row[f"{way}/{score}"] = found[f"retrieval/{direction}/{score}"]
            rows.append(row)
    return pd.DataFrame(rows)


def _blip(captioner: Captioner, images: list[np.ndarray], prompt: str, length: int) -> list[str]:
    model, tokenizer = captioner.model, captioner.tokenizer
    assert captioner.preprocess is not None
    pixels = torch.from_numpy(captioner.preprocess.batch(images)).to(device=model.device, dtype=model.dtype)
    start = {}
    if prompt:  # the tokenizer's end token is taken off again by the model
        numbers = torch.tensor([tokenizer(prompt)["input_ids"]] * len(images), device=model.device)
        start = {"input_ids": numbers, "attention_mask": torch.ones_like(numbers)}
    # a text decoder has a row for each place and no more: a caption that does not end stops there, and is no error
    begun = start["input_ids"].shape[1] if start else 1
    length = min(length, int(model.config.text_config.max_position_embeddings) - begun)
    if length < 1:
        raise DataError(f"captions: the prompt has {begun} tokens, and the captioner holds no more; shorten it")
    out = model.generate(pixel_values=pixels, max_new_tokens=length, do_sample=False, **start)
    return tokenizer.batch_decode(out, skip_special_tokens=True)


def _blip2(captioner: Captioner, images: list[np.ndarray], prompt: str, length: int) -> list[str]:
    """The image's query tokens, then the prompt, are the beginning that the language model continues."""
    model, tokenizer = captioner.model, captioner.tokenizer
    assert captioner.preprocess is not None
    pixels = torch.from_numpy(captioner.preprocess.batch(images)).to(device=model.device, dtype=model.dtype)
    start = {}
    if prompt:
        picture = [model.config.image_token_index] * model.config.num_query_tokens
        numbers = torch.tensor([picture + tokenizer(prompt)["input_ids"]] * len(images), device=model.device)
        start = {"input_ids": numbers, "attention_mask": torch.ones_like(numbers)}
    out = model.generate(pixel_values=pixels, max_new_tokens=length, do_sample=False, **start)
    said = tokenizer.batch_decode(out, skip_special_tokens=True)
    return [text if text.strip().startswith(prompt) else f"{prompt} {text}" for text in said]


def _llava(captioner: Captioner, images: list[np.ndarray], prompt: str, length: int) -> list[str]:
    """The conversation with as many image tokens as the vision tower gives patches, and the answer after it."""
    model, tokenizer = captioner.model, captioner.tokenizer
    assert captioner.preprocess is not None
    pixels = torch.from_numpy(captioner.preprocess.batch(images)).to(device=model.device, dtype=model.dtype)
    numbers = torch.tensor([llava_tokens(captioner, prompt)] * len(images), device=model.device)
    out = model.generate(
        input_ids=numbers,
        attention_mask=torch.ones_like(numbers),
        pixel_values=pixels,
        max_new_tokens=length,
        do_sample=False,
    )
    return tokenizer.batch_decode(out[:, numbers.shape[1] :], skip_special_tokens=True)


def _llava_next(captioner: Captioner, images: list[np.ndarray], prompt: str, length: int) -> list[str]:
    """One at a time, since pictures of different shape have different numbers of tiles and tokens."""
    model, tokenizer, found = captioner.model, captioner.tokenizer, []
    assert captioner.preprocess is not None
    grids, vision = model.config.image_grid_pinpoints, model.config.vision_config
    for image in images:
        pixels = torch.from_numpy(tiles(image, grids, vision.image_size, captioner.preprocess))[None]
        size = as_rgb(image).shape[:2]
        numbers = torch.tensor([llava_tokens(captioner, prompt, size)], device=model.device)
        out = model.generate(
            input_ids=numbers,
            attention_mask=torch.ones_like(numbers),
            pixel_values=pixels.to(device=model.device, dtype=model.dtype),
            image_sizes=torch.tensor([size], device=model.device),
            max_new_tokens=length,
            do_sample=False,
        )
        found.append(tokenizer.decode(out[0, numbers.shape[1] :], skip_special_tokens=True))
    return found


def llava_tokens(captioner: Captioner, prompt: str, size: tuple[int, int] | None = None) -> list[int]:
    """Token numbers of the conversation with one picture; raises DataError where template and tokenizer have no image token.

    size: height and width of the picture, on which the number of its tokens depends in LLaVA-1.6.
    """
    config, tokenizer = captioner.model.config, captioner.tokenizer
    said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
    try:
        chat = tokenizer.apply_chat_template(said, chat_template=captioner.template, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # jinja's own errors, of a file that anyone may have written
        raise DataError(
            f"{captioner.name}: its chat template cannot be filled in ({' '.join(str(error).split())[:100]})"
        ) from None
    begun = bool(tokenizer.bos_token) and chat.startswith(tokenizer.bos_token)
    numbers = list(tokenizer(chat, add_special_tokens=not begun)["input_ids"])
    image = getattr(config, "image_token_id", None)
    image = config.image_token_index if image is None else image
    if numbers.count(image) != 1:
        raise DataError(
            f"{captioner.name}: its chat template gives {numbers.count(image)} image tokens (number {image}) for one picture, "
            "not 1; copy the template and the tokenizer of the same model"
        )
    vision, at = config.vision_config, numbers.index(image)
    count = (vision.image_size // vision.patch_size) ** 2
    if captioner.kind == "llava_next":
        assert size is not None
        count = tile_tokens(size, config.image_grid_pinpoints, vision.image_size, vision.patch_size)
    elif config.vision_feature_select_strategy == "full":
        count += 1
    return [*numbers[:at], *[image] * count, *numbers[at + 1 :]]


def _qwen_each(captioner: Captioner, images: list[np.ndarray], prompt: str, length: int) -> list[str]:
    """One at a time, since pictures of different size have different numbers of tokens."""
    return [_qwen(captioner, image, prompt, length) for image in images]


def _qwen(captioner: Captioner, image: np.ndarray, prompt: str, length: int) -> str:
    model, tokenizer = captioner.model, captioner.tokenizer
    patches, grid = qwen_patches(image, captioner.patches)
    merge = int(captioner.patches.get("merge_size", 2))
    picture = "<|vision_start|>" + "<|image_pad|>" * (math.prod(grid) // merge**2) + "<|vision_end|>"
    chat = (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{picture}{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )
    numbers = torch.tensor([tokenizer(chat, add_special_tokens=False)["input_ids"]], device=model.device)
    is_image = (numbers == model.config.image_token_id).int()
    if int(is_image.sum()) != math.prod(grid) // merge**2:
        raise DataError(
            f"{captioner.name}: its tokenizer does not know <|image_pad|> as the network's image token; copy its files"
        )
    out = model.generate(
        input_ids=numbers,
        attention_mask=torch.ones_like(numbers),
        pixel_values=torch.from_numpy(patches).to(device=model.device, dtype=model.dtype),
        image_grid_thw=torch.tensor([grid], device=model.device),
        mm_token_type_ids=is_image,
        max_new_tokens=length,
        do_sample=False,
    )
    return tokenizer.decode(out[0, numbers.shape[1] :], skip_special_tokens=True)


def qwen_patches(image: np.ndarray, settings: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, int, int]]:
    """Qwen2.5-VL's input of one image: patches (patch, channel x time x p x p) and the grid (1, rows, columns).

    The picture is resized so that its sides are multiples of p x merge and its area lies between the bounds of the
    preprocessor configuration, with its shape kept as nearly as that allows; patches that merge stand together.
    """
    p, merge, times = (int(settings.get(k, d)) for k, d in (("patch_size", 14), ("merge_size", 2), ("temporal_patch_size", 2)))
    size = settings.get("size") or {}
    low = int(settings.get("min_pixels") or size.get("shortest_edge") or size.get("min_pixels") or 56 * 56)
    high = int(settings.get("max_pixels") or size.get("longest_edge") or size.get("max_pixels") or 28 * 28 * 1280)
    picture = as_rgb(image)
    height, width = _whole_cells(picture.shape[0], picture.shape[1], p * merge, low, high)
    resample = Image.Resampling(int(settings.get("resample") or Image.Resampling.BICUBIC))
    if (height, width) != picture.shape[:2]:
        picture = np.asarray(Image.fromarray(picture).resize((width, height), resample=resample))
    scale = float(settings.get("rescale_factor", 1 / 255))
    x = Preprocess(None, rescale=scale, mean=tuple(settings["image_mean"]), std=tuple(settings["image_std"]))(picture)
    rows, columns = height // p, width // p
    cells = x.reshape(3, rows // merge, merge, p, columns // merge, merge, p).transpose(1, 4, 2, 5, 0, 3, 6)
    cells = np.repeat(cells[:, :, :, :, :, None], times, axis=5)  # a still picture is a film of equal frames
    return np.ascontiguousarray(cells.reshape(rows * columns, -1)), (1, rows, columns)


def _whole_cells(height: int, width: int, cell: int, low: int, high: int) -> tuple[int, int]:
    if max(height, width) > 200 * min(height, width):
        raise DataError(f"image of {height} x {width} is longer than 200 times its width; crop it first")
    rows, columns = round(height / cell) * cell, round(width / cell) * cell
    if rows * columns > high:
        shrink = math.sqrt(height * width / high)
        return max(cell, math.floor(height / shrink / cell) * cell), max(cell, math.floor(width / shrink / cell) * cell)
    if rows * columns < low:
        grow = math.sqrt(low / (height * width))
        return math.ceil(height * grow / cell) * cell, math.ceil(width * grow / cell) * cell
    return rows, columns
