"""Figures: a Result, or its arrays, to a matplotlib Figure. Nothing here writes a file."""
