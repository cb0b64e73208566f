"""What drawn scenes show, by three judges: the caption among fifty, colour and place by the miniature CLIP, and the kind by the
detector. The CLIP's own ceiling on the real pictures stands beside its scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from brainlens import miniatures
from brainlens.backbones import clip
from brainlens.claims.detector import Detector
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.phantom.captions import PLACES
from brainlens.phantom.scenes import COLORS, KINDS, Scene, caption, scene_at
from brainlens.types import DataError, Stimuli

AMONG = 50  # captions that a picture is looked up in
CHANCE = {
    "two_way_clip": 0.5,
    "pick50": 1 / AMONG,
    "color": 1 / len(COLORS),
    "place": 1 / len(PLACES),
    "kind_detector": 1 / len(KINDS),
    "kind_top1": 1 / len(KINDS),
}


def scenes_of(ids: Sequence[str] | np.ndarray) -> list[Scene]:
    """The scenes behind the phantom's ids (n,), such as "test-0-000012". Raises DataError for other ids."""
    out = []
    for name in map(str, ids):
        split, _, rest = name.partition("-")
        seed, _, number = rest.partition("-")
        if not (seed.isdecimal() and number.isdecimal()):
            raise DataError(f"{name!r} is no scene of the phantom, whose ids are split-seed-number")
        out.append(scene_at(int(number), seed=int(seed), split=split))
    return out


def other_main(scene: Scene, **changes: object) -> Scene:
    """The scene with its main object changed; for captions alone."""
    return replace(scene, things=(replace(scene.things[0], **changes), *scene.things[1:]))  # type: ignore[arg-type]


@dataclass
class Judges:
    """The judges of some scenes: tables of the phantom with their ids; captions are embedded once.

    own (n, d) embeddings of the true captions; others (n, 49) the captions that a picture is told from; colors, places (n, k, d)
    of those with another colour or place; cells (n,) numbers of the true places.
    """

    table: pd.DataFrame
    detector: Detector
    model: clip.Clip
    own: np.ndarray
    others: np.ndarray
    colors: np.ndarray
    places: np.ndarray
    cells: np.ndarray

    @classmethod
    def of(cls, stimuli: Stimuli, *, device: str = "cpu", seed: int = 0) -> Judges:
        """Of scenes of the phantom. Raises DataError where the detector is missing."""
        drawn = scenes_of(stimuli.ids)
        model = clip.load_clip(miniatures.folder("clip"), device=device)

        def embedded(texts: list[str]) -> np.ndarray:
            ids = np.array([f"{i:06d}" for i in range(len(texts))])
            return clip.embed_texts(model, [[text] for text in texts], ids)["text"]

        n = len(drawn)
        colors = embedded([caption(other_main(s, color=c), 0) for s in drawn for c in COLORS]).reshape(n, len(COLORS), -1)
        places = embedded([caption(other_main(s, cell=c), 0) for s in drawn for c in PLACES]).reshape(n, len(PLACES), -1)
        cells = np.array([list(PLACES).index(s.things[0].cell) for s in drawn])
        rng = np.random.default_rng([seed, 79])
        count = min(AMONG, n) - 1
        others = np.stack([rng.choice(np.delete(np.arange(n), i), count, replace=False) for i in range(n)])
        return cls(stimuli.table.reset_index(drop=True), Detector.shipped(), model, embedded([caption(s, 0) for s in drawn]),
                   others, colors, places, cells)  # fmt: skip

    def __call__(self, pictures: np.ndarray) -> dict[str, np.ndarray]:
        """Whether each judge is right (n,) about pictures (n, 64, 64, 3) uint8 of the scenes: pick50, color, place,
        kind_detector."""
        ids = np.array([f"{i:06d}" for i in range(len(pictures))])
        e = clip.embed_images(self.model, Stimuli(ids, pictures, [[] for _ in ids]))["image"]
        alike = e @ self.own.T
        at = np.arange(len(e))
        color, place = (np.einsum("nd,nkd->nk", e, texts).argmax(axis=1) for texts in (self.colors, self.places))
        return {
            "pick50": (alike[at, at][:, None] > alike[at[:, None], self.others]).all(axis=1),
            "color": np.array(COLORS)[color] == self.table["color"].to_numpy(dtype=str),
            "place": place == self.cells,
            "kind_detector": self.detector.right(pictures, self.table),
        }


def shares(key: str, found: dict[str, np.ndarray], *, seed: int = 0) -> dict[str, float]:
    """`KEY/judge` with intervals over scenes, chance and n; found: judge -> (scene,)."""
    out: dict[str, float] = {}
    for name, right in found.items():
        ends = ("", ".low", ".high")
        out |= {f"{key}/{name}{end}": v for end, v in zip(ends, bootstrap_mean(right.astype(float), seed=seed), strict=True)}
        out |= {f"{key}/{name}.chance": CHANCE[name], f"{key}/{name}.n": float(len(right))}
    return out
