"""A recording: what was measured, what was seen, and the truth where it is simulated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from brainlens.looks import look
from brainlens.types.ids import DataError
from brainlens.types.responses import Responses
from brainlens.types.tables import Stimuli


@dataclass(frozen=True)
class Recording:
    """Brain responses and the stimuli that evoked them; truth: the generative model of a simulation, else None.

    Raises DataError where a trial names a stimulus that is not among the stimuli.
    """

    responses: Responses
    stimuli: Stimuli
    truth: Any = None

    def __post_init__(self) -> None:
        shown = np.unique(self.responses.trials["stimulus"].to_numpy(dtype=str))
        missing = shown[~np.isin(shown, self.stimuli.ids)]
        if len(missing):
            raise DataError(
                f"recording: {len(missing)} of {len(shown)} stimuli of the trials are not among the {len(self.stimuli)} stimuli, "
                f"first {str(missing[0])!r}; give their images, or keep the other trials with responses.where(stimulus=...)"
            )

    def __iter__(self) -> Iterator[Any]:
        """`responses, stimuli = recording`."""
        return iter((self.responses, self.stimuli))

    def _repr_html_(self) -> str:
        return str(look("recording", self))

    def __repr__(self) -> str:
        return f"Recording({self.responses!r}, {self.stimuli!r}{'' if self.truth is None else ', truth known'})"
