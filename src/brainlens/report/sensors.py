"""What EEG and MEG show: when, where and by category; repetitions, variants of the model, and the saliency extraction."""

from __future__ import annotations

from functools import partial

import numpy as np

from brainlens.plots import decoding, layers, sensor_scores, sensors, style
from brainlens.report.numbers import interval, number
from brainlens.report.parts import Section, capital, lost
from brainlens.types import Result, Sensors

MAX_MAPS = 24
PICTURE = "saliency/picture"


def sensor_section(result: Result, dpi: int | None) -> Section:
    """Repetitions, accuracy over time windows and across times, evoked response, scalp maps, categories."""
    section = Section("Sensors and time", dpi)
    repeats = result.tables.get("repeats")
    if repeats is not None and "repeats" in repeats.columns:
        found = {
            k.rpartition("/")[2].replace("chance", "top"): v for k, v in result.metrics.items() if "brain->image/chance" in k
        }
        caption = (
            "Retrieval when 1, 2, 4 ... repetitions of each test image are averaged. Bands: 95 % intervals over test images."
        )
        make = partial(sensor_scores.repetitions, repeats, chance=found, result=result)
        section.draw(make, caption, f"Accuracy from {repeats['repeats'].min():g} to {repeats['repeats'].max():g} repetitions.")
    _time(section, result)
    _evoked(section, result)
    _scalp(section, result)
    section.has(result, *lost(result, "groups"), *lost(result, "embedding_before"), figure="test images by category")
    if {"groups", "embedding_before", "embedding/brain"} <= set(result.arrays):
        caption = "Test images by category: the recordings before alignment and the embeddings after it"
        caption += ", with the model without semantic guidance between" if "embedding_without_guidance" in result.arrays else ""
        caption += f".{_shares(result)} Distances between groups in such maps mean little."
        section.draw(partial(sensor_scores.categories, result), caption, "Maps of test images, coloured by category.")
    return section


def decoding_section(result: Result, dpi: int | None) -> Section:
    """The time course of what can be told apart, or, of patterns, which categories are taken for which."""
    course, confusion = result.tables.get("timecourse"), result.tables.get("confusion")
    section = Section("Decoding of patterns" if course is None else "Decoding over time", dpi)
    if result.task == "decode" and course is None and confusion is not None:
        group = str(result.config.get("group", "group"))
        caption = (
            "Share of the trials of each category by the category that was predicted, each trial by a model that was fitted "
        )
        caption += f"without its {group}. Right predictions are on the diagonal; each row adds up to 1."
        section.draw(partial(decoding.confusion_matrix, result), caption, "Confusion matrix of the categories.")
    if result.task == "decode" and course is not None:
        names = [str(name) for name in result.config.get("categories", ())]
        what = ", ".join(names) if names else "Categories"
        kind = {"stratified": "stratified folds", "run": "runs", "subject": "subjects"}.get(
            str(result.config.get("left_out", "folds")), str(result.config.get("left_out", "folds"))
        )
        rows = str(result.config.get("rows_are", "trials"))  # images: means over their repeats
        caption = (
            f"{what}: area under the ROC curve of a linear discriminant at each time, on {rows} left out of its fit ({kind})."
        )
        significant = {"p_fwe": "Squares: times with p < .05, corrected for all times", "p_cluster": "bar: clusters with p < .05"}
        marks = [text for name, text in significant.items() if name in course.columns and (course[name] < 0.05).any()]
        caption += f" {capital('; '.join(marks))}." if marks else " No time is significant after correction for all of them."
        people = result.tables.get("subjects")
        each = None if people is None else result.arrays.get("auc")
        over = str(result.config.get("interval_over", "trials"))
        caption += f" The band is the 95 % interval of the mean{_drawn(over)}." if people is not None else ""
        draw = partial(decoding.over_time, course, subjects=each, result=result)
        section.draw(draw, caption, "Area under the ROC curve over time.")
        if people is not None:
            caption = f"Mean area over all times of {len(people) - 1} subjects, and their mean. Whiskers: 95 % intervals over "
            caption += f"{over.removeprefix('subjects and ')}; that of the mean speaks of other {over}."
            draw = partial(layers.model_bars, people, "auc_mean", name="subject", title="Area by subject, 95 % intervals",
                           axis="mean area under the ROC curve", chance=0.5, result=result)  # fmt: skip
            section.draw(draw, caption, "Bars of the mean area by subject, with the mean over subjects.")
    return section


def _drawn(over: str) -> str:
    """What the interval of a mean over subjects speaks of."""
    return f"; it speaks of other {over}" + ("" if over.startswith("subjects") else ", with these subjects")


def variants_section(result: Result, dpi: int | None) -> Section:
    """The model without each of its parts, and with other captions."""
    section = Section("Ablations and captions", dpi)
    for name, title, caption in (
        ("ablation", "Without each part, 95 % intervals", "NeuroAlign and what is left without saliency extraction, semantic "
         "guidance or dynamic loss adjustment, one fit each with the same seed."),
        ("prompts", "Captions by prompt, 95 % intervals", "NeuroAlign without text, with the label alone, and with captions that "
         "name the kind (A), the main object with its attributes (B), or everything in the picture (C)."),
    ):  # fmt: skip
        table = result.tables.get(name)
        if table is not None:
            section.draw(partial(sensor_scores.variants, table, title=title, result=result), caption, f"Bars: {title}.")
    return section


def saliency_section(result: Result, dpi: int | None) -> Section:
    """Every stage of the saliency extraction of some test pictures."""
    section = Section("Visual saliency extraction", dpi)
    stages = [name for name in result.arrays if name.startswith("saliency/")]
    if not section.has(result, PICTURE, figure="what is drawn of the stages", beside=stages):
        return section
    pictures = np.asarray(result.arrays[PICTURE])
    names = [name for name in result.arrays if name.startswith("saliency/") and name != PICTURE]
    for i in range(min(2, len(pictures))):
        maps = {name.split("/", 1)[1]: np.asarray(result.arrays[name][i]) for name in names}
        caption = (
            "A test picture, the low-level maps, the gate of edges against them, centre-surround antagonism and its power, and "
        )
        caption += "the picture weighted with it, which is what the network sees."
        section.draw(partial(sensors.stages, pictures[i], maps, result=result), caption, "Stages of the saliency extraction.")
    return section


SHARES = {
    "before": "in the recordings",
    "without_guidance": "without guidance",
    "after": "after alignment",
    "target": "in the embeddings that they are aligned to, which a perfect alignment would give",
    "picture": "in those of the pictures as shown",
    "caption": "in those of the captions",
}


def _shares(result: Result) -> str:
    """How often the nearest other image is of the same category, with intervals, as far as the run says."""
    start = "category/{}/nearest_share"
    known = {text: start.format(name) for name, text in SHARES.items() if start.format(name) in result.metrics}
    if not known:
        return ""
    said = [f"{number(result.metrics[key], 'share')} {interval(key, result.metrics)} {text}" for text, key in known.items()]
    chance = result.metrics.get(f"{start.format('after')}.chance", np.nan)
    return f" The nearest other image is of the same category for {'; '.join(said)}; by chance {number(chance, 'share')}."


def _time(section: Section, result: Result) -> None:
    windows = result.tables.get("time_windows")
    if windows is not None:
        metric = next((str(c) for c in windows.columns if str(c).endswith(("top1", "accuracy"))), "top1")
        chance = next((v for k, v in result.metrics.items() if k.endswith("chance1")), None)
        caption = "Accuracy when only part of the epoch is used: from its start until t, from t to its end, or a window around t."
        make = partial(sensors.time_windows, windows, metric=metric, chance=chance, result=result)
        section.draw(make, caption, "Accuracy over time windows.")
    if section.has(result, "generalisation", "generalisation_times", figure="train time by test time"):
        matrix, times = (np.asarray(result.arrays[name]) for name in ("generalisation", "generalisation_times"))
        best = float(np.diag(matrix).max())
        caption = (
            "Two-way accuracy of linear decoders trained at one time and tested at every other (chance 50 %); the diagonal is "
        )
        caption += (
            f"time-resolved decoding, at most {style.percent(best)}, at {1000 * times[int(np.diag(matrix).argmax())]:.0f} ms."
        )
        section.draw(
            partial(sensors.generalisation, matrix, times, chance=0.5, result=result), caption, "Train time by test time."
        )


def _evoked(section: Section, result: Result) -> None:
    of = [name for name in result.arrays if name.startswith("evoked/")]
    section.has(result, *lost(result, "evoked/"), figure="the evoked response")
    if not section.has(result, "evoked/times", figure="evoked responses", beside=of) or not isinstance(result.space, Sensors):
        return
    times, unit = np.asarray(result.arrays["evoked/times"]), str(result.config.get("measure", "uV"))
    for name in [n for n in result.arrays if n.startswith("evoked/") and n != "evoked/times"]:
        short = name.split("/", 1)[1]
        trials = int(result.metrics.get(f"epochs/{short}/n", 0))
        said = STIMULI.get(short, short.replace("_", " "))
        caption = f"Mean of {trials:,} epochs ({said}), one line a channel, from blue at the back to yellow in front."
        make = partial(
            sensors.evoked, np.asarray(result.arrays[name]), times, result.space, trials=trials, unit=unit, name=said,
            result=result,
        )  # fmt: skip
        section.draw(make, caption, f"Evoked response to {short}.")


def _scalp(section: Section, result: Result) -> None:
    space = result.space
    if not isinstance(space, Sensors):
        return
    section.has(result, *lost(result, "topomap/"), *lost(result, "contribution"), figure="the scalp map")
    table = result.tables.get("topomap")
    for name in [n for n in result.arrays if n.startswith(("topomap/", "contribution"))]:
        maps = np.asarray(result.arrays[name], dtype=float)
        if maps.shape != (len(space),) and not (maps.ndim == 2 and maps.shape[1] == len(space) and len(maps) <= MAX_MAPS):
            continue
        short = name.split("/", 1)[-1]
        titles = list(table.loc[table["map"] == short, "title"]) if table is not None and "map" in table.columns else []
        measure = str(result.config.get("measure", "uV")).replace("uV", "µV")
        unit = {"truth": f"root mean square ({measure})", "evoked": f"mean response ({measure})"}.get(
            short.split("_")[0], "times the mean size of a channel" if result.config.get("group") else "contribution (cosine)"
        )
        title = TITLES.get(short, capital(short.replace("_", " ")))
        caption = f"{title}; the head from above, nose up. Dots: the {len(space)} channels, those below its rim outside; "
        caption += "inside it values are interpolated between them."
        caption += " All maps have one colour scale." if maps.ndim == 2 and len(maps) > 1 else ""
        make = partial(sensors.topomaps, space, maps, titles=titles, unit=unit, title=title, result=result)
        section.draw(make, caption, f"Scalp maps: {title}.")


STIMULI = {"train": "training pictures", "test": "test pictures"}
TITLES = {
    "contribution": "Contribution to the similarity with the seen image",
    "contribution_by_time": "Contribution to the similarity with the seen image, by time",
    "truth": "True topography of the simulated signal",
    "evoked_by_time": "Evoked response by time",
}
