"""Sensor recordings before a model sees them: epochs from continuous data, checks of their units, noise whitening."""
