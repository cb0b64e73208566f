"""Stable Diffusion as layered features: by layer at one time step, or by time step at one layer.

The picture is encoded to a latent and carried towards noise in n steps; at each step the denoising network sees it
under the empty prompt. Its layers are the outputs of its residual blocks (with their attention): `encoder.0`, ...,
`mid`, `decoder.0`, ...; Stable Diffusion 1.5 has 8 in the encoder and 12 in the decoder. There is no class token: the
global token is the mean of the map (FactorTopy, appendix on models).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainlens.backbones.folder import files_hash, library, load_tokenizer, load_weights, model_folder, quiet, read_json
from brainlens.backbones.preprocess import Preprocess
from brainlens.backbones.vision import Layer, plain_fields, stream
from brainlens.types import DataError, Features, Stimuli, reading

PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
BLOCKS = {"encoder": "down_blocks", "decoder": "up_blocks"}


@dataclass(frozen=True)
class Diffusion:
    """A loaded latent diffusion model.

    unet, vae: its networks; prompt (1, token, channel): the empty prompt; alphas (t,): cumulative product of the noise
    schedule; offset: first time step of an even grid; prediction: "epsilon" or "v_prediction"; layers in network order;
    scheduler: diffusers' own, for the time steps of sampling; place: the folder it was read from.
    """

    unet: Any
    vae: Any
    prompt: torch.Tensor
    alphas: torch.Tensor
    offset: int
    prediction: str
    preprocess: Preprocess
    layers: tuple[str, ...]
    name: str
    files: str
    scheduler: Any
    place: str


@dataclass(frozen=True)
class Steps:
    """Which of `of` even steps from the clean picture (0) to noise (of - 1) are read, and how the picture gets there.

    The paper counts its 50 steps from noise, as generation runs: its T is `of` - 1 - step, so T = 40 is step 9.
    inversion: deterministic DDIM inversion, each step chained to the one before (the paper's choice, as many network
    calls as the highest step + 1); otherwise noise is added in one go, drawn from `seed` and the stimulus id.
    """

    at: tuple[int, ...] = (9,)
    of: int = 50
    inversion: bool = True
    seed: int = 0


def is_diffusion(name: str | Path) -> bool:
    """Whether a name means a diffusion pipeline: a folder by its model_index.json, a hub name by its text."""
    local = Path(name).expanduser()
    return (local / "model_index.json").is_file() if local.is_dir() else "diffusion" in str(name).lower()


def load_diffusion(
    folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32, pictures: bool = False
) -> Diffusion:
    """A Stable Diffusion folder (unet, vae, text_encoder, tokenizer, scheduler), from safetensors.

    The autoencoder is an AutoencoderKL or an AutoencoderTiny; a safety checker is never loaded. pictures: it is meant to draw,
    so that a folder with a safety checker is refused; one fetched by name is used without it.
    Raises DataError if a part is missing, does not fit, or predicts something other than the noise or the velocity.
    """
    diffusers, transformers = library("diffusers"), library()
    place = model_folder(folder, holding="model_index.json")
    missing = [part for part in PARTS if not (place / part).is_dir()]
    if missing:
        raise DataError(f"diffusion folder {str(folder)!r} has no {', '.join(missing)}; give a whole Stable Diffusion folder")
    if pictures and Path(folder).expanduser().is_dir():
        _check_checker(place, folder)
    with quiet():
        unet = load_weights(diffusers.UNet2DConditionModel, place / "unet").to(device=device, dtype=dtype)
        vae = _autoencoder(diffusers, place, folder).to(device=device, dtype=dtype)
    text = load_weights(transformers.CLIPTextModel, place / "text_encoder").float()  # states of the prompt in full precision
    with reading(folder, "its files do not fit each other: copy them again", fault="is no diffusion model that can be used"):
        return _described(folder, place, unet, vae, text, diffusers)


def _described(folder: str | Path, place: Path, unet: Any, vae: Any, text: Any, diffusers: Any) -> Diffusion:
    """The loaded parts with what their configurations say."""
    scheduler = diffusers.DDIMScheduler.from_config(read_json(place / "scheduler" / "scheduler_config.json"))
    prediction = str(scheduler.config.prediction_type)
    if prediction not in ("epsilon", "v_prediction"):
        raise DataError(f"diffusion folder {str(folder)!r} predicts {prediction!r}; known are epsilon and v_prediction")
    _check_widths(unet, vae, text, folder)
    prompt = _empty_prompt(place, text).to(device=unet.device, dtype=unet.dtype)
    side = int(unet.config.sample_size) * 2 ** (len(_channels(vae)) - 1)
    steps = Preprocess(resize=("shortest", side), crop=(side, side), mean=(0.5,) * 3, std=(0.5,) * 3)
    return Diffusion(
        unet=unet,
        vae=vae,
        prompt=prompt,
        alphas=scheduler.alphas_cumprod,
        offset=int(scheduler.config.steps_offset),
        prediction=prediction,
        preprocess=steps,
        layers=tuple(name for name, _ in _blocks(unet)),
        name=Path(folder).name,
        files=files_hash(place),
        scheduler=scheduler,
        place=str(folder),
    )


def _check_checker(place: Path, folder: str | Path) -> None:
    """A safety checker turns pictures black, which a score would read as a reconstruction."""
    listed = read_json(place / "model_index.json").get("safety_checker")
    if (place / "safety_checker").is_dir() or (isinstance(listed, list) and any(listed)):
        raise DataError(
            f"diffusion folder {str(folder)!r} has a safety checker, which blacks pictures out; "
            'remove its folder and set "safety_checker" to null in model_index.json'
        )


def _autoencoder(diffusers: Any, place: Path, folder: str | Path) -> Any:
    kind = str(read_json(place / "vae" / "config.json").get("_class_name", "AutoencoderKL"))
    if kind not in AUTOENCODERS:
        raise DataError(f"diffusion folder {str(folder)!r} has the autoencoder {kind!r}; known are {', '.join(AUTOENCODERS)}")
    return load_weights(getattr(diffusers, kind), place / "vae")


def _check_widths(unet: Any, vae: Any, text: Any, folder: str | Path) -> None:
    """The parts fit each other: channels of latents, and of text states."""
    if int(unet.config.in_channels) != int(vae.config.latent_channels):
        have = f"its UNet reads {unet.config.in_channels} channels, its autoencoder gives {vae.config.latent_channels}"
        raise DataError(f"diffusion folder {str(folder)!r}: {have}; they belong to different models")
    if unet.config.cross_attention_dim != text.config.hidden_size:
        have = f"its UNet reads text states of {unet.config.cross_attention_dim} channels, its text encoder gives"
        raise DataError(f"diffusion folder {str(folder)!r}: {have} {text.config.hidden_size}; they belong to different models")


def caption_states(folder: str | Path, texts: Sequence[str], *, batch: int = 64) -> torch.Tensor:
    """States (n, token, channel) float32 of captions under the pipeline's own text tower, padded as the pipeline pads."""
    place = model_folder(folder, holding="model_index.json")
    text = load_weights(library().CLIPTextModel, place / "text_encoder").float()
    with reading(folder, "its tokenizer and its text encoder do not fit each other: copy its files again"):
        return torch.cat([_states(place, text, list(texts[i : i + batch])) for i in range(0, len(texts), batch)])


def _empty_prompt(place: Path, text: Any) -> torch.Tensor:
    """States (1, token, channel) of the empty text."""
    return _states(place, text, [""])


def _states(place: Path, text: Any, texts: list[str]) -> torch.Tensor:
    """States (n, token, channel) of texts, padded to the length that the pipeline pads to."""
    tokenizer = load_tokenizer(place / "tokenizer", vocabulary=int(text.config.vocab_size))
    limit = min(int(text.config.max_position_embeddings), int(tokenizer.model_max_length))
    with torch.inference_mode():
        numbers = tokenizer(texts, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")["input_ids"]
        state = text(numbers).last_hidden_state
    return state.clone()


def extract_diffusion(
    diffusion: Diffusion,
    stimuli: Stimuli,
    layers: Sequence[str] | None = None,
    *,
    steps: Steps = Steps(),
    pool_grid: tuple[int, int] | None = (8, 8),
    batch: int = 8,
    dtype: type[np.floating] = np.float16,
    cache: str | Path | None = None,
) -> Features:
    """Features of every image at the named layers and at `steps`; names are "decoder.6", or "decoder.6@9" for several steps.

    data (stimulus, channel): mean of the map; tokens (stimulus, row x column, channel): the map, resized to pool_grid.
    Layer selection takes one step and many layers, time selection one layer and many steps, in ascending noise.

    Raises DataError for an unknown layer, a step outside the schedule and values that dtype cannot hold.
    """
    wanted = diffusion.layers if layers is None else tuple(name for name in diffusion.layers if name in layers)
    unknown = [] if layers is None else [name for name in layers if name not in diffusion.layers]
    if unknown or not wanted:
        raise DataError(f"{diffusion.name} has no layer {unknown[0] if unknown else ''!r}; it has {list(diffusion.layers)}")
    if not 1 <= steps.of <= len(diffusion.alphas) or not steps.at or not all(0 <= k < steps.of for k in steps.at):
        raise DataError(
            f"diffusion steps {steps.at} of {steps.of}: steps are 0 to {steps.of - 1}, of 1 to {len(diffusion.alphas)}"
        )
    if batch < 1 or np.dtype(dtype) not in (np.dtype(np.float16), np.dtype(np.float32)) or len(stimuli) == 0:
        raise DataError(f"extract: {len(stimuli)} stimuli, batch {batch}, dtype {np.dtype(dtype)}; need 1, 1, float16 or float32")
    key = {
        "model": diffusion.files,
        "name": diffusion.name,
        "precision": str(diffusion.prompt.dtype),
        "preprocess": plain_fields(diffusion.preprocess),
        "layers": list(wanted),
        "steps": plain_fields(steps),
    }
    return stream(
        stimuli,
        lambda images, ids: _forward(diffusion, diffusion.preprocess.batch(images), ids, wanted, steps),
        key,
        pool_grid=pool_grid,
        batch=batch,
        dtype=np.dtype(dtype),
        cache=cache,
    )


def encode(diffusion: Diffusion, pixels: np.ndarray) -> torch.Tensor:
    """Latents of preprocessed images (n, 3, h, w), times the model's scale; of an encoder with a posterior its mean."""
    x = torch.from_numpy(pixels).to(diffusion.prompt)
    found = diffusion.vae.encode(x)
    latents = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
    return latents * diffusion.vae.config.scaling_factor


def decode(diffusion: Diffusion, latents: torch.Tensor) -> np.ndarray:
    """Pictures (n, h, w, 3) uint8 of latents as `encode` gives them."""
    with torch.inference_mode():
        pixels = diffusion.vae.decode(latents.to(diffusion.prompt) / diffusion.vae.config.scaling_factor).sample
    scaled = (pixels.float().clamp(-1, 1) + 1) * 127.5
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def time_steps(diffusion: Diffusion, of: int) -> list[int]:
    """Time steps of the network at `of` even steps, ascending: offset + k * (length // of)."""
    stride = len(diffusion.alphas) // of
    return [min(diffusion.offset + k * stride, len(diffusion.alphas) - 1) for k in range(of)]


def invert(diffusion: Diffusion, latents: torch.Tensor, of: int, upto: int) -> Iterator[tuple[int, torch.Tensor]]:
    """Steps, and the latents (n, c, h, w) at the end of each, along the DDIM inversion, up to step `upto`.

    x0 = (z - sqrt(1 - a) e) / sqrt(a);  z' = sqrt(a') x0 + sqrt(1 - a') e, with e predicted from z at the next time.
    (DDIM, eq. 12, run backwards.) a is the cumulative product at the step before, 1's neighbour at the start.
    """
    times = time_steps(diffusion, of)
    before = diffusion.alphas[0]
    for k in range(upto + 1):
        after = diffusion.alphas[times[k]]
        said = _predict(diffusion, latents, times[k])
        a, b = before.sqrt().to(latents), (1 - before).sqrt().to(latents)
        if diffusion.prediction == "epsilon":
            clean, noise = (latents - b * said) / a, said
        else:
            clean, noise = a * latents - b * said, a * said + b * latents
        latents = after.sqrt().to(latents) * clean + (1 - after).sqrt().to(latents) * noise
        before = after
        yield k, latents


def _predict(diffusion: Diffusion, latents: torch.Tensor, time: int) -> torch.Tensor:
    prompt = diffusion.prompt.expand(len(latents), -1, -1)
    return diffusion.unet(latents, time, encoder_hidden_states=prompt, return_dict=False)[0]


def _forward(diffusion: Diffusion, pixels: np.ndarray, ids: np.ndarray, layers: tuple[str, ...], steps: Steps) -> Iterator[Layer]:
    latents = encode(diffusion, pixels)
    seen: dict[str, torch.Tensor] = {}
    maps: dict[tuple[str, int], torch.Tensor] = {}
    watched = [_watch(module, name, seen) for name, module in _blocks(diffusion.unet) if name in layers]
    try:
        if steps.inversion:
            for k, _ in invert(diffusion, latents, steps.of, max(steps.at)):
                if k in steps.at:
                    maps |= {(name, k): seen[name] for name in layers}
        else:
            noise = torch.stack([_noise(str(name), steps.seed, latents.shape[1:]) for name in ids]).to(latents)
            for k in sorted(steps.at):
                time = time_steps(diffusion, steps.of)[k]
                a = diffusion.alphas[time]
                _predict(diffusion, a.sqrt().to(latents) * latents + (1 - a).sqrt().to(latents) * noise, time)
                maps |= {(name, k): seen[name] for name in layers}
    finally:
        for handle in watched:
            handle.remove()
    for name in layers:
        for k in sorted(set(steps.at)):
            state = maps[name, k].float()
            yield (name if len(set(steps.at)) == 1 else f"{name}@{k}"), state.mean(dim=(2, 3)), state


def _watch(module: torch.nn.Module, name: str, seen: dict[str, torch.Tensor]) -> Any:
    def note(_: torch.nn.Module, __: Any, output: Any) -> None:
        seen[name] = output[0] if isinstance(output, tuple) else getattr(output, "sample", output)

    return module.register_forward_hook(note)


def _channels(vae: Any) -> Any:
    """Channels of the encoder's levels; each level after the first halves the side."""
    tiny = "encoder_block_out_channels" in vae.config
    return vae.config.encoder_block_out_channels if tiny else vae.config.block_out_channels


def _blocks(unet: Any) -> list[tuple[str, torch.nn.Module]]:
    """Each residual block by name, through its attention where it has one, in the order of computation."""
    found: dict[str, list[torch.nn.Module]] = {"encoder": [], "decoder": []}
    for side, attribute in BLOCKS.items():
        for block in getattr(unet, attribute):
            attention = list(getattr(block, "attentions", []))
            found[side] += attention if len(attention) == len(block.resnets) else list(block.resnets)
    named = {side: [(f"{side}.{i}", module) for i, module in enumerate(modules)] for side, modules in found.items()}
    middle = [("mid", unet.mid_block)] if unet.mid_block is not None else []
    return [*named["encoder"], *middle, *named["decoder"]]


def _noise(name: str, seed: int, shape: torch.Size) -> torch.Tensor:
    """Noise of one stimulus: the same in every batch and order."""
    number = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:7], "big")
    return torch.randn(shape, generator=torch.Generator().manual_seed(number))
