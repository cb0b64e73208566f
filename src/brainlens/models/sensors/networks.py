"""Aligners of EEG and MEG that are trained: NeuroAlign and the encoders that are compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.models.sensors.decoder import (
    ATM_STYLE,
    COMPARED,
    NICE_TRAINING,
    THINGS_EEG2,
    THINGS_MEG,
    UBP_TRAINING,
    SensorTraining,
    target_layer,
)
from brainlens.models.sensors.network import SensorNetwork
from brainlens.models.sensors.recordings import Recorded
from brainlens.stimuli.blur import LEVELS
from brainlens.types import DataError, Features, Responses


class NeuroAlign(SensorNetwork):
    """NeuroAlign: recordings into the space of images and captions, with the captions as a guide.

    min w1 L(brain, image) + w2 L(image, text) + w3 KL(brain-image || image-text), weights by gradient (eqs. 4-9); TSConv encoder
    and projection heads to 256 numbers. Without texts the first loss is left alone. The defaults are the paper's for EEG
    (Table 3): 200 epochs, batch 256, AdamW 2e-4 (.5, .999), weight decay 1e-3 and 5e-3, temperature .07, dropout .2, 740
    validation images; its text says batch 1000 and Adam (A.3.4).
    The paper's target is the embedding of the saliency-filtered picture: give those as `images` (`stimuli.saliency`).
    """

    encoder, recipe = "neuroalign", THINGS_EEG2

    def __init__(
        self,
        max_epochs: int = 200,
        *,
        batch: int = 256,
        lr: float = 2e-4,
        guidance: bool = True,
        adjustment: bool = True,
        options: dict[str, Any] | None = None,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.max_epochs, self.batch, self.lr = max_epochs, batch, lr
        self.guidance, self.adjustment, self.options = guidance, adjustment, options
        self.random_state, self.device = random_state, device

    @classmethod
    def paper(cls, modality: str = "eeg", **changed: Any) -> Self:
        """Table 3 of the paper: for "eeg" (THINGS-EEG2) or "meg" (THINGS-MEG, 100 epochs)."""
        if modality not in ("eeg", "meg"):
            raise DataError(f"modality {modality!r} is not one of ['eeg', 'meg']")
        return cls.from_training(THINGS_EEG2 if modality == "eeg" else THINGS_MEG).set_params(**changed)

    def _training(self, texts: Features | None) -> SensorTraining:
        return self.training if texts is not None else replace(self.training, guidance=False)


class NICE(SensorNetwork):
    """NICE: the TSConv encoder into the space of the image embeddings as they are (Song et al. 2024).

    attention: None, or in front of it "spatial" (self-attention over channels, in the manner of NICE-SA) or "graph" (graph
    attention over all channels, in the manner of NICE-GA); the released modules are others. Recordings that are whitened are
    taken as they are. language: captions are a second target, L = (L(brain, image) + L(brain, text)) / 2 against both embeddings
    as they are, which share a space (CLIP), in the manner of NICE-LLM (Song et al. 2025), whose own guidance is not rebuilt; it
    needs texts. The defaults are the paper's: 200 epochs, batch 1000, Adam 2e-4 (.5, .999), temperature .07, dropout .5,
    740 validation images.
    """

    recipe = NICE_TRAINING

    def __init__(
        self,
        max_epochs: int = 200,
        *,
        attention: str | None = None,
        language: bool = False,
        batch: int = 1000,
        lr: float = 2e-4,
        patience: int | None = None,
        options: dict[str, Any] | None = None,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.max_epochs, self.attention, self.language, self.batch, self.lr = max_epochs, attention, language, batch, lr
        self.patience, self.options, self.random_state, self.device = patience, options, random_state, device

    @property
    def network(self) -> str:
        kinds = {None: "nice", "spatial": "nice_sa_like", "graph": "nice_ga_like"}
        if self.attention not in kinds:
            raise DataError(f"NICE: attention {self.attention!r} is not one of {list(kinds)}")
        if self.language and self.attention is not None:
            raise DataError(f"NICE: language goes with attention=None, not with {self.attention!r}; choose one")
        return "nice_llm_like" if self.language else kinds[self.attention]

    def _training(self, texts: Features | None) -> SensorTraining:
        if self.language and texts is None:
            raise DataError("NICE with language is trained on captions too; give texts, or language=False")
        return self.training if self.language else super()._training(texts)


class ComparedNetwork(SensorNetwork):
    """The settings of the encoders that have none of their own."""

    def __init__(
        self,
        max_epochs: int = 200,
        *,
        batch: int = 1000,
        lr: float = 2e-4,
        patience: int | None = None,
        options: dict[str, Any] | None = None,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.max_epochs, self.batch, self.lr, self.patience = max_epochs, batch, lr, patience
        self.options, self.random_state, self.device = options, random_state, device


class UBP(ComparedNetwork):
    """Images at three levels of blur, each recording's by how well it finds its own, in the manner of UBP (Wu et al. 2025).

    L = -1/2n sum_i [log p(v_i | e_i) + log p(e_i | v_i)] of products e_i.v_j times a learned scale, e_i = LayerNorm(y + dropout(
    W gelu(y))), y = A x over all samples; v_i: the unit embedding of picture i at the level of `nn.blur_prior`. Images are
    (trial, 3, d) or {id: (3, d)} from the least blur to the most, or Features with the layers of `stimuli.blur.LEVELS`; what is
    looked for in a gallery is the medium one.

    | | UBP's code | here |
    |---|---|---|
    | embeddings | CLIP RN50 | the network that you choose |
    | channels | 17 over the back of the head | all that are given |
    | epoch kept | the last; stops where the training loss stalls (across: by others' test trials) | least validation loss |
    | one image in a batch twice | a mistake to take one for the other | right both times |
    | levels, rows that count | see `stimuli.blur`, `nn.blur_prior` | |

    The defaults are the code's within a subject: 50 epochs, batch 1024, AdamW 1e-4 (across subjects 1e-5), weight decay 1e-4,
    dropout .3.
    """

    encoder, recipe = "ubp_like", UBP_TRAINING

    def __init__(
        self,
        max_epochs: int = 50,
        *,
        batch: int = 1024,
        lr: float = 1e-4,
        patience: int | None = 5,
        options: dict[str, Any] | None = None,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__(
            max_epochs, batch=batch, lr=lr, patience=patience, options=options, random_state=random_state, device=device
        )

    def _tables(self, found: Recorded, images: Any, texts: Any = None) -> tuple[Responses, Features, Features | None]:
        rows, joined, said = super()._tables(found, _joined(images), texts)
        return rows, _parted(joined), said

    def _blurred(self, images: Features, ids: np.ndarray) -> Tensor:
        return torch.stack([self._table(images, level, ids, "images") for level in LEVELS])


def _joined(images: Any) -> Any:
    """The levels of an image as one row (level x d), in the form that they were given in."""
    if isinstance(images, Features):
        target_layer(images, "ubp_like", UBP_TRAINING)
        return Features(
            {"image": np.concatenate([np.asarray(images[level]) for level in LEVELS], axis=1)}, images.ids, images.model
        )
    if isinstance(images, Mapping):
        return {name: _row(value, 2)[0] for name, value in images.items()}
    return _row(images, 3)


def _row(values: Any, axes: int) -> np.ndarray:
    table = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if table.ndim != axes or table.shape[-2] != len(LEVELS):
        wanted = "(trial, 3, d)" if axes == 3 else "(3, d) for each id"
        raise DataError(f"images of shape {table.shape} where UBP takes {wanted}, from the least blur to the most")
    return table.reshape(-1, len(LEVELS) * table.shape[-1])


def _parted(joined: Features) -> Features:
    parts = np.split(np.asarray(joined["image"]), len(LEVELS), axis=1)
    return Features(dict(zip(LEVELS, parts, strict=True)), joined.ids, joined.model)


class ATM(ComparedNetwork):
    """An ATM-style encoder: one transformer block over channels in front of the TSConv (after Li et al. 2024).

    | | ATM's code | here |
    |---|---|---|
    | loss | .99 image + .01 text, embeddings not normalised | image alone, by cosine |
    | epoch kept | the best on the test images | the least validation loss |
    | schedule | 40 epochs, batch 64, AdamW 3e-4 | `paper()` the same; the default is NICE's, for comparison on one footing |
    """

    encoder, recipe = "atm", COMPARED

    @classmethod
    def paper(cls, **changed: Any) -> Self:
        """The schedule of ATM's retrieval script; the table of the class says what is other than there."""
        return cls.from_training(ATM_STYLE).set_params(**changed)


class EEGNet(ComparedNetwork):
    """EEGNet (Lawhern et al. 2018) with a projection head, trained by contrast on NICE's schedule, as NICE compares it."""

    encoder, recipe = "eegnet", COMPARED


class SensorLinear(ComparedNetwork):
    """One matrix on all samples, with dropout, trained by contrast on NICE's schedule: what networks must be better than."""

    encoder, recipe = "linear", COMPARED


class OwnNetwork(ComparedNetwork):
    """A module (B, channel, time) -> (B, d) of the user, trained as NICE is, against image embeddings (n, d).

    Raises DataError where it does not give (B, d), and in `save`: a class of yours cannot be stored; save its state_dict.
    """

    recipe = COMPARED

    def __init__(
        self,
        module: Any = None,
        max_epochs: int = 200,
        *,
        batch: int = 1000,
        lr: float = 2e-4,
        patience: int | None = None,
        options: dict[str, Any] | None = None,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.module = module
        super().__init__(
            max_epochs, batch=batch, lr=lr, patience=patience, options=options, random_state=random_state, device=device
        )

    @property
    def network(self) -> nn.Module:
        if not isinstance(self.module, nn.Module):
            raise DataError(f"OwnNetwork takes a torch module (B, channel, time) -> (B, d), got {type(self.module).__name__}")
        return self.module

    def _pack(self) -> dict[str, Any]:
        raise DataError("OwnNetwork cannot be saved, since its module is not the library's; save module.state_dict()")


NETWORKS: dict[str, tuple[type[SensorNetwork], dict[str, Any]]] = {
    "neuroalign": (NeuroAlign, {}),
    "nice": (NICE, {}),
    "nice_sa_like": (NICE, {"attention": "spatial"}),
    "nice_ga_like": (NICE, {"attention": "graph"}),
    "nice_llm_like": (NICE, {"language": True}),
    "ubp_like": (UBP, {}),
    "atm": (ATM, {}),
    "eegnet": (EEGNet, {}),
    "linear": (SensorLinear, {}),
}  # by the names of `nn.sensor_baselines`
