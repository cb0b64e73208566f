"""Train the miniature latent diffusion model on drawn scenes and export it as a folder that `StableDiffusionPipeline` reads.

    python tools/train_diffusion.py autoencoder --work WORK --minutes 15
    python tools/train_diffusion.py unet --work WORK --out src/brainlens/miniatures/diffusion --images 1000000 --minutes 120
    python tools/train_diffusion.py unet --work WORK --start FOLDER --images 70000 --rate 7e-4 --coarse 0 --focus 3 --single 0.5
    python tools/train_diffusion.py export --work WORK --out src/brainlens/miniatures/diffusion
    python tools/train_diffusion.py samples --work WORK --out docs/gallery/diffusion_miniature.png

Two stages, one thread each, resumable: a killed run goes on from its last checkpoint, and `--minutes` ends one sitting.

autoencoder: `AutoencoderTiny`, 64 x 64 pixels to 16 channels at 16 x 16, L1 + L2 + half the L1 of the edges, a little noise on
the latents so that the decoder forgives what a diffusion model gets wrong. A `AutoencoderKL` learns four to five times more
slowly here.

unet: `UNet2DConditionModel` on scaled latents, v-prediction with a zero-terminal-SNR cosine-like schedule, captions through
the frozen text tower of the miniature CLIP, a tenth of them empty for guidance. Coarse to fine: a first share of the images is
seen at half the side (8 x 8 latents, a quarter of the cost), where colours, places and backgrounds can be learnt; the rest at
full side. Scenes are drawn anew for every step and are functions of (seed, step), so no picture is seen twice. `--start` goes
on from an exported folder with a new optimiser and a new cosine. `--focus` weights the loss where objects stand, and `--single`
is the share of scenes that are drawn again until they hold one object: kinds are learnt last, from few latents of few scenes.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from brainlens import miniatures
from brainlens.phantom import captions, scenes

TOKENS = 48  # of a caption; the longest has 42
LATENT = 16  # channels
SCHEDULE = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
    "clip_sample": False, "set_alpha_to_one": True,
}  # fmt: skip


def draw(seed: int, step: int, size: int, split: str = "train") -> list[scenes.Scene]:
    """The scenes of a step."""
    rng = random.Random((seed + 1) * 1_000_000_007 + step)
    return [scenes.draw_scene(rng, split) for _ in range(size)]


def pixels(batch: list[scenes.Scene]) -> Tensor:
    """Pictures (n, 3, 64, 64) in [-1, 1], as diffusers has them."""
    x = torch.from_numpy(np.stack([scenes.render(scene) for scene in batch])).permute(0, 3, 1, 2).float()
    return x / 127.5 - 1


def psnr(model: AutoencoderTiny, *, n: int = 200) -> float:
    """Peak signal to noise ratio in dB on validation scenes."""
    x = pixels(draw(77, 0, n, "validation"))
    with torch.no_grad():
        y = torch.cat([model.decode(model.encode(part).latents).sample.clamp(-1, 1) for part in x.split(50)])
    return float(-10 * torch.log10(((x - y) / 2).square().mean((1, 2, 3))).mean())


def build_autoencoder() -> AutoencoderTiny:
    """0.21 million parameters; all widths must be equal, which diffusers does not check."""
    return AutoencoderTiny(
        latent_channels=LATENT, encoder_block_out_channels=(32, 32, 32), decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 1, 2), num_decoder_blocks=(2, 1, 0), upsampling_scaling_factor=2, scaling_factor=1.0,
    )  # fmt: skip


def build_unet() -> UNet2DConditionModel:
    """Cross-attention at both levels, 16 x 16 and 8 x 8; `attention_head_dim` is, in diffusers, the number of heads."""
    return UNet2DConditionModel(
        sample_size=16, in_channels=LATENT, out_channels=LATENT, block_out_channels=(64, 128), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


FACTS = ("step", "images", "seconds", "log", "begun", "begun_step")


class State:
    """A network, its optimiser and its averaged weights, with all that a resumed run needs."""

    def __init__(self, model: nn.Module, rate: float, path: Path) -> None:
        self.model, self.path = model, path
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01)
        self.mean = copy.deepcopy(model).eval()
        self.step, self.images, self.seconds, self.log = 0, 0, 0.0, []  # type: ignore[var-annotated]
        self.begun, self.begun_step = 0, 0  # images and steps of the training that this one goes on from
        if path.exists():
            kept = torch.load(path, weights_only=True)
            model.load_state_dict(kept["model"])
            self.mean.load_state_dict(kept["mean"])
            self.optimiser.load_state_dict(kept["optimiser"])
            for name in FACTS:
                setattr(self, name, kept[name])

    def save(self) -> None:
        """Writes the checkpoint beside its place and renames it."""
        part = self.path.with_suffix(".tmp")
        state = {name: getattr(self, name).state_dict() for name in ("model", "mean", "optimiser")}
        torch.save(state | {name: getattr(self, name) for name in FACTS}, part)
        os.replace(part, self.path)

    def update(self, loss: Tensor, rate: float, size: int, *, decay: float) -> None:
        """One step of AdamW and of the averaged weights."""
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        keep = min(decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.mean.parameters()), list(self.model.parameters()), 1 - keep)
        self.step, self.images = self.step + 1, self.images + size


def sitting(state: State, minutes: float, every: float) -> Iterator[bool]:
    """Yields until the time of this sitting is over; True where a report and a checkpoint are due."""
    began, before, noted = time.process_time(), state.seconds, time.process_time()
    while time.process_time() - began < 60 * minutes:
        state.seconds = before + time.process_time() - began
        due = time.process_time() - noted > every
        noted = time.process_time() if due else noted
        yield due
    state.seconds = before + time.process_time() - began


def train_autoencoder(work: Path, *, minutes: float, total: float, rate: float, batch: int, seed: int) -> None:
    """The first stage; `total` minutes of processor time are what the cosine of the learning rate runs over."""
    torch.manual_seed(seed)
    state = State(build_autoencoder().to(memory_format=torch.channels_last), rate, work / "autoencoder.pt")
    for due in sitting(state, minutes, 60.0):
        share = min(1.0, state.seconds / (60 * total))
        x = pixels(draw(seed, state.step, batch)).to(memory_format=torch.channels_last)
        z = state.model.encode(x).latents
        y = state.model.decode(z + 0.05 * z.detach().std() * torch.randn_like(z)).sample
        edges = sum((a.diff(dim=d) - b.diff(dim=d)).abs().mean() for d in (2, 3) for a, b in [(x, y)])
        loss = (x - y).abs().mean() + (x - y).square().mean() + 0.5 * edges
        state.update(loss, rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))), batch, decay=0.999)
        if due:
            report(state, {"loss": loss.item(), "psnr": psnr(state.mean)})
        if share >= 1:
            break
    report(state, {"psnr": psnr(state.mean)})


def report(state: State, more: dict[str, float]) -> None:
    """One line of JSON, kept in the checkpoint too."""
    entry = {"step": state.step, "images": state.images, "minutes": round(state.seconds / 60, 2)}
    state.log.append(entry | {k: round(float(v), 4) for k, v in more.items()})
    print(json.dumps(state.log[-1]), flush=True)
    state.save()


def latent_scale(autoencoder: AutoencoderTiny) -> float:
    """What brings latents to standard deviation 1."""
    with torch.no_grad():
        return float(1 / autoencoder.encode(pixels(draw(78, 0, 200, "train"))).latents.std())


def begin(state: State, start: Path) -> None:
    """The weights and the facts of an exported folder; its autoencoder is kept in the work folder."""
    unet = UNet2DConditionModel.from_pretrained(start, subfolder="unet", torch_dtype=torch.float32)
    for model in (state.model, state.mean):
        model.load_state_dict(unet.state_dict())
    facts = json.loads((start / "training.json").read_text())
    state.step, state.images, state.log = facts["step"], facts["images"], facts["log"]
    state.seconds = 60 * facts["unet_minutes"]
    state.begun, state.begun_step = state.images, state.step
    autoencoder = AutoencoderTiny.from_pretrained(start, subfolder="vae", torch_dtype=torch.float32)
    autoencoder.save_pretrained(state.path.parent / "autoencoder")


def ready_autoencoder(work: Path) -> AutoencoderTiny:
    """The averaged autoencoder, its scale set; that of an exported folder keeps its own."""
    if (work / "autoencoder").is_dir():
        return AutoencoderTiny.from_pretrained(work / "autoencoder").eval().requires_grad_(False)
    model = build_autoencoder()
    model.load_state_dict(torch.load(work / "autoencoder.pt", weights_only=True)["mean"])
    model.register_to_config(scaling_factor=latent_scale(model.eval()))
    return model.requires_grad_(False)


def text_parts() -> tuple[CLIPTextModel, PreTrainedTokenizerFast]:
    """The text tower and the tokenizer of the miniature CLIP, captions padded to TOKENS and attended to without a mask."""
    place = miniatures.folder("clip")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(place)
    tokenizer.model_max_length = TOKENS
    return CLIPTextModel.from_pretrained(place, dtype=torch.float32).eval().requires_grad_(False), tokenizer


class Captions:
    """Hidden states (n, TOKENS, 128) of captions."""

    def __init__(self) -> None:
        self.tower, self.tokenizer = text_parts()

    @torch.no_grad()
    def __call__(self, texts: list[str]) -> Tensor:
        numbers = self.tokenizer(texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        return self.tower(numbers["input_ids"]).last_hidden_state


def draw_single(seed: int, step: int, size: int, share: float) -> list[scenes.Scene]:
    """The scenes of a step, a `share` of them with one object."""
    rng = random.Random((seed + 1) * 1_000_000_007 + step)
    found = []
    for number in range(size):
        scene = scenes.draw_scene(rng, "train")
        while number < share * size and len(scene.things) > 1:
            scene = scenes.draw_scene(rng, "train")
        found.append(scene)
    return found


def object_weights(batch: list[scenes.Scene], side: int, focus: float) -> Tensor:
    """Weights (n, 1, side, side) of mean 1 in each scene: 1 + `focus` where an object's box lies, before they are normalised."""
    centre = (torch.arange(side) + 0.5) * 256 / side
    weights = torch.ones(len(batch), 1, side, side)
    for row, scene in enumerate(batch):
        for thing in scene.things:
            down, across = ((centre - at).abs() <= thing.extent / 2 for at in (thing.cy, thing.cx))
            weights[row, 0][down[:, None] & across] = 1 + focus
    return weights / weights.mean((2, 3), keepdim=True)


def velocity(
    unet: nn.Module, z: Tensor, said: Tensor, alphas: Tensor, generator: torch.Generator, weights: Tensor | None = None
) -> Tensor:
    """Mean (weighted) squared error of v = sqrt(a) noise - sqrt(1 - a) z over stratified times."""
    n = len(z)
    t = ((torch.arange(n) + torch.rand(n, generator=generator)) / n * len(alphas)).long()
    a = alphas[t].view(-1, 1, 1, 1)
    noise = torch.randn(z.shape, generator=generator)
    noisy = a.sqrt() * z + (1 - a).sqrt() * noise
    error = unet(noisy, t, encoder_hidden_states=said, return_dict=False)[0] - a.sqrt() * noise + (1 - a).sqrt() * z
    return (error.square() if weights is None else weights * error.square()).mean()


def train_unet(work: Path, out: Path | None, *, a: argparse.Namespace) -> None:
    """The second stage: `--images` in all, the first `--coarse` share of them at half the side."""
    torch.manual_seed(a.seed)
    state = State(build_unet().to(memory_format=torch.channels_last), a.rate, work / "unet.pt")
    if a.start is not None and not state.step:
        begin(state, a.start)
    began = state.begun
    autoencoder, read = ready_autoencoder(work), Captions()
    alphas = DDIMScheduler(**SCHEDULE).alphas_cumprod
    scale = autoencoder.config.scaling_factor
    held = draw(79, 0, 128, "validation")
    clean = torch.cat([autoencoder.encode(x).latents for x in pixels(held).split(64)]) * scale
    said, empty = read([scenes.caption(s, 0) for s in held]), read([""])
    for due in sitting(state, a.minutes, 300.0):
        if state.images - began >= a.images:
            break
        coarse = state.images - began < a.coarse * a.images
        batch = a.batch * (2 if coarse else 1)
        chosen = draw_single(a.seed, state.step, batch, a.single)
        rng = random.Random(a.seed * 7_919 + state.step)
        x = pixels(chosen)
        z = autoencoder.encode(F.avg_pool2d(x, 2) if coarse else x).latents * scale
        texts = ["" if rng.random() < 0.1 else scenes.caption(s, int(rng.random() * captions.N_PHRASINGS)) for s in chosen]
        generator = torch.Generator().manual_seed(a.seed * 104_729 + state.step)
        weights = object_weights(chosen, z.shape[-1], a.focus) if a.focus else None
        loss = velocity(state.model, z.contiguous(memory_format=torch.channels_last), read(texts), alphas, generator, weights)
        done = (state.images - began) / a.images
        rate = a.rate * min(1.0, (state.step - state.begun_step + 1) / 300) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        state.update(loss, rate, batch, decay=0.9995)
        if due:
            with torch.no_grad():
                g = [torch.Generator().manual_seed(5) for _ in range(2)]
                report(state, {
                    "loss": loss.item(),
                    "validation": velocity(state.mean, clean, said, alphas, g[0]).item(),
                    "validation_empty": velocity(state.mean, clean, empty.expand(len(clean), -1, -1), alphas, g[1]).item(),
                })  # fmt: skip
    report(state, {})
    if out is not None:
        export(work, out)


def export(work: Path, out: Path) -> None:
    """The pipeline's folder in float16, with the facts of its training."""
    kept = torch.load(work / "unet.pt", weights_only=True)
    unet = build_unet()
    unet.load_state_dict(kept["mean"])
    autoencoder = ready_autoencoder(work)
    quality = psnr(autoencoder)  # before it is cast to half precision below
    tower, tokenizer = text_parts()
    pipeline = StableDiffusionPipeline(
        vae=autoencoder, text_encoder=tower, tokenizer=tokenizer, unet=unet, scheduler=DDIMScheduler(**SCHEDULE),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.to(torch.float16).save_pretrained(out)
    for path in out.rglob("config.json"):  # diffusers notes the folder that a part was read from
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    facts: dict[str, Any] = {name: kept[name] for name in ("step", "images")}
    facts |= {"unet_minutes": round(kept["seconds"] / 60, 1), "psnr": round(quality, 2), "log": kept["log"]}
    (out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


@torch.no_grad()
def samples(work: Path, file: Path, *, steps: int = 20, guidance: float = 2.0, columns: int = 10) -> None:
    """Validation scenes, and under each what the model draws from its caption; 20 of them, the first of their seed."""
    kept = torch.load(work / "unet.pt", weights_only=True)
    unet = build_unet()
    unet.load_state_dict(kept["mean"])
    autoencoder, read = ready_autoencoder(work), Captions()
    scheduler = DDIMScheduler(**SCHEDULE)
    scheduler.set_timesteps(steps)
    held = draw(991, 0, 2 * columns, "validation")
    said, empty = read([scenes.caption(s, 0) for s in held]), read([""]).expand(len(held), -1, -1)
    z = torch.randn(len(held), LATENT, 16, 16, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        with_text, without = (unet(z, t, encoder_hidden_states=states, return_dict=False)[0] for states in (said, empty))
        z = scheduler.step(without + guidance * (with_text - without), t, z).prev_sample
    drawn = ((autoencoder.decode(z / autoencoder.config.scaling_factor).sample.clamp(-1, 1) + 1) * 127.5).byte()
    pictures = drawn.permute(0, 2, 3, 1).numpy()
    seen = np.stack([scenes.render(s) for s in held])
    gap = np.full((4, columns * 66, 3), 255, np.uint8)
    rows: list[np.ndarray] = []
    for start in (0, columns):
        for part in (seen, pictures):
            edged = np.pad(part[start : start + columns], ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=255)
            rows.append(np.concatenate(list(edged), axis=1))
        rows.append(gap)
    sheet = Image.fromarray(np.concatenate(rows[:-1]))
    sheet.resize((2 * sheet.width, 2 * sheet.height), Image.Resampling.NEAREST).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("stage", choices=("autoencoder", "unet", "export", "samples"))
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--out", type=Path, help="folder of the exported pipeline, or the PNG of samples")
    parser.add_argument("--minutes", type=float, default=60.0, help="processor minutes of this sitting")
    parser.add_argument("--total", type=float, default=15.0, help="processor minutes of the autoencoder over all sittings")
    parser.add_argument("--images", type=int, default=1_000_000, help="images that the denoising network sees in all")
    parser.add_argument("--coarse", type=float, default=0.3, help="first share of the images at half the side")
    parser.add_argument("--start", type=Path, help="an exported folder that a new training goes on from")
    parser.add_argument("--focus", type=float, default=0.0, help="additional weight of the loss where objects stand")
    parser.add_argument("--single", type=float, default=0.0, help="share of scenes that hold one object")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, help="learning rate; 2e-3 for the autoencoder, 1e-3 for the denoising network")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    a.rate = a.rate if a.rate is not None else 2e-3 if a.stage == "autoencoder" else 1e-3
    torch.set_num_threads(1)
    a.work.mkdir(parents=True, exist_ok=True)
    if a.stage == "autoencoder":
        train_autoencoder(a.work, minutes=a.minutes, total=a.total, rate=a.rate, batch=8, seed=a.seed)
    elif a.stage == "unet":
        train_unet(a.work, a.out, a=a)
    else:
        if a.out is None:
            parser.error(f"{a.stage} needs --out")
        {"export": export, "samples": samples}[a.stage](a.work, a.out)


if __name__ == "__main__":
    main()
