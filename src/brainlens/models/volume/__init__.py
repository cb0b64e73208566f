"""Aligners of fMRI."""
