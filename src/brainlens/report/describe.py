"""What `describe` shows: words on the cortex, single words as maps, histograms, cards, words of a localiser."""

from __future__ import annotations

from functools import partial

import numpy as np

from brainlens.plots import words
from brainlens.report.parts import Section, in_standard_space
from brainlens.types import Result

CONCEPTS = 4


def words_section(result: Result, dpi: int | None) -> Section:
    """Labels of voxels; nothing for other tasks."""
    section = Section("Words of voxels", dpi)
    if "label" not in result.arrays or "nouns" not in result.tables:
        return section
    level = float(result.config.get("design", {}).get("level", 0.05))
    counted = int(np.asarray(result.arrays["significant"]).sum())
    total = len(result.arrays["label"])
    if in_standard_space(result):
        caption = (
            f"The best word of the {counted:,} of {total:,} voxels whose word raises the measured response to test pictures "
        )
        caption += f"(permutation, false discovery rate {level:g}). Colours: principal components of the words' embeddings, so "
        caption += "that near colours are near meanings."
        section.draw(partial(words.word_map, result), caption, "Words of voxels on the cortex, coloured by meaning.")
        nouns = _main_nouns(result)
        if nouns:
            caption = (
                "How far pictures of a word stand above all others of the bank in a voxel's predicted response; the words of "
            )
            caption += "the most voxels. Other words: words.html beside the run."
            section.draw(partial(words.concept_rows, result, nouns), caption, f"Maps of {', '.join(nouns)}.")
    if "histogram" in result.tables:
        caption = "Words of each region, by the number of voxels with a significant first word."
        section.draw(partial(words.word_histograms, result), caption, "Bars of words by region.")
    if "cards/unit" in result.arrays:
        caption = "Voxels whose word is best borne out by test pictures, up to three a region: their words with multi-semantic "
        caption += "weights, correlation r of the measured response with the first word, and the pictures of the largest "
        caption += "predicted response."
        section.draw(partial(words.voxel_cards, result), caption, "Cards of voxels with pictures and words.")
    return section


def _main_nouns(result: Result) -> list[str]:
    """The words of the most voxels with a significant label."""
    label = np.asarray(result.arrays["label"])[:, 0]
    proven = np.asarray(result.arrays["significant"], dtype=bool) & (label >= 0)
    names = result.tables["nouns"]["noun"].astype(str).to_numpy()
    counts = np.bincount(label[proven], minlength=len(names))
    return [str(names[k]) for k in np.argsort(-counts, kind="stable")[:CONCEPTS] if counts[k]]
