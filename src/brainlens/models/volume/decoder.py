"""A fitted fMRI aligner as data that can be stored: maps of voxels and of targets into the space that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.models.volume.start import Start
from brainlens.nn.decoding_baselines import ResidualMLP, SharedSubjectMLP, VolumeCNN, embedded
from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder
from brainlens.solvers.canonical import AffineMap
from brainlens.solvers.kernel_ridge import KernelRidge, LinearDecoder, WhitenedMetric
from brainlens.types import DataError

Reader = LinearDecoder | nn.Module


@dataclass(frozen=True)
class Decoder:
    """A fitted encoder: everything that embeds new responses and new targets.

    readers: mean rows (n, V) to embeddings, one for "both" modalities or one each for "image" and "text". maps: targets
    (centred, of length one) into the space in which cosines are taken; without one they stay as they are. places: the
    dimensions of the joint space that belong to a modality. metrics: the whitened metric of a ridge, on both sides.
    ridge, start: what the fit went through, for a further encoder on the same split; they are not stored.
    """

    name: str
    readers: Mapping[str, Reader]
    maps: Mapping[str, AffineMap] = field(default_factory=dict)
    places: Mapping[str, slice] = field(default_factory=dict)
    metrics: Mapping[str, WhitenedMetric] = field(default_factory=dict)
    parameters: int = 0
    seconds: float = 0.0
    chosen: dict[str, float] = field(default_factory=dict)
    log: list[dict[str, float]] = field(default_factory=list)
    ridge: dict[str, KernelRidge] | None = None
    start: Start | None = None

    @property
    def module(self) -> nn.Module | None:
        """The network, where there is one."""
        reader = self.readers.get("both")
        return reader if isinstance(reader, nn.Module) else None

    @property
    def linear(self) -> LinearDecoder | None:
        """The linear map (that for images, where each modality has its own)."""
        reader = next(iter(self.readers.values()))
        return reader if isinstance(reader, LinearDecoder) else None

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        reader = next(iter(self.readers.values()))
        return reader.weights.device if isinstance(reader, LinearDecoder) else next(reader.parameters()).device

    @torch.no_grad()
    def embed(self, x: Tensor, subject: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Mean rows (n, V) as the brain embeddings meant for images and for texts, each (n, D).

        subject (n,): whose rows they are, for an encoder with a map for each subject; one that has a single subject takes
        all rows as of this one where none is given. Raises DataError for rows of nobody and of a subject without a map.
        """
        x, module = x.to(self.device), self.module
        if isinstance(module, SharedSubjectMLP):
            z = _of_subjects(module, x, subject)
            return self._only(z, "image"), self._only(z, "text")
        if "both" in self.readers:
            z = torch.cat([self.readers["both"](rows) for rows in x.split(128)])
            return self._only(z, "image"), self._only(z, "text")
        return self._own(x, "image"), self._own(x, "text")

    def gallery(self, target: Tensor, which: str) -> Tensor:
        """Targets (m, d), centred and of length one, of a modality in the space of `embed`; gradients pass."""
        side = self.maps[which] if which in self.maps else self.metrics[which].gallery if which in self.metrics else None
        return target if side is None else side(target.to(self.device)).to(target.device)

    def _only(self, z: Tensor, which: str) -> Tensor:
        if which not in self.places:
            return z
        out = torch.zeros_like(z)
        out[:, self.places[which]] = z[:, self.places[which]]
        return out

    def _own(self, x: Tensor, which: str) -> Tensor:
        which = which if which in self.readers else next(iter(self.readers))
        z = self.readers[which](x)
        return self.metrics[which].query(z) if which in self.metrics else z


def _of_subjects(module: SharedSubjectMLP, x: Tensor, subject: np.ndarray | None) -> Tensor:
    if subject is None and len(module.subjects) > 1:
        raise DataError(f"this model has a map for each of {module.subjects}; say with subject= whose each row is")
    names = np.full(len(x), module.subjects[0]) if subject is None else np.asarray(subject).astype(str)
    if names.shape != (len(x),):
        raise DataError(f"subject names one of {module.subjects} for each of {len(x)} rows, got {names.shape}")
    out: Tensor | None = None
    for name in np.unique(names):
        for at in torch.from_numpy(np.flatnonzero(names == name)).to(x.device).split(128):
            z = embedded(module, x[at], str(name))
            out = z.new_empty(len(x), z.shape[1]) if out is None else out
            out[at] = z
    assert out is not None
    return out


def pack(decoder: Decoder) -> dict[str, Any]:
    """A decoder as nested dicts of numbers, text, arrays and tensors."""
    return {
        "name": decoder.name,
        "readers": {which: _reader_out(reader) for which, reader in decoder.readers.items()},
        "maps": {which: _tensors(found) for which, found in decoder.maps.items()},
        "places": {which: [place.start, place.stop] for which, place in decoder.places.items()},
        "metrics": {which: _tensors(found) for which, found in decoder.metrics.items()},
        "parameters": decoder.parameters,
        "chosen": dict(decoder.chosen),
        "log": decoder.log,
    }


def unpack(state: dict[str, Any], device: str = "cpu") -> Decoder:
    """The decoder that `pack` took apart. Raises DataError for weights or settings of another version."""
    missing = [key for key in ("name", "readers", "maps", "places", "metrics") if key not in state]
    if missing:
        raise DataError(f"the stored model is of another version: it has no {missing[0]!r}; fit it again")

    def put(entry: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(device) for name, value in entry.items()}

    return Decoder(
        state["name"],
        {which: _reader_in(entry, device) for which, entry in state["readers"].items()},
        {which: AffineMap(**put(entry)) for which, entry in state["maps"].items()},
        {which: slice(*place) for which, place in state["places"].items()},
        {which: WhitenedMetric(**put(entry)) for which, entry in state["metrics"].items()},
        parameters=state["parameters"],
        chosen=state["chosen"],
        log=state["log"],
    )


def _tensors(found: AffineMap | WhitenedMetric | LinearDecoder) -> dict[str, Tensor]:
    return {f.name: getattr(found, f.name) for f in fields(found)}


def _reader_out(reader: Reader) -> dict[str, Any]:
    """A reader's kind, what it is built from, and its weights."""
    if isinstance(reader, LinearDecoder):
        return {"kind": "linear", "weights": _tensors(reader)}
    built: dict[str, Any]
    if isinstance(reader, VolumeEncoder):
        kind, built = "volume", {"mask": reader.mask, "design": asdict(reader.design)}
    elif isinstance(reader, ResidualMLP):
        kind, built = "mlp", {"embed_dim": reader.leave.out_features, "width": reader.leave.in_features}
    elif isinstance(reader, SharedSubjectMLP):
        kind, built = "shared", {"embed_dim": reader.leave.out_features, "width": reader.leave.in_features}
        built |= {"subjects": reader.subjects, "blocks": len(reader.blocks)}
    elif isinstance(reader, VolumeCNN):
        mask = np.zeros(reader.shape, dtype=bool)
        mask.reshape(-1)[reader.inside.cpu().numpy()] = True
        sizes = {"embed_dim": reader.leave[-1].out_features, "width": reader.convolutions[0].out_channels}
        kind, built = "cnn", {"mask": mask, **sizes}
    else:
        raise DataError(
            f"a {type(reader).__name__} cannot be stored as an aligner; VolumeEncoder, VolumeCNN, ResidualMLP and "
            "SharedSubjectMLP can"
        )
    return {"kind": kind, "built": built, "weights": dict(reader.state_dict())}


def _reader_in(entry: dict[str, Any], device: str) -> Reader:
    weights, kind, built = entry["weights"], entry["kind"], entry.get("built", {})
    if kind == "linear":
        return LinearDecoder(**{name: value.to(device) for name, value in weights.items()})
    module: nn.Module
    if kind == "volume":
        unknown = sorted(set(built["design"]) - {f.name for f in fields(VolumeDesign)})
        if unknown:
            raise DataError(f"the stored model is of another version: its design has {unknown[0]!r}; fit it again")
        module = VolumeEncoder(built["mask"], VolumeDesign(**built["design"]))
    elif kind == "mlp":
        module = ResidualMLP(weights["voxels"], built["embed_dim"], width=built["width"])
    elif kind == "shared":
        module = SharedSubjectMLP(
            built["subjects"], weights["voxels"], built["embed_dim"], width=built["width"], blocks=built["blocks"]
        )
    elif kind == "cnn":
        module = VolumeCNN(torch.from_numpy(built["mask"]), built["embed_dim"], width=built["width"])
    else:
        raise DataError(f"the stored model is of another version: a reader {kind!r} is not known; fit it again")
    own = module.state_dict()
    for name in sorted(set(own) | set(weights)):
        shapes = [tuple(table[name].shape) if name in table else None for table in (own, weights)]
        if shapes[0] != shapes[1]:
            raise DataError(f"the stored model is of another version: {name} is {shapes[1]}, not {shapes[0]}; fit it again")
    module.load_state_dict(weights)
    return module.to(device).eval()
