"""Encoding models: from features of a network to voxels."""

from __future__ import annotations

from pathlib import Path

from brainlens import store
from brainlens.models.encoding.layered_models import ClassToken, FactorTopy, GNet, PatchToken
from brainlens.models.encoding.ridge import LayerwiseRidge, RidgeCV
from brainlens.types import DataError

__all__ = ["MODELS", "ClassToken", "FactorTopy", "GNet", "LayerwiseRidge", "PatchToken", "RidgeCV", "load"]
EncodingModel = FactorTopy | ClassToken | PatchToken | GNet | LayerwiseRidge | RidgeCV
MODELS: dict[str, type[EncodingModel]] = {
    model.__name__: model for model in (RidgeCV, LayerwiseRidge, FactorTopy, ClassToken, PatchToken, GNet)
}


def load(folder: str | Path) -> EncodingModel:
    """The encoding model of a folder, whichever it is. Raises DataError for a folder that holds none."""
    found = store.load_model(folder)
    if found.model not in MODELS:
        raise DataError(f"{folder} holds a {found.model}, which is no encoding model; there are {', '.join(MODELS)}")
    return MODELS[found.model].load(folder)
