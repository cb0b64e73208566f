"""Which sections a result can show: each appears when its arrays are there."""

from __future__ import annotations

from brainlens.report import encoding, mapping, matching, sensors
from brainlens.report.parts import Section
from brainlens.types import Result

MAKERS = (
    matching.retrieval_section,
    matching.comparison_section,
    matching.caption_section,
    mapping.attribution_section,
    mapping.words_and_pixels_section,
    mapping.encoding_section,
    encoding.patterns_section,
    encoding.networks_section,
    encoding.beside_section,
    mapping.similarity_section,
    sensors.sensor_section,
    sensors.variants_section,
    sensors.saliency_section,
    matching.embedding_section,
    matching.training_section,
)


def sections(result: Result, *, dpi: int = 110) -> list[Section]:
    """All sections of a result, in reading order, without the empty ones."""
    made = (maker(result, dpi) for maker in MAKERS)
    return [section for section in made if section.pictures or section.cases]
