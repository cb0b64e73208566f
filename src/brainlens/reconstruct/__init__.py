"""What the picture looked like, and which region drew what."""

from brainlens.reconstruct.maps import Lesions, RegionMaps, lesions, region_maps

__all__ = ["Lesions", "RegionMaps", "lesions", "region_maps"]
