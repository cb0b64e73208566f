"""What `reconstruct` shows: pictures beside those that were seen, and which region drew what."""

from __future__ import annotations

from functools import partial

from brainlens.plots import reconstruct, slabs
from brainlens.report.parts import Section, in_standard_space, lost
from brainlens.types import Result, Volume


def reconstruction_section(result: Result, dpi: int | None) -> Section:
    """Candidates beside the seen pictures, the nearest training picture and decoded latents."""
    section = Section("Reconstructed pictures", dpi)
    if not section.has(result, "pictures/candidates", "pictures/seen", figure="the grid of pictures"):
        return section
    n = len(result.arrays["pictures/seen"])
    evidence = "pictures/evidence_retrieval" in result.arrays
    caption = (
        f"The best three, three around the median and the worst two of {n:,} test images by two-way identification of the chosen "
        "candidate. The framed one was chosen without knowing the seen picture. Nearest training picture: a ridge "
        "decodes the embedding and looks it up. "
        + ("By evidence: the same in the metric of the ridge's errors. " if evidence else "")
        + "Latents by ridge: what the responses give without a model of pictures."
    )
    section.draw(partial(reconstruct.candidate_grid, result), caption, "Rows of pictures: seen, candidates, baselines.")
    return section


def regions_section(result: Result, dpi: int | None) -> Section:
    """Contributions over denoising as curves and on the cortex, maps over pictures, lesions."""
    section = Section("Which region drew what", dpi)
    if not section.has(result, "value_contribution/parcels", figure="what is drawn of the parcels' contributions"):
        return section
    trials, _, parcels = result.arrays["value_contribution/parcels"].shape
    caption = (
        f"Attention to a parcel of each region along denoising, times the size of what it fetches; {parcels} parcels, "
        f"{trials} images. 1 is an even share. Attention says what is read, not what causes the picture: see the lesions."
    )
    section.draw(partial(reconstruct.contribution_curves, result), caption, "Lines of contributions by denoising step.")
    if len(reconstruct.time_windows(result)):
        caption = "The same by the time after the picture, mean over denoising. A window with 1 contributes an even share."
        section.draw(partial(reconstruct.contribution_windows, result), caption, "Bars of contributions by time window.")
    if in_standard_space(result):
        caption = "The same on the cortex, from noise (above) to picture (below). Grey: no parcel was kept there."
        section.draw(partial(reconstruct.contribution_strip, result), caption, "Contributions on the cortex, a row a stretch.")
    elif isinstance(result.space, Volume):
        draw = partial(slabs.mosaic, result, "map/value_contribution", title="Contribution of each parcel", unit="share")
        section.draw(draw, "Mean contribution of the parcels in the recording's own grid.", "Contributions on slices.")
    if reconstruct.map_sets(result):
        caption = (
            "Over the drawn pictures: where the attention to a set of regions lies above that to all sets. Every region follows "
            "the picture, so a map of one alone would show little. Last row: the mean over images with another image's brain."
        )
        section.draw(partial(reconstruct.region_map_grid, result), caption, "Heat maps of regions over pictures.")
        caption = (
            "The same for the first image along denoising, of the regions that contribute most, all on one scale. Below each "
            "picture: the contribution of a parcel in that stretch, over all images; 1 is an even share."
        )
        section.draw(partial(reconstruct.region_map_strip, result), caption, "Heat maps of regions by stretch of denoising.")
    section.has(result, *lost(result, "maps/"), figure="the maps of regions over pictures")
    cut = [name for name in result.arrays if name.startswith("lesion/")]
    if section.has(result, "lesion/whole", figure="pictures without regions", beside=cut):
        caption = "The same noise, with regions taken out of the attention. What changes is what they caused."
        if result.config.get("lesion_by") == "refit":
            caption = "The same noise, the model fitted without the regions. What changes is what no other region knows."
        section.draw(partial(reconstruct.lesion_grid, result), caption, "Pictures with and without regions.")
    return section
