"""Pixels and words as a verb: ids joined, spaces of targets, captions by words, and what does not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from brainlens import miniatures
from brainlens.attribute.brain import Options
from brainlens.attribute.pixels_and_words import attribute_pixels
from brainlens.attribute.stimuli import Aim, attribute_stimuli, network_input, per_word, seen, tokenised
from brainlens.attribution.bottleneck import Bottleneck
from brainlens.backbones import clip as clips
from brainlens.phantom.scenes import make_scenes
from brainlens.types import DataError, Features, Stimuli

FAST = Options(masks=20, path=2, bottleneck=Bottleneck(steps=3, copies=2))


@pytest.fixture(scope="module")
def clip() -> clips.Clip:
    return clips.load_clip(miniatures.folder("clip"))


@pytest.fixture(scope="module")
def scenes() -> Stimuli:
    return make_scenes(3, split="validation")


@pytest.fixture(scope="module")
def aims(clip, scenes) -> dict[str, Aim]:
    return {"text": Aim(clips.embed_texts(clip, scenes.captions, scenes.ids))}


def test_targets_are_joined_by_id_and_not_by_place(clip, scenes, aims):
    turned = Features({"text": aims["text"].targets["text"][::-1]}, scenes.ids[::-1].copy(), "turned")
    first = attribute_stimuli(clip, scenes, aims, method="gradcam", options=FAST)
    second = attribute_stimuli(clip, scenes, {"text": Aim(turned)}, method="gradcam", options=FAST)
    np.testing.assert_array_equal(first.arrays["map/pixels"], second.arrays["map/pixels"])


def test_a_space_that_changes_no_cosine_changes_no_map(clip, scenes, aims):
    turn = torch.linalg.qr(
        torch.randn(aims["text"].targets["text"].shape[1], 0x40 * 3, generator=torch.Generator().manual_seed(0))
    )[0]
    rows = torch.from_numpy(aims["text"].targets["text"])
    turned = Aim(Features({"text": (rows @ turn).numpy()}, scenes.ids, "turned"), lambda z: z @ turn)
    one = attribute_stimuli(clip, scenes, aims, method="chefer", options=FAST).arrays["map/pixels"]
    other = attribute_stimuli(clip, scenes, {"text": turned}, method="chefer", options=FAST).arrays["map/pixels"]
    if turn.shape[0] == turn.shape[1]:
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_two_targets_are_the_sum_of_their_cosines(clip, scenes, aims):
    pixels, network = network_input(clip, scenes), clip.backbone.model
    rows = torch.from_numpy(aims["text"].targets["text"])
    other = rows.flip(0)
    both = {"text": aims["text"], "brain": Aim(Features({"b": other.numpy()}, scenes.ids, "b"))}
    found = attribute_stimuli(clip, scenes, both, method="gradcam", options=FAST).arrays["map/pixels"]
    plain = attribute_pixels(network, pixels, torch.stack([rows, other], 1), method="gradcam", options=FAST)
    np.testing.assert_allclose(found, plain.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_the_pictures_beside_the_maps_are_those_that_the_network_saw(clip, scenes):
    np.testing.assert_array_equal(seen(clip, network_input(clip, scenes)), scenes.images)


def test_words_of_several_tokens_get_their_sum(clip, scenes):
    captions = tokenised(clip, scenes)
    assert captions.words == [c[0].split() for c in scenes.captions]
    rows = np.ones(captions.tokens.shape)
    assert [list(w) for w in per_word(rows, captions)] == [[1.0] * len(w) for w in captions.words]
    owner = captions.word.copy()
    owner[0, 2] = owner[0, 1]  # as if the first word were two tokens
    assert per_word(rows, replace(captions, word=owner))[0][0] == 2


def test_a_map_of_words_is_worth_more_than_a_random_one(clip, scenes, aims):
    images = Aim(clips.embed_images(clip, scenes))
    result = attribute_stimuli(clip, scenes, {"image": images}, of="words", method="integrated_gradients", options=FAST)
    assert result.metrics["attribution/image/insertion_auc"] > result.metrics["attribution/random/image/insertion_auc"]
    assert result.arrays["insertion/random"].shape == (3, 11)
    whole = F.cosine_similarity(
        torch.from_numpy(images.targets["image"]),
        torch.from_numpy(clips.embed_texts(clip, [c[:1] for c in scenes.captions], scenes.ids)["text"]),
    )
    np.testing.assert_allclose(result.arrays["insertion/random"][:, -1], whole, atol=1e-4)


@pytest.mark.parametrize("method", ["gradcam", "chefer", "integrated_gradients", "rise"])
@pytest.mark.parametrize("of", ["pixels", "words"])
def test_maps_of_a_score_that_nothing_changes_are_empty_and_said_to_be(clip, scenes, aims, of, method):
    rows = aims["text"].targets
    blind = {"text": Aim(rows, lambda z: torch.ones_like(z) + 1e-16 * z)}  # the same for every input
    result = attribute_stimuli(clip, scenes, blind, of=of, method=method, options=FAST)
    assert result.arrays["map/empty"].all()
    assert result.metrics["attribution/maps_empty"] == 3
    assert result.config["warnings"][0].startswith(f"3 of 3 maps of {method} are empty")
    assert not any(name.endswith(("drop_absolute", "_auc", "/area")) for name in result.metrics)
    found = attribute_stimuli(clip, scenes, aims, of=of, method=method, options=FAST)
    assert found.metrics["attribution/maps_empty"] == 0
    assert not found.arrays["map/empty"].any()
    assert "warnings" not in found.config


def spoiled(scenes: Stimuli, aims: dict[str, Aim], what: str) -> tuple[Stimuli, dict[str, Aim], dict[str, object]]:
    rows = aims["text"].targets
    if what == "ids":
        return scenes, {"text": Aim(rows.take(rows.ids[1:]))}, {}
    if what == "nan":
        bad = rows["text"].copy()
        bad[1, 2] = np.nan
        return scenes, {"text": Aim(Features({"text": bad}, rows.ids, "bad"))}, {}
    if what == "long":
        long = [[" ".join(["a large red car"] * 40)], *scenes.captions[1:]]
        return replace(scenes, captions=long), aims, {"of": "words"}
    if what in ("missing", "empty"):
        return replace(scenes, captions=[[] if what == "missing" else ["  "], *scenes.captions[1:]]), aims, {"of": "words"}
    if what == "none":
        return scenes.take([]), aims, {}
    return scenes, {} if what == "aims" else aims, {}


@pytest.mark.parametrize(
    "what, more, words",
    [
        ("ids", {}, "1 stimuli have no text target"),
        ("nan", {}, "NaN"),
        ("long", {}, "tokens, the network reads"),
        ("missing", {}, "has no caption"),
        ("empty", {}, "has no caption"),
        ("none", {}, "no stimuli"),
        ("aims", {}, "no targets"),
        ("", {"of": "brain"}, "pixels"),
        ("", {"method": "lime"}, "gradcam"),
        ("", {"layer": 99}, "0 to"),
    ],
)
def test_mistakes_are_named(clip, scenes, aims, what, more, words):
    stimuli, targets, asked = spoiled(scenes, aims, what)
    with pytest.raises(DataError, match=words):
        attribute_stimuli(clip, stimuli, targets, options=FAST, **{**asked, **more})
