"""Sources of captions: carried by the table, chosen by name, stored as JSON; what is dropped is counted."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from brainlens import store
from brainlens.stimuli.captions import (
    CaptionSource,
    captions_of,
    choose_source,
    clean_captions,
    count_captions,
    read_captions,
    save_captions,
    source_names,
    with_source,
)
from brainlens.types import DataError, Stimuli

BLIP = CaptionSource("blip", {"a": ["a cat"], "b": ["a dog"], "c": ["a car"], "unused": ["x"]}, {"model": "blip-base"})


def stimuli(captions: list[list[str]] | None = None) -> Stimuli:
    images = np.zeros((3, 4, 4, 3), np.uint8)
    own = [["one", "two"], ["three"], ["four"]] if captions is None else captions
    return Stimuli(np.array(["a", "b", "c"]), images, own, pd.DataFrame({"domain": list("xyz")}))


def test_sources_travel_with_the_table_and_are_chosen_by_name():
    both = with_source(stimuli(), BLIP)
    assert source_names(both) == ["own", "blip"]
    assert captions_of(both, "blip") == [["a cat"], ["a dog"], ["a car"]]
    taken = both.take(["c", "a"])
    assert captions_of(taken, "blip") == [["a car"], ["a cat"]]
    assert choose_source(taken, "blip").captions == [["a car"], ["a cat"]]
    assert choose_source(taken, "own").captions == taken.captions
    assert source_names(with_source(stimuli([[], [], []]), BLIP)) == ["blip"]


def test_a_file_is_read_back_as_it_was(tmp_path):
    path = save_captions(tmp_path / "blip.json", BLIP)
    assert read_captions(path) == BLIP


def test_what_is_dropped_is_counted():
    captions = [["a cat ", "a  cat", "", "a pet"], ["a pet"], ["  ", "a car"]]
    kept, counts = clean_captions(captions, ["a", "b", "c"])
    assert kept == [["a cat", "a pet"], ["a pet"], ["a car"]]
    assert counts == {"all": 7, "empty": 2, "repeated": 1, "shared": 2} == count_captions(captions)
    assert clean_captions([[], []], ["a", "b"])[0] == [[], []]  # no captions at all is no mistake


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: with_source(stimuli(), CaptionSource("x", {"a": ["1"]})), "2 of 3 images have none, first 'b'; .* such as 'a'"),
        (lambda: with_source(with_source(stimuli(), BLIP), BLIP), "'blip' exists already"),
        (lambda: with_source(stimuli(), CaptionSource("own", {})), "'own' exists already"),
        (lambda: choose_source(stimuli(), "llava"), "'llava' is not available; available: own"),
        (lambda: clean_captions([["x"], [" "]], ["a", "b"]), "1 of 2 images have none that is not empty, first 'b'"),
        (lambda: clean_captions([[3]], ["a"]), "stimulus 'a': a text or a list of texts is expected, got 3"),
        (lambda: clean_captions([7], ["a"]), "stimulus 'a': a text or a list of texts is expected, got 7"),
    ],
)
def test_mistakes_are_one_line(call, words):
    with pytest.raises(DataError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [{"captions": {}}, [], {"format": 1, "captions": {"a": 5}}, {"format": 9, "captions": {}}])
def test_another_file_is_refused(content, tmp_path):
    store.save_json(tmp_path / "x.json", content)
    with pytest.raises(DataError, match=r"x\.json"):
        read_captions(tmp_path / "x.json")
