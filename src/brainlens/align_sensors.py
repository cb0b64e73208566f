"""`align` for EEG and MEG: from sensor recordings to the embedding of the image that was seen.

NeuroAlign (tri-modal losses, semantic guidance, dynamic weights) and its rivals are trained on the same split with the
same loop, selected on the same validation images, and retrieve the same gallery. Nothing is selected on test data.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from brainlens.metrics import retrieval as retrieval_metrics
from brainlens.nn.guidance import LossAdjustment, semantic_guidance
from brainlens.nn.losses import info_nce
from brainlens.nn.sensor_encoder import Head, TSConv, box_filter, window_moments
from brainlens.nn.sensor_peers import SensorModel, sensor_encoder
from brainlens.types import DataError, Features, Responses, Result, positions

Progress = Callable[[int, dict[str, float]], None]
FLOAT32_LIMIT = 1 << 30  # bytes; a larger training set is kept in half precision, whose rounding is far below the noise


@dataclass(frozen=True)
class SensorTraining:
    """How a sensor encoder is trained; the defaults are Table 3 of NeuroAlign for THINGS-EEG2.

    Its text says Adam and batch 1000 (A.3.4), its table AdamW and 256; the table is taken. `guidance`, `adjustment` and
    `saliency` are the three parts that the ablation leaves out one at a time; without adjustment the weights are equal.
    norms, form: see nn.guidance. patience: epochs without a better validation loss before stopping; None: never.
    """

    epochs: int = 200
    batch: int = 256
    lr: float = 2e-4
    betas: tuple[float, float] = (0.5, 0.999)
    decay_sensor: float = 1e-3
    decay_image: float = 5e-3
    temperature: float = 0.07
    width: int = 256
    dropout: float = 0.2
    validation: int = 740
    guidance: bool = True
    adjustment: bool = True
    saliency: bool = True
    norms: str = "relative"
    form: str = "softmax"
    patience: int | None = None


THINGS_EEG2 = SensorTraining()
THINGS_MEG = SensorTraining(epochs=100)
NICE = SensorTraining(
    batch=1000, decay_sensor=0.0, decay_image=0.0, guidance=False, adjustment=False, saliency=False, dropout=0.5
)


@dataclass(frozen=True)
class Protocol:
    """Who is trained on, who is tested, and what the gallery holds.

    kind: "within" (one subject's own training trials) or "across" (all other subjects' training trials); subject: who is
    tested (None: the only one). gallery: "image" (the test images themselves) or "concept" (layer "concept" of the
    features: for each image the mean of other images of its concept). Published tables mix the two, which differ in
    difficulty.
    """

    kind: str = "within"
    subject: str | None = None
    gallery: str = "image"

    def __post_init__(self) -> None:
        if self.kind not in ("within", "across") or self.gallery not in ("image", "concept"):
            raise DataError(
                f"protocol {self.kind!r}, gallery {self.gallery!r}: they are 'within' or 'across', 'image' or 'concept'"
            )


@dataclass(frozen=True)
class SensorPart:
    """Recordings (row, channel, time), the row of each in the target tables, and box-filtered window moments if any."""

    x: Tensor
    target: Tensor
    moments: Tensor | None = None

    def batch(self, rows: Tensor, device: str) -> tuple[Tensor, Tensor | None, Tensor]:
        x = self.x[rows].to(device, torch.float32)
        moments = None if self.moments is None else self.moments[rows].to(device)
        return x, moments, self.target[rows]


@dataclass
class SensorDecoder:
    """A trained encoder: `embed` gives brain embeddings, `gallery` those of image (or text) features."""

    model: nn.Module
    image_head: nn.Module
    text_head: nn.Module
    scale: tuple[Tensor, Tensor]
    device: str
    log: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    seconds: float = 0.0

    @torch.no_grad()
    def embed(self, data: np.ndarray, *, block: int = 256) -> np.ndarray:
        """(n, channel, time) recordings -> (n, d) float32; each row on its own, whatever the block."""
        self.model.eval()
        found = []
        for start in range(0, len(data), block):
            x = torch.as_tensor(np.asarray(data[start : start + block], dtype=np.float32))
            x = ((x - self.scale[0]) / self.scale[1]).to(self.device)
            found.append(self.model(_prepare(x, self.model)).float().cpu())
        return torch.cat(found).numpy()

    @torch.no_grad()
    def gallery(self, values: np.ndarray, *, text: bool = False) -> np.ndarray:
        """Image or text features (n, d) in the space of the brain embeddings."""
        head = self.text_head if text else self.image_head
        return head.eval()(torch.as_tensor(np.asarray(values, dtype=np.float32)).to(self.device)).float().cpu().numpy()


def align_sensors(
    responses: Responses,
    images: Features,
    texts: Features | None = None,
    *,
    encoder: str | nn.Module = "neuroalign",
    training: SensorTraining = THINGS_EEG2,
    protocol: Protocol = Protocol(),
    seed: int = 0,
    device: str = "cpu",
) -> Result:
    """Trains one sensor encoder and retrieves the test images with it.

    NeuroAlign minimises w1 L(brain, image) + w2 L(image, text) + w3 KL(brain-image | image-text), eqs. 4-9, with
    projection heads on all three; every other encoder L(brain, image) against the features as they are, as NICE does.
    responses: (trial, channel, time) with `stimulus`, `split` (train, test) and, for "across", `subject`; rows of one
    image are averaged. images.data: "image", and where used "saliency" (features of the saliency-filtered images, the
    target of NeuroAlign if there and `training.saliency`) and "concept"; texts.data["text"].
    Result: metrics `retrieval/brain->image/...` (and text); arrays embedding/brain, embedding/image, ids, weights;
    tables log (by epoch) and repeats (accuracy against the number of averaged repetitions).

    Raises DataError for an unknown subject, encoder or layer, trials without features, a test image in training.
    """
    started = time.perf_counter()
    decoder, test = fit_sensors(
        responses, images, texts, encoder=encoder, training=training, protocol=protocol, seed=seed, device=device
    )
    layer = _gallery_layer(images, encoder, training, protocol)
    averaged = test.average()
    ids = averaged.trials["stimulus"].to_numpy(dtype=str)
    image = decoder.gallery(images[layer][positions(ids, images.ids, "images")])
    brain = decoder.embed(averaged.data)
    uses_text = texts is not None and encoder == "neuroalign"
    text = decoder.gallery(texts["text"][positions(ids, texts.ids, "texts")], text=True) if uses_text and texts else None
    metrics = retrieval_metrics.retrieval(brain, image, text, seed=seed)
    metrics |= {"training/best_epoch": float(decoder.best_epoch), "training/seconds": decoder.seconds}
    arrays = {"embedding/brain": brain, "embedding/image": image, "ids": ids}
    arrays["ranks/brain->image"] = retrieval_metrics.ranks(brain, image)
    tables = {"log": pd.DataFrame(decoder.log), "repeats": repetition_curve(decoder, test, image, ids, seed=seed)}
    config = {"encoder": encoder if isinstance(encoder, str) else type(encoder).__name__, "seed": seed, "device": device}
    config |= {"training": asdict(training), "protocol": asdict(protocol), "images": images.model, "gallery_layer": layer}
    provenance = {"seconds": time.perf_counter() - started, "torch": torch.__version__, "seed": seed, "device": device}
    return Result("align", metrics, arrays, test.units, tables, config, provenance, test.space)


def fit_sensors(
    responses: Responses,
    images: Features,
    texts: Features | None = None,
    *,
    encoder: str | nn.Module = "neuroalign",
    training: SensorTraining = THINGS_EEG2,
    protocol: Protocol = Protocol(),
    seed: int = 0,
    device: str = "cpu",
    progress: Progress | None = None,
) -> tuple[SensorDecoder, Responses]:
    """The trained decoder, and the test trials of the tested subject, which nothing here has looked at."""
    train, test = split_subjects(responses, protocol)
    tri = encoder == "neuroalign"
    if tri and texts is None and training.guidance:
        raise DataError("neuroalign with guidance needs texts; give the caption features or training.guidance=False")
    layer = _target_layer(images, encoder, training)
    ids, row = np.unique(train.trials["stimulus"].to_numpy(dtype=str), return_inverse=True)
    image = torch.as_tensor(np.asarray(images[layer][positions(ids, images.ids, "images")], np.float32)).to(device)
    text = None
    if tri and texts is not None:
        text = torch.as_tensor(np.asarray(texts["text"][positions(ids, texts.ids, "texts")], np.float32)).to(device)
    held = held_out(len(ids), training.validation, seed)
    mean, spread = _scale(train.data, np.flatnonzero(~held[row]))
    started = time.perf_counter()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.startswith("cuda") else []):
        torch.manual_seed(seed)  # dropout draws from the global generator, which is put back afterwards
        decoder = _build(encoder, train, image.shape[1], text, training, seed, device, (mean, spread))
        parts = [_part(train.data, np.flatnonzero(keep[row]), row, decoder) for keep in (~held, held)]
        _train(decoder, parts[0], parts[1], image, text, training, seed, progress)
    decoder.seconds = time.perf_counter() - started
    return decoder, test


def split_subjects(responses: Responses, protocol: Protocol) -> tuple[Responses, Responses]:
    """(training rows, test rows) of a protocol; in "across" the tested subject is in no training row.

    Raises DataError for an unknown subject, several subjects where one must be named, or an image in both parts.
    """
    trials = responses.trials
    if responses.data.ndim != 3:
        raise DataError(f"sensor recordings are (trial, channel, time), got shape {responses.data.shape}")
    if "split" not in trials.columns:
        raise DataError("trials have no column 'split'; add one with values train and test")
    subject = trials["subject"].astype(str).to_numpy() if "subject" in trials.columns else np.full(len(trials), "1")
    known = list(pd.unique(subject))
    chosen = protocol.subject if protocol.subject is not None else known[0]
    if chosen not in known or (protocol.subject is None and len(known) > 1):
        raise DataError(f"subject {protocol.subject!r}: name one of {known} to test")
    if protocol.kind == "across" and len(known) < 2:
        raise DataError(f"protocol 'across' needs 2 subjects or more; the recording holds {known}")
    own = subject == chosen
    split = trials["split"].astype(str).to_numpy()
    train = (split == "train") & (own if protocol.kind == "within" else ~own)
    test = (split == "test") & own
    if not train.any() or not test.any():
        raise DataError(f"subject {chosen!r} leaves {train.sum()} training and {test.sum()} test trials; both must be there")
    names = trials["stimulus"].to_numpy(dtype=str)
    shared = np.intersect1d(names[train], names[test])
    if len(shared):
        raise DataError(f"{len(shared)} test images are in the training set, first {shared[0]!r}; fix the column 'split'")
    fitting = responses.rows(np.flatnonzero(train))
    repeated = fitting.trials.duplicated([c for c in ("subject", "stimulus") if c in fitting.trials.columns]).any()
    return (fitting.average() if repeated else fitting), responses.rows(np.flatnonzero(test))


def held_out(n_images: int, validation: int, seed: int) -> np.ndarray:
    """Which training images are for validation (bool); by image, so that no subject trains on them. At most a fifth."""
    keep = min(validation, n_images // 5)
    if keep < 2:
        raise DataError(f"{n_images} training images leave no validation set; give at least 10")
    held = np.zeros(n_images, bool)
    held[np.random.default_rng([seed, 53]).permutation(n_images)[:keep]] = True
    return held


def repetition_curve(
    decoder: SensorDecoder, test: Responses, image: np.ndarray, ids: np.ndarray, *, seed: int = 0
) -> pd.DataFrame:
    """Top-1 and top-5 against the number of averaged repetitions, rows of an image added one after the other.

    Columns repeats, top1, top1.low, top1.high, top5, ...; a row of `test` may itself be a mean (column `repeats`).
    """
    order = test.trials.groupby("stimulus", sort=False).cumcount().to_numpy()
    many = test.trials["repeats"].to_numpy(float) if "repeats" in test.trials.columns else np.ones(len(test))
    where = {name: i for i, name in enumerate(ids)}
    place = np.array([where[name] for name in test.trials["stimulus"]])
    total, count = np.zeros((len(ids), *test.data.shape[1:]), np.float64), np.zeros(len(ids))
    last = int(order.max()) + 1
    steps = sorted({1, 2, 4, 8, 16, 32, 64, last} & set(range(1, last + 1)))
    found = []
    for step in range(1, last + 1):
        rows = np.flatnonzero(order == step - 1)
        total[place[rows]] += np.asarray(test.data[rows], np.float64) * many[rows][:, None, None]
        count[place[rows]] += many[rows]
        if step in steps:
            brain = decoder.embed((total / count[:, None, None]).astype(np.float32))
            scores = retrieval_metrics.summary(retrieval_metrics.ranks(brain, image), len(image), ks=(1, 5), ways=(), seed=seed)
            found.append({"repeats": float(count.mean()), **{k: v for k, v in scores.items() if k.startswith("top")}})
    return pd.DataFrame(found)


def _target_layer(images: Features, encoder: str | nn.Module, training: SensorTraining) -> str:
    filtered = encoder == "neuroalign" and training.saliency and "saliency" in images.data
    return "saliency" if filtered else "image"


def _gallery_layer(images: Features, encoder: str | nn.Module, training: SensorTraining, protocol: Protocol) -> str:
    return "concept" if protocol.gallery == "concept" else _target_layer(images, encoder, training)


def _scale(data: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (channel, 1) over training rows and time, in pieces; flat or missing channels are errors."""
    total, square, count = 0.0, 0.0, 0
    for start in range(0, len(rows), 512):
        block = np.asarray(data[rows[start : start + 512]], dtype=np.float64)
        total, square = total + block.sum((0, 2)), square + (block**2).sum((0, 2))
        count += block.shape[0] * block.shape[2]
    mean = total / count
    spread = np.sqrt(np.maximum(square / count - mean**2, 0))
    bad = np.flatnonzero(~np.isfinite(spread) | (spread == 0))
    if len(bad):
        raise DataError(f"{len(bad)} channels are flat or hold NaN, first number {bad[0]}; drop them with clean()")
    return torch.as_tensor(mean, dtype=torch.float32)[:, None], torch.as_tensor(spread, dtype=torch.float32)[:, None]


def _build(
    encoder: str | nn.Module,
    train: Responses,
    d_image: int,
    text: Tensor | None,
    training: SensorTraining,
    seed: int,
    device: str,
    scale: tuple[Tensor, Tensor],
) -> SensorDecoder:
    channels, samples = train.data.shape[1:]
    tri = encoder == "neuroalign"
    width = training.width if tri else d_image
    model = sensor_encoder(encoder, channels, samples, width, seed=seed, dropout=training.dropout if tri else None)
    if isinstance(model, SensorModel) and model.front is None and isinstance(model.encoder, TSConv):
        model.encoder.filtered = True
    image_head = Head(d_image, width, dropout=training.dropout) if tri else nn.Identity()
    text_head = Head(text.shape[1], width, dropout=training.dropout) if text is not None else nn.Identity()
    return SensorDecoder(model.to(device), image_head.to(device), text_head.to(device), scale, device)


def _prepare(x: Tensor, model: nn.Module) -> Tensor:
    """The box filter where the encoder wants filtered data."""
    body = getattr(model, "encoder", None)
    return box_filter(x, body.pool) if isinstance(body, TSConv) and body.filtered else x


def _part(data: np.ndarray, rows: np.ndarray, target: np.ndarray, decoder: SensorDecoder) -> SensorPart:
    """Scaled (and box-filtered) recordings with their window moments, made in pieces so that no float64 copy exists."""
    body = getattr(decoder.model, "encoder", None)
    filtered = isinstance(body, TSConv) and body.filtered
    cut = data.shape[2] - (body.pool - 1 if isinstance(body, TSConv) and filtered else 0)
    half = len(rows) * data.shape[1] * cut * 4 > FLOAT32_LIMIT
    x = torch.empty(len(rows), data.shape[1], cut, dtype=torch.float16 if half else torch.float32)
    moments = []
    for start in range(0, len(rows), 256):
        block = torch.as_tensor(np.asarray(data[rows[start : start + 256]], dtype=np.float32))
        block = _prepare((block - decoder.scale[0]) / decoder.scale[1], decoder.model)
        x[start : start + len(block)] = block
        if isinstance(body, TSConv) and filtered:
            moments.append(window_moments(x[start : start + len(block)].float(), kernel=body.kernel, stride=body.stride))
    on = decoder.device
    return SensorPart(x.to(on), torch.as_tensor(target[rows], device=on), torch.cat(moments).to(on) if moments else None)


def _train(
    decoder: SensorDecoder,
    train: SensorPart,
    validation: SensorPart,
    image: Tensor,
    text: Tensor | None,
    training: SensorTraining,
    seed: int,
    progress: Progress | None,
) -> None:
    """The loop: AdamW, epochs of shuffled batches, the weights of the least validation loss kept."""
    heads = [*decoder.image_head.parameters(), *decoder.text_head.parameters()]
    groups: list[dict[str, Any]] = [{"params": list(decoder.model.parameters()), "weight_decay": training.decay_sensor}]
    groups += [{"params": heads, "weight_decay": training.decay_image}] if heads else []
    optimiser = torch.optim.AdamW(groups, lr=training.lr, betas=training.betas)
    adjust = LossAdjustment(norms=training.norms) if heads and training.adjustment else None
    shuffle = torch.Generator().manual_seed(seed)
    best, best_state, stale = float("inf"), _state(decoder), 0
    for epoch in range(training.epochs):
        decoder.model.train(), decoder.image_head.train(), decoder.text_head.train()
        total, steps, weight = 0.0, 0, np.zeros(3)
        for rows in torch.randperm(len(train.x), generator=shuffle).split(training.batch):
            if len(rows) < 2:
                continue
            optimiser.zero_grad(set_to_none=True)
            loss, weights = _step(decoder, train.batch(rows.to(train.x.device), decoder.device), image, text, training, adjust)
            optimiser.step()
            total, steps = total + loss, steps + 1
            weight[: len(weights)] += weights
        record = {
            "epoch": epoch + 1.0,
            "loss": total / steps,
            "validation": validation_loss(decoder, validation, image, training),
        }
        if not np.isfinite(record["loss"]):
            raise DataError(f"the loss is {record['loss']} in epoch {epoch + 1}; lower the learning rate {training.lr}")
        record |= {f"w{k + 1}": value / steps for k, value in enumerate(weight)} if heads else {}
        decoder.log.append(record)
        if progress is not None:
            progress(epoch, record)
        if record["validation"] < best:
            best, best_state, stale, decoder.best_epoch = record["validation"], _state(decoder), 0, epoch + 1
        else:
            stale += 1
        if training.patience is not None and stale >= training.patience:
            break
    for part, state in zip((decoder.model, decoder.image_head, decoder.text_head), best_state):
        part.load_state_dict(state)


def _state(decoder: SensorDecoder) -> list[dict[str, Tensor]]:
    return [copy.deepcopy(part.state_dict()) for part in (decoder.model, decoder.image_head, decoder.text_head)]


def _step(
    decoder: SensorDecoder,
    batch: tuple[Tensor, Tensor | None, Tensor],
    image: Tensor,
    text: Tensor | None,
    training: SensorTraining,
    adjust: LossAdjustment | None,
) -> tuple[float, np.ndarray]:
    """Gradients of one batch, left in the parameters; (value of L1, weights of the losses)."""
    x, moments, target = batch
    model, shown = decoder.model, image[target]
    if isinstance(decoder.image_head, nn.Identity):
        brain = model(x, moments) if isinstance(model, SensorModel) else model(x)
        loss = 0.5 * info_nce(brain, shown, training.temperature, labels=target, repeats="positive")
        loss.backward()
        return loss.item(), np.ones(1)
    assert isinstance(model, SensorModel) and isinstance(model.encoder, TSConv)  # noqa: PT018
    hidden = model.encoder(x, moments)
    leaf = hidden.detach().requires_grad_()
    e, v = model.head(leaf), decoder.image_head(shown)
    losses = [0.5 * info_nce(e, v, training.temperature, labels=target, repeats="positive")]
    if text is not None:
        t = decoder.text_head(text[target])
        losses.append(0.5 * info_nce(v, t, training.temperature, labels=target, repeats="positive"))
        if training.guidance:
            losses.append(semantic_guidance(e, v, t, temperature=training.temperature, form=training.form))
    parameters = [*model.head.parameters(), *decoder.image_head.parameters(), *decoder.text_head.parameters()]
    if adjust is not None and len(losses) > 1:
        weights, back = adjust.backward(losses, parameters, leaf)
        hidden.backward(back)
        return losses[0].item(), weights.cpu().numpy()
    torch.stack(losses).mean().backward()
    hidden.backward(leaf.grad)
    return losses[0].item(), np.full(len(losses), 1 / len(losses))


@torch.no_grad()
def validation_loss(decoder: SensorDecoder, part: SensorPart, image: Tensor, training: SensorTraining) -> float:
    """Brain-image InfoNCE over the validation rows, in one gallery per 1,000 rows.

    Only this loss, not the weighted sum: its weights move, so sums of different epochs cannot be compared.
    """
    decoder.model.eval(), decoder.image_head.eval()
    total = 0.0
    for rows in torch.arange(len(part.x), device=part.x.device).split(1000):
        pieces = []
        for few in rows.split(256):
            x, _, _ = part.batch(few, decoder.device)
            pieces.append(decoder.model(x))
        target = part.target[rows]
        gallery = decoder.image_head(image[target])
        if len(rows) > 1:
            each = info_nce(torch.cat(pieces), gallery, training.temperature, labels=target, repeats="positive")
            total += 0.5 * each.item() * len(rows)
    return total / len(part.x)


def without(training: SensorTraining, part: str) -> SensorTraining:
    """The ablation that leaves out "saliency", "guidance" or "adjustment" (Table 4)."""
    if part not in ("saliency", "guidance", "adjustment"):
        raise DataError(f"ablation {part!r} is not one of ['saliency', 'guidance', 'adjustment']")
    changed: dict[str, Any] = {part: False}
    return replace(training, **changed)
