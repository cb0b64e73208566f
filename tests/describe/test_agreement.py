"""Do descriptions agree: against plain loops, on planted subjects, over spaces, and what cannot be compared."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from typer.testing import CliRunner

from brainlens import store
from brainlens.cli import app
from brainlens.describe import label_agreement
from brainlens.metrics import semantic_evidence as evidence
from brainlens.metrics import statistics
from brainlens.plots import agreement as plots
from brainlens.report.sections import sections
from brainlens.types import DataError, Result, Surface, Volume

WORDS = ("apple", "boat", "cat", "dog", "house", "train")
REGIONS = ("A", "B", "C", "D")
AFFINE = np.diag([3.0, 3.0, 3.0, 1.0])


def described(seed: int, *, units: int = 80, own: bool = False, words: tuple[str, ...] = WORDS, space=None) -> Result:
    """A description whose regions prefer words: the same of every subject, or (own) drawn anew; a fifth has no label."""
    rng = np.random.default_rng(seed)
    liked = np.random.default_rng(seed + 1000 if own else 7).permutation(len(WORDS))[: len(REGIONS)]
    roi = np.repeat(REGIONS, units // len(REGIONS))
    number = np.repeat(liked, units // len(REGIONS))
    drawn = np.where(rng.random(units) < 0.5, number, rng.integers(0, len(WORDS), units))
    auroc = rng.uniform(0.3, 0.6, (units, len(WORDS)))
    auroc[np.arange(units), drawn] += 0.3
    order = [WORDS.index(word) if word in WORDS else -1 for word in words]
    columns = np.stack([auroc[:, k] if k >= 0 else rng.uniform(0.3, 0.5, units) for k in order], axis=1)
    label = np.full((units, 2), -1)
    label[:, 0] = [order.index(k) if k in order else -1 for k in drawn]
    significant = (rng.random(units) < 0.8) & (label[:, 0] >= 0)
    arrays = {"label": label, "auroc": columns.astype(np.float32), "significant": significant}
    tables = {"nouns": pd.DataFrame({"noun": list(words)})}
    return Result("describe", {"describe/voxels": units}, arrays, pd.DataFrame({"roi": roi}), tables, space=space)


def group(n: int, seed: int = 0, **more) -> dict[str, Result]:
    return {f"s{k}": described(10 * seed + k, **more) for k in range(n)}


def volume(mask: np.ndarray) -> Volume:
    return Volume(mask, AFFINE)


@pytest.mark.parametrize("seed", range(10))
def test_subjects_who_share_their_words_agree_by_region(seed: int) -> None:
    """Over ten seeds: overlap .68 to .79 where chance is .29 to .38, correlation .36 to .67 where it is -.16 to -.04."""
    found = label_agreement(group(3, seed), permutations=300).metrics
    name = "describe/agreement/region_overlap_share"
    assert found[name] > found[f"{name}.chance"] + 0.1
    assert found[f"{name}.p"] < 0.01
    assert found[f"{name}.low"] < found[name] < found[f"{name}.high"]
    assert found["describe/agreement/region_correlation"] > found["describe/agreement/region_correlation.chance"] + 0.2
    assert not any("same_word" in key for key in found)  # nothing says that their units are the same


def test_subjects_with_words_of_their_own_are_significant_as_rarely_as_promised() -> None:
    p = [
        label_agreement({"a": described(2 * k, own=True), "b": described(2 * k + 1, own=True)}, permutations=100).metrics[
            "describe/agreement/region_correlation.p"
        ]
        for k in range(100)
    ]
    assert np.mean(np.array(p) <= 0.05) <= 0.12
    assert np.mean(np.array(p) <= 0.5) > 0.3


def test_units_are_compared_as_in_a_plain_loop() -> None:
    """Two sessions of one mask whose vocabularies differ in order, and in one word."""
    mask = np.random.default_rng(0).permutation(np.arange(120) < 80).reshape(4, 5, 6)
    other = ("train", "zebra", *WORDS[:5])
    results = {"one": described(1, space=volume(mask)), "two": described(2, words=other, space=volume(mask))}
    found = label_agreement(results, permutations=10)
    same, maps, counts = [], [], ({}, {})
    for v in range(80):
        pair = []
        for result, words in zip(results.values(), (WORDS, other)):
            k = result.arrays["label"][v, 0]
            pair.append(words[k] if k >= 0 and result.arrays["significant"][v] else None)
        if None not in pair:
            same.append(pair[0] == pair[1])
            for count, word in zip(counts, pair):
                count[word] = count.get(word, 0) + 1
    for word in WORDS:
        a, b = (result.arrays["auroc"][:, words.index(word)] for result, words in zip(results.values(), (WORDS, other)))
        maps.append(spearmanr(a, b).statistic)
    n = len(same)
    row = found.tables["agreement"].iloc[0]
    assert row["same_word"] == pytest.approx(np.mean(same))
    assert row["units"] == n
    assert row["chance"] == pytest.approx(sum(counts[0][w] * counts[1].get(w, 0) for w in counts[0]) / n**2)
    assert row["map_r"] == pytest.approx(np.mean(maps))
    assert found.metrics["describe/agreement/common_words"] == len(WORDS)
    assert np.nansum(found.arrays["same_word"]) == sum(same)
    assert np.isfinite(found.arrays["same_word"]).sum() == n


def test_regions_are_compared_as_in_a_plain_loop() -> None:
    results = group(2)
    found = label_agreement(results, permutations=50)
    first = [np.where(r.arrays["significant"], r.arrays["label"][:, 0], -1) for r in results.values()]
    roi = results["s0"].units["roi"].to_numpy()
    m = np.zeros((4, 4))
    for i, a in enumerate(REGIONS):
        for j, b in enumerate(REGIONS):
            left, right = first[0][(roi == a) & (first[0] >= 0)], first[1][(roi == b) & (first[1] >= 0)]
            m[i, j] = sum(min(np.mean(left == c), np.mean(right == c)) for c in range(6))
    table = found.tables["agreement_regions"].set_index("roi")
    assert table["region_overlap"].to_numpy() == pytest.approx(m.diagonal())
    off = [np.mean([(m[i, j] + m[j, i]) / 2 for j in range(4) if j != i]) for i in range(4)]
    assert table["region_overlap chance"].to_numpy() == pytest.approx(off)
    assert found.metrics["describe/agreement/region_overlap_share"] == pytest.approx(m.diagonal().mean())
    profiles = [np.stack([r.arrays["auroc"][roi == name].mean(axis=0) for name in REGIONS]) for r in results.values()]
    expected = [spearmanr(a, b).statistic for a, b in zip(*profiles)]
    assert table["region_correlation"].to_numpy() == pytest.approx(expected)


def test_p_of_two_recordings_is_that_of_all_permutations() -> None:
    m = np.random.default_rng(3).random((4, 4)) + 0.4 * np.eye(4)
    every = np.array([m[np.arange(4), list(order)].mean() for order in permutations(range(4))])
    exact = (every >= m.diagonal().mean() - 1e-12).mean()
    found = evidence.region_match([m], [(0, 1)], permutations=5000)
    assert found["p"] == pytest.approx(exact, abs=0.02)
    assert found["chance"] == pytest.approx(m[~np.eye(4, dtype=bool)].mean())


def test_intervals_over_pairs_hold_the_truth_as_often_as_they_say() -> None:
    """Values are sums of subjects' own parts; the jackknife is that of a plain loop."""
    inside = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        own, noise = 0.1 * rng.normal(size=4), 0.05 * rng.normal(size=(4, 4))
        values = own[:, None] + own + noise + noise.T
        mean, low, high = statistics.pair_interval(values)
        inside.append(low <= 0 <= high)
    assert 0.92 < np.mean(inside) < 0.98
    pairs = [(i, j) for i in range(4) for j in range(i)]
    assert mean == pytest.approx(np.mean([values[p] for p in pairs]))
    without = np.array([np.mean([values[p] for p in pairs if k not in p]) for k in range(4)])
    error = np.sqrt(3 / 4 * ((without - without.mean()) ** 2).sum())
    assert high - mean == pytest.approx(3.182446 * error, rel=1e-5)


def test_units_are_matched_on_a_mesh_and_on_demand_in_a_volume() -> None:
    """The second description holds every other unit in another order; what both hold is compared."""
    full = described(5)
    vertex, side = np.arange(80) + 100, np.where(np.arange(80) < 40, "left", "right")
    rows = np.random.default_rng(0).permutation(np.arange(0, 80, 2))

    def part(result: Result, space: object) -> Result:
        arrays = {name: array[rows] for name, array in result.arrays.items()}
        return replace(result, arrays=arrays, units=result.units.iloc[rows].reset_index(drop=True), space=space)

    one = replace(full, space=Surface("fsaverage5", side, vertex))
    found = label_agreement({"one": one, "part": part(full, Surface("fsaverage5", side[rows], vertex[rows]))}, permutations=10)
    assert found.metrics["describe/agreement/same_word_share"] == 1.0
    assert found.metrics["describe/agreement/unit_map_correlation"] == pytest.approx(1.0)
    np.testing.assert_array_equal(found.space.vertex, vertex[::2])
    np.testing.assert_array_equal(np.isfinite(found.arrays["same_word"]), full.arrays["significant"][::2])

    rows = np.arange(0, 80, 2)
    mask, small = np.zeros((4, 5, 4), bool), np.zeros((4, 5, 4), bool)
    mask[:], small.ravel()[rows] = True, True
    volumes = {"one": replace(full, space=volume(mask)), "part": part(full, volume(small))}
    assert not any("same_word" in key for key in label_agreement(volumes, permutations=10).metrics)
    found = label_agreement(volumes, same_units=True, permutations=10)
    assert found.metrics["describe/agreement/same_word_share"] == 1.0
    plain = {name: replace(result, space=None) for name, result in {"a": full, "b": full}.items()}
    assert label_agreement(plain, same_units=True, permutations=10).arrays["same_word"].shape == (80,)


def ranked(seed: int, shift: float = 0.0) -> Result:
    rng = np.random.default_rng(seed)
    rows = [(r, w, float((i * 5 + j * 3) % 7 + rng.normal() + shift)) for i, r in enumerate(REGIONS) for j, w in enumerate(WORDS)]
    return Result("describe", {}, tables={"words": pd.DataFrame(rows, columns=["roi", "label", "score"])})


def test_regions_of_names_alone_are_compared() -> None:
    found = label_agreement({"a": ranked(0), "b": ranked(1, 5.0)}, permutations=100)
    table = found.tables["agreement_regions"]
    a, b = (ranked(s).tables["words"].pivot(index="roi", columns="label", values="score") for s in (0, 1))
    assert table["region_correlation"].to_numpy() == pytest.approx(
        [spearmanr(a.loc[r], b.loc[r]).statistic for r in table["roi"]]
    )
    assert "region_overlap" not in table.columns


def test_the_page_and_the_command_show_it(tmp_path: Path) -> None:
    mask = np.ones((4, 5, 4), bool)
    for name, result in group(3, space=volume(mask)).items():
        store.save_result(result, tmp_path / name)
    folders = [str(tmp_path / f"s{k}") for k in range(3)]
    done = CliRunner().invoke(app, ["compare", *folders, "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 0, done.output
    assert "describe/agreement/region_overlap_share" in done.output
    text = (tmp_path / "page.html").read_text()
    for words in ("Agreement of words", "Table: agreement", "same first word", "significant first words of 3 descriptions"):
        assert words in text, words
    assert "Not drawn" not in text


def test_figures_and_the_disk(tmp_path: Path) -> None:
    found = label_agreement(group(3, space=volume(np.ones((4, 5, 4), bool))), permutations=10)
    assert plots.region_likeness(found).axes
    assert len(plots.pair_matrices(found).axes) == 6
    store.save_result(found, tmp_path / "run")
    back = store.load_result(tmp_path / "run")
    assert back.metrics == pytest.approx(found.metrics)
    assert [s.title for s in sections(back, dpi=None)] == ["Agreement of words"]
    with pytest.raises(DataError, match="no table of regions"):
        plots.region_likeness(described(0))
    with pytest.raises(DataError, match="no table of pairs"):
        plots.pair_matrices(described(0))


def renamed(result: Result) -> Result:
    return replace(result, units=pd.DataFrame({"roi": ["other"] * 80}))


CUBE = volume(np.ones((4, 5, 4), bool))


@pytest.mark.parametrize(
    "results, more, message",
    [
        ({"a": described(0)}, {}, "1 results; it needs at least 2"),
        ({"a": described(0), "b": Result("encode", {})}, {}, "b is a result of encode without words"),
        ({"a": described(0), "b": ranked(0)}, {}, "give one kind"),
        ({"a": described(0), "b": renamed(described(1))}, {}, "share no units and fewer than 2 regions"),
        ({"a": described(0), "b": described(1, space=CUBE)}, {"same_units": True}, "different spaces"),
        ({"a": described(0), "b": described(1, units=40)}, {"same_units": True}, "different spaces"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_said(results, more, message) -> None:
    with pytest.raises(DataError, match=message) as said:
        label_agreement(results, **more)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: statistics.pair_interval(np.ones((2, 2))), "3 subjects or more"),
        (lambda: statistics.pair_interval(np.arange(9.0).reshape(3, 3)), "symmetric"),
        (lambda: evidence.region_match([np.ones((1, 1))], [(0, 1)]), "2 regions or more"),
        (lambda: evidence.region_match([np.full((2, 2), np.nan)], [(0, 1)]), "no NaN"),
        (lambda: evidence.share_overlap(np.ones((2, 3)), np.ones((2, 4))), "same words"),
        (lambda: evidence.word_shares(np.zeros(3, int), ["A"] * 2, ["A"], 1), "same units"),
        (lambda: evidence.word_shares(np.full(2, 5), ["A"] * 2, ["A"], 1), "below 1"),
    ],
)
def test_bad_input_of_the_parts(call, message) -> None:
    with pytest.raises(DataError, match=message):
        call()
