from dataclasses import replace

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from brainlens.attribute.brain import Options
from brainlens.attribute.pixels_and_words import METHODS, attribute_pixels, attribute_words
from brainlens.attribution.bottleneck import Bottleneck
from brainlens.backbones.clip_towers import Tower, _end_of_text
from brainlens.types import DataError

FAST = Options(masks=40, cells=2, path=4, bottleneck=Bottleneck(steps=4, copies=2))


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": 30, "max_position_embeddings": 10, "eos_token_id": 29, "bos_token_id": 28},
        vision_config={**sizes, "image_size": 16, "patch_size": 4},
        projection_dim=12,
    )
    return CLIPModel(config).eval()


def captions():
    return torch.tensor([[28, 3, 4, 5, 29, 29, 29], [28, 7, 29, 29, 29, 29, 29]])


def test_the_opened_towers_equal_the_model(clip):
    pixels = torch.randn(2, 3, 16, 16)
    vision = clip.vision_model
    tower = Tower(list(vision.encoder.layers), vision.post_layernorm, clip.visual_projection, False)
    tokens = vision.pre_layrnorm(vision.embeddings(pixels))
    ours = tower.embed(tower.run(tokens)[0], torch.zeros(2, dtype=torch.int64))
    torch.testing.assert_close(ours, clip.get_image_features(pixel_values=pixels).pooler_output, rtol=1e-4, atol=1e-5)
    text = clip.text_model
    tower = Tower(list(text.encoder.layers), text.final_layer_norm, clip.text_projection, True)
    ours = tower.embed(tower.run(text.embeddings(input_ids=captions()))[0], _end_of_text(captions(), text.config))
    truth = clip.get_text_features(input_ids=captions()).pooler_output
    torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-5)


def test_the_last_block_needs_only_the_token_that_is_read(clip):
    text, vision = clip.text_model, clip.vision_model
    pooled = _end_of_text(captions(), text.config)
    words = Tower(list(text.encoder.layers), text.final_layer_norm, clip.text_projection, True)
    picture = Tower(list(vision.encoder.layers), vision.post_layernorm, clip.visual_projection, False)
    first = torch.zeros(2, dtype=torch.int64)
    for tower, tokens, read in (
        (words, text.embeddings(captions()), pooled),
        (picture, vision.embeddings(torch.randn(2, 3, 16, 16)), first),
    ):
        for start in range(3):
            plain = tower.embed(tower.run(tokens, start)[0], read)
            torch.testing.assert_close(tower.finish(tokens, read, start), plain, rtol=1e-5, atol=1e-6)


def test_captions_explained_together_are_those_explained_alone(clip):
    targets = torch.randn(2, 12)
    for method in ("bottleneck", "chefer", "gradcam"):
        both, single = (
            attribute_words(clip, captions(), targets, method=method, options=replace(FAST, batch=size)) for size in (2, 1)
        )
        torch.testing.assert_close(both, single, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_one_map_per_input(clip, method):
    targets = torch.randn(2, 12)
    pixels = attribute_pixels(clip, torch.randn(2, 3, 16, 16), targets, method=method, options=FAST)
    assert pixels.shape == (2, 16, 16)
    assert torch.isfinite(pixels).all()
    assert float(pixels.min()) >= 0
    words = attribute_words(clip, captions(), targets, method=method, options=FAST)
    assert words.shape == (2, 7)
    assert (words[0, [0, 4, 5, 6]] == 0).all()
    assert (words[1, 2:] == 0).all()
    assert torch.isfinite(words).all()
    again = attribute_words(clip, captions()[:1], targets[:1], method=method, options=FAST)
    torch.testing.assert_close(again, words[:1], rtol=1e-3, atol=1e-4)
    assert all(p.requires_grad for p in clip.parameters())


@pytest.mark.parametrize("method", ["integrated_gradients", "rise"])
@pytest.mark.parametrize("place", [1, 2, 3])
def test_the_only_word_that_says_something_is_found(clip, method, place):
    caption = torch.tensor([[28, 3, 4, 5, 29]])
    table = clip.text_model.embeddings.token_embedding.weight
    before = table.detach().clone()
    with torch.no_grad():
        table[[w for i, w in enumerate((3, 4, 5)) if i + 1 != place]] = 0
        table[place + 2] = 0
        without = clip.get_text_features(input_ids=caption).pooler_output
        table[place + 2] = 30 * before[place + 2]
        target = clip.get_text_features(input_ids=caption).pooler_output - without  # a score of -a without the word and a with it
        found = attribute_words(clip, caption, target, method=method, options=Options(path=16, masks=1000))
        table.copy_(before)
    rest = max(float(found[0, i]) for i in (1, 2, 3) if i != place)
    assert float(found[0, place]) > 2 * rest  # 4 to 1,400 times over ten seeds of the network


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda c: attribute_pixels(c, torch.zeros(3, 16, 16), torch.ones(1, 12)), "image, channel"),
        (lambda c: attribute_pixels(c, torch.zeros(1, 3, 16, 16), torch.ones(1, 12), method="lime"), "rise"),
        (lambda c: attribute_pixels(c, torch.zeros(1, 3, 16, 16), torch.ones(1, 12), layer=3), "0 to 2"),
        (lambda c: attribute_words(c, torch.tensor([[28, 3, 4]]), torch.ones(1, 12)), "end-of-text"),
        (lambda c: attribute_words(c, torch.tensor([28, 3, 29]), torch.ones(1, 12)), "caption, token"),
    ],
)
def test_mistakes_are_named(clip, call, words):
    with pytest.raises(DataError, match=words):
        call(clip)
