"""Reconstruct: what did the picture look like?

`low_level` decodes pixels, or the coordinates of a fixed latent space of pictures, by ridge.
"""
