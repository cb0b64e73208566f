"""Whole runs, from a recording to a stored result: what the command line and the claims call."""

from brainlens.pipeline.aligning import run_align, run_align_each
from brainlens.pipeline.demo import run_demo
from brainlens.pipeline.encode import Asked, run_encode
from brainlens.pipeline.explaining import Ask, run_attribute
from brainlens.pipeline.sensor_attribution import is_sensor_run, run_attribute_sensors
from brainlens.pipeline.sensor_epochs import run_epochs
from brainlens.pipeline.sensors import align_sensor_command, is_sensors
from brainlens.pipeline.source import Recording, Source, open_recording
from brainlens.pipeline.verbs import run_features

__all__ = [
    "Ask",
    "Asked",
    "Recording",
    "Source",
    "align_sensor_command",
    "is_sensor_run",
    "is_sensors",
    "open_recording",
    "run_align",
    "run_align_each",
    "run_attribute",
    "run_attribute_sensors",
    "run_demo",
    "run_encode",
    "run_epochs",
    "run_features",
]
