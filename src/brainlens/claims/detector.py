"""The detector of kinds: which object a reconstructed scene shows where the seen scene shows its main object."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from brainlens import miniatures, store
from brainlens.nn.kind_detector import CROP, KindDetectorNetwork
from brainlens.phantom.scenes import KINDS
from brainlens.types import DataError

PIXELS = 64  # side of the pictures that the detector knows


@dataclass(frozen=True)
class Detector:
    """The shipped network and the names of its kinds, in the order of its scores."""

    network: KindDetectorNetwork
    kinds: tuple[str, ...]

    @classmethod
    def shipped(cls) -> Detector:
        """Reads the miniature "kinds". Raises DataError where it is missing or of other kinds than the phantom draws."""
        folder = miniatures.folder("kinds")
        facts = store.read_json(folder / "config.json")
        network = KindDetectorNetwork(len(facts["kinds"]), tuple(facts["widths"]))
        weights = store.load_weights(folder, "model")
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
        if sorted(facts["kinds"]) != sorted(KINDS):
            raise DataError("the detector knows other kinds than the phantom draws; train it by tools/train_detector.py")
        return cls(network.eval().requires_grad_(False), tuple(facts["kinds"]))

    def probabilities(self, pictures: np.ndarray, centres: np.ndarray) -> np.ndarray:
        """Probability of each kind (n, kind) at one place of each picture: pictures (n, 64, 64, 3) uint8, centres (n, 2) in
        [-1, 1], x to the right, y down."""
        with torch.no_grad():
            found = [self.network(part).softmax(1) for part in crops(pictures, centres).split(128)]
        return np.asarray(torch.cat(found).numpy())

    def right(self, pictures: np.ndarray, table: pd.DataFrame) -> np.ndarray:
        """Whether the kind of the main object is named right (n,), in scenes with this table of the phantom."""
        names = np.array(self.kinds)[self.probabilities(pictures, centres_of(table)).argmax(axis=1)]
        return np.asarray(names == table["kind"].to_numpy(dtype=str))

    def domain(self, pictures: np.ndarray, table: pd.DataFrame, domain: str) -> np.ndarray:
        """Probability (n,) that the main object's place shows any kind of a domain."""
        of = np.array([KINDS[kind] == domain for kind in self.kinds])
        if not of.any():
            raise DataError(f"no kind is of the domain {domain!r}; there are {sorted(set(KINDS.values()))}")
        return np.asarray(self.probabilities(pictures, centres_of(table))[:, of].sum(axis=1))


def centres_of(table: pd.DataFrame) -> np.ndarray:
    """Centres (n, 2) of the main objects."""
    return table[["x", "y"]].to_numpy(dtype=float)


def crops(pictures: np.ndarray, centres: np.ndarray) -> Tensor:
    """Squares (n, 3, 40, 40) in [0, 1] around places; what lies beyond an edge repeats the edge.

    Raises DataError for pictures of another size, which would show objects at another scale.
    """
    x = np.asarray(pictures)
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[1:] != (PIXELS, PIXELS, 3) or np.shape(centres) != (len(x), 2):
        raise DataError(f"the detector reads (n, {PIXELS}, {PIXELS}, 3) uint8 and centres (n, 2), got {x.dtype} {x.shape}")
    corner = np.rint((np.asarray(centres) + 1) * PIXELS / 2 - CROP / 2).astype(int)
    steps = np.arange(CROP)
    columns, rows = (np.clip(corner[:, i, None] + steps, 0, PIXELS - 1) for i in (0, 1))
    cut = x[np.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return torch.from_numpy(cut.transpose(0, 3, 1, 2).astype(np.float32) / 255)
