"""The claims on simulated EEG: what is run, that a second run goes on, and the arithmetic of the summary."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from brainlens import store
from brainlens.claims import sensor_truth, sensors
from brainlens.claims.sensor_workers import THREADS, run_side_by_side
from brainlens.claims.sensors import (
    SensorStudy,
    SensorTables,
    planned,
    pooled,
    run_fits,
    sensor_tables,
    subject_recording,
    summarise,
)
from brainlens.models.sensors import checkpoint
from brainlens.types import Features, Stimuli

STUDY = SensorStudy(
    train=100,
    subjects=(1, 2),
    across=(2,),
    across_train=60,
    methods=("neuroalign", "linear"),
    ablations=(),
    seeds=(0,),
    epochs=2,
    amplitude=6.0,
)


def quiet(text: str, share: float | None = None) -> None:
    """No progress is shown."""


@pytest.fixture(scope="module")
def tables() -> SensorTables:
    rng = np.random.default_rng(0)
    n = 120
    ids = np.array([f"s{i:03d}" for i in range(n)])
    z = rng.normal(size=(n, 6))
    data = {f"layer{k}": (z @ rng.normal(size=(6, 12))).astype(np.float32) for k in range(4)}
    data |= {name: (z @ rng.normal(size=(6, 10))).astype(np.float32) for name in ("image", "saliency")}
    texts = Features({"text": (z @ rng.normal(size=(6, 10))).astype(np.float32)}, ids, "text")
    table = pd.DataFrame({"split": ["train"] * 100 + ["test"] * 20})
    return SensorTables(Stimuli(ids, np.zeros((n, 1, 1, 3), np.uint8), table=table), Features(data, ids, "random"), texts)


def test_every_fit_is_kept_and_a_second_run_only_reads(
    tables: SensorTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fits = run_fits(STUDY, tables, tmp_path, quiet)
    assert [(fit["kind"], fit["subject"], fit["method"], fit["seed"]) for fit in fits] == list(planned(STUDY))
    assert len(fits) == 6
    assert all(len(fit["ranks"]) == 20 and fit["training"]["precision"] == "bfloat16" for fit in fits)
    monkeypatch.setattr(sensors, "fit_once", lambda *a, **k: pytest.fail("fitted again"))
    again = run_fits(STUDY, tables, tmp_path, quiet)
    assert [fit["ranks"] for fit in again] == [fit["ranks"] for fit in fits]
    subject = subject_recording(tables, STUDY, 1, tmp_path)
    found = sensor_truth.topography(subject, tables, STUDY, tmp_path, ("neuroalign", 1))
    assert -1 <= found["eeg/topography_correlation"] <= 1
    assert sensor_truth.signal_facts(subject)["eeg/amplitude_uv"] == pytest.approx(6.0, rel=1e-3)
    onset = sensor_truth.time_claims(subject, tables)
    assert onset["eeg/onset/low_level"] <= onset["eeg/onset/category"]


def test_no_new_fit_is_begun_when_the_time_is_over(tables: SensorTables, tmp_path: Path) -> None:
    assert run_fits(replace(STUDY, minutes=-1), tables, tmp_path, quiet) == []


def test_across_trains_on_the_others_only(tables: SensorTables, tmp_path: Path) -> None:
    people = {number: subject_recording(tables, STUDY, number, tmp_path) for number in (1, 2)}
    joined = pooled(people, STUDY, 2).trials
    train, test = joined[joined["split"] == "train"], joined[joined["split"] == "test"]
    assert set(train["subject"]) == {"1"} and len(train) == 60  # noqa: PT018
    assert set(test["subject"]) == {"2"} and len(test) == 20 * 16  # noqa: PT018


def test_recordings_of_several_subjects_are_joined_without_a_copy(tables: SensorTables, tmp_path: Path) -> None:
    people = {number: subject_recording(tables, STUDY, number, tmp_path) for number in (1, 2)}
    joined = pooled(people, STUDY, 2)
    parts = [people[n].responses.where(split=part).data[:most] for n, part, most in ((1, "train", 60), (2, "test", None))]
    assert isinstance(joined.data, store.LazyRows)
    assert np.array_equal(joined.data, np.concatenate(parts))
    network = tables.network
    kept = store.load_features(store.save_features(network, tmp_path / "network"))
    rounded = replace(network, data={name: np.asarray(value, np.float32) for name, value in kept.data.items()})
    for number in (1, 2):  # layers on disk in float16, or in memory in float32: the same truth
        truths = [sensors.eeg_truth(tables.stimuli, layers, subject=number) for layers in (kept, rounded)]
        assert np.array_equal(truths[0].signal, truths[1].signal)
        assert np.array_equal(truths[0].patterns, truths[1].patterns)


def test_a_fit_that_was_killed_goes_on_and_leaves_nothing(
    tables: SensorTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = replace(STUDY, subjects=(1,), methods=("linear", "no_saliency"), ablations=(), seeds=(0,), epochs=4)
    whole = run_fits(study, tables, tmp_path / "whole", quiet)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)  # a state after every epoch
    said: list[str] = []

    def stop(text: str, share: float | None = None) -> None:
        said.append(text)
        if text.startswith("  no_saliency 3"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_fits(study, tables, tmp_path / "stopped", stop)
    assert [path.name for path in (tmp_path / "stopped" / "unfinished").iterdir()] == ["within-1-no_saliency-0"]
    said.clear()
    fits = run_fits(study, tables, tmp_path / "stopped", lambda text, share=None: said.append(text))
    assert [text.split(":")[0] for text in said if text.startswith("  ")] == ["  no_saliency 3", "  no_saliency 4"]
    timeless = [store.plain([{k: v for k, v in fit.items() if k != "seconds"} for fit in each]) for each in (fits, whole)]
    assert timeless[0] == timeless[1]
    assert not list((tmp_path / "stopped" / "unfinished").iterdir())


def test_summary_by_hand() -> None:
    ids = ["b", "a", "c", "d"]
    fits = [
        {"kind": "within", "method": m, "subject": s, "seed": 0, "ids": ids, "ranks": ranks}
        for m, s, ranks in (("neuroalign", 1, [0, 0, 7, 3]), ("neuroalign", 2, [0, 9, 9, 9]), ("nice", 1, [9, 0, 9, 9]))
    ]
    assert not any("sd_seeds" in key for key in summarise(fits))
    again = {**fits[2], "seed": 1, "ranks": [0, 0, 9, 9]}  # subject 1 of the NICE-style encoder: 1/4 and 2/4
    assert summarise([*fits, again])["eeg/nice/within/top1"] == pytest.approx(3 / 8)
    assert summarise([*fits, again])["eeg/nice/within/top1.sd_seeds"] == pytest.approx(np.std([0.25, 0.5], ddof=1))
    found = summarise(fits)
    assert found["eeg/neuroalign/within/top1"] == pytest.approx(3 / 8)
    assert found["eeg/neuroalign/within/top5"] == pytest.approx(4 / 8)
    assert found["eeg/nice/within/top1"] == pytest.approx(1 / 4)
    assert found["eeg/difference/nice/within/top1"] == pytest.approx(1 / 4)  # subject 1 alone: 2 of 4 less 1 of 4
    assert found["eeg/within/chance1"] == 1 / 4
    low, high = (found[f"eeg/neuroalign/within/top1.{end}"] for end in ("low", "high"))
    assert low < 3 / 8 < high
    assert (found["eeg/neuroalign/within/subjects"], found["eeg/nice/within/fits"]) == (2, 1)


def test_fits_side_by_side_are_those_of_one_process(tmp_path: Path) -> None:
    before = [os.environ.get(name) for name in THREADS]
    study = SensorStudy(train=100, subjects=(1, 2), across=(2,), across_train=60, methods=("linear", "canonical"), epochs=2)
    study = replace(study, ablations=("no_guidance",), ablated=(1, 0), reseeded=("linear",), amplitude=6.0)
    run_side_by_side(study, tmp_path / "two", quiet, workers=2)
    files = sorted(path.name for path in (tmp_path / "two" / "fits").iterdir())
    assert files == sorted(f"{kind}-{subject}-{method}-{seed}.json" for kind, subject, method, seed in planned(study))
    assert [name for name in files if "guidance" in name] == ["within-1-no_guidance-0.json"]
    shutil.copytree(tmp_path / "two", tmp_path / "one", ignore=lambda _, names: {"fits"} & set(names))
    one = run_fits(study, sensor_tables(study, tmp_path / "one", quiet), tmp_path / "one", quiet)
    two = run_fits(study, sensor_tables(study, tmp_path / "two", quiet), tmp_path / "two", quiet)
    assert [fit["ranks"] for fit in one] == [fit["ranks"] for fit in two]
    assert [os.environ.get(name) for name in THREADS] == before


def test_the_other_sign_is_fitted_in_both_worlds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def fits(world: SensorStudy, _: object, folder: Path, __: object) -> list[SensorStudy]:
        seen[folder] = (world.control, world.settings.sign, world.subjects, world.methods)
        return [world]

    def scores(found: list[SensorStudy]) -> dict[str, float]:
        return {f"eeg/{method}/within/top1": float(found[0].control) for method in found[0].methods}

    for name, stand_in in (("run_fits", fits), ("summarise", scores), ("sensor_tables", lambda *_: None)):
        monkeypatch.setattr(sensors, name, stand_in)
    study = replace(STUDY, subjects=(1, 2, 3), controlled=(1, 2))
    assert sensors.enhancing_claims(study, tmp_path, quiet) == {
        "eeg/control/enhancing/neuroalign/within/top1": 1.0,  # the sources read the picture that this sign filters
        "eeg/control/enhancing/unfiltered/within/top1": 1.0,
        "eeg/enhancing/neuroalign/within/top1": 0.0,
    }
    assert seen == {
        tmp_path / "enhancing" / "filtered": (True, "enhancing", (1, 2), ("neuroalign", "no_saliency")),
        tmp_path / "enhancing" / "shown": (False, "enhancing", (1, 2, 3), ("neuroalign",)),
    }
