"""What `describe` shows: words on the cortex, single words as maps, histograms, cards, and the agreement of several runs."""

from __future__ import annotations

from functools import partial

import numpy as np

from brainlens.plots import agreement, cortex, words
from brainlens.report.parts import Picture, Section, in_standard_space
from brainlens.types import Result

CONCEPTS = 4
COLOURS = {"pca": "principal components", "umap": "dimensions by UMAP"}


def words_section(result: Result, dpi: int | None) -> Section:
    """Labels of voxels; nothing for other tasks."""
    section = Section("Words of voxels", dpi)
    if result.config.get("method") == "words" and "words" in result.tables:
        caption = (
            "Names of what was shown, by the mean response of a region: z over categories, mean over voxels and two halves of "
        )
        caption += "the recording. No p is given: voxels of a region are correlated, and categories are few."
        section.title = "Categories of regions"
        section.draw(partial(words.category_ranking, result), caption, "Bars of categories by region.")
        return section
    held = section.has(result, "label", "significant", figure="what is drawn of words")
    if not held or "nouns" not in result.tables:
        return section
    level = float(result.config.get("design", {}).get("level", 0.05))
    counted = int(np.asarray(result.arrays["significant"]).sum())
    total = len(result.arrays["label"])
    if not counted:
        note = f"None of {total:,} voxels has a word that raises its measured response to test pictures "
        note += f"(permutation, false discovery rate {level:g})."
        section.pictures.append(Picture("", note=note))
        return section
    if in_standard_space(result):
        caption = (
            f"The best word of the {counted:,} of {total:,} voxels whose word raises the measured response to test pictures "
        )
        caption += f"(permutation, false discovery rate {level:g}). Colours: {COLOURS[words.colour_method(result)]} of the "
        caption += "words' embeddings as red, green and blue, so that near colours are near meanings."
        section.draw(partial(words.word_map, result), caption, "Words of voxels on the cortex, coloured by meaning.")
        nouns = _main_nouns(result)
        if nouns:
            caption = (
                "How far pictures of a word stand above all others of the bank in a voxel's predicted response; the words of "
            )
            caption += "the most voxels. Other words: words.html beside the run."
            section.draw(partial(words.concept_rows, result, nouns), caption, f"Maps of {', '.join(nouns)}.")
    if "histogram" in result.tables:
        caption = (
            f"Words of each region, by the number of voxels with a significant first word, in all {counted:,} of {total:,}. "
        )
        caption += untested(result)
        section.draw(partial(words.word_histograms, result), caption, "Bars of words by region.")
    cards = [name for name in result.arrays if name.startswith("cards/")]
    if section.has(result, "cards/unit", figure="the cards of voxels", beside=cards):
        caption = "Voxels whose word is best borne out by test pictures, up to three a region: their words with multi-semantic "
        caption += "weights, correlation r of the measured response with the first word, and the pictures of the largest "
        caption += "predicted response."
        if "cards/boxes" in result.arrays:
            crops = int(result.config.get("crops", 0))
            caption += f" Boxes: places where the voxel's readout is high; {crops:,} such crops of all voxels stand beside the "
            caption += "pictures as candidates."
        section.draw(partial(words.voxel_cards, result), caption, "Cards of voxels with pictures and words.")
    return section


def agreement_section(result: Result, dpi: int | None) -> Section:
    """How far the words of several recordings or subjects agree: by region, and where on the cortex."""
    section = Section("Agreement of words", dpi)
    if result.config.get("method") != "agreement" or "agreement" not in result.tables:
        return section
    regions, names = result.tables.get("agreement_regions"), [str(name) for name in result.config.get("runs", [])]
    if regions is not None:
        caption = f"How alike a region's words are between {len(names)} descriptions, mean over pairs; open circles: regions of "
        caption += "other names, which is chance. Overlap: what two histograms of first words have in common. Correlation: "
        caption += "Spearman's, of a region's profile over the words that all know. Regions carry no interval; p of their mean "
        caption += "is among the key numbers, with names of regions drawn anew."
        section.draw(partial(agreement.region_likeness, result), caption, "Points of likeness by region, with chance.")
    if len(names) > 2:
        caption = "Every pair of descriptions on one scale from 0 to 1."
        section.draw(partial(agreement.pair_matrices, result), caption, "Matrices of agreement of pairs.")
    if section.has(result, "same_word", figure="the map of agreement") and in_standard_space(result):
        caption = "The share of pairs of descriptions that give a unit the same first word, where two or more give it any."
        title, unit = "Same first word", "share of pairs"
        make = partial(cortex.cortex_map, result, "same_word", title=title, unit=unit, limits=(0, 1))
        section.draw(make, caption, "Map of agreement.")
    return section


def _main_nouns(result: Result) -> list[str]:
    """The words of the most voxels with a significant label."""
    label = np.asarray(result.arrays["label"])[:, 0]
    proven = np.asarray(result.arrays["significant"], dtype=bool) & (label >= 0)
    names = result.tables["nouns"]["noun"].astype(str).to_numpy()
    counts = np.bincount(label[proven], minlength=len(names))
    return [str(names[k]) for k in np.argsort(-counts, kind="stable")[:CONCEPTS] if counts[k]]


def untested(result: Result) -> str:
    """Which voxels with a word have no p, and why; empty where all were tested."""
    has = np.asarray(result.arrays["label"])[:, 0] >= 0
    left = int((has & ~np.isfinite(result.arrays["label_p"])).sum()) if "label_p" in result.arrays else 0
    why = "too few test images name it, or too few do not"
    return f"{left:,} more have a word that could not be tested, since {why}." if left else ""
