"""`attribute`: which voxels, pixels and words carried the match between a brain response, an image and a sentence."""

from brainlens.attribute.brain import METHODS, Options, attribute
from brainlens.attribute.pictures import attribute_pixels, attribute_words

__all__ = ["METHODS", "Options", "attribute", "attribute_pixels", "attribute_words"]
