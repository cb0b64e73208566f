"""`reconstruct` as the command line runs it: pictures of test responses, chosen, scored and explained, in one run folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from brainlens import datasets, store
from brainlens.backbones import clip, vision
from brainlens.backbones.diffusion import Diffusion, decode, is_diffusion
from brainlens.backbones.picture_features import protocol_features
from brainlens.datasets.pictures import gallery_table
from brainlens.datasets.runs import Rows, keep, table
from brainlens.datasets.sensors import SENSOR_DATASETS
from brainlens.datasets.source import Opened, Source, Tell, network_folder, open_recording
from brainlens.models.generation.adapter_tables import open_pipeline
from brainlens.models.generation.adapter_training import DEFAULT, PAPER
from brainlens.models.generation.neuro_adapter import NeuroAdapter
from brainlens.models.generation.pretraining import TOKEN_MAP
from brainlens.models.processes import first_only, from_first, is_first, joined
from brainlens.reconstruct.asked import Asked
from brainlens.reconstruct.choosing import Choice, Chooser, choose_by_evidence, choose_pictures, fit_chooser
from brainlens.reconstruct.explaining import explained
from brainlens.reconstruct.material import Material, material
from brainlens.reconstruct.prompts import PromptAxes
from brainlens.reconstruct.protocols import CHOOSER, DRAWN, drawn_before, group_of, scored_again, with_protocol
from brainlens.reconstruct.regions import named_sets
from brainlens.reconstruct.scoring import Embed, Scorer, comparison, differences, exchanges, metrics_of, retrieved, score_rows
from brainlens.reconstruct.sensor_windows import open_windows
from brainlens.reconstruct.starting import (
    first_captions,
    fit_predicted,
    new_scenes,
    recipe,
    shipped_attention,
    trained_attention,
)
from brainlens.solvers.ridge import ridge_cv, ridge_predict
from brainlens.types import DataError, Responses, Result, Stimuli

GOING_ON = replace(DEFAULT, lr=1e-3)  # of a start that draws already
PRETRAIN, PRETRAIN_STEPS = 4000, 1500  # other pictures, and steps on them, where no attention ships


def run_reconstruct(
    source: Source, runs: str | Path, asked: Asked | None = None, *, seed: int = 0, device: str = "cpu", tell: Tell
) -> tuple[Path, Rows]:
    """Fits a NeuroAdapter to the training images, draws the test images, chooses, scores and explains; returns the run's folder.

    What is finished is kept in `runs/unfinished` until the run is stored: the same call after a stop goes on from it.
    Started by `torchrun`, the processes share every batch of the training; the first one draws, scores and writes.
    Raises DataError for a recording without pictures or split, and where the diffusion model is missing.
    """
    asked = asked if asked is not None else Asked()
    _check(source, asked)
    with joined(device) as here:
        diffusion = open_pipeline(asked.place, here)  # what is missing is said before anything is simulated
        if asked.protocol is not None and is_first():
            protocol_features(asked.protocol, dict(asked.features))
        layers = (asked.candidates > 1 and asked.choosing != "evidence") or asked.start == "predicted"
        if source.dataset in SENSOR_DATASETS:
            cache = Path(runs) / "prepared"
            recording = open_windows(source, layers=layers, cache=cache, device=here, tell=first_only(tell))
        else:
            recording = open_recording(source, layers=layers, device=here, tell=first_only(tell))
        folder = reconstruct_opened(recording, source, runs, asked, diffusion=diffusion, seed=seed, device=here, tell=tell)
        if not is_first():
            return folder, []
    return folder, _shown(store.load_result(folder), asked)


def reconstruct_opened(
    recording: Opened,
    source: Source,
    runs: str | Path,
    asked: Asked,
    *,
    diffusion: Diffusion,
    seed: int = 0,
    device: str = "cpu",
    tell: Tell,
) -> Path:
    """The same on a recording that is open already: the folder of the run. Of several processes the first one has it; the
    others return the folder of the unfinished run when the training is over."""
    started, tell = store.Start(), first_only(tell)
    tell("parcels", None)
    wanted = asked.regions if asked.regions is not None else {"paper": 200}.get(asked.preset, 100)
    given = material(recording, asked.parcels, wanted, asked.regions is not None, trials=asked.trials, size=_side(diffusion))
    named_sets(given.parcels, asked.lesions)  # a name that no kept parcel has is said before the training
    if asked.repeat_ceiling:
        given.repetitions()  # so are repeats that there are not
    config = {**_config(asked.drawn), "seed": seed, "pipeline_files": diffusion.files}
    data = [store.fingerprint(given.train), store.fingerprint(given.test)]
    place = store.run_folder(Path(runs) / "unfinished", "reconstruct", {**source.config(), **config}, data)
    if asked.protocol is not None:  # scores are of a run's name, and not of the drawing's
        config |= {"protocol": asked.protocol, "features": dict(asked.features)}
        before = drawn_before(runs, place.name) if is_first() else None
        if from_first(before is not None):
            if before is None:
                return place
            return scored_again(before, runs, source, asked, config, seed=seed, device=device, tell=tell)
    with store.lock(place) if is_first() else nullcontext():
        made = Reconstruction(given, asked, source, diffusion, place, seed, device, tell)
        model = made.model()
        if not is_first():
            return place
        result, chooser = made.result(model)
    counts = {f"data/{name}": float(v) for name, v in given.counts.items()}
    counts |= {"data/train_images": float(len(given.train_stimuli)), "data/test_images": float(len(given.seen))}
    counts |= {"data/parcels": float(len(given.parcels)), "data/parcel_units": float(len(given.columns))}
    provenance = store.provenance(seed, device, data, started) | {DRAWN: place.name}
    result = replace(result, metrics=result.metrics | counts, config=config | result.config, provenance=provenance)
    if asked.protocol is not None:
        result = with_protocol(result, asked, seed=seed, device=device, tell=tell)
    folder = keep(result, runs, source, model=model)
    if chooser is not None:
        chooser.model.save(folder / CHOOSER)
    shutil.rmtree(place, ignore_errors=True)
    return folder


@dataclass
class Reconstruction:
    """One recording's material, and the steps from it to a result; what a step leaves in `place` is not made again."""

    given: Material
    asked: Asked
    source: Source
    diffusion: Diffusion
    place: Path
    seed: int
    device: str
    tell: Tell

    def result(self, model: NeuroAdapter) -> tuple[Result, Chooser | None]:
        """The whole of it: pictures, scores beside baselines and controls, contributions, maps and lesions."""
        pictures = self.pictures(model)
        chooser, choice = self.choice(model, pictures)
        embed = self.embed()
        self.tell("scores", None)
        scorer = Scorer.of(self.given.seen, embed)
        others, rows_of = self.baselines(model)
        orders = exchanges(len(pictures), self.seed)
        rows_of["rows/shuffled"] = orders[0]
        rows = score_rows(scorer, pictures, choice.chosen, others)
        rows["shuffled"] = scorer.shuffled(choice.pictures, orders)
        if self.asked.repeat_ceiling:
            rows_of["rows/repeat_ceiling"], others["repeat_ceiling"] = self.repeats(model)
            rows["repeat_ceiling"] = scorer.repeat_ceiling(others["repeat_ceiling"])
        metrics = metrics_of(rows, seed=self.seed)
        arrays = {"pictures/seen": self.given.seen, "pictures/candidates": pictures, "columns": self.given.columns}
        arrays |= {"chosen": choice.chosen, "choice/correlation": choice.correlation, "ids": self.given.test_ids}
        arrays |= {f"pictures/{name}": found for name, found in others.items()}
        arrays |= {f"each/{row}/{name}": v for row, scores in rows.items() for name, v in scores.items()} | rows_of
        refit = self.model if self.asked.lesion_by == "refit" else None
        found, more, tables = explained(self.given, model, self.asked, refit=refit, seed=self.seed, tell=self.tell)
        tables |= {"comparison": comparison(metrics), "gallery": gallery_table(self.given.test_stimuli)}
        metrics |= differences(rows["chosen"], rows["retrieval"], seed=self.seed)
        tables["log"] = _log(model)
        result = Result(
            "reconstruct", metrics | found, arrays | more, self.given.all_units, tables,
            {"method": f"NeuroAdapter ({self.asked.preset})", "model": self.source.model}, {}, self.given.space,
        )  # fmt: skip
        return result, chooser

    def new_model(self) -> NeuroAdapter:
        """The estimator of the preset, before the fit."""
        asked = self.asked
        base = PAPER if asked.preset == "paper" else DEFAULT if asked.start == "random" else GOING_ON
        training = {**asdict(recipe(base, asked.training_steps)), **dict(asked.changes.get("training", {}))}
        common: dict[str, Any] = {"low_level": asked.low_level, "seed": self.seed, "device": self.device, "training": training}
        common |= {name: value for name, value in asked.changes.items() if name != "training"}
        if asked.preset == "paper":
            return NeuroAdapter.paper(regions=None, **common)
        start = "ridge" if asked.start in ("attention", "ridge") else "random"
        settings: dict[str, Any] = {"start": start, "reliability": self.given.repeated} | common
        return NeuroAdapter(None, **settings)

    def model(self, without: Sequence[str] = ()) -> NeuroAdapter:
        """The fitted adapter, read where it was finished before; without: parcels that it does not get to see.

        Raises DataError where no parcel is left.
        """
        given, mark = self.given, "-" + store.ids_hash(sorted(without))[:12] if without else ""
        kept = self.place / f"model{mark}"
        if from_first(kept.is_dir()):
            return NeuroAdapter.load(kept)
        left = np.setdiff1d(np.arange(len(given.parcels)), given.parcels.find(list(without)))
        if not len(left):
            raise DataError("reconstruct: a lesion of all kept parcels leaves nothing to fit; name fewer regions")
        parcels, model = given.parcels.keep(left), self.new_model()
        prompts = self.axes(self.embedded) if model.start == "ridge" else None
        before = self.before(model)
        if self.asked.joint:
            model.set_params(joint=len(before[TOKEN_MAP[0]]))
        self.tell("latents of the training images", None)
        model.fit(
            given.train, given.train_stimuli, parcels, pipeline=self.asked.place, ids=given.train_names,
            prompts=prompts, captions=first_captions(given.train_stimuli), before=before, folder=self.place / f"fit{mark}",
            progress=self.share("training the adapter"),
        )  # fmt: skip
        if is_first():
            model.save(kept)
        return model

    def before(self, model: NeuroAdapter) -> Any:
        """What the fit begins with, see `STARTS`."""
        asked = self.asked
        if asked.start not in ("attention", "predicted"):
            return None
        if self.shipped is not None:
            return self.shipped[0]
        pictures = self.other_pictures()
        training = recipe(replace(DEFAULT, **dict(asked.changes.get("training", {}))), asked.pretrain_steps or PRETRAIN_STEPS)
        where = self.place / asked.start
        if asked.start == "attention":
            self.tell("embeddings and latents of other pictures", None)
            prompts = self.axes(self.embed()(np.asarray(pictures.images)))
            return trained_attention(
                asked.place, np.asarray(pictures.images), prompts, captions=first_captions(pictures), training=training,
                seed=self.seed, device=self.device, folder=where, progress=self.share("training the attention on other pictures"),
            )  # fmt: skip
        if not self.given.repeated:
            raise DataError("reconstruct: start 'predicted' draws noise from repeats, and no training image is repeated here")
        self.tell("predicting responses to other pictures", None)
        fitted = self.chooser("ridge")
        single = self.given.train.data - fitted.predict_training()[self.given.train_rows]
        predicted = fitted.predict(np.asarray(pictures.images))
        text = "training on predicted responses"
        return fit_predicted(
            model, pictures, predicted, single, self.given.parcels, training=asdict(training), pipeline=asked.place,
            folder=where, progress=self.share(text),
        )  # fmt: skip

    def other_pictures(self) -> Stimuli:
        """Pictures without responses: scenes for the phantom, the training pictures of a recording."""
        if self.source.dataset in datasets.SIMULATED:
            return new_scenes(self.asked.pretrain or PRETRAIN, seed=self.source.seed)
        return replace(self.given.train_stimuli, images=self.given.train_pictures)

    @cached_property
    def shipped(self) -> tuple[dict[str, Any], PromptAxes] | None:
        """The attention that ships, where it fits: the miniatures, and no training of another one asked for."""
        asked = self.asked
        own = self.source.model in (None, "miniature") and asked.pretrain is None and asked.pretrain_steps is None
        return shipped_attention(self.diffusion.files) if own and asked.start == "attention" else None

    @cached_property
    def embedded(self) -> np.ndarray:
        """Embeddings of the training pictures as the network gives them, which other pictures' are comparable with: those of the
        recording are z-scored by its training images; (image, d)."""
        return self.embed()(self.given.train_pictures)

    @cached_property
    def axes(self) -> PromptAxes:
        """How the attention reads embeddings: by axes of the training images or those that ship; with start "ridge" alone they
        become tokens themselves, in the width of the network's text."""
        if self.shipped is not None:
            return self.shipped[1]
        if self.asked.start == "attention":
            return PromptAxes.whitened(self.embedded)
        return PromptAxes.fit(self.embedded, int(self.diffusion.prompt.shape[-1]), seed=self.seed)

    def pictures(self, model: NeuroAdapter) -> np.ndarray:
        """Pictures (trial, candidate, h, w, 3) of the test trials."""
        asked, text = self.asked, f"drawing {len(self.given.seen)} x {self.asked.candidates} pictures"
        return self._draw(model, self.given.test, asked.candidates, "pictures", text)

    def repeats(self, model: NeuroAdapter) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the repeated test images (n,), and pictures (repetition, n, h, w, 3) drawn from each repetition alone."""
        rows, responses = self.given.repetitions()
        drawn = [
            self._draw(model, own, 1, f"repetition{k}", f"drawing {len(rows)} pictures of repetition {k + 1}", turn=k)[:, 0]
            for k, own in enumerate(responses)  # with noise of its own, so that responses alone are shared
        ]
        return rows, np.stack(drawn)

    def _draw(
        self, model: NeuroAdapter, responses: Responses | np.ndarray, candidates: int, name: str, text: str, turn: int = 0
    ) -> np.ndarray:
        """Pictures (trial, candidate, h, w, 3) of responses (trial, unit), kept under a name; turn: added to the seed."""
        asked = self.asked
        self.tell(text, None)
        return model.reconstruct(
            responses, candidates, seed=self.seed + turn, folder=self.place / name, progress=self.share(text), **asked.drawing,
        )  # fmt: skip

    def choice(self, model: NeuroAdapter, pictures: np.ndarray) -> tuple[Chooser | None, Choice]:
        """The candidate of each (trial, candidate, h, w, 3) whose predicted response fits best, or the only one."""
        n = len(pictures)
        if self.asked.candidates == 1:
            return None, Choice(pictures[:, 0], np.zeros(n, np.int64), np.zeros((n, 1)))
        kind = self.asked.choosing
        self.tell(f"choosing by {kind}", None)
        if kind == "evidence":
            return None, choose_by_evidence(pictures, lambda found: self.axes(self.embed()(found)), self.evidence(model))
        chooser = self.chooser(kind)
        return chooser, choose_pictures(pictures, chooser.scaled(self.given.test.data), chooser.predicted)

    def evidence(self, model: NeuroAdapter) -> Callable[[np.ndarray], np.ndarray]:
        """How well embeddings (trial, candidate, d) or (image, d) fit each test response: (trial, candidate or image)."""
        return lambda embeddings: model.evidence(self.given.test.data, embeddings)

    def chooser(self, kind: str) -> Chooser:
        """An encoding model of the kept units, fitted to the training images alone."""
        given = self.given
        assert given.train_layers is not None
        network = vision.load(network_folder(self.source), device=self.device)
        return fit_chooser(kind, network, given.train_layers, given.mean_responses(), given.parcels, seed=self.seed)

    def baselines(self, model: NeuroAdapter) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Pictures (trial, h, w, 3) to beat: the nearest training picture, a random one, and decoded latents; and their rows."""
        given = self.given
        x, new = model.inputs(given.mean_responses()), model.inputs(given.test.data)
        rows = retrieved(x, given.train_embedding, new)
        drawn = np.random.default_rng([self.seed, 73]).integers(len(x), size=len(new))
        latents = given.latents(self.diffusion)
        fit = ridge_cv(x, latents.flatten(1).numpy(), np.logspace(0, 6, 13))
        low = ridge_predict(fit, new).reshape(-1, *latents.shape[1:])
        pictures = {"retrieval": given.train_pictures[rows], "random_picture": given.train_pictures[drawn]}
        if model.anchors_ is not None:
            pictures["evidence_retrieval"] = given.train_pictures[self.evidence(model)(self.axes(self.embedded)).argmax(axis=1)]
        return pictures | {"low_level": decode(self.diffusion, low)}, {"rows/retrieval": rows}

    @cached_property
    def network(self) -> clip.Clip:
        """The network of the source, read once for all that asks it."""
        return clip.load_clip(network_folder(self.source), device=self.device)

    def embed(self) -> Embed:
        """Embeddings of pictures by the network of the source."""
        model = self.network

        def embed(pictures: np.ndarray) -> np.ndarray:
            ids = np.array([f"{i:06d}" for i in range(len(pictures))])
            return clip.embed_images(model, Stimuli(ids, pictures, [[] for _ in ids]))["image"]

        return embed

    def share(self, text: str) -> Any:
        return lambda done: self.tell(text, done)


def _shown(result: Result, asked: Asked) -> Rows:
    """The rows of the terminal: ours without SSIM, and of a protocol the chosen pictures and what they are measured against."""
    ours = f"reconstruct/{group_of(asked.protocol)}/" if asked.protocol else "none"
    rows = []
    for row in table(result, "reconstruct/"):
        kind = row["metric"].removeprefix(ours).rpartition("/")[0]
        if kind in ("", "retrieval", "repeat_ceiling") if row["metric"].startswith(ours) else "ssim" not in row["metric"]:
            rows.append(row)
    return rows


def _check(source: Source, asked: Asked) -> None:
    """What can be known before anything is read."""
    if source.dataset in SENSOR_DATASETS and asked.repeat_ceiling:
        raise DataError(f"reconstruct: repeats of {source.dataset} are averaged on opening; leave --repeat-ceiling out")
    if source.dataset in SENSOR_DATASETS and source.regions:
        raise DataError(f"reconstruct: {source.dataset} has channels and no regions; leave --region out")
    if not datasets.offers(source.dataset, "pictures"):
        raise DataError(f"reconstruct: {source.dataset} comes without its pictures, so there is nothing to train on")
    if source.model is not None and is_diffusion(source.model):
        raise DataError(f"reconstruct: --model {source.model} is a diffusion model; give it as --pipeline, and a CLIP as --model")


def _side(diffusion: Diffusion) -> int:
    assert diffusion.preprocess.crop is not None  # `load_diffusion` sets it
    return int(diffusion.preprocess.crop[0])


def _config(asked: Asked) -> dict[str, Any]:
    """What a run folder remembers of what was asked."""
    return {**asked.settings(), "lesions": list(asked.lesions), "pipeline": asked.place}


def _log(model: NeuroAdapter) -> Any:
    import pandas as pd

    return pd.DataFrame(model.history_)
