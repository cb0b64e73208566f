"""Reconstruct: what did the picture look like, and which region drew what?

`low_level` decodes pixels, or the coordinates of a fixed latent space of pictures, by ridge. `choosing` takes the best of several
drawings of a NeuroAdapter, `maps` shows which region drew what, beside its controls and lesions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from brainlens.reconstruct.choosing import Choice, choice_table, choose_pictures
    from brainlens.reconstruct.maps import Lesions, RegionMaps, lesions, region_maps

_PLACES = {"choosing": ("Choice", "choice_table", "choose_pictures"), "maps": ("Lesions", "RegionMaps", "lesions", "region_maps")}
__all__ = ["Choice", "Lesions", "RegionMaps", "choice_table", "choose_pictures", "lesions", "region_maps"]


def __getattr__(name: str) -> Any:
    place = next((place for place, names in _PLACES.items() if name in names), None)
    if place is None:
        raise AttributeError(f"brainlens.reconstruct has no name {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"brainlens.reconstruct.{place}"), name)


def __dir__() -> list[str]:
    """What `help` lists, though it is imported only when it is asked for."""
    return sorted({*globals(), *__all__})
