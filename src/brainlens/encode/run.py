"""`encode` as the command line runs it: one network or several, one subject or several, and what is asked beside the fit."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens import datasets, store
from brainlens.backbones.diffusion import Steps
from brainlens.backbones.layers import GRID, PIXELS, extract_layers, network_label
from brainlens.datasets.runs import MODEL, Rows, keep, table
from brainlens.datasets.source import Source, Tell, open_recording, standardised
from brainlens.encode import METHODS, EncodingDesign, compare, fit_encoding, fit_model
from brainlens.encode.categories import haxby2001_encode
from brainlens.encode.compare import (
    agreement_table,
    layer_check,
    layer_maps,
    layer_match,
    scores_by_size,
    side_by_side_maps,
    topology_pair,
)
from brainlens.encode.group import as_group, drawn_means
from brainlens.encode.patterns import encode_patterns
from brainlens.models.encoding import EncodingModel, load
from brainlens.models.encoding.training import EncodingTraining
from brainlens.models.processes import first_only, from_first, is_first, joined, wait
from brainlens.types import DataError, Features, Responses, Result, Stimuli
from brainlens.types.scores import digits

FEW = 1000  # training images, below which ridge is the method of a recording unless one is named


@dataclass(frozen=True)
class Asked:
    """What the command line asks of `encode`.

    method: None takes what the recording bears (factortopy for voxels with pictures, ridge where they are
    few, see `suited`); methods: several to compare, in place of it. models: networks to compare (none: the
    source's); seeds: fits with so many seeds; curve: numbers of training images; one_layer: ridge on each layer alone beside
    the selector's weights; compare_topology: the same fit with selectors free for each unit beside it; steps: of a diffusion
    network.
    """

    method: str | None = None
    design: EncodingDesign = field(default_factory=EncodingDesign)
    training: EncodingTraining = field(default_factory=EncodingTraining)
    models: tuple[str, ...] = ()
    seeds: int = 1
    curve: tuple[int, ...] = ()
    one_layer: bool = False
    steps: Steps | None = None
    methods: tuple[str, ...] = ()
    compare_topology: bool = False

    def config(self) -> dict[str, Any]:
        """What a call is found again by; a field that came later stands in it where it is asked for, so that older runs stay."""
        return store.settings_of(self, {"compare_topology": False})

    @property
    def every_method(self) -> tuple[str | None, ...]:
        """What is fitted; None where the recording is to choose."""
        return self.methods or (self.method,)


def run_encode(
    source: Source, runs: str | Path, asked: Asked | None = None, *, seed: int = 0, device: str = "cpu", tell: Tell
) -> tuple[Path, Rows]:
    """Fits, stores each fit in a run folder of its own, and, where there are several, a comparison; returns the last folder.

    A recording without pictures but with categories is encoded from its categories, patterns without coordinates by ridge
    with nested cross-validation. Fits that were finished before an interruption are not made again by the same call.
    Started by `torchrun`, the processes share the units of every trained model; the first one scores and writes.
    """
    asked = asked if asked is not None else Asked()
    _check(source, asked)
    with joined(device) as here:
        return _run(source, runs, asked, seed=seed, device=here, tell=first_only(tell))


def _run(source: Source, runs: str | Path, asked: Asked, *, seed: int, device: str, tell: Tell) -> tuple[Path, Rows]:
    """What each process does; those that are not the first one return nothing to show."""
    solved = from_categories(source) or datasets.offers(source.dataset, "dissimilarities")
    if solved and not is_first():
        return Path(runs), []
    if from_categories(source):
        recording = open_recording(source, embeddings=False, device=device, tell=tell)
        tell("ridge on categories, one run left out", None)
        result = haxby2001_encode(recording.responses, seed=seed, device=device)
        return keep(result, runs, source), table(result, "encoding/")
    session = _Session(source, Path(runs), asked, seed, device, tell)
    names = asked.models or (source.model,)
    each = source.one_subject_each()  # an encoding model is of one brain
    fitted = [fit for one in each for fit in session.subject(one, names)]
    if not is_first():
        session.done()
        return Path(runs), []
    folder, rows = session.stored[-1], table(fitted[0][1], "encoding/")
    if len(fitted) > 1:
        found = compared(dict(fitted), len(source.subjects) > 1)
        if session.drawn:
            source.take_notes(each)
            found = as_group(found, [result for _, result in fitted], source.subjects, session.drawn)
        folder, rows = keep(found, runs, source), side_by_side(found.tables["subjects" if session.drawn else "comparison"])
    session.done()
    return folder, rows


def suited(source: Source, responses: Responses, asked: Asked) -> str:
    """The method where none is named: "factortopy", or "ridge" on a recording of few images or without coordinates.

    On few images a trained selector takes long and predicts worse than ridge; what is asked of a training asks for it. The
    phantom, whose truth the selectors are held against, keeps them.
    """
    plain = replace(asked.design, layers=None) == EncodingDesign() and asked.training == EncodingTraining()
    if datasets.simulated(source.dataset) or not plain:
        return "factortopy"
    shown = responses.trials
    images = shown.loc[shown["split"] != "test", "stimulus"].nunique() if "split" in shown.columns else 0
    places = {"x", "y", "z"} <= set(responses.units.columns)
    return "factortopy" if asked.one_layer or asked.compare_topology or (places and images >= FEW) else "ridge"


def from_categories(source: Source) -> bool:
    """Whether a recording is encoded from its categories, because it has them and no pictures."""
    return datasets.offers(source.dataset, "categories") and not datasets.offers(source.dataset, "pictures")


@dataclass
class _Session:
    """One call of `run_encode`: what was stored, and the unfinished work to drop once all is stored."""

    source: Source
    runs: Path
    asked: Asked
    seed: int
    device: str
    tell: Tell
    stored: list[Path] = field(default_factory=list)
    places: list[Path] = field(default_factory=list)
    drawn: list[np.ndarray] = field(default_factory=list)  # of each of several subjects, see `group.drawn_means`

    def subject(self, source: Source, names: Sequence[str | None]) -> list[tuple[str, Result]]:
        """(label, result) of every network on the subject of a source."""
        recording = open_recording(replace(source, model=None), embeddings=False, device=self.device, tell=self.tell)
        made = []
        for name in names:
            here = replace(source, model=name)
            self.tell(f"layers of {network_label(name)}", None)
            features = self.features(name, recording.stimuli, recording.layers)
            for method in self.asked.every_method:
                model = None
                if "direction" in recording.responses.units.columns:
                    result = self.patterns(here, recording.responses, features)
                    result = replace(result, tables={**result.tables, "stimuli": recording.stimuli.table})
                else:
                    rows = standardised(recording.responses)
                    result, model = self.voxels(rows, features, here, method)
                    one = len(names) == len(self.asked.every_method) == 1
                    if len(self.source.subjects) > 1 and one and self.asked.design.resamples and model is not None:
                        self.drawn.append(drawn_means(model, rows, features, design=self.asked.design, seed=self.seed))
                    result = with_pictures(result, recording.stimuli)
                result = replace(result, config={**result.config, "network": self.network(name, recording.layers)})
                if is_first():
                    self.stored.append(keep(result, self.runs, here, model=model))
                made.append((self.label(name, names, method, source), result))
        return made

    def label(self, name: str | None, names: Sequence[str | None], method: str | None, source: Source) -> str:
        """What tells a fit from the others of the call: its network, its method, its subject."""
        words = [network_label(name) if names.count(name) == 1 else str(name)] if len(names) > 1 or not self.asked.methods else []
        words += [str(method)] if self.asked.methods else []
        return ", ".join([*words, *([f"subject {source.subjects[0]}"] if len(self.source.subjects) > 1 else [])])

    def features(self, name: str | None, stimuli: Stimuli, own: Features | None) -> Features:
        if name in (None, "miniature") and own is not None:
            return own
        asked = self.asked
        return extract_layers(name, stimuli, self.names, steps=asked.steps, cache=self.runs / "features", device=self.device)

    @property
    def names(self) -> tuple[str, ...] | None:
        """Layers asked for by name; None for all of a network."""
        layers = self.asked.design.layers
        return None if isinstance(layers, str) else layers

    def network(self, name: str | None, own: Features | None) -> dict[str, Any]:
        """Which layers of which network were read, and how: what `brainlens predict` reads of new pictures."""
        mine = name in (None, "miniature") and own is not None
        layers, steps = self.names, self.asked.steps
        return {
            "name": name,
            "layers": None if layers is None else list(layers),
            "steps": None if steps is None else asdict(steps),
            "grid": None if mine else list(GRID),
        }

    def patterns(self, source: Source, responses: Responses, features: Features) -> Result:
        """Patterns recovered from dissimilarities; the single subjects' own where the recording has them."""
        known = datasets.offers(source.dataset, "dissimilarities") and source.folder is not None
        rdms = datasets.module(source.dataset).subject_rdms(source.folder) if known else None
        self.tell("ridge on patterns, two blocks of images left out", None)
        layers = None if list(features.data) == [PIXELS] else self.names
        return encode_patterns(responses, features, rdms=rdms, layers=layers, seed=self.seed)

    def voxels(
        self, responses: Responses, features: Features, source: Source, method: str | None
    ) -> tuple[Result, EncodingModel | None]:
        """The fit and what is asked beside it, as tables of one result; in the first process also the model of the first seed."""
        asked, method = self.asked, method or suited(source, responses, self.asked)
        fits = [self.fit(responses, features, method, self.seed + k, keep_model=not k) for k in range(asked.seeds)]
        model = load(self.places[-asked.seeds] / MODEL) if is_first() else None
        result, tables, metrics = fits[0], dict(fits[0].tables), dict(fits[0].metrics)
        arrays = dict(result.arrays)
        if asked.seeds > 1:
            tables["seeds"] = seed_table(fits, self.seed)
            if method == "factortopy":
                found, tables["consistency"] = agreement_table(fits, [f"seed {self.seed + k}" for k in range(asked.seeds)])
                metrics |= {f"encoding/seeds/{key}": value for key, value in found.items()}
                arrays |= layer_maps("seeds", fits)
        if asked.one_layer and method == "factortopy":
            ridge = self.fit(responses, features, "ridge", self.seed)
            tables["one_layer"] = layer_check(result, ridge)
            metrics |= {f"encoding/one_layer/{k}": v for k, v in layer_match(result, ridge, seed=self.seed).items()}
        if asked.compare_topology and method == "factortopy":
            free = self.fit(responses, features, method, self.seed, design=replace(asked.design, topological=False))
            tables["topology"], found_maps = topology_pair(result, free)
            arrays |= found_maps
        if asked.curve:
            sized: list[Result] = []

            def at_size(part: Responses) -> Result:
                sized.append(self.fit(part, features, method, self.seed))
                return sized[-1]

            curve = scores_by_size(responses, at_size, asked.curve, seed=self.seed)
            tables["learning_curve"] = curve.assign(encoder=method)
            arrays |= layer_maps("curve", sized) if method == "factortopy" else {}
        return replace(result, metrics=metrics, tables=tables, arrays=arrays), model

    def fit(
        self,
        responses: Responses,
        features: Features,
        method: str,
        seed: int,
        *,
        design: EncodingDesign | None = None,
        keep_model: bool = False,
    ) -> Result:
        """One fit, from its checkpoint or its result if it was begun or finished before; its model, if kept, beside.

        design: another than asked for. Every process trains; the first one scores and stores, and the others read what it found.
        """
        asked, design = self.asked, design or self.asked.design
        design = replace(design, layers=None) if asked.steps is not None else design  # names then hold the step
        spec = {"method": method, "design": asdict(design), "training": asdict(asked.training), "seed": seed}
        data = [store.fingerprint(responses), store.fingerprint(features)]
        place = store.run_folder(self.runs / "unfinished", "encode", spec, data)
        self.places.append(place)
        if from_first((place / "result.json").exists() and (not keep_model or (place / MODEL).is_dir())):
            return store.load_result(place)

        def progress(step: int, record: dict[str, float]) -> None:
            self.tell(f"encoding, {method}, seed {seed}", step / asked.training.steps)

        self.tell(f"encoding, {method}, seed {seed}", None)
        how: dict[str, Any] = {"method": method, "design": design, "training": asked.training, "seed": seed}
        how |= {"device": self.device, "folder": place, "progress": progress}
        if not is_first():
            if method != "ridge":  # which is solved, by the first one alone
                fit_model(responses, features, **how)
            wait()
            return store.load_result(place)
        with store.lock(place):
            result, model = fit_encoding(responses, features, **how)
            if keep_model:
                model.save(place / MODEL)
            store.save_result(result, place)
        wait()
        return result

    def done(self) -> None:
        """Drops what an interrupted call would have gone on from, when no process reads it any more."""
        wait()
        for place in self.places if is_first() else []:
            shutil.rmtree(place, ignore_errors=True)


def compared(fitted: dict[str, Result], subjects: bool) -> Result:
    """Networks (or subjects) side by side as a result of its own: table `comparison`, and which network predicts a unit best."""
    first = next(iter(fitted.values()))
    config = {"method": first.config["method"], "models": list(fitted), "seed": first.config["seed"]}
    methods = list(dict.fromkeys(str(result.config["method"]) for result in fitted.values()))
    config |= {"methods": methods} if len(methods) > 1 else {}
    config |= {"layers": first.config["layers"]} if "layers" in first.config else {}
    if "r2" not in first.arrays:  # patterns: one score a network
        keys = ("r2_weighted", "r_weighted", "retrieval/top1", "retrieval/two_way_patterns", "rdm/match_correlation")
        rows = [{"model": name} | _row(result, keys) for name, result in fitted.items()]
        metrics = {
            f"compare/{name}/{key}": v for name, result in fitted.items() for key, v in _row(result, keys, (".p",)).items()
        }
        metrics |= {f"encoding/retrieval/{key}": first.metrics[f"encoding/retrieval/{key}"] for key in ("chance1", "n")}
        return Result("compare", metrics, {}, None, {"comparison": pd.DataFrame(rows)}, config, first.provenance)
    same = len({len(result.arrays["r2"]) for result in fitted.values()}) == 1
    if not same and subjects:  # brains of their own: nothing is compared unit by unit
        each = {name: _row(result, ("r2_mean", "r2_of_ceiling")) for name, result in fitted.items()}
        metrics = {f"compare/{name}/{key}": value for name, row in each.items() for key, value in row.items()}
        frame = pd.DataFrame([{"model": name} | row for name, row in each.items()])
        return Result("compare", metrics, {}, None, {"comparison": frame}, config, first.provenance)
    frame, tables = compare(fitted), {}
    metrics = {}
    if subjects and all("layer_weights" in result.arrays for result in fitted.values()):
        found, tables["consistency"] = agreement_table(list(fitted.values()), list(fitted))
        metrics = {f"compare/subjects/{key}": value for key, value in found.items()}
    scores = np.stack([np.asarray(result.arrays["r2"], dtype=float) for result in fitted.values()])
    filled = np.where(np.isfinite(scores), scores, -np.inf)
    known = np.isfinite(scores).all(axis=0) & (filled.max(axis=0) > 0)
    best = np.where(known, np.argmax(filled, axis=0), np.nan)
    for name, result in fitted.items():
        metrics |= {f"compare/{name}/r2_mean{end}": result.metrics[key] for end in ("", ".low", ".high")
                    if (key := f"encoding/r2_mean{end}") in result.metrics}  # fmt: skip
    arrays = {"best_model": best} | side_by_side_maps(fitted, scores, known)
    return Result("compare", metrics, arrays, first.units, tables | {"comparison": frame}, config, first.provenance, first.space)


def seed_table(fits: Sequence[Result], first: int) -> pd.DataFrame:
    """One row a seed: its scores with their intervals."""
    keys = ("r2_mean", "r2_of_ceiling", "hierarchy_slope")
    return pd.DataFrame([{"seed": first + k} | _row(fit, keys) for k, fit in enumerate(fits)])


def with_pictures(result: Result, stimuli: Stimuli) -> Result:
    """The result with the pictures that its channel maps were read from, for the figure."""
    if "channels/ids" not in result.arrays:
        return result
    images = stimuli.take([str(name) for name in result.arrays["channels/ids"]]).images
    shapes = {np.shape(image) for image in images}
    return replace(result, arrays={**result.arrays, "channels/images": np.stack(list(images))}) if len(shapes) == 1 else result


def side_by_side(frame: pd.DataFrame, most: int = 5) -> Rows:
    """A comparison as rows of text: each score with its interval in one cell, the first scores only."""
    shown = [str(c) for c in frame.columns if not str(c).endswith((".low", ".high"))][: most + 1]
    rows: Rows = []
    for line in frame.to_dict("records"):
        row: dict[str, Any] = {}
        for column in shown:
            low, high = line.get(f"{column}.low", np.nan), line.get(f"{column}.high", np.nan)
            value = digits(float(line[column])) if isinstance(line[column], float) else str(line[column])
            row[column] = value if np.isnan(low) else f"{value} ({low:.3g} to {high:.3g})"
        rows.append(row)
    return rows


def _row(result: Result, keys: Sequence[str], more: Sequence[str] = ()) -> dict[str, float]:
    ends = ("", ".low", ".high", *more)
    return {f"{k}{e}": result.metrics[f"encoding/{k}{e}"] for k in keys for e in ends if f"encoding/{k}{e}" in result.metrics}


def _check(source: Source, asked: Asked) -> None:
    """What can be known before anything is read. Raises DataError."""
    unknown = [method for method in asked.every_method if method is not None and method not in METHODS]
    if unknown:
        raise DataError(f"encode: method {unknown[0]!r} is not one of {list(METHODS)}")
    if len(set(asked.methods)) < len(asked.methods):
        raise DataError(f"encode: a method is given twice in {list(asked.methods)}; name each once")
    datasets.module(source.dataset)  # its name before anything is asked of it
    if from_categories(source) or datasets.offers(source.dataset, "dissimilarities"):
        why = "categories and no pictures" if from_categories(source) else "patterns without places in the brain"
        wrong = [
            name
            for name, value in (("--method", asked.every_method not in ((None,), ("ridge",))), ("--seeds", asked.seeds > 1),
                                ("--curve", asked.curve), ("--one-layer", asked.one_layer),
                                ("--compare-topology", asked.compare_topology), ("--roi", source.regions))
            if value
        ]  # fmt: skip
        if wrong:
            raise DataError(f"encode: {source.dataset} holds {why}, so {wrong[0]} does not apply; leave it out")
    if asked.seeds < 1:
        raise DataError(f"encode: {asked.seeds} seeds are asked for; at least 1 is needed")
    if asked.compare_topology and not asked.design.topological:
        raise DataError("encode: --compare-topology fits the selectors in both forms; leave out --per-voxel (topological=False)")
    if asked.one_layer and not {None, "factortopy"} & set(asked.every_method):
        raise DataError(
            f"encode: --one-layer is compared to selector weights, which method {asked.every_method[0]!r} does not have"
        )
