"""The claims of `reconstruct` on the phantom: identification, kinds, colours and places beside baselines; whether contributions,
maps and lesions find the truth; and the parts taken out one at a time. Each part is kept as soon as it is finished."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from brainlens import store
from brainlens.claims.encode import mispaired
from brainlens.claims.judging import Judges, shares
from brainlens.claims.reconstruct_ceiling import ceiling_claims
from brainlens.claims.reconstruct_truth import contribution_claims, field_claims, lesion_claims
from brainlens.datasets.runs import MODEL
from brainlens.datasets.source import Opened, Source, Tell
from brainlens.models.generation.adapter_tables import open_pipeline
from brainlens.models.generation.neuro_adapter import NeuroAdapter
from brainlens.models.generation.sampling import Sampling
from brainlens.reconstruct.asked import Asked, preset
from brainlens.reconstruct.material import Material, material
from brainlens.reconstruct.run import Reconstruction, reconstruct_opened
from brainlens.reconstruct.scoring import SCORES, differences
from brainlens.types import DataError, Result

JUDGED = ("color", "place", "kind_detector", "pick50")
ROWS = {
    "first": "first", "retrieval": "retrieval_baseline", "evidence_retrieval": "evidence_retrieval",
    "random_picture": "random_picture", "low_level": "low_level_alone", "shuffled": "shuffled",
}  # fmt: skip
PARCELS = (25, 50, 100, 200, 400)
FEW = 4  # candidates of an ablation
RANKED = 200  # parcels of the run whose contributions are ranked
TRAINED: dict[str, dict[str, Any]] = {  # what is changed of a training on the recording, of so many steps as all of these have
    "reference": {"width": 0.0},  # nothing but that it trains, and is drawn at the prediction: the others are compared with it
    "trained": {},  # the same near training pictures, as the main run is
    "paper": {**preset("paper"), "steps": None, "scheduler": "ddim"},  # drawn as all others are
    "no_dropout": {"width": 0.0, "changes": {"training": {"dropout": False}}},
    "no_min_snr": {"width": 0.0, "changes": {"training": {"weighting": "none"}}},
    "no_distillation": {"width": 0.0, "changes": {"training": {"distil": 0.0}}},
    "region_tokens": {"tokens": "region"},
    "start_ridge": {"start": "ridge"},
    "start_random": {"start": "random"},
    "start_predicted": {"start": "predicted"},
}
ABLATIONS = TRAINED | {  # of the others what is changed of the main run
    "four_candidates": {},  # what the others are compared with: all of them draw so many
    "at_prediction": {"width": 0.0, "steps": 0},
    "ridge_chooser": {"chooser": "ridge"},
    "no_reliability": {"changes": {"reliability": False}},
    "low_level": {"low_level": 0.7},
    **{f"parcels/{p}": {"regions": p} for p in PARCELS},
}


def silent(text: str, share: float | None = None) -> None:
    """No progress is shown."""


@dataclass
class ReconstructStudy:
    """One recording of the phantom, what is asked of the main run, and a folder with a file for every part that is finished.

    A second study on the same folder reads what is there and goes on. short: training steps of the ablations that train
    (None: those of their preset). scenes: whose maps are compared with fields; lesioned: scenes of a domain whose regions are
    lesioned.
    """

    recording: Opened
    source: Source
    folder: Path
    asked: Asked
    short: int | None = None
    scenes: int = 48
    lesioned: int = 150
    seed: int = 0
    device: str = "cpu"
    tell: Tell = silent
    known: dict[str, Any] = field(default_factory=dict)

    def main(self) -> dict[str, float]:
        """`reconstruct/...` of the main run: every row of its table under every judge."""
        return self._kept("main", lambda: self._judged(self._run("main", self.asked), ""))

    def truth(self) -> dict[str, float]:
        """`reconstruct/field_correlation`, `lesion/...` of the main run's model."""
        return self._kept("truth", self._truth)

    def contributions(self) -> dict[str, float]:
        """`reconstruct/contribution_auroc` on the run with `RANKED` parcels: among fewer all lie in regions that know something,
        so that there is nothing to rank."""

        def run() -> dict[str, float]:
            asked = replace(self.asked, regions=RANKED, trials=max(2, self.asked.explain), candidates=1)  # what is explained
            folder = self._run("contributions", asked)
            result = store.load_result(folder)
            units = result.units.iloc[np.asarray(result.arrays["columns"])].reset_index(drop=True)  # type: ignore[union-attr]
            return contribution_claims(result, NeuroAdapter.load(folder / MODEL).parcels_, units)

        return self._kept("contributions", run)

    def shuffled(self) -> dict[str, float]:
        """`reconstruct/shuffled_training/...`: the same recipe on training responses of other images."""

        def run() -> dict[str, float]:
            other = replace(self.recording, responses=mispaired(self.recording.responses, self.seed))
            return self._judged(self._run("shuffled_training", replace(self.asked, explain=0), other), "shuffled_training/")

        return self._kept("shuffled_training", run)

    def ceiling(self) -> dict[str, float]:
        """`reconstruct/true_embedding/...`: what a brain that is read without error would give, see `reconstruct_ceiling`."""

        def run() -> dict[str, float]:
            ids = self._material().test_ids[: self.asked.trials]
            scenes, judges = self.recording.stimuli.take([str(name) for name in ids]), self._judges(ids)
            sampling = Sampling(1, self.asked.guidance, self.asked.sampling_steps, self.seed)
            return ceiling_claims(self.asked.place, scenes, judges, JUDGED, sampling=sampling, device=self.device)

        return self._kept("true_embedding", run)

    def ablation(self, name: str) -> dict[str, float]:
        """`reconstruct/<name>/...` with one thing changed, see ABLATIONS. Raises DataError for other names."""
        if name not in ABLATIONS:
            raise DataError(f"reconstruct: ablation {name!r} is not one of {', '.join(ABLATIONS)}")
        few = {"candidates": min(self.asked.candidates, FEW)}  # the first of the main run's; a preset's own number stands
        changed = replace(self.asked, **few | joined(self.asked.changes, ABLATIONS[name]))
        if name in TRAINED and self.short is not None:
            changed = replace(changed, steps=self.short)
        if changed.preset == "paper" and changed.steps is None:
            changed = replace(changed, steps=self.asked.steps)
        key = name.replace("/", "-")
        return self._kept(key, lambda: self._judged(self._run(key, replace(changed, explain=0)), f"{name}/"))

    def all(self, ablations: tuple[str, ...] = tuple(ABLATIONS)) -> dict[str, float]:
        """Everything, in the order of what matters."""
        metrics = self.main() | self.truth() | self.contributions() | self.shuffled()
        for name in ablations:
            metrics |= self.ablation(name)
        return metrics

    def _kept(self, name: str, make: Any) -> dict[str, float]:
        file = self.folder / f"{name}.json"
        if file.exists():
            return dict(store.read_json(file))
        found = make()
        store.save_json(file, found)
        return found

    def _run(self, name: str, asked: Asked, recording: Opened | None = None) -> Path:
        """The folder of the run, created if it is missing."""
        note = self.folder / f"{name}-run.json"
        if note.exists() and (Path(store.read_json(note)["folder"]) / "result.json").exists():
            return Path(store.read_json(note)["folder"])
        diffusion = open_pipeline(asked.place, self.device)

        def named(text: str, share: float | None = None) -> None:
            self.tell(f"{name}: {text}", share)

        folder = reconstruct_opened(
            recording or self.recording, self.source, self.folder / "runs", asked, diffusion=diffusion, seed=self.seed,
            device=self.device, tell=named,
        )  # fmt: skip
        store.save_json(note, {"folder": str(folder)})
        return folder

    def _judged(self, folder: Path, group: str) -> dict[str, float]:
        """Metrics of a run under the names of the claims, with the judges' shares; group: "" or "ablation/"."""
        result = store.load_result(folder)
        rows = {"": chosen_pictures(result)}
        if not group:
            there = [row for row in ROWS if row in ("first", "shuffled") or f"pictures/{row}" in result.arrays]
            rows |= {f"{ROWS[row]}/": self._row(result, row) for row in there}
            rows["real/"] = np.asarray(result.arrays["pictures/seen"])
        judges = self._judges(result.arrays["ids"])
        out: dict[str, float] = {}
        for key, value in result.metrics.items():
            if key.startswith("reconstruct/") and "/lesion/" not in key:
                part = key.removeprefix("reconstruct/")
                row, _, score = part.rpartition("/") if "/" in part else ("", "", part)
                if row in ("", "mean", "best", *ROWS) and (not group or row in ("", "first")):
                    name = f"{ROWS.get(row, row)}/" if row else ""
                    out[f"reconstruct/{group}{name}{score}"] = value
        judged: dict[str, dict[str, np.ndarray]] = {}
        for row, pictures in rows.items():
            judged[row] = {k: v for k, v in judges(pictures).items() if k in JUDGED}
            found = shares(f"reconstruct/{group}{row}".rstrip("/"), judged[row])
            kinds = {k.replace("kind_detector", "kind_top1"): v for k, v in found.items() if "kind_detector" in k}
            out |= found | kinds
        return out if group else out | self._differences(result, judged)

    def _differences(self, result: Result, judged: dict[str, dict[str, np.ndarray]]) -> dict[str, float]:
        """Chosen minus nearest training picture by every score and judge: `reconstruct/difference/retrieval_baseline/...`."""
        sides: list[dict[str, np.ndarray]] = []
        for row, of in (("chosen", ""), ("retrieval", "retrieval_baseline/")):
            right = {name: found.astype(float) for name, found in judged[of].items()}
            own = {name: np.asarray(result.arrays[f"each/{row}/{name}"]) for name in SCORES}
            sides.append(own | right | {"kind_top1": right["kind_detector"]})
        return differences(*sides, seed=self.seed)

    def _row(self, result: Result, row: str) -> np.ndarray:
        """The pictures of a row of the table."""
        arrays = result.arrays
        if row == "first":
            return np.asarray(arrays["pictures/candidates"])[:, 0]
        if row == "shuffled":
            return chosen_pictures(result)[np.asarray(arrays["rows/shuffled"])]
        return np.asarray(arrays[f"pictures/{row}"])

    def _judges(self, ids: np.ndarray) -> Judges:
        if "judges" not in self.known:
            names = [str(name) for name in ids]
            self.known["judges"] = Judges.of(self.recording.stimuli.take(names), device=self.device)
        return self.known["judges"]

    def _truth(self) -> dict[str, float]:
        folder = self._run("main", self.asked)
        model = NeuroAdapter.load(folder / MODEL)
        given = self._material()
        units = given.all_units.iloc[given.columns].reset_index(drop=True)
        sampling: dict[str, Any] = {"guidance": self.asked.guidance, "steps": self.asked.sampling_steps, "seed": self.seed}
        sampling["width"] = self.asked.near
        self.tell("maps of retinotopic parcels", None)
        metrics = field_claims(model, given.test.data[: self.scenes], given.parcels, units, **sampling)
        self.tell("lesions of faces and places", None)
        lesioned: dict[str, Any] = {"scenes": self.lesioned, **sampling}
        metrics |= lesion_claims(model, given, self._detector(), **lesioned)
        self.tell("the same decoded anew without them", None)
        diffusion = open_pipeline(self.asked.place, self.device)
        place = self.folder / "refits"
        again = Reconstruction(given, self.asked, self.source, diffusion, place, self.seed, self.device, self.tell)
        return metrics | lesion_claims(model, given, self._detector(), refit=again.model, **lesioned)

    def _detector(self) -> Any:
        from brainlens.claims.detector import Detector

        return Detector.shipped()

    def _material(self) -> Material:
        """The main run's material again, with all test images."""
        wanted = self.asked.regions if self.asked.regions is not None else 100
        diffusion = open_pipeline(self.asked.place, self.device)
        return material(
            self.recording, self.asked.parcels, wanted, self.asked.regions is not None, trials=None,
            size=int(diffusion.preprocess.crop[0] if diffusion.preprocess.crop else 64),
        )  # fmt: skip


def joined(changes: dict[str, Any], ablation: dict[str, Any]) -> dict[str, Any]:
    """An ablation whose changes of the estimator join those that the main run makes already."""
    if "changes" not in ablation:
        return ablation
    own = ablation["changes"]
    training = {**changes.get("training", {}), **own.get("training", {})}
    return {**ablation, "changes": {**changes, **own, **({"training": training} if training else {})}}


def chosen_pictures(result: Result) -> np.ndarray:
    """The chosen candidate of each image (n, h, w, 3)."""
    pictures, at = np.asarray(result.arrays["pictures/candidates"]), np.asarray(result.arrays["chosen"])
    return pictures[np.arange(len(at)), at]
