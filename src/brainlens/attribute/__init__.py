"""`attribute`: which voxels, pixels and words carried the match between a brain response, an image and a sentence."""

from brainlens.attribute.brain import METHODS, Options, attribute
from brainlens.attribute.group import group
from brainlens.attribute.pixels_and_words import attribute_pixels, attribute_words
from brainlens.attribute.sanity import randomisation, sensitivity_table
from brainlens.attribute.stimuli import Aim, attribute_stimuli

__all__ = [
    "METHODS",
    "Aim",
    "Options",
    "attribute",
    "attribute_pixels",
    "attribute_stimuli",
    "attribute_words",
    "group",
    "randomisation",
    "sensitivity_table",
]
