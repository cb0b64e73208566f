"""Ridge regression from recordings to image embeddings as an estimator, compared by cosine or in the canonical metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from brainlens.datasets.source import check_device
from brainlens.models.sensors.aligner import SensorAligner
from brainlens.models.sensors.checkpoint import Checkpoint
from brainlens.models.sensors.decoder import SensorDecoder
from brainlens.models.sensors.linear import solve_linear, stored_decoder
from brainlens.models.sensors.recordings import Epochs, Recorded, recorded
from brainlens.models.sensors.ridge import PENALTIES
from brainlens.models.sensors.training import Progress
from brainlens.types import DataError, Features


@dataclass
class Rows:
    """What `SensorRidge.begin` hands to `finish`."""

    train: Recorded
    images: Features


class SensorRidge(SensorAligner):
    """Ridge regression from means over 5 samples of every channel to image embeddings of length 1.

    W = argmin |Y - X W|^2 + penalty tr(X'X)/p |W|^2; the penalty with the largest mean cosine on the validation images.
    canonical: what is compared are canonical variates of predictions of left-out images and embeddings, scaled so that their dot
    product is the log likelihood ratio of a match (`solvers.canonical`), instead of the predictions by cosine. Solved in
    closed form, so it neither starts from another model nor has epochs. penalties: in units of the mean eigenvalue of X'X.
    """

    def __init__(
        self,
        *,
        canonical: bool = False,
        penalties: tuple[float, ...] = PENALTIES,
        validation: int = 740,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.canonical, self.penalties, self.validation = canonical, penalties, validation
        self.random_state, self.device = random_state, device

    def fit(
        self,
        epochs: Epochs,
        images: Any,
        *,
        ids: Iterable[str] | None = None,
        times: Any = None,
        sfreq: float | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> Self:
        """Solves for recordings and the embeddings of the images that were seen; arguments as in `NeuroAlign.fit`.

        Raises DataError for what cannot be one recording, integer ids, fewer than 10 images, NaN, flat channels.
        """
        return self._fit(recorded(epochs, ids=ids, times=times, sfreq=sfreq, info=info), images)

    @classmethod
    def paper(cls, **changed: Any) -> Self:
        """Plain ridge regression, by cosine; it has no paper of its own."""
        return cls(**changed)

    @property
    def network(self) -> str:
        """The name by which the verb knows it."""
        return "canonical" if self.canonical else "ridge"

    def begin(
        self,
        train: Recorded,
        images: Features,
        texts: Features | None = None,
        *,
        checkpoint: Checkpoint | str | Path | None = None,
        start: SensorAligner | None = None,
    ) -> Rows:
        check_device(self.device)
        if start is not None:
            raise DataError("SensorRidge is solved in closed form and starts from nothing; take a network to start from a model")
        if texts is not None:
            raise DataError("SensorRidge regresses images alone; leave texts out, or take NeuroAlign")
        return Rows(train, images)

    def finish(self, job: Rows, *, progress: Progress | None = None) -> Self:
        self.decoder_ = solve_linear(
            job.train.responses, job.images, encoder=self.network, layer="image",
            seed=self.random_state, validation=self.validation, penalties=tuple(self.penalties), device=self.device,
        )  # fmt: skip
        self.layout_, self.widths_ = job.train.layout, (job.images["image"].shape[1], None)
        return self

    def _build(self, shape: tuple[int, int], widths: tuple[int, int | None], state: dict[str, Any]) -> SensorDecoder:
        return stored_decoder(shape, state["weights"])
