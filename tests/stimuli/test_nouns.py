"""Nouns of captions: rules worked by hand, drawn scenes, real captions against spaCy, and captions that hold none."""

from __future__ import annotations

import json
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from brainlens.phantom.scenes import BACKGROUNDS, KINDS, make_scenes, object_words
from brainlens.stimuli import nouns
from brainlens.types import DataError


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("Two dogs are sleeping on a wooden table.", ["dog", "table"]),
        ("a man holds a red umbrella", ["man", "umbrella"]),
        ("A long green and white bus driving down the road", ["bus", "road"]),
        ("the children's toys", ["toy"]),
        ("boxes of berries, knives and scissors", ["box", "berry", "knife", "scissors"]),
        ("A woman sits in front of a building", ["woman", "front", "building"]),
        ("three young women skiing", ["woman"]),
        ("a crowded parking lot", ["lot"]),
        ("sleeping", []),
        ("", []),
        ("1234 !!", []),
        ("猫 と 犬", ["猫", "と", "犬"][-1:]),
    ],
)
def test_phrases_end_in_their_noun(caption, expected) -> None:
    assert nouns.LexiconTagger(times=0).nouns([[caption]]) == [expected]


@pytest.mark.parametrize(
    ("plural", "one"),
    [("dogs", "dog"), ("berries", "berry"), ("boxes", "box"), ("churches", "church"), ("glass", "glass"), ("bus", "bus"),
     ("buses", "bus"), ("people", "person"), ("scissors", "scissors"), ("horses", "horse"), ("tennis", "tennis")],
)  # fmt: skip
def test_plurals_become_singular(plural, one) -> None:
    assert nouns.singular(plural) == one


def test_compounds_by_rule() -> None:
    """The word before is a noun elsewhere, or stands before no other noun; a chance neighbour is no compound."""
    captions = [
        ["a tennis player hits a ball"], ["a tennis player plays tennis"], ["the birthday cake"], ["a birthday cake on a table"],
        ["a stone house"], ["a stone wall"], ["a glass house"],
    ]  # fmt: skip
    found = nouns.LexiconTagger().nouns(captions)
    assert found[0] == ["player", "tennis player", "ball"]
    assert "birthday cake" in found[2]
    assert found[4] == ["house"]


def test_drawn_scenes_give_their_kinds_and_backgrounds() -> None:
    scenes = make_scenes(200, size=16)
    found = nouns.vocabulary(nouns.LexiconTagger().nouns(scenes.captions))
    kinds = {object_words(kind)[-1] for kind in KINDS}
    missing = (kinds | set(BACKGROUNDS)) - set(found.nouns)
    assert missing <= {"orange"}
    for row, text in enumerate(scenes.table["objects"]):
        here = {object_words(item["kind"])[-1] for item in json.loads(text)} | {scenes.table["background"][row]}
        named = {noun for noun, there in zip(found.nouns, found.present[row]) if there}
        assert here <= named
        assert named <= here | {"face"}
    assert found.dropped["top"] == "general"


def test_vocabulary_drops_what_says_nothing(tmp_path) -> None:
    file = tmp_path / "norms.csv"
    file.write_text("Word,Conc.M\ncat,4.9\nidea,1.6\nfluffy cat,4.8\n")
    norms = nouns.read_concreteness(file)
    found = nouns.vocabulary(
        [["cat", "idea", "group"], ["cat", "dog", "idea"], [], ["zebra", "dog"]], concreteness=norms, least_concrete=3.0
    )
    assert found.nouns == ("cat", "dog")
    assert found.dropped == {"group": "general", "idea": "abstract", "zebra": "rare"}
    np.testing.assert_array_equal(found.present, [[1, 0], [1, 1], [0, 0], [0, 1]])
    assert found.without == 1


def test_what_cannot_be_read_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="expected text"):
        nouns.LexiconTagger().nouns([[3]])  # type: ignore[list-item]
    with pytest.raises(DataError, match="none of 1 nouns"):
        nouns.vocabulary([["cat"], []])
    with pytest.raises(DataError, match="lexicon, spacy"):
        nouns.tagger("nltk")
    bad = tmp_path / "norms.csv"
    bad.write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match=r"Conc\.M"):
        nouns.read_concreteness(bad)
    with pytest.raises(DataError, match="cannot be read"):
        nouns.read_concreteness(tmp_path / "none.csv")


@pytest.mark.realdata
def test_nouns_of_real_captions_agree_with_spacy(test_data: Path) -> None:
    """Of single nouns of 255 captions, .91 are spaCy's too and .85 of spaCy's are found; modifiers make most of the rest."""
    pytest.importorskip("spacy")
    wheels = sorted((test_data / "en_core_web_sm").glob("*.whl"))
    captions = [row["captions"] for row in json.loads((test_data / "coco_captions" / "manifest.json").read_text())]
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name in wheel.namelist():
                wheel.extract(name, folder)
        model = next(path.parent for path in Path(folder).rglob("config.cfg"))
        theirs = nouns.SpacyTagger(model).nouns(captions)
    ours = nouns.LexiconTagger(times=0).nouns(captions)
    single = [{n for n in each if " " not in n} for each in theirs]
    shared = sum(len(a & set(b)) for a, b in zip(single, ours))
    assert shared / sum(map(len, ours)) > 0.85
    assert shared / sum(map(len, single)) > 0.75


@pytest.mark.realdata
def test_real_norms_drop_what_is_not_seen(test_data: Path) -> None:
    norms = nouns.read_concreteness(test_data / "concreteness" / "brysbaert_concreteness.csv.gz")
    captions = [row["captions"] for row in json.loads((test_data / "coco_captions" / "manifest.json").read_text())]
    found = nouns.vocabulary(nouns.LexiconTagger().nouns(captions), concreteness=norms)
    assert {"horse", "table", "street sign"} <= set(found.nouns)
    assert {"group", "number", "top"} & set(found.nouns) == set()
    assert found.without == 0
