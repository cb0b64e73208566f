"""Digits drawn on from their latents: equal to a plain loop of the scheduler's own steps, and scored as they should be."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch

from brainlens.backbones.diffusion import Diffusion, decode, load_diffusion
from brainlens.claims.digits import autoencoder_of, digit_claims
from brainlens.claims.digits_diffused import diffused, diffused_claims, diffusion_path, picture_scores
from brainlens.metrics.reconstruction import two_way
from brainlens.models.generation.noise import candidate_noise
from brainlens.types import DataError


@pytest.fixture(scope="module")
def diffusion(made_pipeline, tmp_path_factory: pytest.TempPathFactory) -> Diffusion:
    return load_diffusion(made_pipeline.build_pipeline(tmp_path_factory.mktemp("sd") / "tiny"))


@pytest.fixture(scope="module")
def seen() -> np.ndarray:
    """Grey pictures (10, 16, 16)."""
    return np.random.default_rng(0).uniform(size=(10, 16, 16)).astype(np.float32)


def test_drawing_on_equals_a_plain_loop_of_the_scheduler(diffusion: Diffusion) -> None:
    """The stock network under the empty prompt and diffusers' own DDIM steps, from the share of noise that is asked for."""
    start = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    found = diffused(diffusion, start.numpy(), 0.4, draws=2, steps=5, seed=3)
    assert found.shape == (3, 2, 16, 16)
    scheduler = diffusers.DDIMScheduler.from_config(diffusion.scheduler.config)
    scheduler.set_timesteps(5)
    times = scheduler.timesteps[3:]  # .4 of 5 steps
    for draw in range(2):
        noise = candidate_noise(3, draw, (4, 8, 8)).expand(3, -1, -1, -1)
        a = scheduler.alphas_cumprod[times[0]]
        z = a.sqrt() * start + (1 - a).sqrt() * noise
        with torch.no_grad():
            for time in times:
                said = diffusion.unet(z, time, encoder_hidden_states=diffusion.prompt.expand(3, -1, -1)).sample
                z = scheduler.step(said, time, z).prev_sample
        np.testing.assert_allclose(found[:, draw], decode(diffusion, z).mean(axis=-1) / 255, atol=1.5 / 255)
    assert not np.allclose(found[:, 0], found[:, 1], atol=0.02)  # noise of its own


def test_a_strength_outside_the_schedule_is_one_line(diffusion: Diffusion) -> None:
    with pytest.raises(DataError, match="strength=0 of the noise"):
        diffused(diffusion, np.zeros((2, 4, 8, 8), np.float32), 0)


def test_scores_are_of_the_mean_and_of_single_draws(seen: np.ndarray) -> None:
    digit = np.array(["6", "9"] * 5)
    drawn = np.stack([seen, np.roll(seen, 1, axis=0), seen], axis=1)
    found = picture_scores(seen, drawn, digit)
    flat = seen.reshape(10, -1)
    np.testing.assert_allclose(found["two_way"], two_way(flat, drawn.mean(axis=1).reshape(10, -1)))
    wrong = two_way(flat, drawn[:, 1].reshape(10, -1), groups=digit)
    np.testing.assert_allclose(found["single/two_way_within"], (2 + wrong) / 3)
    assert found["single/pixcorr"].mean() < 0.75 < found["pixcorr"].mean()


def test_what_is_added_is_paired_with_the_undiffused_picture(seen: np.ndarray) -> None:
    """What keeps the pictures adds nothing, what exchanges them takes all, what mends them brings it back."""
    digit, other = np.array(["6", "9"] * 5), np.roll(seen, 1, axis=0)
    found = diffused_claims("x", seen, digit, seen, {0.1: seen[:, None], 0.6: other[:, None]})
    assert found["x/0/two_way"] == found["x/0.1/two_way"] == 1
    assert found["x/0.1/added"] == found["x/0.1/added.low"] == found["x/0.1/added.high"] == 0
    assert found["x/0.6/added"] == pytest.approx(found["x/0.6/two_way"] - 1)
    assert found["x/0.6/added"] < found["x/0.6/added.high"] < -0.2
    assert "x/0/single/two_way" not in found
    assert diffused_claims("x", seen, digit, other, {0.1: seen[:, None]})["x/0.1/single/added_within.low"] > 0.05


def test_the_path_begins_at_the_latents_of_the_space(diffusion: Diffusion, seen: np.ndarray) -> None:
    space = autoencoder_of(diffusion).fit(seen)
    starts = {"diffusion": space.encode(seen[::-1]), "diffusion_of_truth": space.encode(seen)}
    digit = np.array(["6", "9"] * 5)
    metrics, pictures = diffusion_path(diffusion, space, seen, digit, starts, strengths=(0.3,), draws=2, steps=4)
    assert set(pictures) == {f"{name}-0.3{end}" for name in starts for end in ("", "-mean")}
    np.testing.assert_allclose(pictures["diffusion-0.3"], pictures["diffusion_of_truth-0.3"][::-1], atol=1.5 / 255)
    assert metrics["digits69/reconstruct/diffusion/0.3/added"] == pytest.approx(
        metrics["digits69/reconstruct/diffusion/0.3/two_way"] - metrics["digits69/reconstruct/diffusion/0/two_way"]
    )


@pytest.mark.realdata
def test_real_digits_are_drawn_from_what_low_level_decodes(test_data: Path, made_pipeline, tmp_path: Path) -> None:
    """Two folds and random weights, for time: strength 0 is the low-level picture of the same space."""
    place = made_pipeline.build_pipeline(tmp_path / "tiny")
    levels = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
    blocks = {"num_encoder_blocks": (0, 0, 0, 1), "num_decoder_blocks": (1, 0, 0, 0)}
    diffusers.AutoencoderTiny(**levels, **blocks, latent_channels=4, scaling_factor=2.0).save_pretrained(place / "vae")
    diffusion = load_diffusion(place)
    metrics, pictures = digit_claims(
        test_data / "digits69", {"miniature": autoencoder_of(diffusion)}, diffusion=diffusion, draws=1, folds=2
    )
    head = "digits69/reconstruct"
    for name in ("two_way", "two_way_within.low"):
        assert metrics[f"{head}/diffusion/0/{name}"] == pytest.approx(metrics[f"{head}/miniature/{name}"], abs=2e-3)
    assert {f"{head}/diffusion_of_truth/{s}/added.high" for s in ("0.1", "0.2", "0.4", "0.6")} <= set(metrics)
    assert pictures["diffusion-0.6-mean"].shape == (100, 64, 64)
