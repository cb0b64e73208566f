"""What every fMRI aligner can do: fit on arrays, embed new responses, find them in a gallery, be saved and trained further."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from brainlens.metrics import retrieval
from brainlens.models.estimator import Model
from brainlens.models.volume.arrays import as_array, as_volume, training_tables
from brainlens.models.volume.decoder import Decoder, pack, unpack
from brainlens.models.volume.fine_tuning import fine_tune
from brainlens.models.volume.fit import fit as fit_encoder
from brainlens.models.volume.presets import Preset, preset
from brainlens.models.volume.split import Split, split_tables
from brainlens.subjects import check_same_volume
from brainlens.types import DataError, Volume, as_ids

CHEAP = ("linear", "mlp", "mindeye")  # encoders of the recipe for cheap ones

Progress = Callable[[str, int, dict[str, float]], None]


class Aligner(Model):
    """What every aligner of fMRI can do: brain responses and embeddings of images and texts into one space.

    Learned: `decoder_` (the maps), `centre_` {"image": (d,), "text": (d,)}, `voxels_` (V,) bool (the columns that vary),
    `space_` (a Volume, or None without a mask), `subjects_` (whose trials it was fitted on).
    """

    decoder_: Decoder
    voxels_: np.ndarray
    space_: Volume | None
    validation: float
    seed: int
    device: str

    def encoder(self) -> str:
        """The name under which `align` knows this method."""
        raise NotImplementedError

    def settings(self) -> Preset:
        """The recipes that are used."""
        return preset("default")

    def needs_mask(self) -> bool:
        """Whether it reads a volume."""
        return False

    def fit(
        self,
        Y: Any,
        images: Any,
        texts: Any = None,
        *,
        mask_img: Any = None,
        ids: Sequence[str] | None = None,
        subject: Sequence[str] | None = None,
        start_from: Aligner | str | Path | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Fits on responses Y (n, V), z-scored, with the embeddings images (n, d) and texts (n, d) of what was seen in each row.

        ids: the image of each row, so that its repeats are averaged and held back together; without them every row is an
        image of its own. subject: whose brain a row is. mask_img: a nibabel image, a path or a Volume whose True voxels in C
        order are the columns of Y. A share `validation` of the images is held back for what is chosen (a penalty, a
        checkpoint). start_from: a fitted aligner, or its folder, that is trained further. progress: called with
        (encoder, step, record) at every validation.

        Raises DataError for arrays that do not fit each other, missing values, ids that are no strings, an image with two
        embeddings, fewer than 10 images, no mask where one is needed, and a start of another design.
        """
        y = as_array(Y, "Y")
        pictures, captions = as_array(images, "images"), None if texts is None else as_array(texts, "texts")
        if mask_img is None and self.needs_mask():
            raise DataError(
                f"{type(self).__name__} reads a volume: give mask_img; RidgeAligner, LinearAligner and MLPAligner need none"
            )
        space = None if mask_img is None else as_volume(mask_img)
        tables = training_tables(y, pictures, captions, space=space, ids=ids, subject=subject)
        before = type(self).load(start_from) if isinstance(start_from, (str, Path)) else start_from
        if before is not None:
            before._ready("image")
        varies = np.ptp(y, axis=0) > 0 if before is None else before.voxels_
        if len(varies) != y.shape[1] or not varies.any():
            raise DataError(
                f"Y has {y.shape[1]} voxels, of which {int(varies.sum())} of {len(varies)} can be used; check the mask"
            )
        responses = tables[0] if varies.all() else tables[0].columns(varies)
        split = split_tables(
            responses, tables[1], tables[2], validation=self.validation, seed=self.seed, device=self.device,
            centre=None if before is None else before.centre_, centred=self.settings().centred,
        )  # fmt: skip
        self.fit_split(split, start_from=before, progress=progress)
        self.voxels_, self.n_features_in_ = varies, len(varies)
        return self

    def fit_split(
        self,
        split: Split,
        *,
        known: dict[str, Decoder] | None = None,
        start_from: Aligner | None = None,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Fits on tables that are split already (see `split_tables`); the tested part is not read.

        known: decoders that are fitted already on this split, whose ridge and whose start are used again. folder: takes the
        checkpoints, and a second call goes on from them.
        """
        chosen, name = self.settings(), self.encoder()
        if start_from is None:
            self.decoder_ = fit_encoder(
                name, split, chosen.training, linear=chosen.linear, design=chosen.design, seed=self.seed, folder=folder,
                progress=progress, known=known,
            )  # fmt: skip
        else:
            self._check_start(start_from, split)
            self.decoder_ = fine_tune(
                start_from.decoder_, split, chosen.linear if name.startswith(CHEAP) else chosen.training,
                seed=self.seed, folder=None if folder is None else Path(folder) / name,
                progress=None if progress is None else lambda step, record: progress(name, step, record),
            )  # fmt: skip
        self.centre_ = {which: value.cpu().numpy() for which, value in split.centre.items()}
        self.space_ = split.space if isinstance(split.space, Volume) else None
        self.n_features_in_ = split.train.x.shape[1]
        self.voxels_ = np.ones(self.n_features_in_, dtype=bool)
        self.subjects_ = split.train.subjects
        return self

    def transform(self, Y: Any, *, modality: str = "image", subject: Sequence[str] | None = None) -> np.ndarray:
        """Brain embeddings (n, D) of new responses (n, V), those meant for images or for texts, in the shared space.

        subject: whose brain each row is, for a model with a map for each subject; others do not look at it.
        Raises DataError before `fit`, for another number of voxels, and for missing values in voxels that are read.
        """
        decoder = self._ready(modality)
        x = self._rows(Y)
        whose = None if subject is None else as_ids(subject, "subject")
        return decoder.embed(x, whose)[("image", "text").index(modality)].cpu().numpy()

    def predict(self, Y: Any) -> np.ndarray:
        """The same as `transform`, under the word that scikit-learn's cross-validation calls."""
        return self.transform(Y)

    def gallery(self, embeddings: Any, *, modality: str = "image") -> np.ndarray:
        """Embeddings (m, d) of images or texts in the shared space (m, D): centred, scaled to length one, and mapped."""
        decoder = self._ready(modality)
        rows = as_array(embeddings, f"{modality} embeddings")
        centre = self.centre_.get(modality)
        if centre is None:
            raise DataError(f"{type(self).__name__} was fitted without {modality}s; it knows {', '.join(self.centre_)}")
        if rows.shape[1] != len(centre):
            raise DataError(f"{modality} embeddings have {rows.shape[1]} columns, the model was fitted on {len(centre)}")
        unit = torch.nn.functional.normalize(torch.from_numpy(rows - centre), dim=1)
        return decoder.gallery(unit, modality).detach().cpu().numpy()

    def retrieve(
        self, Y: Any, gallery: Any, *, k: int = 5, modality: str = "image", subject: Sequence[str] | None = None
    ) -> np.ndarray:
        """Rows (n, k) of the gallery of embeddings (m, d) that are nearest to each response by cosine, best first."""
        query = self.transform(Y, modality=modality, subject=subject)
        rows, _ = retrieval.neighbours(query, self.gallery(gallery, modality=modality), k)
        return rows

    def score(self, Y: Any, images: Any, *, subject: Sequence[str] | None = None) -> float:
        """Mean reciprocal rank of each response's image among all rows of images (n, d); 1 is perfect.

        Rows with the same embedding are the same image.
        """
        targets = as_array(images, "images")
        _, label = np.unique(targets, axis=0, return_inverse=True)
        label = label.reshape(-1)
        query = self.transform(Y, subject=subject)
        if len(query) != len(targets):
            raise DataError(f"Y has {len(query)} rows, images has {len(targets)}; give one for every row of Y")
        ranks = retrieval.ranks(query, self.gallery(targets), labels=(label, label))
        return float((1.0 / (ranks + 1.0)).mean())

    def to(self, device: str) -> Self:
        """Moves the fitted model to a device, where it also fits from now on."""
        self.decoder_, self.device = unpack(pack(self._ready("image")), device), device
        return self

    def _ready(self, modality: str) -> Decoder:
        if modality not in ("image", "text"):
            raise DataError(f"modality {modality!r} is not one of image, text")
        if not hasattr(self, "decoder_"):
            raise DataError(f"{type(self).__name__} is not fitted; call fit first, or load a model")
        return self.decoder_

    def _rows(self, Y: Any) -> Tensor:
        y = np.asarray(Y.detach().cpu() if hasattr(Y, "detach") else Y)
        if y.ndim == 2 and y.shape[1] == self.n_features_in_ and not self.voxels_.all():
            y = y[:, self.voxels_]
        elif y.ndim == 2 and y.shape[1] != self.n_features_in_:
            raise DataError(f"Y has {y.shape[1]} voxels, {type(self).__name__} was fitted on {self.n_features_in_}; use its mask")
        return torch.from_numpy(np.ascontiguousarray(as_array(y, "Y")))

    def _check_start(self, before: Aligner, split: Split) -> None:
        if type(before) is not type(self) or before.encoder() != self.encoder():
            raise DataError(f"start_from is a {before.encoder()!r}, this is a {self.encoder()!r}; start from the same method")
        if before.space_ is not None and isinstance(split.space, Volume):
            check_same_volume(split.space, before.space_, "the recording", "the model that is trained further")
        theirs, ours = before.settings().design, self.settings().design
        if self.encoder() == "volume" and theirs != ours:
            name = next(k for k, v in asdict(ours).items() if v != asdict(theirs)[k])
            pair = f"{name} is {asdict(theirs)[name]!r}, not {asdict(ours)[name]!r}"
            raise DataError(f"start_from has another design: {pair}; give the same preset and design")

    def _pack(self) -> dict[str, Any]:
        if not hasattr(self, "decoder_"):
            return {}
        space = None if self.space_ is None else {"mask": self.space_.mask, "affine": self.space_.affine}
        names = ("centre_", "voxels_", "n_features_in_", "subjects_")
        return {"decoder": pack(self.decoder_), "space": space} | {name: getattr(self, name) for name in names}

    def _unpack(self, state: dict[str, Any]) -> None:
        self.decoder_ = unpack(state.pop("decoder"), self.device if self.device == "cpu" or torch.cuda.is_available() else "cpu")
        space = state.pop("space")
        self.space_ = None if space is None else Volume(**space)
        super()._unpack(state)
