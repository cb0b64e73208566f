"""Aligners of EEG and MEG: recordings into the space of image embeddings."""

from brainlens.models.sensors.closed_form import SensorRidge
from brainlens.models.sensors.networks import ATM, NICE, UBP, EEGNet, NeuroAlign, OwnNetwork, SensorLinear

__all__ = ["ATM", "NICE", "UBP", "EEGNet", "NeuroAlign", "OwnNetwork", "SensorLinear", "SensorRidge"]
