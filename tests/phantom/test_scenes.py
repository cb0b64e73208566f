"""Scenes are deterministic, their captions and masks are true, and their splits share nothing."""

import json
import random
from dataclasses import replace

import numpy as np
import pytest

from brainlens.phantom import captions, scenes
from brainlens.types import DataError, image_key


@pytest.fixture(scope="module")
def some() -> dict:
    return {split: scenes.make_scenes(400, seed=3, split=split) for split in scenes.SPLITS}


def objects(stimuli, i):
    return json.loads(stimuli.table["objects"].iloc[i])


def test_same_arguments_same_bits_and_first_is_an_offset(some):
    whole = some["train"]
    part = scenes.make_scenes(7, seed=3, split="train", first=20)
    assert list(part.ids) == list(whole.ids[20:27])
    assert np.array_equal(part.images, whole.images[20:27])
    assert part.captions == whole.captions[20:27]
    assert part.table.equals(whole.table.iloc[20:27].reset_index(drop=True))
    assert not np.array_equal(scenes.make_scenes(7, seed=4).images, whole.images[:7])


def test_contract_of_images_ids_and_table(some):
    stimuli = some["validation"]
    assert stimuli.images.shape == (400, 64, 64, 3)
    assert stimuli.images.dtype == np.uint8
    assert stimuli.ids[12] == "validation-3-000012"
    assert len(set(stimuli.ids)) == 400
    wanted = {"domain", "kind", "color", "size", "x", "y", "background", "n_objects", "objects"}
    assert wanted <= set(stimuli.table.columns)
    assert len(scenes.KINDS) >= 24
    assert set(scenes.DOMAINS) == {"faces", "bodies", "places", "words", "food", "animals", "vehicles", "tools"}
    assert set(stimuli.table["n_objects"]) == {1, 2, 3}
    for i in range(100):
        rows = objects(stimuli, i)
        assert len(rows) == stimuli.table["n_objects"][i]
        main = {key: stimuli.table[key][i] for key in ("kind", "domain", "color", "size", "x", "y")}
        assert main == {key: rows[0][key] for key in main}
        assert all(scenes.KINDS[o["kind"]] == o["domain"] and abs(o["x"]) <= 1 and abs(o["y"]) <= 1 for o in rows)
        assert rows[0]["extent"] == max(o["extent"] for o in rows)


def test_every_kind_colour_background_domain_and_size_occurs():
    table = scenes.make_scenes(1500, seed=9, size=16).table
    assert set(table["kind"]) == set(scenes.KINDS)
    assert set(table["color"]) == set(scenes.COLORS)
    assert set(table["background"]) == set(scenes.BACKGROUNDS)
    assert set(table["size"]) == set(scenes.SIZES)
    counts = table["domain"].value_counts()
    assert counts.min() > 0.6 * 1500 / 8


def test_held_out_combinations_are_the_main_object_of_test_scenes_and_nowhere_else(some):
    for split in ("train", "validation"):
        for i in range(400):
            background = some[split].table["background"][i]
            assert not any(scenes.held_out(o["kind"], o["color"], background) for o in objects(some[split], i))
    table = some["test"].table
    assert all(map(scenes.held_out, table["kind"], table["color"], table["background"]))
    triples = [scenes.held_out(k, c, b) for k in scenes.KINDS for c in scenes.COLORS for b in scenes.BACKGROUNDS]
    assert 0.08 < np.mean(triples) < 0.17


def test_no_pixels_are_shared_and_the_main_object_tells_the_split(some):
    keys = [image_key(image) for stimuli in some.values() for image in stimuli.images]
    assert len(set(keys)) == len(keys)
    # the main object of a train scene stands on a multiple of 4/256, that of a validation scene 2/256 beside it
    for split, rest in (("train", 0), ("validation", 2)):
        cx = np.round(some[split].table["x"] * 128 + 128).astype(int)
        assert (cx % 4 == rest).all()


def test_a_hundred_thousand_scenes_are_distinct():
    rng = random.Random(0)
    texts = {scenes.caption(scenes.draw_scene(rng, "train"), 0) for _ in range(20_000)}
    # D equally likely scenes give at most D (1 - exp(-n / D)) distinct ones in n draws: 18,127 for D = 1e5
    assert len(texts) > 18_127


def test_captions_name_every_object_with_colour_size_place_and_background(some):
    for stimuli in some.values():
        for i in range(150):
            assert len(stimuli.captions[i]) == captions.N_PHRASINGS >= 5
            assert len(set(stimuli.captions[i])) >= 5
            background = stimuli.table["background"][i]
            for number, text in enumerate(stimuli.captions[i]):
                assert background in text.split()
                for o in objects(stimuli, i):
                    name = captions.naming(o["kind"], o["domain"], o["color"], o["size"])
                    assert name in text
                    column = "left" if o["x"] < -0.3 else "right" if o["x"] > 0.3 else ""
                    row = "top" if o["y"] < -0.3 else "bottom" if o["y"] > 0.3 else ""
                    place = f"{row} {column}".strip() or "middle"
                    if number != captions.N_PHRASINGS - 1:
                        assert f"{name} at the {place}" in text or f"{name} on the {place}" in text or (
                            f"{name} in the middle" in text or f"the {place} a {name}" in text
                        )  # fmt: skip


def test_relations_hold(some):
    seen = set()
    for i in range(400):
        rows = objects(some["train"], i)
        text = some["train"].captions[i][-1]
        names = [captions.naming(o["kind"], o["domain"], o["color"], o["size"]) for o in rows]
        for a, b, first, second in zip(names, names[1:], rows, rows[1:], strict=False):
            dx, dy = first["x"] - second["x"], first["y"] - second["y"]
            for word, true in (("left of", dx < 0), ("right of", dx > 0), ("above", dy < 0), ("below", dy > 0)):
                if f"the {a} is {word} the {b}" in text:
                    assert true
                    seen.add(word)
    assert seen == {"left of", "right of", "above", "below"}


def test_vocabulary_covers_every_caption(some):
    words = set(captions.vocabulary(list(scenes.KINDS), list(scenes.COLORS)))
    assert {w for stimuli in some.values() for texts in stimuli.captions for t in texts for w in t.split()} <= words
    assert all(word in words for kind in scenes.KINDS for word in scenes.object_words(kind))
    assert scenes.object_words("man") == ("face", "man")


def test_masks_are_where_the_pixels_of_the_object_are(some):
    stimuli = some["train"]
    for i in range(30):
        scene = scenes.scene_at(i, seed=3)
        masks = scenes.scene_masks(stimuli, i)
        assert [m.shape for m in masks] == [(64, 64)] * len(scene.things)
        assert sum(m.astype(int) for m in masks).max() <= 1
        for k, (mask, o) in enumerate(zip(masks, objects(stimuli, i), strict=True)):
            assert mask.any()
            rows, columns = np.nonzero(mask)
            left, top, right, bottom = o["box"]
            assert columns.min() >= left - 1.5
            assert rows.min() >= top - 1.5
            assert columns.max() + 1 <= right + 1.5
            assert rows.max() + 1 <= bottom + 1.5
            # the picture without this object differs inside its mask, and nowhere outside its drawing
            without = scenes.render(replace(scene, things=(*scene.things[:k], *scene.things[k + 1 :])))
            changed = (without != stimuli.images[i]).any(axis=-1)
            assert changed[mask].mean() > 0.85
            assert changed[~mask].sum() <= 0.5 * mask.sum() + 40  # half-covered edge pixels
    one = next(i for i in range(400) if stimuli.table["n_objects"][i] == 1)
    assert len(scenes.scene_masks(stimuli, one)) == 1


def test_nearer_objects_cover_farther_ones():
    back = scenes.Thing("house", "red", "large", (0, 0), 128, 128, 144, False)
    front = scenes.Thing("apple", "blue", "small", (0, 0), 128, 128, 80, False)
    scene = scenes.Scene((back, front), "beach", 0, (0, 0), 1.0)
    hidden, shown = scenes._masks(list(scene.things), 64)
    alone = scenes._masks([back], 64)[0]
    assert shown[32, 32]
    assert not hidden[32, 32]
    assert hidden.sum() < alone.sum()


@pytest.mark.parametrize("what", ["kind", "color", "size", "place", "background", "swap"])
def test_a_minimal_pair_differs_in_one_thing(what):
    rng, made = random.Random(1), 0
    for k in range(60):
        scene = scenes.scene_at(k, seed=2)
        other = scenes.edit_scene(scene, what, rng)
        if other is None:
            continue
        made += 1
        values = {
            "kind": lambda s: sorted(t.kind for t in s.things),
            "color": lambda s: sorted(t.color for t in s.things),
            "size": lambda s: sorted(t.size for t in s.things),
            "place": lambda s: sorted(t.cell for t in s.things),
            "background": lambda s: s.background,
        }
        changed = {name for name, value in values.items() if value(scene) != value(other)}
        assert changed == (set() if what == "swap" else {what})
        assert scenes.caption(scene, 0) != scenes.caption(other, 0)
        assert not any(scenes.held_out(t.kind, t.color, other.background) for t in other.things)
    assert made > 5


@pytest.mark.parametrize("size", [16, 64, 96, 200])
def test_other_sizes_show_the_same_scene(size):
    stimuli = scenes.make_scenes(3, seed=3, size=size)
    assert stimuli.images.shape == (3, size, size, 3)
    reference = scenes.make_scenes(3, seed=3)
    assert list(stimuli.ids) == list(reference.ids)
    assert stimuli.captions == reference.captions
    difference = stimuli.images.mean(axis=(1, 2)) - reference.images.mean(axis=(1, 2))
    assert np.abs(difference).max() < 3


@pytest.mark.parametrize(
    "arguments, says",
    [
        ({"n": 1, "split": "trian"}, "train"),
        ({"n": -1}, "not negative"),
        ({"n": 1, "seed": -2}, "not negative"),
        ({"n": 1, "size": 8}, "16 to 512"),
        ({"n": 1, "size": 64.0}, "16 to 512"),
    ],
)
def test_bad_input_is_one_line(arguments, says):
    with pytest.raises(DataError, match=says) as caught:
        scenes.make_scenes(**arguments)
    assert "\n" not in str(caught.value)


def test_unknown_kind_edit_and_foreign_stimuli():
    with pytest.raises(DataError, match="kinds are"):
        scenes.object_words("dragon")
    with pytest.raises(DataError, match="edits are"):
        scenes.edit_scene(scenes.scene_at(0), "colour", random.Random(0))
    plain = scenes.Stimuli(["a"], np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(DataError, match="objects"):
        scenes.scene_masks(plain, 0)


def test_no_scenes_is_an_empty_table():
    empty = scenes.make_scenes(0)
    assert len(empty) == 0
    assert empty.images.shape == (0, 64, 64, 3)
    assert "kind" in empty.table.columns
