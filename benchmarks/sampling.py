"""Pictures from region tokens: batches over trials and candidates with cached keys, beside the stock pipeline one at a time.

    python benchmarks/sampling.py [--device cuda]

Both sides draw the same pictures at the same noise, 10 steps of DDIM with guidance, so that the time ratio is that of exact
rewriting alone. The network is the shipped diffusion miniature, or one of its size with random
weights where none ships; weights do not change the time. The peer is `StableDiffusionPipeline` with diffusers' own IP-adapter
processors. What fewer steps save beside it at an equal two-way score is measured apart (`sampling_score`) and noted in the row;
so is what recording the attention to regions costs (`recording_ratio`), with the joint tokens that are the default.
"""

from __future__ import annotations

import sys
import time

sys.modules["bottleneck"] = None  # type: ignore[assignment]  # pandas would take bottleneck.py here for the package
from typing import Any  # noqa: E402

import diffusers  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0  # noqa: E402
from diffusers.models.embeddings import MultiIPAdapterImageProjection  # noqa: E402

from brainlens import miniatures  # noqa: E402
from brainlens.attribution.cross_attention import AttentionRecord  # noqa: E402
from brainlens.backbones.diffusion import Diffusion, load_diffusion  # noqa: E402
from brainlens.backbones.preprocess import Preprocess  # noqa: E402
from brainlens.models.generation.noise import candidate_noise  # noqa: E402
from brainlens.models.generation.sampling import Prompts, Sampling, draw_latents, draw_pictures  # noqa: E402
from brainlens.nn.region_adapter import RegionAdapter, RegionPrompt, cross_attention, text_keys  # noqa: E402
from brainlens.types import DataError  # noqa: E402
from harness import compare  # noqa: E402
from sampling_score import at_equal_score  # noqa: E402

REGIONS, VOXELS, CANDIDATES, STEPS, GUIDANCE = 100, 15, 2, 10, 4.0
COMPARED = 2  # trials whose latents are compared
JOINT, RECORDED = (20, 127), 8  # tokens and channels of the code of the attention that ships; trials drawn at a time
SCHEDULE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False, "steps_offset": 1,
}  # fmt: skip


def trials(device: str) -> int:
    return 128 if device.startswith("cuda") else 8


def model(device: str) -> Diffusion:
    try:
        return load_diffusion(miniatures.folder("diffusion"), device=device)
    except DataError:
        return random_model(device)


def random_model(device: str) -> Diffusion:
    """The miniature's size with random weights."""
    torch.manual_seed(0)
    kinds = {"down_block_types": ("CrossAttnDownBlock2D",) * 2, "up_block_types": ("CrossAttnUpBlock2D",) * 2}
    shape = {"sample_size": 16, "in_channels": 16, "out_channels": 16, "block_out_channels": (64, 128), "layers_per_block": 1}
    unet = diffusers.UNet2DConditionModel(**shape, **kinds, cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16)
    levels = {"encoder_block_out_channels": (32,) * 3, "decoder_block_out_channels": (32,) * 3}
    blocks = {"num_encoder_blocks": (0, 1, 2), "num_decoder_blocks": (2, 1, 0)}
    vae = diffusers.AutoencoderTiny(**levels, **blocks, latent_channels=16, scaling_factor=2.0)
    scheduler = diffusers.DDIMScheduler(**SCHEDULE)
    return Diffusion(
        unet=unet.to(device).eval().requires_grad_(False),
        vae=vae.to(device).eval().requires_grad_(False),
        prompt=torch.randn(1, 48, 128).to(device),
        alphas=scheduler.alphas_cumprod,
        offset=1,
        prediction="v_prediction",
        preprocess=Preprocess(resize=("shortest", 64), crop=(64, 64), mean=(0.5,) * 3, std=(0.5,) * 3),
        layers=(),
        name="random weights",
        files="",
        scheduler=scheduler,
        place="",
    )


def problem(device: str) -> tuple[Diffusion, RegionAdapter, torch.Tensor]:
    diffusion = model(device)
    members = list(np.arange(REGIONS * VOXELS).reshape(REGIONS, VOXELS))
    adapter = RegionAdapter(diffusion.unet, members, head=True, removal="zero").to(device).eval().requires_grad_(False)
    draw = torch.Generator().manual_seed(1)
    return diffusion, adapter, torch.randn(trials(device), REGIONS * VOXELS, generator=draw).to(device)


def ours(device: str) -> Any:
    diffusion, adapter, x = problem(device)
    sampling = Sampling(CANDIDATES, GUIDANCE, STEPS)

    def prompts() -> Prompts:
        text = text_keys(diffusion.unet, diffusion.prompt)
        none = torch.zeros(len(x), REGIONS, dtype=torch.bool, device=device)
        return Prompts(lambda rows: adapter.prompt(x[rows], text), lambda rows: adapter.prompt(x[rows], text, none[rows]), len(x))

    def outputs() -> dict[str, np.ndarray]:
        found = draw_latents(diffusion, adapter, prompts(), sampling, rows=np.arange(COMPARED))
        return {"latents": found.cpu().numpy()}

    return lambda: draw_pictures(diffusion, adapter, prompts(), sampling), outputs


def stock(diffusion: Diffusion, adapter: RegionAdapter) -> Any:
    """diffusers' pipeline with its own IP-adapter processors, which have the adapter's weights."""
    count = len(adapter.tokens.bias)
    for own, attn in zip(adapter.attention, cross_attention(diffusion.unet), strict=True):
        width = attn.to_q.in_features
        processor = IPAdapterAttnProcessor2_0(width, adapter.width, num_tokens=(count,), scale=1.0).to(diffusion.prompt.device)
        processor.to_k_ip[0].weight.data.copy_(own.to_k.weight)
        processor.to_v_ip[0].weight.data.copy_(own.to_v.weight)
        attn.set_processor(processor)
    diffusion.unet.encoder_hid_proj = MultiIPAdapterImageProjection([torch.nn.Identity()])
    diffusion.unet.register_to_config(encoder_hid_dim_type="ip_image_proj")
    parts = {"tokenizer": None, "text_encoder": None, "safety_checker": None, "feature_extractor": None}
    pipe = diffusers.StableDiffusionPipeline(
        vae=diffusion.vae, unet=diffusion.unet, scheduler=diffusion.scheduler, **parts, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def peer(device: str) -> Any:
    diffusion, adapter, x = problem(device)
    pipe = stock(diffusion, adapter)
    config = diffusion.unet.config
    shape = (int(config.in_channels), int(config.sample_size), int(config.sample_size))
    none = torch.zeros(1, REGIONS, dtype=torch.bool, device=device)

    def one(row: int, candidate: int, kind: str = "np") -> np.ndarray:
        with torch.no_grad():
            tokens = torch.cat([adapter.tokens(x[row][None], none), adapter.tokens(x[row][None])])[:, None]
        return pipe(
            prompt_embeds=diffusion.prompt,
            negative_prompt_embeds=diffusion.prompt,
            ip_adapter_image_embeds=[tokens],
            latents=candidate_noise(0, candidate, shape)[None].to(device),
            guidance_scale=GUIDANCE,
            num_inference_steps=STEPS,
            output_type=kind,
        ).images[0]

    def outputs() -> dict[str, np.ndarray]:
        found = [one(row, c, "latent") for row in range(COMPARED) for c in range(CANDIDATES)]
        return {"latents": torch.stack(found).cpu().numpy()}

    return lambda: [one(row, c) for row in range(len(x)) for c in range(CANDIDATES)], outputs


def recording_ratio(device: str, trials: int = RECORDED, steps: int = STEPS, repeats: int = 3) -> float:
    """Time of drawing with the attention recorded over the time without: the shortest of each, taken in turns.

    With contributions and maps of ten sets of regions. On the processor its own time, so that other processes do not count.
    """
    diffusion = model(device)
    members = list(np.arange(REGIONS * VOXELS).reshape(REGIONS, VOXELS))
    adapter = RegionAdapter(diffusion.unet, members, joint=JOINT).to(device).eval().requires_grad_(False)
    x = torch.randn(trials, REGIONS * VOXELS, generator=torch.Generator().manual_seed(1)).to(device)
    text = text_keys(diffusion.unet, diffusion.prompt)
    prompts = Prompts(lambda rows: adapter.prompt(x[rows], text), lambda rows: RegionPrompt(text), trials)
    sets = {str(k): part.tolist() for k, part in enumerate(np.array_split(np.arange(REGIONS), 10))}
    cuda = device.startswith("cuda")
    clock = time.perf_counter if cuda else time.process_time

    def seconds(steps: int, recorded: bool) -> float:
        watch = AttentionRecord(trials, REGIONS, sets=sets, bins=1) if recorded else None
        begun = clock()
        draw_latents(diffusion, adapter, prompts, Sampling(1, GUIDANCE, steps), rows=np.arange(trials), watch=watch)
        if cuda:
            torch.cuda.synchronize()
        return clock() - begun

    seconds(1, True)  # warm-up
    times = [(seconds(steps, True), seconds(steps, False)) for _ in range(repeats)]
    return min(with_record for with_record, _ in times) / min(without for _, without in times)


if __name__ == "__main__":
    compare(
        "sampling",
        ours,
        peer,
        peer_name="StableDiffusionPipeline, one picture at a time",
        pictures=lambda device: trials(device) * CANDIDATES,
        steps=STEPS,
        recording_ratio=recording_ratio,
        also=lambda device: at_equal_score(model(device), stock),
    )
