"""Aligners of EEG and MEG."""
