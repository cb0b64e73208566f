"""The tables that travel between stages: stimuli, responses, features, a recording, a result.

Brain responses, images and captions are tables joined by a stimulus id. Each class here checks its own
columns against its own rows on creation, so that a mismatch is an error where it arises and not three
stages later. Only numpy and pandas are imported.
"""

from brainlens.types.ids import DataError, as_ids, choose, image_key, positions, unique_ids
from brainlens.types.reading import check_expansion, check_gzip, check_mat, inside, read_grid, reading
from brainlens.types.recording import Recording
from brainlens.types.responses import MAX_BAD_UNITS, Responses
from brainlens.types.spaces import Sensors, Space, Surface, Volume
from brainlens.types.tables import Features, Result, Stimuli, check_no_leak
from brainlens.types.texts import as_captions, read_lines, read_text

__all__ = [
    "MAX_BAD_UNITS",
    "DataError",
    "Features",
    "Recording",
    "Responses",
    "Result",
    "Sensors",
    "Space",
    "Stimuli",
    "Surface",
    "Volume",
    "as_captions",
    "as_ids",
    "check_expansion",
    "check_gzip",
    "check_mat",
    "check_no_leak",
    "choose",
    "image_key",
    "inside",
    "positions",
    "read_grid",
    "read_lines",
    "read_text",
    "reading",
    "unique_ids",
]
