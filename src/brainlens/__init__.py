"""brainlens: what a brain and a deep network see in each other."""

__version__ = "0.1.0"
