"""Embeddings of brain, image and text: maps in two dimensions and similarity matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brainlens.plots import style
from brainlens.types import DataError, Result

METHODS = ("pca", "tsne", "umap")
MODALITIES = ("brain", "image", "text")
MOST_SORTED = 5000  # rows, beyond which all their distances take too much memory
MARKERS = {"brain": "o", "image": "s", "text": "^"}
MAX_LEGEND = 12
LEAST_UMAP = 30  # rows below which UMAP's neighbourhoods say little, so that a page takes PCA
ALIKE = 1e-3  # root mean squared distance of unit vectors from their mean, below which they differ by rounding alone


def embedding_map(
    result: Result,
    *,
    method: str = "pca",
    groups: np.ndarray | None = None,
    modalities: Sequence[str] = MODALITIES,
    seed: int = 0,
) -> Figure:
    """Brain, image and text embeddings in two common dimensions, coloured by group (category, domain), one panel a modality.

    Rows are scaled to unit length; each modality is centred and scaled to unit variance, since contrastive training leaves the
    modalities apart by a constant (the modality gap) and as different in size, which would otherwise be all the map shows; then
    PCA, t-SNE or UMAP is fitted on all together. A modality whose embeddings are all alike has a panel that says so. One that
    lies across the common principal components, as captions that are compared in dimensions of their own do, would be a point
    in them: it is shown in its own, and its title says so.
    groups (stimulus,): by default the array `groups`, or no colours.

    Raises DataError for an unknown method, absent embeddings, groups that do not fit, and UMAP where it is not installed.
    """
    present = [m for m in modalities if f"embedding/{m}" in result.arrays]
    if not present:
        style.need(result, *(f"embedding/{m}" for m in modalities))
    parts = [_unit(np.asarray(result.arrays[f"embedding/{m}"], dtype=np.float64)) for m in present]
    n = len(parts[0])
    groups = result.arrays.get("groups") if groups is None else np.asarray(groups)
    if any(p.shape != parts[0].shape for p in parts) or (groups is not None and len(groups) != n):
        raise DataError(
            f"embedding map: {present} are {[p.shape for p in parts]} and groups {None if groups is None else len(groups)}"
        )
    sizes = [float(np.sqrt(((p - p.mean(axis=0)) ** 2).sum(axis=1).mean())) for p in parts]
    alike = [size < ALIKE for size in sizes]
    if all(alike):
        raise DataError(f"embedding map: the {n} embeddings of {', '.join(present)} are all alike, so they have no map")
    scaled = [(p - p.mean(axis=0)) / (1.0 if same else size) for p, size, same in zip(parts, sizes, alike, strict=True)]
    flat, axis = reduce(np.concatenate(scaled), method=method, seed=seed)
    shown = np.split(flat, len(present))
    apart = [method == "pca" and not same and _apart(dots, part) for dots, part, same in zip(shown, scaled, alike)]
    shown = [reduce(part, method=method, seed=seed)[0] if off else dots for dots, part, off in zip(shown, scaled, apart)]
    figure, axes = style.canvas(3.4 * len(present) + 0.4, 3.9, ncols=len(present), sharex=True, sharey=True)
    names = sorted({str(g) for g in groups}) if groups is not None else []
    for i, (ax, modality) in enumerate(zip(axes[0], present, strict=True)):
        _scatter(ax, shown[i], groups, names, MARKERS.get(modality, "o"))
        if alike[i]:
            ax.text(0.5, 0.6, "all alike", transform=ax.transAxes, ha="center", fontsize=9, color=style.FAINT)
        ax.xaxis.set_major_locator(MaxNLocator(4))  # more of them touch in a narrow panel
        style.label(ax, title=f"{modality}, its own" if apart[i] else modality, x=f"{axis} 1", y=f"{axis} 2" if i == 0 else "")
    if 0 < len(names) <= MAX_LEGEND:
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower center", ncols=len(names) if len(names) <= 6 else -(-len(names) // 2),
            fontsize=8.5, frameon=False, markerscale=1.6,
        )  # fmt: skip
    return style.head(figure, f"{_NAMES[method]} of the aligned embeddings, n = {n:,} stimuli", result)


def _apart(flat: np.ndarray, part: np.ndarray) -> bool:
    """Whether rows (n, d) that are (n, 2) in common components vary there by less than a tenth of what they do in their own."""
    own = np.linalg.norm(part, 2) / np.sqrt(len(part))
    return bool(flat.std(axis=0).max() < 0.1 * own)


def similarity_matrices(
    result: Result, *, groups: np.ndarray | None = None, modalities: Sequence[str] = MODALITIES, most: int = 400
) -> Figure:
    """Cosine similarity of all pairs of stimuli within each modality, on one colour scale; every panel has the same order.

    Rows are sorted by group, and within a group, or where there are none, so that like images stand together (`by_likeness`).

    groups (stimulus,): of each a name or number; None takes those of the result.

    Beyond `most` stimuli every k-th of the sorted rows is shown, which the title says.
    """
    present = [m for m in modalities if f"embedding/{m}" in result.arrays]
    if not present:
        style.need(result, *(f"embedding/{m}" for m in modalities))
    n = len(result.arrays[f"embedding/{present[0]}"])
    groups = result.arrays.get("groups") if groups is None else np.asarray(groups)
    if groups is not None and len(groups) != n:
        raise DataError(f"similarity matrices: {n} stimuli but {len(groups)} groups")
    last = "image" if "image" in present else present[-1]
    order = by_likeness(np.asarray(result.arrays[f"embedding/{last}"], dtype=np.float64), groups)
    order = order[np.unique(np.linspace(0, n - 1, min(n, most)).astype(int))]
    matrices = []
    for modality in present:
        z = np.asarray(result.arrays[f"embedding/{modality}"], dtype=np.float64)
        z = _unit(z - z.mean(axis=0))[order]
        matrices.append(z @ z.T)
    off = ~np.eye(len(order), dtype=bool)
    reach = max(float(np.quantile(np.abs(m[off]), 0.99)) for m in matrices) or 1.0
    figure, axes = style.canvas(3.3 * len(present) + 0.9, 3.9, ncols=len(present))
    image: Any = None
    for ax, modality, matrix in zip(axes[0], present, matrices, strict=True):
        image = ax.imshow(matrix, cmap=style.DIVERGING, vmin=-reach, vmax=reach, interpolation="nearest")
        _group_ticks(ax, None if groups is None else np.asarray(groups).astype(str)[order])
        style.label(ax, title=modality)
    bar = figure.colorbar(image, ax=list(axes[0]), shrink=0.75)
    bar.set_label("cosine similarity (centred)", fontsize=9)
    part = "" if len(order) == n else f", every {n / len(order):.0f}th shown"
    return style.head(figure, f"Representational similarity, n = {n:,} stimuli{part}", result)


def by_likeness(rows: np.ndarray, groups: np.ndarray | None = None) -> np.ndarray:
    """An order of rows (n, d) in which like rows stand together: leaves of average linkage on cosines, within each group."""
    from scipy.cluster.hierarchy import leaves_list, linkage

    n = len(rows)
    if groups is not None:
        labels = np.asarray(groups).astype(str)
        parts = [np.flatnonzero(labels == name) for name in np.unique(labels)]
        return np.concatenate([part[by_likeness(rows[part])] for part in parts])
    if n < 3 or n > MOST_SORTED:
        return np.arange(n)
    z = rows - rows.mean(axis=0)
    z = z / np.linalg.norm(z, axis=1, keepdims=True).clip(1e-12)
    distance = np.clip(1 - z @ z.T, 0, None)
    return np.asarray(leaves_list(linkage(distance[np.triu_indices(n, 1)], "average")))


def reduce(rows: np.ndarray, *, method: str = "pca", seed: int = 0, dimensions: int = 2) -> tuple[np.ndarray, str]:
    """Rows (n, d) in two or more dimensions by PCA (SVD), t-SNE (perplexity 30, PCA start) or UMAP: (n, dimensions), axes' name.

    Raises DataError for an unknown method, fewer than 4 rows or columns than dimensions, missing values, and UMAP without its
    extra.
    """
    if method not in METHODS:
        raise DataError(f"method {method!r} is not one of {', '.join(METHODS)}")
    if rows.ndim != 2 or len(rows) < 4 or rows.shape[1] < dimensions or not np.isfinite(rows).all():
        raise DataError(
            f"a map in {dimensions} dimensions needs 4 rows and {dimensions} columns of finite numbers, got {rows.shape}"
        )
    if method == "umap":
        try:
            import umap
        except ImportError as error:
            raise DataError("method 'umap' needs umap-learn: pip install 'brainlens[umap]', or take 'pca' or 'tsne'") from error
        near = min(15, len(rows) - 1)  # UMAP's own number, which small sets do not have
        mapper = umap.UMAP(n_neighbors=near, n_components=dimensions, random_state=seed, n_jobs=1)
        return np.asarray(mapper.fit_transform(rows)), "UMAP"
    if method == "tsne":
        from sklearn.manifold import TSNE
        from threadpoolctl import threadpool_limits

        tsne = TSNE(n_components=dimensions, perplexity=min(30.0, (len(rows) - 1) / 3), init="pca", random_state=seed)
        with threadpool_limits(limits=1, user_api="openmp"):  # same bits each time, and no slowdown on a busy machine
            return tsne.fit_transform(rows), "t-SNE"
    centred = rows - rows.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    flat = u[:, :dimensions] * s[:dimensions]
    return flat * np.where(flat[np.abs(flat).argmax(axis=0), range(dimensions)] < 0, -1.0, 1.0), "PC"  # the sign is free: fix it


_NAMES = {"pca": "Principal components", "tsne": "t-SNE", "umap": "UMAP"}


def _unit(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (length > 0).all():
        raise DataError("an embedding row is zero or missing, so it has no direction; drop that stimulus")
    return rows / length


def _scatter(ax: Axes, flat: np.ndarray, groups: np.ndarray | None, names: list[str], marker: str) -> None:
    size = float(np.clip(4000 / len(flat), 6, 26))
    if groups is None or not names:
        ax.scatter(flat[:, 0], flat[:, 1], s=size, c=style.BLUE, marker=marker, alpha=0.75, linewidths=0)
        return
    labels = np.asarray(groups).astype(str)
    hues = style.hue_map()
    for i, name in enumerate(names):
        tone = style.PALETTE[i] if len(names) <= len(style.PALETTE) else hues(i / (len(names) - 1))
        chosen = labels == name
        ax.scatter(
            flat[chosen, 0],
            flat[chosen, 1],
            s=size,
            color=tone,
            marker=marker,
            alpha=0.8,
            linewidths=0,
            label=style.printable(name),
        )


def _group_ticks(ax: Axes, sorted_groups: np.ndarray | None) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    if sorted_groups is None:
        return
    starts = np.flatnonzero(np.append(True, sorted_groups[1:] != sorted_groups[:-1]))
    for start in starts[1:]:
        ax.axhline(start - 0.5, color="white", lw=0.6)
        ax.axvline(start - 0.5, color="white", lw=0.6)
    if len(starts) <= MAX_LEGEND:
        middle = (starts + np.append(starts[1:], len(sorted_groups))) / 2 - 0.5
        ax.set_yticks(middle, [style.printable(sorted_groups[s]) for s in starts], fontsize=7.5)
        ax.tick_params(length=0)
