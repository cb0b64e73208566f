"""Diffusion features on a random Stable Diffusion folder of the size of a thumb, in the format of the big one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers

from brainlens.backbones import diffusion as D
from brainlens.types import DataError, Stimuli


def build_folder(folder: Path, prediction: str = "epsilon", *, tiny: bool = False) -> Path:
    """tiny: AutoencoderTiny with 6 channels and three levels, and a zero-terminal schedule, in place of AutoencoderKL."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=6 if tiny else 4,
        out_channels=6 if tiny else 4,
        block_out_channels=(8, 16),
        layers_per_block=2,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )
    if tiny:
        vae = diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            num_encoder_blocks=(0, 1, 1),
            num_decoder_blocks=(1, 1, 0),
            latent_channels=6,
            scaling_factor=1.7,
        )
    else:
        vae = diffusers.AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            sample_size=16,
        )
    unet.save_pretrained(folder / "unet")
    vae.save_pretrained(folder / "vae")
    diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        set_alpha_to_one=False,
        prediction_type=prediction,
        rescale_betas_zero_snr=tiny,
        timestep_spacing="trailing" if tiny else "leading",
    ).save_pretrained(folder / "scheduler")
    (folder / "tokenizer").mkdir()
    vocabulary = {"a": 0, "a</w>": 1, "<|startoftext|>": 2, "<|endoftext|>": 3}
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    paths = (str(folder / "tokenizer" / name) for name in ("vocab.json", "merges.txt"))
    transformers.CLIPTokenizer(*paths).save_pretrained(folder / "tokenizer")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    text = transformers.CLIPTextConfig(
        **small, vocab_size=4, max_position_embeddings=8, bos_token_id=2, eos_token_id=3, pad_token_id=3
    )
    transformers.CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_folder(tmp_path_factory.mktemp("sd") / "tiny")


@pytest.fixture(scope="module")
def model(folder: Path) -> D.Diffusion:
    return D.load_diffusion(folder)


def stimuli(n: int = 3) -> Stimuli:
    images = np.random.default_rng(0).integers(0, 256, size=(n, 20, 16, 3), dtype=np.uint8)
    return Stimuli(np.array([f"s{i}" for i in range(n)]), images)


def latents_of(model: D.Diffusion) -> torch.Tensor:
    with torch.inference_mode():
        return D.encode(model, model.preprocess.batch(list(stimuli().images)))


def test_layers_are_the_blocks_in_order(model: D.Diffusion) -> None:
    # 2 blocks x 2 in the encoder, 2 blocks x 3 in the decoder (1.5 has 4 x 2 = 8 and 4 x 3 = 12)
    assert model.layers == (*(f"encoder.{i}" for i in range(4)), "mid", *(f"decoder.{i}" for i in range(6)))
    assert model.preprocess.crop == (16, 16)
    seen: list[str] = []
    handles = [m.register_forward_hook(lambda *_, name=name: seen.append(name)) for name, m in D._blocks(model.unet)]
    with torch.inference_mode():
        model.unet(torch.zeros(1, 4, 8, 8), 5, encoder_hidden_states=model.prompt)
    for handle in handles:
        handle.remove()
    assert tuple(seen) == model.layers


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_inversion_equals_the_scheduler_of_diffusers(prediction: str, tmp_path: Path) -> None:
    model = D.load_diffusion(build_folder(tmp_path / "sd", prediction))
    inverse = diffusers.DDIMInverseScheduler.from_pretrained(tmp_path / "sd" / "scheduler", clip_sample=False)
    inverse.set_timesteps(10)
    latents = latents_of(model)
    assert D.time_steps(model, 10) == [int(t) for t in inverse.timesteps]
    with torch.inference_mode():
        expected, z = [], latents
        for t in inverse.timesteps:
            said = model.unet(z, t, encoder_hidden_states=model.prompt.expand(3, -1, -1)).sample
            z = inverse.step(said, t, z).prev_sample
            expected.append(z)
        got = list(D.invert(model, latents, 10, 9))
    assert [k for k, _ in got] == list(range(10))
    for (_, ours), theirs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_features_are_what_the_network_computes_there(model: D.Diffusion) -> None:
    steps = D.Steps(at=(0, 3), of=10)
    got = D.extract_diffusion(model, stimuli(), ["encoder.1", "decoder.2"], steps=steps, pool_grid=None, dtype=np.float32)
    assert got.layer == ["encoder.1@0", "encoder.1@3", "decoder.2@0", "decoder.2@3"]
    kept: list[torch.Tensor] = []
    handle = model.unet.down_blocks[0].attentions[1].register_forward_hook(lambda *a: kept.append(a[2][0]))
    with torch.inference_mode():
        walk = dict(D.invert(model, latents_of(model), 10, 3))
    handle.remove()
    assert len(walk) == 4
    for step in (0, 3):
        state = kept[step].numpy()
        np.testing.assert_allclose(got[f"encoder.1@{step}"], state.mean(axis=(2, 3)), atol=1e-5)
        rows = state.reshape(3, 8, -1).transpose(0, 2, 1)
        np.testing.assert_allclose(got.tokens[f"encoder.1@{step}"], rows, atol=1e-5)
        assert got.grid[f"encoder.1@{step}"] == (8, 8)


@pytest.mark.parametrize("inversion", [True, False])
def test_batch_and_order_change_nothing(model: D.Diffusion, inversion: bool) -> None:
    steps = D.Steps(at=(2,), of=10, inversion=inversion)
    one, all_ = (D.extract_diffusion(model, stimuli(), ["mid"], steps=steps, batch=b, dtype=np.float32) for b in (1, 3))
    turned = D.extract_diffusion(model, stimuli().take(["s2", "s0", "s1"]), ["mid"], steps=steps, dtype=np.float32)
    np.testing.assert_allclose(one["mid"], all_["mid"], atol=1e-5)
    np.testing.assert_allclose(turned["mid"], all_["mid"][[2, 0, 1]], atol=1e-5)
    assert all_.grid["mid"] == (8, 8)


def test_added_noise_follows_the_schedule_and_the_seed(model: D.Diffusion) -> None:
    def at(seed: int, *steps: int) -> np.ndarray:
        return D.extract_diffusion(model, stimuli(), ["mid"], steps=D.Steps(steps, 10, False, seed), dtype=np.float32)["mid"]

    assert (at(0, 4) == at(0, 4)).all()
    assert np.abs(at(0, 4) - at(1, 4)).max() > 1e-4
    assert np.abs(at(0, 4) - at(0, 9)).max() > 1e-4


def test_a_tiny_autoencoder_is_read(tmp_path: Path) -> None:
    place = build_folder(tmp_path / "sd", "v_prediction", tiny=True)
    model = D.load_diffusion(place)
    assert model.preprocess.crop == (32, 32)  # 8 x 8 latents under three levels
    assert model.alphas[-1] == 0
    assert model.prompt.requires_grad is False
    assert not model.prompt.is_inference()  # it can stand in a graph that is differentiated
    pixels = model.preprocess.batch(list(stimuli().images))
    own = diffusers.AutoencoderTiny.from_pretrained(place / "vae")
    with torch.inference_mode():
        expected = own.encode(torch.from_numpy(pixels)).latents * 1.7
        got = D.encode(model, pixels)
        back = own.decode(expected / 1.7).sample
    assert got.shape == (3, 6, 8, 8)
    assert torch.equal(got, expected)
    drawn = D.decode(model, got)
    assert drawn.shape == (3, 32, 32, 3)
    assert drawn.dtype == np.uint8
    exact = ((back.clamp(-1, 1) + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(drawn - exact).max() <= 0.5 + 1e-4
    found = D.extract_diffusion(model, stimuli(), ["mid"], steps=D.Steps((2,), 10), dtype=np.float32)
    assert np.isfinite(found["mid"]).all()


def test_cache_gives_the_same(model: D.Diffusion, tmp_path: Path) -> None:
    steps = D.Steps(at=(1,), of=10)
    plain = D.extract_diffusion(model, stimuli(), ["mid"], steps=steps)
    for _ in range(2):
        cached = D.extract_diffusion(model, stimuli(), ["mid"], steps=steps, cache=tmp_path)
        assert (cached.tokens["mid"] == plain.tokens["mid"]).all()


def test_bad_input_is_one_clear_line(model: D.Diffusion, folder: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    shutil.rmtree(half / "vae")
    sample = build_folder(tmp_path / "sample", "sample")
    checked, vq, other = tmp_path / "checked", tmp_path / "vq", tmp_path / "other"
    for copy in (checked, vq, other):
        shutil.copytree(folder, copy)
    index = {"_class_name": "StableDiffusionPipeline", "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"]}
    (checked / "model_index.json").write_text(json.dumps(index))
    (vq / "vae" / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    shutil.rmtree(other / "vae")
    shutil.copytree(build_folder(tmp_path / "tiny", tiny=True) / "vae", other / "vae")
    cases = [
        (lambda: D.extract_diffusion(model, stimuli(), ["decoder.9"]), r"no layer 'decoder.9'; it has \['encoder.0'"),
        (lambda: D.extract_diffusion(model, stimuli(), steps=D.Steps(at=(50,))), "steps are 0 to 49"),
        (lambda: D.extract_diffusion(model, stimuli(), steps=D.Steps(at=(), of=5)), "steps are 0 to 4"),
        (lambda: D.extract_diffusion(model, stimuli(), batch=0), "batch 0"),
        (lambda: D.load_diffusion(half), "has no vae"),
        (lambda: D.load_diffusion(sample), "predicts 'sample'"),
        (lambda: D.load_diffusion(checked, pictures=True), "has a safety checker"),
        (lambda: D.load_diffusion(vq), "has the autoencoder 'VQModel'; known are AutoencoderKL, AutoencoderTiny"),
        (lambda: D.load_diffusion(other), "UNet reads 4 channels, its autoencoder gives 6"),
        (lambda: D.load_diffusion(folder / "unet"), r"has no model_index\.json"),
    ]
    for call, message in cases:
        with pytest.raises(DataError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_the_features_command_reads_layers_at_a_step_and_steps_at_a_layer(folder: Path, tmp_path: Path) -> None:
    from brainlens.datasets.features import run_features
    from brainlens.datasets.source import Source

    source, silent = Source(model=str(folder), n_train=2, n_test=1), lambda text, share=None: None
    layers = run_features(source, tmp_path / "a", layers=["encoder.1", "mid"], steps=D.Steps((2,), 10), tell=silent)
    assert layers == {
        "encoder.1": {"global": "(3, 8)", "spatial": "(3, 64, 8)", "grid": "8 x 8"},
        "mid": {"global": "(3, 16)", "spatial": "(3, 16, 16)", "grid": "4 x 4"},
    }
    steps = run_features(
        source, tmp_path / "b", layers=["decoder.2"], steps=D.Steps((1, 4), 10), pool_grid=(4, 4), tell=silent
    )  # fmt: skip
    assert {name: found["spatial"] for name, found in steps.items()} == {
        "decoder.2@1": "(3, 16, 16)",
        "decoder.2@4": "(3, 16, 16)",
    }
    with pytest.raises(DataError, match="no layer"):
        run_features(source, tmp_path / "c", layers=["vision.1"], tell=silent)
    with pytest.raises(DataError, match="has no time steps"):
        run_features(Source(model=None, n_train=2, n_test=1), tmp_path / "d", steps=D.Steps((1,), 10), tell=silent)


def test_encode_reads_a_diffusion_network_by_layer_and_by_step(folder: Path, tmp_path: Path) -> None:
    import pandas as pd

    from brainlens.datasets.source import Opened, Source
    from brainlens.encode import EncodingDesign, run
    from brainlens.encode.run import Asked
    from brainlens.models.encoding.training import EncodingTraining
    from brainlens.types import Responses

    many = stimuli(40)
    split = np.where(np.arange(40) < 24, "train", np.where(np.arange(40) < 30, "validation", "test"))
    rng = np.random.default_rng(0)
    units = pd.DataFrame({"x": np.arange(6.0), "y": 0.0, "z": 0.0, "roi": ["V1"] * 3 + ["EBA"] * 3})
    responses = Responses(
        rng.normal(size=(40, 6)).astype(np.float32), pd.DataFrame({"stimulus": many.ids, "split": split}), units
    )
    short = EncodingTraining(steps=4, epoch=2, batch=8, decay_steps=2)
    design = EncodingDesign(width=4, resamples=20, clusters=2, layers=("decoder.2",))
    asked = Asked("factortopy", design, short, steps=D.Steps((1, 4), 10))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "open_recording", lambda *a, **k: Opened(responses, many))
        place, _ = run.run_encode(Source(model=str(folder)), tmp_path, asked, tell=lambda text, share=None: None)
    from brainlens import store

    result = store.load_result(place)
    assert result.config["layers"] == ["decoder.2@1", "decoder.2@4"]
    assert result.arrays["layer_weights"].shape == (6, 2)
    assert not list((tmp_path / "unfinished").iterdir())
