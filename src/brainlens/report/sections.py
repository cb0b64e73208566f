"""Which sections a result can show: each appears when its arrays are there."""

from __future__ import annotations

from collections.abc import Callable

from brainlens.report import align, attribute, describe, encode, group, reconstruct, sensors
from brainlens.report.parts import Picture, Section
from brainlens.types import DataError, Result

MAKERS = (
    align.retrieval_section,
    align.comparison_section,
    align.caption_section,
    group.group_section,
    attribute.attribution_section,
    attribute.words_and_pixels_section,
    attribute.encoding_section,
    encode.patterns_section,
    encode.networks_section,
    encode.topology_section,
    encode.beside_section,
    describe.words_section,
    describe.agreement_section,
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


def sections(result: Result, *, dpi: int | None = 110) -> list[Section]:
    """All sections of a result, in reading order, without the empty ones; dpi None draws nothing yet (`Picture.make`)."""
    made = (_made(maker, result, dpi) for maker in MAKERS)
    return [section for section in made if section.pictures or section.cases]


def _made(maker: Callable[[Result, int | None], Section], result: Result, dpi: int | None) -> Section:
    """One section; where a run misses what its other arrays lead to expect, the reason in place of the section."""
    try:
        return maker(result, dpi)
    except (DataError, KeyError, IndexError, ValueError) as error:
        name = maker.__name__.removesuffix("_section").replace("_", " ")
        section = Section(name[:1].upper() + name[1:], dpi)
        why = f"it misses {error}" if isinstance(error, KeyError) else str(error)
        section.pictures.append(Picture("", note=f"Not drawn: the run does not hold what this section needs; {why}."))
        return section
