"""The alignment study of the claims: encoders, learning curves, ablations and controls, each kept as soon as it is finished."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from brainlens import store
from brainlens.align.scoring import embeddings as embedded
from brainlens.align.scoring import score
from brainlens.claims.variants import fewer, unpaired, within
from brainlens.datasets.source import Tell
from brainlens.metrics.retrieval import ranks
from brainlens.metrics.statistics import paired_bootstrap
from brainlens.models.volume.decoder import Decoder
from brainlens.models.volume.fit import LINEAR, TRAINING, fit
from brainlens.models.volume.split import Split
from brainlens.models.volume.training import AlignmentTraining
from brainlens.types import DataError

CURVE = ("ridge", "ridge_whitened", "linear", "mlp", "cnn", "ridge_projected", "volume")
CNN = replace(TRAINING, steps=400, evaluate_every=20)  # of smaller batches than the others: it sees all voxels of each
SIZES = (1000, 3000)
NOT_VISUAL = ("none", "", "LANG")
ABLATIONS = ("shuffled", "volume/image_only", "volume/text_only", "volume/visual_only")


def silent(text: str, share: float | None = None) -> None:
    """No progress is shown."""


@dataclass
class Study:
    """One recording's split, the recipes, and a folder with a file for every encoder that is finished.

    A second study on the same folder reads what is there and goes on; checkpoints of contrastive encoders lie beside.
    """

    split: Split
    folder: Path
    training: AlignmentTraining = TRAINING
    linear: AlignmentTraining = LINEAR
    seed: int = 0
    tell: Tell = silent
    known: dict[str, Decoder] = field(default_factory=dict)

    def encoder(self, name: str) -> dict[str, float]:
        """`align/<name>/...` on the whole split."""
        return self._scores(name, name, self.split, self.known)

    def volume(self) -> Decoder:
        """The volume encoder on the whole split; fitted again from its last checkpoint where its scores are kept already."""
        self.encoder("volume")
        if "volume" not in self.known:
            self.known["volume"] = self._fit("volume", "volume", self.split, self.known)
        return self.known["volume"]

    def curve(self, sizes: tuple[int, ...] = SIZES, encoders: tuple[str, ...] = CURVE) -> dict[str, float]:
        """`align/curve/<encoder>/<images>/...` for smaller training sets, drawn once a size, the same for every encoder."""
        metrics: dict[str, float] = {}
        for size in sizes:
            small, known = fewer(self.split, size, seed=self.seed), dict[str, Decoder]()
            for name in encoders:
                metrics |= self._scores(f"curve/{name}/{size}", name, small, known)
        return metrics

    def ablation(self, label: str, *, images: int | None = None) -> dict[str, float]:
        """`align/<label>/...`: the volume encoder with one thing changed (see ABLATIONS), by the same recipe.

        images: on so many training images, those of the learning curve, whose `align/curve/volume/<images>/...` it stands beside.
        """
        split = self.split if images is None else fewer(self.split, images, seed=self.seed)
        training = self.training
        if label == "shuffled":
            split = unpaired(split, seed=self.seed + 1)
        elif label in ("volume/image_only", "volume/text_only"):
            training = replace(training, modality=label.split("/")[1].removesuffix("_only"))
        elif label == "volume/visual_only":
            regions = set(split.units["roi"].astype(str)) - set(NOT_VISUAL)
            split = within(split, sorted(regions))
        else:
            raise DataError(f"ablation {label!r} is not one of {', '.join(ABLATIONS)}")
        size = {f"align/{label}/images": float(len(split.train.ids))}
        return size | self._scores(label, "volume", split, {}, training)

    def differences(self, names: tuple[str, ...], *, base: str = "volume") -> dict[str, float]:
        """`align/<base>-<name>/...`: top-1 of one fit less that of another, paired over the test stimuli."""
        metrics: dict[str, float] = {}
        ours = store.read_json(self._file(base))["hits"]
        for name in names:
            for direction, theirs in store.read_json(self._file(name))["hits"].items():
                difference, low, high, p = paired_bootstrap(np.array(ours[direction]), np.array(theirs), seed=self.seed)
                key = f"align/{base}-{name}/retrieval/{direction}/top1"
                metrics |= {key: difference, f"{key}.low": low, f"{key}.high": high, f"{key}.p": p}
        return metrics

    def _file(self, label: str) -> Path:
        return self.folder / f"{label.replace('/', '+')}.json"

    def _fit(
        self, label: str, name: str, split: Split, known: dict[str, Decoder], training: AlignmentTraining | None = None
    ) -> Decoder:
        chosen = training if training is not None else CNN if name == "cnn" else self.training

        def progress(encoder: str, step: int, record: dict[str, float]) -> None:
            self.tell(f"training {label}", step / max(step, 1))

        place = self.folder / "checkpoints" / label.replace("/", "+")
        return fit(
            name, split, chosen, linear=self.linear, seed=self.seed, folder=place, progress=progress, known=known
        )  # fmt: skip

    def _scores(
        self, label: str, name: str, split: Split, known: dict[str, Decoder], training: AlignmentTraining | None = None
    ) -> dict[str, float]:
        file = self._file(label)
        if file.exists():
            return dict(store.read_json(file)["metrics"])
        self.tell(f"fitting {label}", None)
        decoder = self._fit(label, name, split, known, training)
        known[name] = decoder
        metrics = {f"align/{label}/{key}": value for key, value in score(decoder, split.test, seed=self.seed).items()}
        metrics |= {f"align/{label}/parameters": float(decoder.parameters), f"align/{label}/seconds": decoder.seconds}
        metrics |= {f"align/{label}/chosen/{key}": value for key, value in decoder.chosen.items()}
        hits: dict[str, list[float]] = {}
        for which, (brain, target) in embedded(decoder, split.test).items():
            a, b = brain.cpu().numpy(), target.cpu().numpy()
            hits |= {f"brain->{which}": (ranks(a, b) < 1).astype(float).tolist()}
            hits |= {f"{which}->brain": (ranks(b, a) < 1).astype(float).tolist()}
        store.save_json(file, {"metrics": metrics, "hits": hits, "log": decoder.log})
        return metrics
