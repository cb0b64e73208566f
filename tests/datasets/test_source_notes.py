"""What is noted of a test part that had to be drawn stays with the subject that it was drawn for."""

from __future__ import annotations

import warnings

import pytest

from brainlens.datasets.shown_stimuli import DrawnTest
from brainlens.datasets.source import Source, noting


def test_every_subject_has_notes_of_its_own_and_the_group_has_all() -> None:
    source = Source("folder", "somewhere", subjects=("1", "2"), notes=["of both"])
    one, two = source.one_subject_each()
    assert (one.subjects, two.subjects) == (("1",), ("2",))
    for each, text in ((one, "4 of 20 images"), (two, "5 of 25 images")):
        with pytest.warns(DrawnTest, match=text), noting(each):
            warnings.warn(text, DrawnTest, stacklevel=1)
    assert one.notes == ["4 of 20 images"]
    assert two.notes == ["5 of 25 images"]
    assert source.notes == ["of both"]
    source.take_notes([one, two, one])
    assert source.notes == ["of both", "4 of 20 images", "5 of 25 images"]


def test_a_source_without_subjects_is_its_own_part() -> None:
    source = Source("folder", "somewhere")
    assert source.one_subject_each() == [source]
    source.one_subject_each()[0].notes.append("said")
    source.take_notes(source.one_subject_each())
    assert source.notes == ["said"]
