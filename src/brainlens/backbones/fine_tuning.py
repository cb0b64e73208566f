"""A vision network trained further to tell labels apart, so that its layers can be mapped on the brain before and after.

The network's embedding of the whole picture is read by one linear layer; all weights move. Cross entropy, AdamW 3e-5, 3,000
steps and at most 50 pictures a class, as in "Brain Decodes Deep Nets", section 4.4 and D.4.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens import store
from brainlens.backbones import vision
from brainlens.backbones.folder import model_folder
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.store import load_checkpoint, remove_checkpoints, save_checkpoint
from brainlens.types import DataError, Stimuli, read_text, reading

COLUMNS = (("file", "image", "stimulus", "id"), ("label", "class", "category"))


@dataclass(frozen=True)
class FineTuning:
    """How it is trained: AdamW with a cosine to zero; `held`: the share of each class that is tested; `per_class`: at most."""

    steps: int = 3000
    lr: float = 3e-5
    batch: int = 32
    weight_decay: float = 0.01
    per_class: int = 50
    held: float = 0.2
    every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch", 2), ("per_class", 2), ("every", 1)):
            if getattr(self, name) < least:
                raise DataError(f"finetune: {name} {getattr(self, name)} must be at least {least}")
        if not 0 < self.held < 1 or not self.lr > 0:
            raise DataError(f"finetune: held {self.held} must lie between 0 and 1 and lr {self.lr} above 0")


@dataclass
class FineTuned:
    """What came of it: classes, the log, and scores of pictures that were held out, by a linear layer before and after."""

    classes: list[str]
    log: list[dict[str, float]] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)


def read_labels(path: str | Path, stimuli: Stimuli) -> np.ndarray:
    """The label of every picture, from a CSV with the columns file and label (or image, stimulus, id; class, category).

    Returns (picture,) strings in the order of the stimuli.
    Raises DataError for other columns, pictures without a label, labels of pictures that are not found, and a single class.
    """
    with reading(path, "save it as CSV text again"):
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        names = [next((c for c in known if c in (reader.fieldnames or ())), None) for known in COLUMNS]
        if None in names:
            raise DataError(f"{path} has the columns {reader.fieldnames}; it needs file and label")
        found = {Path(row[str(names[0])]).stem: (row[str(names[1])] or "").strip() for row in reader}
    missing = [str(name) for name in stimuli.ids if not found.get(str(name))]
    extra = sorted(set(found) - set(map(str, stimuli.ids)))
    if missing or extra:
        what = f"no label for {missing[0]!r}" if missing else f"a label for {extra[0]!r}, which is not found"
        raise DataError(f"{path}: {what} ({len(missing)} pictures without a label, {len(extra)} labels without a picture)")
    labels = np.array([found[str(name)] for name in stimuli.ids])
    if len(set(labels)) < 2:
        raise DataError(f"{path}: every picture is {str(labels[0])!r}; fine-tuning needs at least two classes")
    return labels


def parts_of(labels: np.ndarray, settings: FineTuning) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (n,) of the pictures, of labels (picture,), that are trained on and of those that are tested, class by class."""
    rng = np.random.default_rng(settings.seed)
    train, test = [], []
    for name in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == name))
        held = max(1, round(settings.held * len(rows)))
        if len(rows) < 2:
            raise DataError(f"finetune: class {str(name)!r} has one picture; it needs one to train on and one to test")
        test.append(rows[:held])
        train.append(rows[held : held + settings.per_class])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))


def fine_tune(
    network: str | Path,
    stimuli: Stimuli,
    labels: np.ndarray,
    out: str | Path,
    *,
    settings: FineTuning | None = None,
    device: str = "cpu",
    tell: Callable[[str, float | None], None],
) -> FineTuned:
    """Trains a network on labelled pictures and writes it as a model folder that every command reads; goes on where it stopped.

    labels (picture,) strings.
    Checkpoints lie in `out/unfinished` until the folder is whole, which one process at a time may write.
    Scores: `accuracy/after` of held-out pictures by the trained layer and `accuracy/before` by a linear layer alone on the
    network as it was, each with interval, n and chance.
    """
    source, place = model_folder(network), Path(out)
    if place.resolve() == Path(source).resolve():
        raise DataError(f"finetune: {out} is the network's own folder; name another one")
    with store.lock(place):  # one training a folder: checkpoints and weights of two would be mixed
        return _fine_tuned(source, stimuli, labels, place, settings or FineTuning(), device, tell)


def _fine_tuned(
    source: Path,
    stimuli: Stimuli,
    labels: np.ndarray,
    place: Path,
    chosen: FineTuning,
    device: str,
    tell: Callable[[str, float | None], None],
) -> FineTuned:
    """`fine_tune` in a folder that is held."""
    classes = sorted(set(map(str, labels)))
    train, test = parts_of(labels, chosen)
    target = torch.tensor([classes.index(str(name)) for name in labels], device=device)
    backbone = vision.load(source, device=device)
    backbone.model.requires_grad_(True)  # a network that is loaded to be read has none
    tell("pictures", None)
    pixels = torch.from_numpy(backbone.preprocess.batch(vision.read_images(stimuli, range(len(stimuli))))).half()

    def embed(rows: np.ndarray) -> Tensor:
        return vision.embedding(backbone, pixels[torch.from_numpy(rows)].float().numpy())

    found = FineTuned(classes)
    found.scores |= _linear(embed, train, test, target, len(classes), chosen)
    torch.manual_seed(chosen.seed)
    head = nn.Linear(embed(test[:1]).shape[1], len(classes)).to(device)
    optimiser = torch.optim.AdamW(
        [*backbone.model.parameters(), *head.parameters()], lr=chosen.lr, weight_decay=chosen.weight_decay
    )
    parts = {"model": backbone.model, "head": head, "optimiser": optimiser}
    made_for = {"network": backbone.files, "settings": asdict(chosen), "classes": classes, "pictures": len(labels)}
    start = _resume(place / "unfinished", parts, made_for, found)
    backbone.model.train()
    for step in range(start, chosen.steps):
        rng = np.random.default_rng([chosen.seed, step])
        torch.manual_seed(chosen.seed * 1_000_003 + step)  # of dropout
        rows = np.sort(rng.choice(train, size=min(chosen.batch, len(train)), replace=False))
        for group in optimiser.param_groups:
            group["lr"] = chosen.lr * 0.5 * (1 + float(np.cos(np.pi * step / chosen.steps)))
        loss = F.cross_entropy(head(embed(rows)), target[torch.from_numpy(rows)])
        if not torch.isfinite(loss):
            raise DataError(f"finetune: the loss is {loss.item()} at step {step}; lower --lr")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if (step + 1) % chosen.every == 0 or step + 1 == chosen.steps:
            found.log.append({"step": float(step + 1), "loss": loss.item()})
            state = {name: part.state_dict() for name, part in parts.items()}
            save_checkpoint(place / "unfinished", state | {"step": step + 1, "log": found.log, "made_for": made_for})
            tell("fine-tuning", (step + 1) / chosen.steps)
    found.scores |= _accuracy("after", _predicted(backbone, embed, head, test, chosen.batch), target[torch.from_numpy(test)])
    found.scores["accuracy/chance"] = float(torch.bincount(target[torch.from_numpy(test)]).max()) / len(test)
    found.scores |= {"images/train": float(len(train)), "images/test": float(len(test)), "classes": float(len(classes))}
    _write(backbone, source, place, chosen, found)
    remove_checkpoints(place / "unfinished")
    return found


def _resume(folder: Path, parts: dict[str, Any], made_for: dict[str, Any], found: FineTuned) -> int:
    """The step to go on from, with every part as it was. Raises DataError for a checkpoint of other settings."""
    saved = load_checkpoint(folder)
    if saved is None:
        return 0
    if saved["made_for"] != store.plain(made_for):
        raise DataError(
            f"{folder}: the checkpoint there is of another network, settings or labels; remove it, or name another --out"
        )
    for name, part in parts.items():
        part.load_state_dict(saved[name])
    found.log = saved["log"]
    return int(saved["step"])


def _predicted(
    backbone: vision.Backbone, embed: Callable[[np.ndarray], Tensor], head: nn.Module, rows: np.ndarray, batch: int
) -> Tensor:
    backbone.model.eval()
    with torch.no_grad():
        return torch.cat([head(embed(rows[i : i + batch])).argmax(1) for i in range(0, len(rows), batch)])


def _accuracy(name: str, predicted: Tensor, target: Tensor) -> dict[str, float]:
    correct = (predicted == target).cpu().numpy().astype(float)
    ends = zip(("", ".low", ".high"), bootstrap_mean(correct), strict=True)
    return {f"accuracy/{name}{end}": value for end, value in ends} | {f"accuracy/{name}.n": float(len(correct))}


def _linear(
    embed: Callable[[np.ndarray], Tensor], train: np.ndarray, test: np.ndarray, target: Tensor, count: int, settings: FineTuning
) -> dict[str, float]:
    """Accuracy of ridge on one-hot labels from the embedding as it was; penalty at the mean squared length of an embedding."""
    with torch.no_grad():
        rows = {k: torch.cat([embed(v[i : i + settings.batch]) for i in range(0, len(v), settings.batch)]).double()
                for k, v in (("train", train), ("test", test))}  # fmt: skip
    mean = rows["train"].mean(0)
    x = rows["train"] - mean
    y = F.one_hot(target[torch.from_numpy(train)], count).double()
    gram = x @ x.T
    weights = x.T @ torch.linalg.solve(gram + gram.diagonal().mean() * torch.eye(len(x)).to(gram), y - y.mean(0))
    predicted = ((rows["test"] - mean) @ weights + y.mean(0)).argmax(1)
    return _accuracy("before", predicted, target[torch.from_numpy(test)])


def _write(backbone: vision.Backbone, source: Path, place: Path, settings: FineTuning, found: FineTuned) -> None:
    """The folder: weights, the small files of the source, what was done; config.json last: without it, it is no model folder."""
    store.save_weights(place, "model", {name: value.contiguous() for name, value in backbone.model.state_dict().items()})
    done = {"of": source.name, "settings": asdict(settings), "classes": found.classes, "scores": found.scores, "log": found.log}
    store.save_json(place / "finetuned.json", done)
    files = [file for file in sorted(source.iterdir()) if file.suffix in (".json", ".txt")]
    for file in sorted(files, key=lambda file: file.name == "config.json"):
        if not file.name.endswith(".index.json") and file.name not in ("manifest.json", "finetuned.json"):
            store.save_text(place / file.name, read_text(file))
