"""What the picture looked like, and which region drew what."""

from brainlens.reconstruct.choosing import Choice, choice_table, choose_pictures
from brainlens.reconstruct.maps import Lesions, RegionMaps, lesions, region_maps

__all__ = ["Choice", "Lesions", "RegionMaps", "choice_table", "choose_pictures", "lesions", "region_maps"]
