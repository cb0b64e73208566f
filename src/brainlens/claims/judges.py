"""Brains that judge: the same methods on the linear phantom, on the mismatched one, and on photographs; what survives.

The linear phantom's voxels read, linearly, the CLIP that is decoded, so that linear methods win on it by construction. In the
other worlds the brain reads a network that no method sees, is rectified and compressed, answers late, is warped against the
atlas and moves from run to run (`phantom.mismatch`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from brainlens import store
from brainlens.backbones.layers import extract_layers
from brainlens.claims.align_study import Study
from brainlens.claims.encode import Plan, informative_and_noise, named
from brainlens.datasets.source import Opened, Source, Tell, open_recording
from brainlens.encode import encode, selector_truth
from brainlens.models.encoding.training import EncodingTraining
from brainlens.models.volume.fit import LINEAR, TRAINING
from brainlens.models.volume.split import split_tables
from brainlens.models.volume.training import AlignmentTraining

SEED = 1  # another brain and other scenes than those of the other claims
ALIGNERS = ("ridge", "ridge_whitened", "ridge_projected", "linear", "mlp", "volume")  # the quick ones first
ENCODERS = ("ridge", "factortopy", "class_token", "patch_token", "gnet")
STRENGTH = {"nonlinearity": 0.4, "haemodynamics": 0.8, "warp": 3.0, "motion": 1.0}  # fixed before any method saw the brain
DIRECTIONS = ("brain->image", "image->brain", "brain->text", "text->brain")
KEPT = ("top1", "top5", "chance1", "n")
QUICK = EncodingTraining(steps=1500, batch=16, lr=5e-3, epoch=250, patience=3)  # of the trained baselines


@dataclass(frozen=True)
class World:
    """One brain: what it sees, and what it reads and how. methods_read: the network of `encode`, None the source's own."""

    name: str
    source: Source
    aligners: tuple[str, ...] = ALIGNERS
    encoders: tuple[str, ...] = ENCODERS
    methods_read: str | None = None


def worlds(
    *, images: int = 1200, tests: int = 200, brain_network: str = "untrained:1", other: str | None = None,
    photographs: tuple[str, ...] = (), cache: Path | None = None,
) -> tuple[World, ...]:  # fmt: skip
    """The linear phantom, the mismatched one and, with folders of photographs, one that sees those and is encoded alone.

    brain_network: what the mismatched brain reads; other: what the methods read of photographs, which the miniature has
    never seen. cache: a folder for layers.
    """
    sizes: dict[str, Any] = {"n_train": images, "n_test": tests, "seed": SEED}
    kept = {} if cache is None else {"cache": str(cache)}
    mismatch: dict[str, Any] = {**kept, **STRENGTH, "brain_network": brain_network}
    found = (World("linear", Source(**sizes, options=kept)), World("mismatch", Source(**sizes, options=mismatch)))
    if not photographs or other is None:
        return found
    seen = Source(**{**sizes, "n_test": 60}, options={**mismatch, "pictures": photographs})
    return (*found, World("photographs", seen, (), ENCODERS, other))


def single_mismatches(
    *, images: int = 1200, tests: int = 200, brain_network: str = "untrained:1", cache: Path | None = None,
    aligners: tuple[str, ...] = ("ridge", "ridge_projected", "mlp"), encoders: tuple[str, ...] = ("ridge",),
) -> tuple[World, ...]:  # fmt: skip
    """The mismatches one at a time, each on the linear phantom and as strong as in all of them together; see `worlds`."""
    sizes: dict[str, Any] = {"n_train": images, "n_test": tests, "seed": SEED}
    kept = {} if cache is None else {"cache": str(cache)}
    changes: dict[str, dict[str, Any]] = {"network": {"brain_network": brain_network}, **{k: {k: v} for k, v in STRENGTH.items()}}
    return tuple(
        World(f"only_{name}", Source(**sizes, options={**kept, **change}), aligners, encoders) for name, change in changes.items()
    )


@dataclass
class Judging:
    """One world with its methods, each kept in `folder` as soon as it is finished; a second call goes on from there."""

    world: World
    folder: Path
    training: AlignmentTraining = TRAINING
    linear: AlignmentTraining = LINEAR
    plan: Plan = field(default_factory=Plan)
    baselines: EncodingTraining = QUICK
    device: str = "cpu"
    opened: Opened | None = None

    def recording(self, tell: Tell) -> Opened:
        """The recording with layers and embeddings, z-scored by session; opened once."""
        if self.opened is None:
            found = open_recording(self.world.source, layers=True, device=self.device, tell=tell)
            if self.world.methods_read is not None:
                tell("layers of the network that the methods read", None)
                cache = self.world.source.options.get("cache")
                layers = extract_layers(self.world.methods_read, found.stimuli, cache=cache, device=self.device)
                found = replace(found, layers=layers)
            self.opened = replace(found, responses=found.responses.zscore())
        return self.opened

    def align(self, tell: Tell, done: Callable[[dict[str, float]], None]) -> dict[str, float]:
        """`judges/WORLD/align/METHOD/...` of every aligner in four directions, and the differences to the first one."""
        head, metrics = f"judges/{self.world.name}/align", dict[str, float]()
        names = self.world.aligners
        if not names:
            return metrics
        place = self.folder / self.world.name
        if all((place / f"{name}.json").exists() for name in names):
            study = Study(None, place, self.training, self.linear, seed=SEED, tell=tell)  # type: ignore[arg-type]
        else:
            recording = self.recording(tell)
            assert recording.images is not None
            split = split_tables(recording.responses, recording.images, recording.texts, seed=SEED, device=self.device)
            study = Study(split, place, self.training, self.linear, seed=SEED, tell=tell)
        for name in names:
            metrics |= renamed(study.encoder(name), f"align/{name}/retrieval/", f"{head}/{name}/")
            done(metrics)
        for key, value in study.differences(names[1:], base=names[0]).items():
            metrics[key.replace("align/", f"{head}/", 1).replace("/retrieval/", "/")] = value
        done(metrics)
        return metrics

    def encode(self, tell: Tell, done: Callable[[dict[str, float]], None]) -> dict[str, float]:
        """`judges/WORLD/encode/METHOD/r2_mean`, and what the selectors of factortopy find of this brain's truth."""
        metrics: dict[str, float] = {}
        for name in self.world.encoders:
            file = self.folder / self.world.name / f"encode+{name}.json"
            if not file.exists():
                store.save_json(file, {"metrics": self._encoder(name, tell)})
            for key, value in store.read_json(file)["metrics"].items():
                metrics[key.replace("encode/", f"judges/{self.world.name}/encode/", 1)] = value
            done(metrics)
        return metrics

    def _encoder(self, name: str, tell: Tell) -> dict[str, float]:
        recording = self.recording(tell)
        assert recording.layers is not None
        responses = informative_and_noise(recording.responses, noise=self.plan.noise, seed=SEED)
        training = self.plan.training if name == "factortopy" else self.baselines
        tell(f"judges, {self.world.name}, encoding, {name}", None)
        result = encode(
            responses, recording.layers, method=name, design=self.plan.design, training=training, seed=SEED, device=self.device,
            progress=lambda step, record: tell(f"judges, {self.world.name}, encoding, {name}", step / max(1, training.steps)),
        )  # fmt: skip
        found = named(result, name)
        if name == "factortopy":
            found |= {f"encode/{name}/{key}": value for key, value in selector_truth(result).items()}
        return found


def renamed(metrics: Mapping[str, float], old: str, new: str) -> dict[str, float]:
    """The retrieval scores that are kept, with their intervals, under the names of the judges."""
    found = {}
    for key, value in metrics.items():
        direction, _, score = key.removeprefix(old).partition("/")
        if key.startswith(old) and direction in DIRECTIONS and score.split(".")[0] in KEPT:
            found[new + key.removeprefix(old)] = value
    return found


def order_table(metrics: Mapping[str, float], prefix: str = "") -> list[dict[str, Any]]:
    """One row a method with its score in every world: brain->image top-1 of aligners, mean R2 of encoders, r on real voxels.

    prefix: of the worlds' names; without one those of single mismatches stay out.
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for key, value in metrics.items():
        parts = key.split("/")
        if parts[0] != "judges" or parts[-1] not in ("top1", "r2_mean", "r_p95") or "-" in parts[3]:  # differences stand apart
            continue
        if not parts[1].startswith(prefix) or (not prefix and parts[1].startswith("only_")):
            continue
        if parts[2] == "align" and parts[4] != "brain->image":
            continue
        low, high = metrics.get(f"{key}.low"), metrics.get(f"{key}.high")
        span = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
        row = rows.setdefault((parts[2], parts[3]), {"verb": parts[2], "method": parts[3]})
        row[parts[1].removeprefix(prefix)] = f"{value:.3f}{span}"
    return sorted(rows.values(), key=lambda row: str(row["verb"]))  # stable: methods stay as they came
