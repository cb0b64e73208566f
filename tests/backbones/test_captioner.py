"""Captioners on random models of the size of a thumb: the calls are right, and nothing is made twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from brainlens.backbones import captioner as K
from brainlens.backbones.llava_tiles import tile_tokens, tiles
from brainlens.types import DataError, Stimuli

WORDS = [f"word{i}" for i in range(20)]
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]


def build_blip(folder: Path) -> Path:
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = transformers.BertTokenizer(str(folder / "vocab.txt"))
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    marks = {"bos_token_id": 5, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    text = {**size, **marks, "vocab_size": len(vocabulary), "encoder_hidden_size": 16, "max_position_embeddings": 32}
    config = transformers.BlipConfig(
        text_config=text, vision_config={**size, "image_size": 16, "patch_size": 8}, projection_dim=8, image_text_hidden_size=8
    )
    torch.manual_seed(1)
    model = transformers.BlipForConditionalGeneration(config)
    save_shaken(model, folder, 0.3)
    return folder


def save_shaken(model: transformers.PreTrainedModel, folder: Path, size: float) -> None:
    """The model with noise of this size in its weights, and the image processor of all tiny captioners."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    model.save_pretrained(folder)
    transformers.BlipImageProcessorPil(size={"height": 16, "width": 16}, image_mean=MEAN, image_std=STD).save_pretrained(folder)


def word_tokenizer(marks: list[str]) -> transformers.PreTrainedTokenizerFast:
    """One number a word; the marks are special."""
    vocabulary = {word: i for i, word in enumerate([*marks, "Describe", *WORDS])}
    bare = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    tokenizer.add_special_tokens({"additional_special_tokens": marks[1:]})
    return tokenizer


def build_blip2(folder: Path) -> Path:
    folder.mkdir(parents=True)
    tokenizer = word_tokenizer(["<unk>", "</s>", "<image>"])
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    marks = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 1, "vocab_size": len(tokenizer)}
    text = {**size, **marks, "model_type": "opt", "ffn_dim": 16, "word_embed_proj_dim": 16, "max_position_embeddings": 64}
    config = transformers.Blip2Config(
        vision_config={**size, "image_size": 16, "patch_size": 8},
        qformer_config={**size, "vocab_size": 30, "encoder_hidden_size": 16, "max_position_embeddings": 32},
        text_config=text,
        num_query_tokens=4,
        image_token_index=2,
    )
    torch.manual_seed(3)
    model = transformers.Blip2ForConditionalGeneration(config)
    save_shaken(model, folder, 0.5)
    return folder


def build_qwen(folder: Path) -> Path:
    folder.mkdir(parents=True)
    marks = ["<unk>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    vocabulary = {word: i for i, word in enumerate([*marks, "Describe", *WORDS])}
    bare = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bare, unk_token="<unk>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": marks[1:]})
    tokenizer.save_pretrained(folder)
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 16,
    }
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    numbers = {"vocab_size": len(vocabulary), "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 2}
    vision = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 16, "out_hidden_size": 16}
    config = transformers.Qwen2_5_VLConfig(
        text_config={**text, **numbers, "rope_parameters": rope, "max_position_embeddings": 256},
        vision_config={**vision, "fullatt_block_indexes": [1], "window_size": 56},
        image_token_id=5,
        video_token_id=6,
        vision_start_token_id=3,
        vision_end_token_id=4,
    )
    torch.manual_seed(2)
    model = transformers.Qwen2_5_VLForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    settings = {"patch_size": 14, "merge_size": 2, "temporal_patch_size": 2, "image_mean": MEAN, "image_std": STD}
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "min_pixels": 784, "max_pixels": 28 * 28 * 6}))
    return folder


TEMPLATE = (
    "{% for message in messages %}USER: {% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)


GRIDS = [[16, 32], [32, 16], [32, 32], [48, 16], [16, 48]]


def build_llava(folder: Path, *, strategy: str = "default", template: str | None = TEMPLATE, tiled: bool = False) -> Path:
    folder.mkdir(parents=True)
    tokenizer = word_tokenizer(["<unk>", "</s>", "<image>"])
    tokenizer.save_pretrained(folder)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    marks = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 1, "vocab_size": len(tokenizer)}
    vision = {**size, "model_type": "clip_vision_model", "image_size": 16, "patch_size": 8, "projection_dim": 8}
    config = (transformers.LlavaNextConfig if tiled else transformers.LlavaConfig)(
        **({"image_grid_pinpoints": GRIDS} if tiled else {}),
        vision_config=vision,
        text_config={**size, **marks, "model_type": "llama", "max_position_embeddings": 64},
        image_token_index=2,
        vision_feature_select_strategy=strategy,
        vision_feature_layer=-1,
    )
    torch.manual_seed(4)
    model = (transformers.LlavaNextForConditionalGeneration if tiled else transformers.LlavaForConditionalGeneration)(config)
    save_shaken(model, folder, 0.5)
    if template is not None:
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    return folder


@pytest.fixture(scope="module", params=["default", "full"])
def llava(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> K.Captioner:
    return K.load_captioner(build_llava(tmp_path_factory.mktemp("llava") / "tiny", strategy=request.param))


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> K.Captioner:
    return K.load_captioner(build_blip(tmp_path_factory.mktemp("blip") / "tiny"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> K.Captioner:
    return K.load_captioner(build_qwen(tmp_path_factory.mktemp("qwen") / "tiny"))


@pytest.fixture(scope="module")
def blip2(tmp_path_factory: pytest.TempPathFactory) -> K.Captioner:
    return K.load_captioner(build_blip2(tmp_path_factory.mktemp("blip2") / "tiny"))


def stimuli(n: int = 5) -> Stimuli:
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size=(30 + 20 * i, 60, 3), dtype=np.uint8) // (1 + i) for i in range(n)]
    return Stimuli(np.array([f"s{i}" for i in range(n)]), images)


def test_blip_equals_the_model_called_by_hand_for_any_batch(blip: K.Captioner) -> None:
    expected = []
    for image in stimuli().images:
        with torch.no_grad():
            out = blip.model.generate(
                pixel_values=torch.from_numpy(blip.preprocess(image))[None], max_new_tokens=6, do_sample=False
            )
        expected.append(blip.tokenizer.decode(out[0], skip_special_tokens=True))
    for batch in (1, 2, 5):
        assert K.caption_images(blip, stimuli(), batch=batch, max_new_tokens=6) == expected
    assert all("word" in caption for caption in expected)
    prompted = K.caption_images(blip, stimuli(), prompt="word3 word4", max_new_tokens=6)
    assert all(caption.startswith("word3 word4") for caption in prompted)


def test_blip2_equals_the_model_called_by_hand_and_continues_a_prompt(blip2: K.Captioner) -> None:
    expected = []
    for image in stimuli().images:
        with torch.no_grad():
            pixels = torch.from_numpy(blip2.preprocess(image))[None]
            out = blip2.model.generate(pixel_values=pixels, max_new_tokens=6, do_sample=False)
        expected.append(" ".join(blip2.tokenizer.decode(out[0], skip_special_tokens=True).split()))
    for batch in (1, 5):
        assert K.caption_images(blip2, stimuli(), batch=batch, max_new_tokens=6) == expected
    assert len(set(expected)) > 1  # it reads the picture
    prompted = K.caption_images(blip2, stimuli(), prompt="word3 word4", max_new_tokens=6)
    assert all(caption.startswith("word3 word4") for caption in prompted)
    assert not any("<image>" in caption for caption in prompted)


def test_a_stopped_run_goes_on_and_nothing_is_made_twice(
    blip: K.Captioner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = K.caption_images(blip, stimuli(), max_new_tokens=4)
    made: list[int] = []
    plain = K._blip

    def counted(captioner: K.Captioner, images: list[np.ndarray], prompt: str, length: int) -> list[str]:
        if sum(made) == 4:
            raise KeyboardInterrupt
        made.append(len(images))
        return plain(captioner, images, prompt, length)

    monkeypatch.setattr(K, "_blip", counted)
    with pytest.raises(KeyboardInterrupt):
        K.caption_images(blip, stimuli(), max_new_tokens=4, batch=2, folder=tmp_path)
    made.clear()
    assert K.caption_images(blip, stimuli(), max_new_tokens=4, batch=2, folder=tmp_path) == whole
    assert made == [1]
    assert K.caption_images(blip, stimuli().take(["s3", "s0"]), max_new_tokens=4, folder=tmp_path) == [whole[3], whole[0]]
    assert made == [1]
    K.caption_images(blip, stimuli(2), prompt="word1", max_new_tokens=4, folder=tmp_path)
    assert made == [1, 2]  # another prompt is another caption


@pytest.mark.parametrize("shape", [(30, 60), (200, 50), (28, 28), (10, 10), (61, 143)])
def test_qwen_patches_equal_the_processor_of_transformers(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(3).integers(0, 256, size=(*shape, 3), dtype=np.uint8)
    for low, high in ((784, 28 * 28 * 6), (56 * 56, 28 * 28 * 1280)):
        processor = transformers.Qwen2VLImageProcessorPil(
            size={"shortest_edge": low, "longest_edge": high}, image_mean=MEAN, image_std=STD
        )
        expected = processor(image, return_tensors="np")
        patches, grid = K.qwen_patches(image, {"min_pixels": low, "max_pixels": high, "image_mean": MEAN, "image_std": STD})
        assert grid == tuple(expected["image_grid_thw"][0])
        np.testing.assert_allclose(patches, expected["pixel_values"], atol=1e-5)


def test_qwen_reads_the_picture(qwen: K.Captioner) -> None:
    captions = K.caption_images(qwen, stimuli(), max_new_tokens=8)
    assert captions == K.caption_images(qwen, stimuli(), max_new_tokens=8, batch=1)
    assert len(set(captions)) > 1  # a text alone would give one and the same
    assert not any("<|" in caption for caption in captions)


def test_llava_equals_greedy_decoding_by_hand_and_reads_the_picture(llava: K.Captioner) -> None:
    """Every step anew from the whole text, picture features put in the places of the image tokens."""
    prompt, model = "Describe word3", llava.model
    patches = 4 if model.config.vision_feature_select_strategy == "default" else 5
    ids = llava.tokenizer.get_vocab()
    unknown = ids["<unk>"]  # "USER", ":" and "ASSISTANT" are no words of the tiny tokenizer
    start = [unknown, unknown, *[ids["<image>"]] * patches, ids["Describe"], ids["word3"], unknown, unknown]
    assert K.llava_tokens(llava, prompt) == start
    expected = []
    for image in stimuli().images:
        numbers = list(start)
        with torch.no_grad():
            pixels = torch.from_numpy(llava.preprocess(image))[None]
            seen = model.model.vision_tower(pixel_values=pixels).last_hidden_state[0]
            seen = model.model.multi_modal_projector(seen[1:] if patches == 4 else seen)
            for _ in range(6):
                rows = model.get_input_embeddings()(torch.tensor(numbers))
                rows[2 : 2 + patches] = seen
                hidden = model.model.language_model(inputs_embeds=rows[None]).last_hidden_state[0, -1]
                numbers.append(int(model.lm_head(hidden).argmax()))
                if numbers[-1] == 1:
                    break
        expected.append(" ".join(llava.tokenizer.decode(numbers[len(start) :], skip_special_tokens=True).split()))
    for batch in (1, 5):
        assert K.caption_images(llava, stimuli(), prompt=prompt, batch=batch, max_new_tokens=6) == expected
    assert len(set(expected)) > 1


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> K.Captioner:
    return K.load_captioner(build_llava(tmp_path_factory.mktemp("llava") / "tiled", tiled=True))


SHAPES = [(16, 16), (30, 60), (60, 30), (97, 13), (13, 97), (33, 32), (500, 333), (7, 7), (31, 63)]


@pytest.mark.parametrize("shape", SHAPES)
def test_tiles_and_their_tokens_are_those_of_the_published_processor_and_network(
    shape: tuple[int, int], tiled: K.Captioner
) -> None:
    from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    steps = tiled.preprocess
    processor = LlavaNextImageProcessorPil(
        size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16}, image_grid_pinpoints=GRIDS,
        image_mean=list(steps.mean), image_std=list(steps.std), rescale_factor=steps.rescale, resample=steps.resample,
    )  # fmt: skip
    truth = processor(Image.fromarray(image), return_tensors="np", input_data_format="channels_last")
    ours = tiles(image, GRIDS, 16, steps)
    np.testing.assert_allclose(ours, truth["pixel_values"][0], atol=1e-5)
    with torch.no_grad():
        seen = tiled.model.model.get_image_features(torch.from_numpy(ours)[None], torch.tensor([shape])).pooler_output[0]
    assert len(seen) == tile_tokens(shape, GRIDS, 16, 8)


def test_llava_with_tiles_equals_greedy_decoding_by_hand_and_reads_the_picture(tiled: K.Captioner) -> None:
    prompt, model, expected = "Describe word3", tiled.model, []
    for image in stimuli().images:
        start = K.llava_tokens(tiled, prompt, image.shape[:2])
        numbers, at = list(start), [i for i, n in enumerate(start) if n == 2]
        pixels = torch.from_numpy(tiles(image, GRIDS, 16, tiled.preprocess))[None]
        with torch.no_grad():
            seen = model.model.get_image_features(pixels, torch.tensor([image.shape[:2]])).pooler_output[0]
            for _ in range(6):
                rows = model.get_input_embeddings()(torch.tensor(numbers))
                rows[at] = seen
                hidden = model.model.language_model(inputs_embeds=rows[None]).last_hidden_state[0, -1]
                numbers.append(int(model.lm_head(hidden).argmax()))
                if numbers[-1] == 1:
                    break
        expected.append(" ".join(tiled.tokenizer.decode(numbers[len(start) :], skip_special_tokens=True).split()))
    assert K.caption_images(tiled, stimuli(), prompt=prompt, batch=3, max_new_tokens=6) == expected
    assert len(set(expected)) > 1


def test_tiles_with_class_tokens_among_them_and_pictures_without_a_grid_are_refused(tmp_path: Path) -> None:
    folder = build_llava(tmp_path / "full", tiled=True, strategy="full")
    with pytest.raises(DataError, match="'full' leaves class tokens among its tiles"):
        K.load_captioner(folder)
    with pytest.raises(DataError, match="image of 10 x 40 fits into none of the grids"):
        tile_tokens((10, 40), [], 16, 8)


@pytest.mark.parametrize(
    "template, text",
    [(None, "has no chat template in chat_template.jinja"), ("USER: hello", "gives 0 image tokens"),
     ("{{ nothing.there }}{% for", "chat template cannot be filled in")],
)  # fmt: skip
def test_llava_without_a_template_that_fits_is_refused(template: str | None, text: str, tmp_path: Path) -> None:
    folder = build_llava(tmp_path / "tiny", template=template)
    with pytest.raises(DataError, match=text) as error:
        K.caption_images(K.load_captioner(folder), stimuli(1))
    assert "\n" not in str(error.value)


def test_quality_table_ranks_true_captions_above_shuffled_ones(tmp_path: Path) -> None:
    class Toy:
        max_tokens = 4

    images = np.eye(6, dtype=np.float32)

    def by_number(clip: object, captions: list[list[str]], ids: object) -> dict[str, np.ndarray]:
        return {"text": np.stack([images[int(c[0])] + 0.01 for c in captions])}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(K, "embed_images", lambda clip, stimuli: {"image": images})
        patch.setattr(K, "embed_texts", by_number)
        patch.setattr(K, "token_counts", lambda clip, flat: np.array([3, 9, 3, 3, 3, 3]))
        sources = {"human": [[str(i)] for i in range(6)], "shifted": [[str((i + 1) % 6)] for i in range(6)]}
        table = K.caption_quality(Toy(), stimuli(6), sources, resamples=20).set_index(["source", "gallery"])
    assert list(table.index) == [("human", "image"), ("human", "shifted"), ("shifted", "image")]
    assert table.loc[("human", "image"), "source->gallery/top1"] == 1.0
    assert table.loc[("shifted", "image"), "gallery->source/top1"] == 0.0
    assert table.loc[("human", "image"), "cut"] == 1


class Torn(list):
    def __getitem__(self, index: int) -> np.ndarray:
        raise OSError("truncated")


def test_a_caption_that_does_not_end_stops_where_the_decoder_has_no_more_places(blip: K.Captioner, monkeypatch) -> None:
    places = blip.model.config.text_config.max_position_embeddings
    monkeypatch.setattr(blip.model.generation_config, "suppress_tokens", [blip.model.config.text_config.sep_token_id])
    assert K.caption_images(blip, stimuli(), max_new_tokens=places + 100)[0]
    with pytest.raises(DataError, match="the captioner holds no more; shorten it"):
        K.caption_images(blip, stimuli(), prompt="the " * places)


def test_bad_input_is_one_clear_line(blip: K.Captioner, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(DataError, match="of type 'vit'; captioners are blip, blip-2, qwen2_5_vl, llava, llava_next"):
        K.load_captioner(tmp_path)
    with pytest.raises(DataError, match="batch 0"):
        K.caption_images(blip, stimuli(), batch=0)
    torn = Stimuli(np.array(["torn"]), Torn([0]))
    with pytest.raises(DataError, match="stimulus 'torn' cannot be read: truncated"):
        K.caption_images(blip, torn)
    with pytest.raises(DataError, match="200 times"):
        K.qwen_patches(np.zeros((1, 300, 3), np.uint8), {"image_mean": MEAN, "image_std": STD})


def test_known_captions_are_in_the_prompt_of_their_image_and_in_its_key(blip: K.Captioner, tmp_path: Path) -> None:
    known = [["word1 word2"], ["word3.", "word4"], ["word1 word2"], ["word5!"], ["word6"]]
    shown = stimuli(len(known))
    prompts = K.prompts_with(blip, known, "word0 {captions}")
    assert prompts[:2] == ["word0 word1 word2.", "word0 word3. word4."]
    assert prompts[3] == "word0 word5!"
    one_by_one = [
        K.caption_images(blip, shown.take([str(i)]), prompt=text, max_new_tokens=6)[0]
        for i, text in zip(shown.ids, prompts, strict=True)
    ]
    assert K.caption_images(blip, shown, prompt=prompts, max_new_tokens=6, folder=tmp_path) == one_by_one
    lines = (tmp_path / "log.jsonl").read_text().count("\n")
    assert lines == 5
    other = [*prompts[:4], "word0 word7."]  # another known caption of one image: that one is made anew
    K.caption_images(blip, shown, prompt=other, max_new_tokens=6, folder=tmp_path)
    assert (tmp_path / "log.jsonl").read_text().count("\n") == lines + 1
    with pytest.raises(DataError, match="4 prompts for 5 images"):
        K.caption_images(blip, shown, prompt=prompts[:4])


def test_a_chat_model_is_told_the_known_captions(llava: K.Captioner) -> None:
    (asked,) = K.prompts_with(llava, [["a red boat", "a boat at sea."]])
    assert "a red boat. a boat at sea. Keep" in asked
    assert asked.endswith(K.PROMPT)
    assert K.KNOWN not in asked


@pytest.mark.parametrize(
    ("captions", "prompt", "said"),
    [
        ([["a boat"]], None, r"continues a text.*--prompt '... \{captions\} ...', or take one of qwen2_5_vl, llava"),
        ([["a boat"]], "word1", r"has no place for known captions; write \{captions\}"),
        ([["a boat"], [" "]], "{captions}", "1 of 2 images have no known caption, first number 1"),
    ],
)
def test_known_captions_without_room_are_refused(blip: K.Captioner, captions: list, prompt: str | None, said: str) -> None:
    with pytest.raises(DataError, match=said):
        K.prompts_with(blip, captions, prompt)
