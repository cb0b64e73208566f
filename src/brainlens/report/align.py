"""What `align` shows: retrieval as bars and cases, encoders side by side, embeddings, training."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec

import numpy as np
import pandas as pd

from brainlens.plots import curves, embeddings, layers, retrieval, sensors, style
from brainlens.report import numbers
from brainlens.report.parts import Case, Section, capital, lost
from brainlens.types import Result

MODALITIES = ("brain", "image", "text")
CASES = ("gallery/images", "neighbours/brain->image", "ranks/brain->image")
KINDS = {"pca": "principal components", "umap": "dimensions by UMAP"}
Scores = dict[str, dict[str, float]]


def scores_by_encoder(result: Result) -> Scores:
    """{encoder: {"retrieval/...": value}} from the table `comparison`, else from metrics `align/<encoder>/retrieval/...`."""
    out: Scores = {}
    table = result.tables.get("comparison")
    if table is not None and "encoder" in table.columns:
        for row in table.to_dict("records"):
            found = {str(k): float(v) for k, v in row.items() if str(k).startswith("retrieval/") and pd.notna(v)}
            if found:
                out[str(row["encoder"])] = found
    for key, value in result.metrics.items():
        parts = key.split("/")
        if len(parts) > 3 and parts[0] == "align" and parts[2] == "retrieval" and "-" not in parts[1]:
            out.setdefault(parts[1], {}).setdefault("/".join(parts[2:]), float(value))
    if not out and any(k.startswith("retrieval/") for k in result.metrics):
        name = str(result.config.get("encoder", "this run"))
        out[name] = {k: float(v) for k, v in result.metrics.items() if k.startswith("retrieval/")}
    return out


def retrieval_section(result: Result, dpi: int | None) -> Section:
    """Bars of every encoder, the share found among the first k, and cases."""
    section = Section("Retrieval", dpi)
    scores = scores_by_encoder(result)
    sizes = {int(v) for m in scores.values() for k, v in m.items() if k.endswith("/n")}
    n = f", n = {min(sizes):,} test stimuli" if sizes else ""
    for k in (1, 5):
        if not any(f"retrieval/{d}/top{k}" in m for m in scores.values() for d in retrieval.DIRECTIONS):
            continue
        fits = result.config.get("seeds", ())
        over = f"t intervals over {len(fits)} seeds of the fit" if fits else "bootstrap intervals over test stimuli"
        caption = f"Top-{k} retrieval in each direction{n}. Whiskers: 95 % {over}. Dashed: chance. "
        ideal = "The solid line is the ideal observer, which knows how the data were made."
        caption += ideal if "ideal" in scores else "No ideal observer was computed."
        section.draw(partial(retrieval.topk_bars, scores, k=k, result=result), caption, f"Bars of top-{k}. {_said(scores, k)}")
    section.has(result, *lost(result, "ranks/"), figure="the share found among the first k")
    ranked = [d for d in retrieval.DIRECTIONS if f"ranks/{d}" in result.arrays]
    if ranked:
        count = len(result.arrays[f"ranks/{ranked[0]}"])
        caption = f"Share of the {count:,} test stimuli whose right item is among the first k of the gallery, for every k."
        section.draw(partial(retrieval.rank_curve, result), caption, "Rising curves, one a direction, over the curve of chance.")
    by_subject = scores_by_subject(result)
    if by_subject:
        drawn = result.config.get("interval_over") == "subjects and stimuli"
        people = ", for the mean over other subjects and other stimuli" if drawn else ""
        caption = (
            f"Top-5 retrieval of {len(by_subject) - 1} subjects, each in a gallery of its own test pictures, and their mean. "
            "Whiskers: 95 % bootstrap intervals over test stimuli" + people + ". Dashed: chance."
        )
        draw = partial(retrieval.topk_bars, by_subject, k=5, title="Top-5 by subject, 95 % intervals", result=result)
        section.draw(draw, caption, f"Bars of top-5 by subject. {_said(by_subject, 5)}")
    needed = CASES if "gallery/images" in result.arrays else lost(result, "gallery/images")
    section.has(result, *needed, figure="the gallery of cases")
    section.cases = cases(result)
    return section


def scores_by_subject(result: Result) -> Scores:
    """{"subject <name>": {"retrieval/...": value}, "mean": {...}} where the run has several subjects."""
    out: Scores = {}
    for key, value in result.metrics.items():
        if key.startswith("subject/") and "/retrieval/" in key:
            name, score = key.removeprefix("subject/").split("/retrieval/", 1)
            out.setdefault(f"subject {name}", {})[f"retrieval/{score}"] = float(value)
    if out:
        out["mean"] = {k: float(v) for k, v in result.metrics.items() if k.startswith("retrieval/")}
    return out


def caption_section(result: Result, dpi: int | None) -> Section:
    """How well images and the captions of every source find each other under one network."""
    section = Section("Captions", dpi)
    table = result.tables.get("caption_quality")
    if table is None or not len(table):
        return section
    cut = {str(row["source"]): int(row["cut"]) for row in table.to_dict("records")}
    lost = ", ".join(f"{name}: {count}" for name, count in cut.items())
    for k in (1, 5):
        network = result.config.get("clip", "one network")
        caption = (
            f"Top-{k} retrieval between {int(table['n'].iloc[0]):,} images and the captions of each source, by {network}. "
            f"Lines: 95 % bootstrap intervals over images. Captions cut at the text limit: {lost}."
        )
        section.draw(partial(retrieval.caption_quality, table, k=k, result=result), caption, f"Points of top-{k} by pair.")
    return section


def cases(result: Result, *, direction: str = "brain->image", good: int = 4, bad: int = 3) -> list[Case]:
    """Cases for the page, chosen by rank alone (see plots.retrieval.cases); empty where the pictures are missing."""
    needed = ("gallery/images", f"neighbours/{direction}", f"ranks/{direction}")
    if not all(name in result.arrays for name in needed):
        return []
    images, near, ranks = (result.arrays[name] for name in needed)
    if not len(images) == len(near) == len(ranks):
        return []
    captions = _captions(result, len(ranks))
    middle = float(np.median(ranks))
    out = []
    for row in retrieval.cases(result, direction=direction, good=good, bad=bad):
        found = [(np.asarray(images[j]), bool(j == row)) for j in near[row][: retrieval.SHOWN]]
        out.append(Case(np.asarray(images[row]), captions[row], int(ranks[row]) + 1, found, bool(ranks[row] <= middle)))
    return out


def comparison_section(result: Result, dpi: int | None) -> Section:
    """Models by one score, and the score against the number of training images."""
    section = Section("Models side by side", dpi)
    table = result.tables.get("comparison")
    if table is not None and "encoder" in table.columns:
        for metric in ("r2_mean", "encoding/r2_mean", "accuracy", "truth_auroc"):
            if metric in table.columns and table[metric].notna().any():
                caption = f"{capital(numbers.label(metric))} of {len(table)} models. Whiskers: 95 % intervals."
                title = f"{capital(numbers.label(metric))}, 95 % intervals"
                section.draw(
                    partial(layers.model_bars, table, metric, title=title, result=result), caption, f"Bars of {metric} by model."
                )
    curve = result.tables.get("learning_curve")
    if curve is not None:
        metric = next((str(c) for c in curve.columns if str(c).endswith(("top1", "top5", "r2_mean"))), "score")
        caption = "Score against the number of training images, with 95 % intervals where they were computed."
        section.draw(
            partial(curves.learning_curve, curve, metric, axis=capital(numbers.label(metric)), result=result),
            caption,
            "Learning curves, one line an encoder.",
        )
    return section


def embedding_section(result: Result, dpi: int | None) -> Section:
    """Brain, image and text in two dimensions and as similarity matrices."""
    section = Section("Embeddings", dpi)
    arrays = result.arrays
    section.has(result, *lost(result, "embedding/"), figure="the map of embeddings")
    present = [m for m in MODALITIES if f"embedding/{m}" in arrays]
    same = [m for m in present if arrays[f"embedding/{m}"].shape == arrays[f"embedding/{present[0]}"].shape]
    if len(same) < 2:
        return section
    n = len(arrays[f"embedding/{same[0]}"])
    groups = _groups(result, n)
    method = "umap" if find_spec("umap") is not None and n >= embeddings.LEAST_UMAP else "pca"
    coloured = "coloured by category" if groups is not None else "without categories"
    caption = f"The embeddings of {n:,} test stimuli in two common {KINDS[method]}, {coloured}; each is centred and scaled."
    caption += " One that varies along none of them is shown in its own, as its title says." if method == "pca" else ""
    flat = partial(embeddings.embedding_map, result, method=method, groups=groups, modalities=same)
    section.draw(flat, caption, "Scatter plots, one a modality.")
    order = "sorted by category" if groups is not None else "sorted so that like images stand together (average linkage)"
    caption = f"Cosine similarity of all pairs of the {n:,} test stimuli, {order}."
    section.draw(partial(embeddings.similarity_matrices, result, groups=groups, modalities=same), caption, "Similarity matrices.")
    return section


def training_section(result: Result, dpi: int | None) -> Section:
    """Loss and validation scores by step, and the weights of the losses where they move."""
    section = Section("Training", dpi)
    log = result.tables.get("log")
    if log is None or "step" not in log.columns or log["step"].nunique() < 2:  # one point is no course
        return section
    caption = (
        "Loss on training batches and scores on validation pictures by step; stars mark the best validation score of each line."
    )
    section.draw(partial(curves.training, result), caption, "Training curves.")
    if any(str(c).startswith("weight_") for c in log.columns):
        caption = "Weight of each loss by step, as the dynamic adjustment set it."
        section.draw(partial(sensors.loss_weights, log, result=result), caption, "Loss weights by step.")
    return section


def _captions(result: Result, n: int) -> list[str]:
    for name in ("gallery", "stimuli", "captions"):
        table = result.tables.get(name)
        if table is not None and "caption" in table.columns and len(table) == n:
            return [c.replace(" ,", ",") if isinstance(c, str) else "" for c in table["caption"]]  # words that stand apart
    return [""] * n


def _groups(result: Result, n: int) -> np.ndarray | None:
    if "groups" in result.arrays and len(result.arrays["groups"]) == n:
        return np.asarray(result.arrays["groups"])
    for name in ("gallery", "stimuli"):
        table = result.tables.get(name)
        for column in ("domain", "category"):
            if table is not None and column in table.columns and len(table) == n:
                return table[column].astype(str).to_numpy()
    return None


def _said(scores: Scores, k: int) -> str:
    key = f"retrieval/brain->image/top{k}"
    found = {e: m[key] for e, m in scores.items() if key in m}
    return (
        "Brain to image: " + ", ".join(f"{e.replace('_', ' ')} {style.percent(v)}" for e, v in found.items()) + "."
        if found
        else ""
    )
