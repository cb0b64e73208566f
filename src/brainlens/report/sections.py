"""Which sections a result can show: each appears when its arrays are there."""

from __future__ import annotations

from brainlens.report import mapping, matching
from brainlens.report.parts import Section
from brainlens.types import Result

MAKERS = (
    matching.retrieval_section,
    matching.comparison_section,
    mapping.attribution_section,
    mapping.words_and_pixels_section,
    mapping.encoding_section,
    mapping.similarity_section,
    mapping.sensor_section,
    matching.embedding_section,
    matching.training_section,
)


def sections(result: Result, *, dpi: int = 110) -> list[Section]:
    """All sections of a result, in reading order, without the empty ones."""
    made = (maker(result, dpi) for maker in MAKERS)
    return [section for section in made if section.pictures or section.cases]
