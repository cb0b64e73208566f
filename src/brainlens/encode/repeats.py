"""Which rows are decoded and what is left out in turn, so that no image is in training and test."""

from __future__ import annotations

import numpy as np

from brainlens.encode.group_decoding import of_images
from brainlens.types import Responses


def images_apart(
    responses: Responses, target: str, group: str | None, folds: int
) -> tuple[Responses, str | None, int, list[str]]:
    """(rows to be decoded, the column that is left out or None for folds, number of folds, remarks).

    Where each category is of several images and these were repeated, rows are means over the repeats of an image: with trials of
    one image in training and test a classifier can tell the images and not the categories (of 12 images with 8 trials each and
    no category in them the area is .997 in place of .5), and labels could not be permuted trial by trial. Where an image was
    shown in several of the groups these are not left out but folds of images, of which there are no more than a category has
    images. Rows of other recordings stay as they are.
    """
    trials = responses.trials
    shown = [name for name in ("subject", "stimulus") if name in trials.columns]
    if not trials.duplicated(shown).any() or not of_images(trials, target):
        return responses, group, folds, []
    notes = [f"{len(trials):,} trials were averaged to {trials['stimulus'].nunique():,} images, each in one fold."]
    if group in trials.columns and (trials.groupby(shown)[group].nunique() > 1).any():
        notes.append(f"No {group} is left out, since images were shown in several.")
        group = None
    images = int(trials.groupby([*shown[:-1], target])["stimulus"].nunique().min())
    if group not in trials.columns and images < folds:
        notes.append(f"The smallest {target} has {images} images, so there are {images} folds and not {folds}.")
        folds = images
    return responses.average(), group, folds, notes


def one_part(responses: Responses, group: str) -> bool:
    """Whether a subject has trials of one value of this column alone, so that none can be left out of its fit."""
    trials = responses.trials
    if group not in trials.columns:
        return False
    people = trials["subject"] if "subject" in trials.columns else np.zeros(len(trials))
    return bool((trials.groupby(people)[group].nunique() < 2).any())
