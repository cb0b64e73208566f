"""brainlens: what a brain and a deep network see in each other.

    import brainlens
    recording = brainlens.load(name, folder)  # `brainlens datasets` lists the names
    brainlens.Responses, brainlens.Features, brainlens.RidgeCV, brainlens.bottleneck, ...

The names below are imported when they are first asked for, so that `import brainlens` costs nothing.
"""

import importlib
from typing import Any

from brainlens import moved

__version__ = "0.2.0"

_FROM = {
    "load": "brainlens.datasets",
    **dict.fromkeys(("DataError", "Features", "Recording", "Responses", "Result", "Stimuli"), "brainlens.types"),
    **dict.fromkeys(("RidgeCV", "FactorTopy", "ClassToken", "PatchToken", "GNet"), "brainlens.models.encoding"),
    **dict.fromkeys(
        ("VolumeAligner", "RidgeAligner", "LinearAligner", "MLPAligner", "MindEyeAligner", "SharedSubjectAligner", "CNNAligner"),
        "brainlens.models.volume.estimators",
    ),
    **dict.fromkeys(("NeuroAlign", "NICE", "ATM", "EEGNet"), "brainlens.models.sensors.networks"),
    "BrainlensWarning": "brainlens.warned",
    "NeuroAdapter": "brainlens.models.generation.neuro_adapter",
    "ParcelPredictor": "brainlens.models.generation.parcel_predictor",
    "SensorRidge": "brainlens.models.sensors.closed_form",
    **dict.fromkeys(("bottleneck", "gradcam", "integrated_gradients", "rise"), "brainlens.attribution.modules"),
}
_ROOMS = ("align", "attribute", "datasets", "describe", "encode", "reconstruct", "report")

__all__ = ["__version__", *_FROM, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"brainlens.{name}")
    if name not in _FROM:
        raise AttributeError(f"brainlens has no name {name!r}; it has {', '.join([*_FROM, *_ROOMS])}")
    value = getattr(importlib.import_module(_FROM[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


moved.install()
