"""NeuroAdapter: pictures from brain responses, one token a region, in a frozen diffusion model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from brainlens.models.estimator import Model, check_device
from brainlens.models.generation.adapter_tables import (
    FitResponses,
    caption_table,
    check_parcels,
    check_same_parcels,
    fit_responses,
    latents_of,
    match_images,
    open_pipeline,
    read_alike,
    responses_array,
    ridge_latents,
    same_inputs,
    subjects_of,
)
from brainlens.models.generation.adapter_training import (
    PAPER,
    AdapterTable,
    AdapterTraining,
    Progress,
    changed_training,
    empty_text,
    response_prompts,
    train_adapter,
)
from brainlens.models.generation.anchors import Anchors, near_anchors
from brainlens.models.generation.pretraining import TOKEN_MAP, start_joint, start_tokens, token_targets
from brainlens.models.generation.sampling import Prompts, Sampling, Watcher, draw_pictures, gate_gradients
from brainlens.nn.joint_tokens import JointTokens
from brainlens.nn.region_adapter import RegionAdapter, RegionPrompt
from brainlens.parcels import Parcels
from brainlens.subjects import held_out
from brainlens.types import DataError

STARTS = ("random", "ridge")
CODE = 64  # channels of the code of joint tokens that start at random


class NeuroAdapter(Model):
    """Pictures from responses: each region is a token that a frozen diffusion model attends to beside the empty prompt.

        e_p = W_p x_p + b_p,     h = attention(q, text) + scale * attention(q, e_p of the regions that are there)
        min_{W, b, K, V}  E_{x, t, noise}  w_t |target - network(z_t, t, e)|^2

    Responses are averaged over repeats, z-scored by training images, and (`reliability`) multiplied by the share of their
    variance that is signal. "Towards Interpretable Visual Decoding with Attention to Brain Representations", section 3.

    | | default | `paper()` |
    |---|---|---|
    | regions | the best 100 by signal-to-noise | the best 200 |
    | a dropped region | masked out of the softmax | its token times 0, which goes on taking attention |
    | without regions (guidance) | the network under its empty prompt | all tokens times 0 |
    | voxels | weighted by reliability | as they are |
    | tokens | linear | a linear map and layer norm behind, as in the released code |
    | target | where captions are given, the network's own answer under them (`distil`) | the noise |
    | loss | capped on the velocity's own scale | min(snr, 5), which gives no weight to a step of pure noise |
    | training | rate 2e-3, 30 epochs of batches of 32 | rate 1e-4, 300 epochs of batches of 16 |
    | sampling | 20 steps of DDIM from noise | 50 of DDPM from a noised grey picture: `steps=50, scheduler="ddpm", grey=True` |

    Why: a region that is removed must not speak, and a schedule that ends in pure noise starts to draw there. On planted
    pictures of two factors (80 steps, eight seeds, chance .5) .70 of the factors were right, .48 with min(snr, 5), .55 without
    reliability, .52 with the head, .74 with zeroing, .82 without token dropout; standard errors are .02 to .05.
    regions: number of parcels kept, None for all. removal: "mask" or "zero". joint: None for one token a region as published, or
    the number of tokens that all regions write together through a code (`nn.joint_tokens`); contributions are then what a region
    adds to the answer, exactly. start: "random", or "ridge": tokens start as joint ridge predictions of the `prompts` of `fit`
    (`pretraining.start_tokens`). low_level: None, or the share of noise in (0, 1] from which drawing starts on latents that a
    ridge predicts from the same voxels. training: fields of `AdapterTraining` to be changed.
    """

    def __init__(
        self,
        regions: int | None = 100,
        *,
        removal: str = "mask",
        joint: int | None = None,
        start: str = "random",
        reliability: bool = True,
        low_level: float | None = None,
        training: Mapping[str, Any] | None = None,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.regions = regions
        self.removal = removal
        self.joint = joint
        self.start = start
        self.reliability = reliability
        self.low_level = low_level
        self.training = training
        self.seed, self.device = seed, device

    @classmethod
    def paper(cls, **changes: Any) -> Self:
        """The published recipe, for Stable Diffusion 1.5 and responses averaged over repeats on the surface."""
        recipe = asdict(PAPER) | dict(changes.pop("training", None) or {})
        given: dict[str, Any] = {"regions": 200, "removal": "zero", "reliability": False} | changes
        return cls(**given, training=recipe)

    def fit(
        self,
        Y: Any,
        images: Any,
        parcels: Parcels,
        *,
        pipeline: str | Path,
        ids: Sequence[str] | None = None,
        prompts: Any = None,
        captions: Sequence[str] | None = None,
        before: NeuroAdapter | Mapping[str, Tensor] | None = None,
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Fits on responses Y (row, unit) to images; a tenth of the images is held back to choose the best state.

        Y: an array, or `Responses`, so that those of another subject are refused later.
        images: (row, h, w, 3) uint8, or latents (row, c, h, w) of the pipeline, or `Stimuli` that hold every id. ids: names of
        the images of the rows; rows of one name are repeats. pipeline: a Stable Diffusion folder or name, "miniatures/diffusion"
        for the one that ships. prompts: for start="ridge", an embedding of each image as `before` reads it, or in the width of
        the network's text. captions: one for each image, to distil from (`AdapterTraining.distil`); without them nothing is.
        before: a fitted NeuroAdapter to go on from, whose choice of parcels and weights of voxels are kept (it was fitted to
        predicted responses, for example), or what `pretrain_attention` gave. folder: checkpoints. progress: called with the
        share of the training that is done.
        Raises DataError for NaN, parcels of other units, fewer parcels than `regions`, and no repeats to rank them by.
        """
        check_device(self.device)
        recipe = self._recipe()
        y = responses_array(Y)
        check_parcels(parcels, y.shape[1])
        rows = match_images(images, ids, len(y), prompts)
        held = held_out(rows.n, 0.1, self.seed)
        if isinstance(before, NeuroAdapter):
            before._check_same(Y, parcels, self.regions)
            responses = same_inputs(y, rows, before._reads())
        else:
            responses = fit_responses(y, rows, held, parcels, regions=self.regions, weighted=self.reliability)
        diffusion = open_pipeline(pipeline, self.device)
        latents = latents_of(diffusion, rows)
        states = caption_table(diffusion, captions, rows, recipe.distil)
        adapter = self._new_adapter(diffusion, recipe, responses.members, self._channels(rows.prompts, before))
        self.anchors_ = self._start(adapter, responses.x, rows.prompts, held, before, diffusion.files)
        inputs = hashlib.sha256(responses.x.tobytes()).hexdigest() + repr(sorted(self.get_params().items(), key=str))
        table = AdapterTable.of(latents, held, inputs, states)
        adapter.to(self.device)
        self.history_ = train_adapter(
            diffusion,
            adapter,
            table,
            response_prompts(adapter, torch.from_numpy(responses.x), empty_text(diffusion)),
            training=recipe,
            regions=len(responses.parcels),
            seed=self.seed,
            folder=None if folder is None else Path(folder),
            progress=progress,
        )
        self.parcels_, self.units_, self.members_ = responses.parcels, responses.units, responses.members
        self.mean_, self.gain_, self.snr_ = responses.mean, responses.gain, responses.snr
        self.n_units_, self.subjects_ = y.shape[1], subjects_of(Y)
        self.pipeline_ = {"place": str(pipeline), "files": diffusion.files}
        self.adapter_ = {name: value.detach().cpu() for name, value in adapter.state_dict().items()}
        self.low_ = None if self.low_level is None else ridge_latents(responses.x, latents, held)
        self._loaded = (diffusion, adapter)
        return self

    def reconstruct(
        self,
        Y: Any,
        candidates: int = 1,
        *,
        guidance: float = 4.0,
        steps: int = 20,
        scheduler: str = "ddim",
        grey: bool = False,
        seed: int = 0,
        without: Sequence[str] = (),
        width: float | None = None,
        watch: Watcher | None = None,
        folder: str | Path | None = None,
        progress: Progress | None = None,
    ) -> np.ndarray:
        """Pictures (row, candidates, h, w, 3) uint8 of new responses Y (row, unit), averaged over repeats.

        guidance g: answers are u + g (c - u), u without regions; steps of denoising by the scheduler (ddim, ddpm, euler, dpm: see
        `schedules`); grey: begin at a noised grey picture; seed of the noise, which rows share. without: regions that are
        removed. width: of joint tokens that started by ridge, candidate c is drawn near the training picture that fits c-th best
        (`Evidence.near`); None: at the prediction. watch: sees the attention to regions. folder: pictures are kept there.
        Raises DataError for other units, subjects or scale than in the fit, NaN, no candidate, width without anchors, grey with a
        start.
        """
        sampling = self._sampling(candidates, guidance, steps, seed, scheduler, grey)
        prompts = self._prompts(torch.from_numpy(self.inputs(Y)), self._there(without), width)
        return draw_pictures(*self._ready(), prompts, sampling, watch=watch, folder=folder, progress=progress)

    def region_gradients(
        self,
        Y: Any,
        *,
        guidance: float = 4.0,
        steps: int = 20,
        scheduler: str = "ddim",
        grey: bool = False,
        seed: int = 0,
        without: Sequence[str] = (),
        width: float | None = None,
    ) -> np.ndarray:
        """What each region changes in the network's answers, along the drawing of the first candidate: (row, step, region).

        Shares that sum to 1 over regions: see `sampling.gate_gradients`. Raises DataError as `reconstruct`.
        """
        sampling = self._sampling(1, guidance, steps, seed, scheduler, grey)
        prompts = self._prompts(torch.from_numpy(self.inputs(Y)), self._there(without), width)
        pieces = np.array_split(np.arange(prompts.n), range(sampling.batch, prompts.n, sampling.batch))
        return np.concatenate([gate_gradients(*self._ready(), prompts, sampling, rows=rows) for rows in pieces])

    def inputs(self, Y: Any) -> np.ndarray:
        """What the tokens read of responses Y (row, unit): chosen voxels, z-scored and weighted, (row, chosen) float32."""
        self._check_fitted("adapter_")
        y = responses_array(Y, self.subjects_)
        if y.shape[1] != self.n_units_:
            raise DataError(
                f"Y has {y.shape[1]} units, the model was fitted on {self.n_units_}; give the same ones in the same order"
            )
        return read_alike(y[:, self.units_], self.mean_, self.gain_)

    def evidence(self, Y: Any, prompts: np.ndarray) -> np.ndarray:
        """How well embeddings (m, d) or (row, m, d) fit responses Y (row, unit): (row, m), see `Anchors.match`. Raises DataError
        where the model has no anchors."""
        anchors, _ = self._anchored()
        return anchors.match(self._codes(torch.from_numpy(self.inputs(Y))), np.asarray(prompts))

    def low_level_latents(self, Y: Any) -> np.ndarray:
        """Latents (row, c, h, w) that the ridge predicts, from which drawing starts. Raises DataError where none was fitted."""
        self._check_fitted("adapter_")
        return self._low_level(self.inputs(Y))

    def use(self, pipeline: str | Path) -> Self:
        """The folder where the diffusion model lies now. Raises DataError where it is another one than that of the fit."""
        self._check_fitted("adapter_")
        self._loaded = self._open(pipeline)
        self.pipeline_ = self.pipeline_ | {"place": str(pipeline)}
        return self

    def _sampling(self, candidates: int, guidance: float, steps: int, seed: int, scheduler: str, grey: bool) -> Sampling:
        self._check_fitted("adapter_")
        if grey and self.low_level is not None:
            raise DataError("grey: this NeuroAdapter draws from low-level latents; leave grey out, or fit it with low_level=None")
        return Sampling(candidates, guidance, steps, seed, float(self.low_level or 1.0), scheduler=scheduler, grey=grey)

    def _there(self, without: Sequence[str]) -> np.ndarray:
        return ~np.isin(np.arange(len(self.parcels_)), self.parcels_.find(list(without)))

    def _low_level(self, x: np.ndarray) -> np.ndarray:
        if self.low_ is None:
            raise DataError("this NeuroAdapter was fitted without a low-level path; fit it with low_level=0.7, for example")
        return np.asarray(x @ self.low_["weights"] + self.low_["intercept"], np.float32).reshape(-1, *self.low_["shape"])

    def _recipe(self) -> AdapterTraining:
        if self.start not in STARTS:
            raise DataError(f"start {self.start!r} of the tokens is not known; choose from {', '.join(STARTS)}")
        if self.low_level is not None and not 0 < self.low_level <= 1:
            raise DataError(f"low_level={self.low_level} is a share of noise above 0 and up to 1, or None")
        return changed_training(self.training or {})

    def _check_same(self, Y: Any, parcels: Parcels, regions: int | None) -> None:
        """This model's inputs can be read from responses Y with these parcels. Raises DataError where they cannot."""
        self._check_fitted("adapter_")
        responses_array(Y, self.subjects_)
        check_same_parcels(parcels, self.parcels_, self.n_units_, regions)

    def _reads(self) -> FitResponses:
        """How the tokens read responses, without the responses of the fit."""
        x = np.zeros((0, len(self.units_)), np.float32)
        return FitResponses(x, self.parcels_, self.units_, self.members_, self.mean_, self.gain_, self.snr_)

    def _new_adapter(
        self, diffusion: Any, recipe: AdapterTraining, members: Sequence[np.ndarray], code: int = CODE
    ) -> RegionAdapter:
        joint = None if self.joint is None else (self.joint, code)
        made: dict[str, Any] = {"head": recipe.head, "scale": recipe.scale, "joint": joint}
        return RegionAdapter(diffusion.unet, members, removal=self.removal, seed=self.seed, **made)

    def _start(
        self,
        adapter: RegionAdapter,
        x: np.ndarray,
        prompts: np.ndarray | None,
        held: np.ndarray,
        before: NeuroAdapter | Mapping[str, Tensor] | None,
        files: str,
    ) -> Anchors | None:
        """Weights to begin with, of another adapter, or of a pretrained attention and of ridge for the tokens; and anchors."""
        if isinstance(before, NeuroAdapter):
            shapes = {name: value.shape for name, value in adapter.state_dict().items()}
            if before.pipeline_["files"] != files or shapes != {name: value.shape for name, value in before.adapter_.items()}:
                raise DataError("before: a NeuroAdapter of another pipeline or with another head; fit both alike")
            adapter.load_state_dict(before.adapter_)
            anchors = getattr(before, "anchors_", None)
            if anchors is not None and isinstance(adapter.tokens, JointTokens):
                adapter.tokens.read.requires_grad_(False)  # the code stays the prediction that the anchors belong to
            return anchors
        if before is not None:
            own = {name: value.shape for name, value in adapter.layers.state_dict().items()}
            layers = {name: value for name, value in before.items() if name not in TOKEN_MAP}
            if {name: value.shape for name, value in layers.items()} != own:
                raise DataError("before: attention layers of another network; use what pretrain_attention gave for this pipeline")
            adapter.layers.load_state_dict(layers)
        if self.start == "ridge" and self.joint is not None:
            fit = start_joint(adapter, x, prompts, before, held)
            assert prompts is not None  # `start_joint` refuses to do without
            return Anchors.fit(fit, x, prompts, held)
        if self.start == "ridge":
            start_tokens(adapter, x, token_targets(prompts, before), held)
        return None

    def _channels(self, prompts: np.ndarray | None, before: Any) -> int:
        """Channels of the code of joint tokens: of the adapter before, of the embeddings that it predicts, or CODE."""
        if self.joint is not None and isinstance(before, NeuroAdapter) and before.joint is not None:
            return int(before.adapter_["tokens.read"].shape[-1])
        return CODE if prompts is None or self.start != "ridge" else int(prompts.shape[1])

    def _anchored(self) -> tuple[Anchors, JointTokens]:
        self._check_fitted("adapter_")
        tokens = self._ready()[1].tokens
        if getattr(self, "anchors_", None) is None or not isinstance(tokens, JointTokens):
            raise DataError('anchors and evidence are of joint tokens that start by ridge; fit with joint= and start="ridge"')
        assert self.anchors_ is not None
        return self.anchors_, tokens

    def _codes(self, x: Tensor, there: Tensor | None = None) -> np.ndarray:
        """What the regions that are there (P,) wrote together, (row, d)."""
        _, tokens = self._anchored()
        with torch.no_grad():
            keep = None if there is None else there.expand(len(x), -1)
            return np.asarray(tokens.codes(x.to(tokens.bias.device), keep).sum(1).cpu())

    def _ready(self) -> tuple[Any, RegionAdapter]:
        if getattr(self, "_loaded", None) is None:
            self._loaded = self._open(self.pipeline_["place"])
        return self._loaded

    def _open(self, pipeline: str | Path) -> tuple[Any, RegionAdapter]:
        diffusion = open_pipeline(pipeline, self.device)
        if diffusion.files != self.pipeline_["files"]:
            raise DataError(f"{pipeline} is not the pipeline that this adapter was fitted on; call use(folder) with that one")
        adapter = self._new_adapter(diffusion, self._recipe(), self.members_, self._channels(None, self))
        adapter.load_state_dict(self.adapter_)
        return diffusion, adapter.to(self.device).eval().requires_grad_(False)

    def _prompts(self, x: Tensor, keep: np.ndarray, width: float | None = None) -> Prompts:
        diffusion, adapter = self._ready()
        text, there = empty_text(diffusion), torch.from_numpy(keep).to(self.device)

        def given(rows: np.ndarray) -> RegionPrompt:
            mask = None if keep.all() else there.expand(len(rows), -1)
            return adapter.prompt(x[torch.from_numpy(rows)].to(self.device), text, mask)

        def free(rows: np.ndarray) -> RegionPrompt:
            if self.removal == "mask":
                return RegionPrompt(text)
            none = torch.zeros(len(rows), len(keep), dtype=torch.bool, device=self.device)
            return adapter.prompt(x[torch.from_numpy(rows)].to(self.device), text, none)

        start = None
        if self.low_level is not None:
            start = torch.from_numpy(self._low_level(x.numpy()))
        apart = None
        if width is not None:
            anchors, code = self._anchored()[0], self._codes(x, there)
            apart = near_anchors(anchors, adapter, x, code, text, width=width, keep=None if keep.all() else there)
        digest = hashlib.sha256(x.numpy().tobytes() + keep.tobytes() + repr(width).encode())
        for name in sorted(self.adapter_):
            digest.update(self.adapter_[name].contiguous().numpy().tobytes())
        return Prompts(given, free, len(x), start, digest.hexdigest() + self.pipeline_["files"], apart)

    def _pack(self) -> dict[str, Any]:
        state = super()._pack()
        if "parcels_" in state:
            own = self.parcels_
            state["parcels_"] = {"names": list(own.names), "label": own.label, "source": own.source}
            state["anchors_"] = None if self.anchors_ is None else self.anchors_.state()
        return state

    def _unpack(self, state: dict[str, Any]) -> None:
        super()._unpack({"subjects_": []} | state)  # what was saved before subjects were remembered fits any
        self.anchors_ = None if state.get("anchors_") is None else Anchors.of_state(state["anchors_"])
        self.parcels_ = Parcels(tuple(state["parcels_"]["names"]), state["parcels_"]["label"], state["parcels_"]["source"])
