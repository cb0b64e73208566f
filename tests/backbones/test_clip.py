"""CLIP's two embeddings against the model and tokenizer called by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from brainlens import miniatures
from brainlens.backbones import clip as C
from brainlens.backbones import vision
from brainlens.types import DataError, Stimuli
from brainlens.warned import BrainlensWarning

LETTERS = "abcdefghijklmnopqrstuvwxyzé🐕<>"


def build_folder(folder: Path) -> Path:
    """A random CLIP of the size of a thumb, with a letter tokenizer, in the format of the big ones."""
    words = ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    vocabulary = {w: i for i, w in enumerate([*letters, *(f"{c}</w>" for c in letters), *words])}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    start, end = (vocabulary[w] for w in words)
    text = {**size, "vocab_size": len(vocabulary), "max_position_embeddings": 16, "bos_token_id": start, "eos_token_id": end}
    config = transformers.CLIPConfig(
        text_config={**text, "pad_token_id": end}, vision_config={**size, "image_size": 16, "patch_size": 8}, projection_dim=12
    )
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_folder(tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture(scope="module")
def clip(folder: Path) -> C.Clip:
    return C.load_clip(folder)


def stimuli(n: int = 4) -> Stimuli:
    images = np.random.default_rng(0).integers(0, 256, size=(n, 20, 24, 3), dtype=np.uint8)
    return Stimuli(np.array([f"s{i}" for i in range(n)]), images)


def test_images_equal_the_model_and_stand_beside_its_layers(clip: C.Clip, folder: Path) -> None:
    got = C.embed_images(clip, stimuli(), normalise=False)
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.CLIPImageProcessorPil.from_pretrained(folder)
    with torch.no_grad():
        pixels = processor(list(stimuli().images), return_tensors="pt")["pixel_values"]
        expected = model.get_image_features(pixel_values=pixels).pooler_output.numpy()
    np.testing.assert_allclose(got["image"], expected, atol=1e-5)
    unit = C.embed_images(clip, stimuli())["image"]
    np.testing.assert_allclose(unit, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    layers = vision.extract(clip.backbone, stimuli(), ["vision.1", "image"], dtype=np.float32)
    np.testing.assert_allclose(layers["image"], got["image"], atol=1e-6)


def test_the_shipped_miniature_goes_the_same_way() -> None:
    small = C.load_clip(miniatures.folder("clip"))
    assert small.backbone.layers == (*(f"vision.{i}" for i in range(7)), "image")
    scenes = Stimuli(stimuli(6).ids, np.random.default_rng(1).integers(0, 256, size=(6, 64, 64, 3), dtype=np.uint8))
    one, six = (vision.extract(small.backbone, scenes, batch=b, dtype=np.float32) for b in (1, 6))
    for layer in small.backbone.layers:
        np.testing.assert_allclose(one[layer], six[layer], atol=1e-5 * max(1.0, float(np.abs(six[layer]).max())))
    assert six.grid["vision.6"] == (8, 8)
    text = C.embed_texts(small, [["a red dog on grass"], ["two blue cars"]], ["a", "b"])
    assert text["text"].shape == (2, six["image"].shape[1])


def test_texts_equal_the_model_for_any_batch_and_order(clip: C.Clip, folder: Path) -> None:
    captions = [["a dog", "the cat"], ["x"], ["longer text", "b", "a dog"], ["cat"]]
    ids = [f"s{i}" for i in range(4)]
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    expected = []
    for several in captions:
        rows = []
        for caption in several:  # one at a time and unpadded
            with torch.no_grad():
                row = model.get_text_features(**clip.tokenizer([caption], return_tensors="pt")).pooler_output[0].numpy()
            rows.append(row / np.linalg.norm(row))
        expected.append(np.mean(rows, axis=0))
    single = C.embed_texts(clip, captions, ids, average=False)
    assert list(single.ids[:3]) == ["s0#0", "s0#1", "s1#0"]
    for batch in (1, 3, 64):
        got = C.embed_texts(clip, captions, ids, normalise=False, batch=batch)
        np.testing.assert_allclose(got["text"], expected, atol=1e-5)
        assert list(got.ids) == ids
    np.testing.assert_allclose(np.linalg.norm(C.embed_texts(clip, captions, ids)["text"], axis=1), 1, atol=1e-6)


def test_captions_beyond_the_limit_are_cut_counted_and_keep_their_end(clip: C.Clip) -> None:
    long = "abcdefghijklmnopqrstuvwxyz"
    assert C.token_counts(clip, ["ab", long]).tolist() == [4, 28]
    assert clip.max_tokens == 16
    with pytest.warns(BrainlensWarning, match="1 of 2 captions are longer than 16 tokens and were cut"):
        cut = C.embed_texts(clip, [[long], ["ab"]], ["long", "short"])
    whole = C.embed_texts(clip, [[long[:14]]], ["start"])  # 14 letters, start and end: all that fits
    letters = C.token_counts(clip, [long[:14]])
    assert letters.tolist() == [16]
    # The last letter kept inside a longer word has no word end, so the two differ a little but are not unrelated.
    assert cut["text"][0] @ whole["text"][0] > cut["text"][0] @ cut["text"][1]


def test_spellings_of_one_text_agree_and_odd_text_is_embedded(clip: C.Clip) -> None:
    got = C.embed_texts(clip, [["caf\u00e9"], ["cafe\u0301"], ["\U0001f415"], ["<script>"], ["cafe"]], list("abcde"))["text"]
    np.testing.assert_allclose(got[0], got[1], atol=1e-6)
    assert np.abs(got[0] - got[4]).max() > 1e-4
    assert np.isfinite(got).all()


@pytest.mark.parametrize(
    ("captions", "ids", "message"),
    [
        ([["a"], []], ["x", "y"], "stimulus 'y': expected a list of at least one"),
        ([["a"], ["  "]], ["x", "y"], "stimulus 'y': caption '  ' is empty"),
        (["a", "b"], ["x", "y"], "stimulus 'x': expected a list"),
        ([["a"]], ["x", "y"], "2 ids but 1 lists"),
        ([["a"], ["b"]], ["x", "x"], "more than once"),
        ([[3]], ["x"], "expected text, got int"),
    ],
)
def test_bad_captions_are_one_clear_line(clip: C.Clip, captions: list, ids: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        C.embed_texts(clip, captions, ids)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_clip(folder: Path, tmp_path: Path) -> None:
    tiny = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.ViTConfig(**tiny, image_size=8, patch_size=4)
    transformers.ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).exists():
            (tmp_path / "vit" / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(DataError, match="holds a vit model, not CLIP"):
        C.load_clip(tmp_path / "vit")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "preprocessor_config.json"):
        (bare / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(DataError, match="no tokenizer files"):
        C.load_clip(bare)
    (bare / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="tokenizer that cannot be read"):
        C.load_clip(bare)
