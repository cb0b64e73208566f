"""Which sections a result can show: each appears when its arrays are there."""

from __future__ import annotations

from brainlens.report import align, attribute, describe, encode, reconstruct, sensors
from brainlens.report.parts import Section
from brainlens.types import Result

MAKERS = (
    align.retrieval_section,
    align.comparison_section,
    align.caption_section,
    attribute.attribution_section,
    attribute.words_and_pixels_section,
    attribute.encoding_section,
    encode.patterns_section,
    encode.networks_section,
    encode.beside_section,
    describe.words_section,
    attribute.similarity_section,
    sensors.decoding_section,
    sensors.sensor_section,
    sensors.variants_section,
    sensors.saliency_section,
    reconstruct.reconstruction_section,
    reconstruct.regions_section,
    align.embedding_section,
    align.training_section,
)


def sections(result: Result, *, dpi: int = 110) -> list[Section]:
    """All sections of a result, in reading order, without the empty ones."""
    made = (maker(result, dpi) for maker in MAKERS)
    return [section for section in made if section.pictures or section.cases]
