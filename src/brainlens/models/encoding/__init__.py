"""Encoding models: from features of a network to voxels."""
