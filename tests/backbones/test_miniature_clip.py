"""The shipped miniature CLIP loads offline in the format of the big ones and knows what its page says it knows."""

import importlib.util
import json
import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from brainlens import miniatures
from brainlens.phantom import scenes
from brainlens.types import DataError

ROOT = Path(__file__).parents[2]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def probe():
    return tool("probe_clip")


@pytest.fixture(scope="module")
def clip(probe):
    return probe.Clip(miniatures.folder("clip"))


def test_folder_is_small_and_has_everything():
    folder = miniatures.folder("clip")
    assert (folder / "model.safetensors").stat().st_size <= 6e6
    assert not list(folder.glob("*.bin"))
    facts = json.loads((folder / "preprocessor_config.json").read_text())
    assert facts["crop_size"] == {"height": 64, "width": 64}
    assert facts["do_normalize"]
    training = json.loads((folder / "training.json").read_text())
    assert {"seed", "step", "cpu_minutes", "loss"} <= set(training)
    assert (folder / "README.md").exists()


def test_an_unknown_miniature_lists_what_there_is():
    with pytest.raises(DataError, match="clip"):
        miniatures.folder("clap")


def test_architecture_and_tokenizer():
    folder = miniatures.folder("clip")
    model = CLIPModel.from_pretrained(folder)
    assert model.config.vision_config.num_hidden_layers >= 6
    assert model.config.vision_config.image_size == 64
    assert 64 // model.config.vision_config.patch_size == 8
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert model.config.text_config.eos_token_id == tokenizer.eos_token_id != 2
    rows = tokenizer("A large red car on the left", "in a forest")["input_ids"]
    assert tokenizer.bos_token_id == tokenizer("a red car")["input_ids"][0]
    assert tokenizer.unk_token_id not in rows
    long = tokenizer("red " * 200, truncation=True)["input_ids"]
    assert len(long) == 77
    assert long[-1] == tokenizer.eos_token_id
    known = {w for texts in scenes.make_scenes(200, seed=8, size=16).captions for t in texts for w in tokenizer(t)["input_ids"]}
    assert tokenizer.unk_token_id not in known


def test_padding_does_not_change_a_sentence(clip):
    short = "a large red car on the left , in a forest"
    together = clip.texts([short, scenes.caption(scenes.scene_at(0), 2)])
    assert torch.allclose(clip.texts([short])[0], together[0], atol=1e-5)


def test_training_tool_words_equal_the_tokenizer():
    train = tool("train_clip")
    tokenizer = AutoTokenizer.from_pretrained(miniatures.folder("clip"))
    texts = [scenes.caption(scenes.scene_at(k), k % 6) for k in range(20)]
    mine = train.Words(tokenizer)(texts)
    assert torch.equal(mine, tokenizer(texts, padding=True, return_tensors="pt")["input_ids"])


def test_patch_labels_lie_on_the_objects():
    train = tool("train_clip")
    batch = [scenes.scene_at(k) for k in range(40)]
    patch, cell, ground, present = train.labels(batch, 8)
    for i, scene in enumerate(batch):
        assert present[i].sum() == len({t.kind for t in scene.things})
        assert scenes.BACKGROUNDS[ground[i]] == scene.background
        assert (cell[i, :, 0] > 0).sum() == len(scene.things)
        front = scene.things[-1]
        x, y = int(front.cx / 32), int(front.cy / 32)
        assert patch[i, y * 8 + x, 0] == train.KIND[front.kind] + 1


def test_retrieval_among_held_out_scenes(probe, clip):
    # 200 scenes; the page gives the values among 500
    found = probe.retrieval(clip, 200)
    assert found["image->text/R@1"] >= 0.90
    assert found["text->image/R@1"] >= 0.90


def test_minimal_pairs(probe, clip):
    found = probe.minimal_pairs(clip, 100)
    assert not probe.missed(found)


def test_the_kind_is_named_among_all_kinds(probe, clip):
    found = probe.kinds(clip, 300)
    # 1,000 scenes: .90 of all, .92 of two and .88 of three objects; standard errors here .017 and .03
    assert found["kinds/all"] >= 0.85
    assert min(found["kinds/2"], found["kinds/3"]) >= 0.78


def test_kinds_by_chance_where_pictures_and_captions_do_not_belong_together(probe):
    class Blind:
        """Random embeddings."""

        def images(self, pictures):
            return torch.nn.functional.normalize(torch.randn(len(pictures), 64, generator=torch.manual_seed(1)), dim=-1), []

        def texts(self, texts):
            return torch.nn.functional.normalize(torch.randn(len(texts), 64, generator=torch.manual_seed(2)), dim=-1)

    assert probe.kinds(Blind(), 300)["kinds/all"] < 0.1  # chance 1/30, standard error .01


def test_dark_pictures_stay_apart_and_find_their_captions(probe, clip):
    found = probe.dark(clip, 200)
    assert found["dark/cosine"] <= probe.CEILINGS["dark/cosine"]
    assert found["dark/image->text/R@1"] >= probe.GATES["dark/image->text/R@1"]


def test_darkening_leaves_the_named_share_of_the_light(probe):
    picture = np.full((50, 4, 4, 3), 200, np.uint8)
    share = probe.darken(picture, 3).mean(axis=(1, 2, 3)) / 200
    assert share.min() >= 0.15 - 0.003
    assert share.max() <= 0.30 + 0.003
    assert share.std() > 0.02


def test_looks_share_no_scene(probe):
    looked = {
        name: {scenes.scene_at(k, seed=seed + look.offset, split=look.split) for seed in range(11, 16) for k in range(40)}
        for name, look in probe.LOOKS.items()
    }
    assert not looked["final"] & looked["test"]
    assert not looked["validation"] & (looked["final"] | looked["test"])


def test_negatives_change_the_kind_of_one_object_alone_and_show_nothing_held_out():
    train = tool("train_clip")
    rng = random.Random(4)
    near = []
    for k in range(100):
        scene = scenes.scene_at(k)
        for other in train.other_kinds(scene, 3, rng):
            changed = [(a, b) for a, b in zip(scene.things, other.things, strict=True) if a != b]
            assert len(changed) == 1
            old, new = changed[0]
            assert old.kind != new.kind
            assert replace(new, kind=old.kind) == old
            assert not scenes.held_out(new.kind, new.color, scene.background)
            near.append(old.domain == new.domain)
    assert 0.35 < np.mean(near) < 0.75  # one half and the chance of the other half


def test_late_negatives_hold_another_size():
    train = tool("train_clip")
    rng = random.Random(5)
    sized = 0
    for k in range(100):
        scene = scenes.scene_at(k)
        _, last = train.negatives(scene, rng, late=True)
        assert all(other != scene for other in train.negatives(scene, rng, late=False))
        kinds = sorted(t.kind for t in scene.things)
        if sorted(t.kind for t in last.things) == kinds:
            sized += 1
            assert sorted(t.size for t in last.things) != sorted(t.size for t in scene.things)
    assert sized > 50  # where a larger object does not fit, a kind is replaced instead


def test_relighting_spares_half_and_darkens_some_to_a_tenth():
    train = tool("train_clip")
    pictures = np.random.default_rng(0).integers(40, 200, (400, 8, 8, 3), dtype=np.uint8)
    shown = train.relight(pictures, np.random.default_rng(1))
    assert shown.dtype == np.uint8
    same = (shown == pictures).all(axis=(1, 2, 3))
    assert 0.4 < same.mean() < 0.6
    light = shown.mean(axis=(1, 2, 3)) / pictures.mean(axis=(1, 2, 3))
    assert 0.09 < light.min() < 0.15
    assert light.max() < 1.31


def test_the_tower_on_all_patches_equals_the_models_own_pass(clip):
    train = tool("train_clip")
    pixels = train.normalise(np.asarray(scenes.make_scenes(4).images))
    with torch.no_grad():
        fourth, pooled = train.see(clip.model, pixels, None)
        whole = clip.model.vision_model(pixel_values=pixels, output_hidden_states=True)
        every = torch.arange(64).expand(4, -1)
        assert torch.allclose(train.see(clip.model, pixels, every)[1], pooled, atol=1e-5)
    assert torch.allclose(fourth, whole.hidden_states[4][:, 1:], atol=1e-5)
    assert torch.allclose(pooled, whole.pooler_output, atol=1e-5)


def test_shuffled_captions_are_at_chance(probe, clip):
    pictures = scenes.make_scenes(200, seed=21, split="test")
    images, _ = clip.images(np.asarray(pictures.images))
    texts = clip.texts([c[0] for c in pictures.captions]).roll(1, dims=0)
    hits = (images @ texts.T).argmax(dim=1) == torch.arange(200)
    assert hits.float().mean() < 0.05


def test_kind_and_domain_are_readable_late_and_colour_early(probe, clip):
    found = probe.probes(clip, 1000)
    for target in ("kind", "domain"):
        early, late = found[target]["class"][1], max(found[target]["class"][-1], found[target]["mean"][-1])
        assert late > early + 0.1
    assert found["background"]["mean"][1] > 0.8
    assert found["color"]["local"][1] > 2 * found["color"]["chance"][0]
