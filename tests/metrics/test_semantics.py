"""Scores of concepts against plain loops, the paper's own example, and what they must refuse."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, spearmanr

from brainlens.metrics import semantic_evidence as evidence
from brainlens.metrics import semantics
from brainlens.types import DataError


@pytest.fixture(scope="module")
def bank() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Responses of 12 voxels to 60 pictures of 9 concepts of unequal size, some tied; candidates of each voxel."""
    rng = np.random.default_rng(0)
    g = rng.standard_normal((12, 60))
    g[0] = np.round(g[0])
    concept = np.sort(np.concatenate([np.arange(9), rng.integers(0, 9, 51)]))
    candidates = rng.random((12, 9)) < 0.5
    candidates[3] = False
    return g, rng.permutation(concept), candidates


@pytest.mark.parametrize("a", [1, 3, None, 100])
def test_the_rank_score_is_that_of_a_plain_loop(bank, a) -> None:
    g, concept, candidates = bank
    found = semantics.own_candidate_scores(g, concept, candidates, a=a)
    for v in range(len(g)):
        pictures = [i for i in range(60) if candidates[v, concept[i]]]
        rank = {
            i: 1 + sum(g[v, j] > g[v, i] for j in pictures) + (sum(g[v, j] == g[v, i] for j in pictures) - 1) / 2
            for i in pictures
        }
        for c in range(9):
            if not candidates[v, c]:
                assert np.isnan(found[v, c])
                continue
            own = sorted(rank[i] for i in pictures if concept[i] == c)
            best = own[: -(-len(own) // 2) if a is None else a]
            assert found[v, c] == pytest.approx(-sum(t**2 for t in best) / len(best))


def test_the_papers_example() -> None:
    """T = [8, 7, 6, 1], a = 3: the mean of the squares of 7, 6 and 1."""
    g = -np.array([[8, 7, 6, 1, 2, 3, 4, 5]], dtype=float)
    concept = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    found = semantics.own_candidate_scores(g, concept, np.ones((1, 2), bool), a=3)
    assert found[0, 0] == pytest.approx(-(49 + 36 + 1) / 3)


def test_a_voxels_score_does_not_change_with_other_voxels(bank) -> None:
    g, concept, candidates = bank
    alone = semantics.own_candidate_scores(g[2:3], concept, candidates[2:3])
    np.testing.assert_array_equal(alone[0], semantics.own_candidate_scores(g, concept, candidates)[2])


def test_the_bank_score_is_the_auroc_of_mann_and_whitney(bank) -> None:
    g, concept, _ = bank
    found = semantics.bank_scores(g, concept, 10)
    single = semantics.bank_scores(g.astype(np.float32), concept, 10)
    np.testing.assert_allclose(single, found, rtol=1e-6)
    for v in range(len(g)):
        for c in range(9):
            u = mannwhitneyu(g[v, concept == c], g[v, concept != c]).statistic
            assert found[v, c] == pytest.approx(u / ((concept == c).sum() * (concept != c).sum()), rel=1e-5)
    assert np.isnan(found[:, 9]).all()  # a concept without pictures


def test_readouts_give_the_scores_of_their_responses(bank) -> None:
    _, concept, _ = bank
    rng = np.random.default_rng(1)
    w, x, candidates = rng.standard_normal((300, 5)), rng.standard_normal((60, 5)), rng.random((300, 9)) < 0.5
    own, whole = semantics.readout_scores(w, x, concept, candidates=candidates, a=2)
    np.testing.assert_allclose(own, semantics.own_candidate_scores(w @ x.T, concept, candidates, a=2))
    np.testing.assert_allclose(whole, semantics.bank_scores(w @ x.T, concept, 9))


def test_weights_of_several_meanings() -> None:
    scores = np.array([[1.0, 3.0, np.nan], [2.0, 2.0, np.nan], [np.nan] * 3, [5.0, np.nan, np.nan]])
    weights = semantics.multi_semantic(scores)
    np.testing.assert_allclose(weights[0, :2], np.exp([-1, 1]) / np.exp([-1, 1]).sum())
    np.testing.assert_allclose(weights[1, :2], 0.5)
    assert np.isnan(weights[2]).all()
    assert weights[3, 0] == 1
    np.testing.assert_allclose(semantics.multi_semantic(scores * 1e6)[0, :2], weights[0, :2])


def test_the_best_concepts_and_voxels_that_have_none() -> None:
    scores = np.array([[1.0, 3.0, np.nan, 2.0], [2.0, 2.0, 2.0, np.nan], [np.nan, np.nan, np.nan, 7.0]])
    np.testing.assert_array_equal(semantics.top_concepts(scores, 3), [[1, 3, 0], [-1, -1, -1], [3, -1, -1]])
    assert semantics.top_concepts(scores, 6).shape == (3, 6)


def test_soft_wpmi_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    g, images, words = rng.standard_normal((4, 30)), rng.standard_normal((30, 6)), rng.standard_normal((5, 6))
    found = semantics.soft_wpmi(g, images, words, top=7)
    p = np.zeros((30, 5))
    for i in range(30):
        e = [np.exp(10 * images[i] @ w / np.linalg.norm(images[i]) / np.linalg.norm(w)) for w in words]
        p[i] = np.array(e) / sum(e)
    log = np.zeros((4, 5))
    for v in range(4):
        for k, i in enumerate(sorted(range(30), key=lambda i: -g[v, i])[:7]):
            log[v] += np.log(1 + (0.998 - k / 7 * 0.028) * (p[i] - 1) + 1e-7)
    expected = log - np.log(np.exp(log).mean(axis=0))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_brainscubas_projection_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    w, images = rng.standard_normal((3, 6)), rng.standard_normal((20, 6))
    found = semantics.project_weights(w, images, temperature=20.0)
    for v in range(3):
        cosine = np.array([w[v] @ e / np.linalg.norm(w[v]) / np.linalg.norm(e) for e in images])
        p = np.exp(20 * cosine) / np.exp(20 * cosine).sum()
        direction = sum(a * e / np.linalg.norm(e) for a, e in zip(p, images))
        np.testing.assert_allclose(found[v], direction * sum(a * np.linalg.norm(e) for a, e in zip(p, images)), rtol=1e-9)


def test_readout_and_cosine_agree() -> None:
    rng = np.random.default_rng(4)
    w, words = rng.standard_normal((6, 5)), rng.standard_normal((3, 5))
    w[2] = 0
    cosine = semantics.text_readout(w, words)
    label = np.array([0, 1, 2, -1, 2, 0])
    found = evidence.label_cosine(w, words, label)
    for v, c in enumerate(label):
        if c < 0 or v == 2:
            assert np.isnan(found[v])
        else:
            assert found[v] == pytest.approx(cosine[v, c])
            assert found[v] == pytest.approx(w[v] @ words[c] / np.linalg.norm(w[v]) / np.linalg.norm(words[c]))


@pytest.mark.parametrize("seed", range(3))
def test_noise_is_labelled_no_more_often_than_promised(seed) -> None:
    """1,000 voxels of noise, correlated; of ten seeds .031 to .056 have p <= .05, and none a q <= .05."""
    rng = np.random.default_rng(seed)
    y = rng.standard_normal((120, 1000)) + 0.5 * rng.standard_normal((120, 1))
    present = rng.random((120, 20)) < 0.15
    label = rng.integers(-1, 20, 1000)
    r, p, q = evidence.label_test(y, present, label, permutations=400, seed=seed)
    assert np.isnan(p[label < 0]).all()
    assert np.nanmean(p <= 0.05) < 0.12
    assert np.nanmean(q <= 0.05) < 0.02
    assert np.isfinite(r[label >= 0]).all()


def test_a_label_that_raises_the_response_is_found() -> None:
    rng = np.random.default_rng(0)
    present = rng.random((150, 6)) < 0.2
    label = np.arange(60) % 6
    y = 1.2 * present[:, label] + rng.standard_normal((150, 60))
    r, _, q = evidence.label_test(y, present, label, permutations=400)
    assert (q <= 0.05).mean() > 0.95
    assert r[0] == pytest.approx(np.corrcoef(y[:, 0], present[:, 0])[0, 1], rel=1e-5)
    _, _, inverse = evidence.label_test(-y, present, label, permutations=400)
    assert (inverse > 0.5).all()  # a label that lowers the response is no label


def test_what_cannot_be_tested_is_nan() -> None:
    y = np.random.default_rng(0).standard_normal((30, 3))
    y[:, 1] = 2.0
    present = np.zeros((30, 2))
    present[:2, 0] = 1  # on two images only
    present[:10, 1] = 1
    _, p, _ = evidence.label_test(y, present, np.array([0, 1, 1]), permutations=50)
    assert np.isnan(p[0])
    assert np.isnan(p[1])
    assert np.isfinite(p[2])


def test_agreement_of_halves_and_its_chance() -> None:
    found = evidence.split_half(np.array([0, 0, 1, 2, -1]), np.array([0, 1, 1, 2, 2]))
    assert found["agreement"] == pytest.approx(0.75)
    assert found["n"] == 4
    assert found["chance"] == pytest.approx(0.5 * 0.25 + 0.25 * 0.5 + 0.25 * 0.25)
    assert np.isnan(evidence.split_half(np.array([-1]), np.array([2]))["agreement"])


def test_maps_histograms_and_words() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((4, 50)), rng.standard_normal((4, 50))
    b[2] = 0
    found = evidence.concept_maps(a, b)
    assert found[0] == pytest.approx(np.corrcoef(a[0], b[0])[0, 1])
    assert np.isnan(found[2])
    bare = evidence.histogram(np.array([0, -1, -1]), ["cat"], ["A", "B", "B"])
    assert bare["roi"].tolist() == ["A", "B"]  # a region without a word is there, with 0
    assert bare["voxels"].tolist() == [1, 0]
    table = evidence.histogram(np.array([0, 1, 1, -1, 0]), ["cat", "bird"], ["A", "A", "A", "A", "B"], top=1)
    assert table.to_numpy().tolist() == [["A", "bird", 2, 2 / 3], ["B", "cat", 1, 1.0]]
    profile = np.array([3.0, 1.0, 2.0, 0.0])[:, None]
    halves = np.stack([profile + 0.1 * rng.standard_normal((4, 30)) for _ in range(2)])
    words = evidence.word_ranking(halves, ["face", "house", "cat", "shoe"], ["A"] * 30)
    assert words["label"].tolist() == ["face", "cat", "house", "shoe"]
    assert words["ceiling"].iloc[0] == pytest.approx(1.0)
    z = [(h - h.mean(0)) / h.std(0) for h in halves]
    noise = rng.standard_normal((2, 4, 30))
    rho = spearmanr(*[((h - h.mean(0)) / h.std(0)).mean(1) for h in noise]).statistic
    ceiling = evidence.word_ranking(noise, list("abcd"), ["A"] * 30)["ceiling"].iloc[0]
    assert ceiling == pytest.approx(max(0.0, 2 * rho / (1 + rho)))
    assert words["score"].iloc[0] == pytest.approx(np.mean([each[0].mean() for each in z]))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_order_is_that_of_a_stable_sort(bank, kind) -> None:
    rng = np.random.default_rng(5)
    rows = [
        np.array([0.0, -0.0, 1e-40, -1e-40, 3e38, -3e38, 2.0, -2.0]),
        rng.standard_normal(500),
        np.round(rng.standard_normal(99)),
    ]
    for row in (np.asarray(each, dtype=kind) for each in (*rows, bank[0][0])):
        order, tied = semantics._order(row)
        np.testing.assert_array_equal(order, np.argsort(row, kind="stable"))
        assert tied == (len(np.unique(row)) < len(row))


def test_what_does_not_fit_is_refused(bank) -> None:
    g, concept, candidates = bank
    wrong = [
        lambda: semantics.own_candidate_scores(g, concept[:-1], candidates),
        lambda: semantics.own_candidate_scores(g, concept, candidates, a=0),
        lambda: semantics.own_candidate_scores(g, concept, np.ones((12, 11), bool)),
        lambda: semantics.own_candidate_scores(np.where(g > 2, np.nan, g), concept, candidates),
        lambda: semantics.bank_scores(g, concept.astype(float), 9),
        lambda: semantics.readout_scores(g, g[:, :5], concept, candidates=candidates),
        lambda: semantics.multi_semantic(g, temperature=0.0),
        lambda: semantics.soft_wpmi(g, g, g),
        lambda: semantics.text_readout(g, g[:, :5]),
        lambda: semantics.project_weights(np.zeros((2, 5)), g[:, :5]),
        lambda: evidence.label_test(g, g, np.zeros(3, int)),
        lambda: evidence.label_test(g, g, np.zeros(60, int), permutations=0),
        lambda: evidence.split_half(np.zeros(3), np.zeros(4)),
        lambda: evidence.concept_maps(g, g[:, :5]),
        lambda: evidence.word_ranking(np.zeros((2, 2, 3)), ["a", "b"], ["A"] * 3),
        lambda: evidence.label_cosine(g, g[:, :5], np.zeros(12, int)),
    ]
    for call in wrong:
        with pytest.raises(DataError):
            call()


def test_closeness_is_that_of_the_released_code_label_by_label() -> None:
    """Ranks from 1, mean squares of the two lowest; place times mean cosine, -1 without a picture among the first k."""
    rng = np.random.default_rng(5)
    concept = rng.permutation(np.repeat(np.arange(6), 4))
    g = rng.normal(size=(7, 24))
    candidates = rng.random((7, 6)) < 0.7
    candidates[:, 2] = True
    candidates[6] = [False, False, True, False, False, False]
    shown, drawn = rng.normal(size=(9, 3)) + 1, rng.normal(size=(24, 3)) + 1
    strongest = np.stack([rng.permutation(9)[:5] for _ in range(7)])
    own = semantics.own_candidate_scores(g, concept, candidates, a=2)
    found = semantics.closeness_scores(own, g, concept, strongest, shown=shown, drawn=drawn, k=6)
    assert np.isnan(found[~candidates]).all()
    without = 0
    for voxel in range(7):
        labels = np.flatnonzero(candidates[voxel])
        pictures = [j for j in range(24) if concept[j] in labels]
        order = sorted(pictures, key=lambda j: -g[voxel, j])
        squares = {}
        for label in labels:
            ranks = sorted(order.index(j) + 1 for j in pictures if concept[j] == label)
            squares[label] = sum(rank**2 for rank in ranks[:2]) / 2
        place = sorted(labels, key=lambda label: squares[label])
        for label in labels:
            among = [j for j in order[:6] if concept[j] == label]
            cosines = [
                shown[s] @ drawn[j] / np.linalg.norm(shown[s]) / np.linalg.norm(drawn[j]) for s in strongest[voxel] for j in among
            ]
            without += not among
            weight = np.mean(cosines) if among else -1.0
            assert found[voxel, label] == pytest.approx((len(labels) - place.index(label)) * weight)
    assert without > 3


@pytest.mark.parametrize("wrong", [{"k": 0}, {"shown": np.ones((9, 2))}, {"drawn": np.ones((23, 3))}])
def test_closeness_refuses_what_does_not_fit(wrong: dict[str, object]) -> None:
    given = {"shown": np.ones((9, 3)), "drawn": np.ones((24, 3)), "k": 5} | wrong
    own, g = np.zeros((2, 6)), np.zeros((2, 24))
    with pytest.raises(DataError, match="closeness"):
        semantics.closeness_scores(own, g, np.repeat(np.arange(6), 4), np.zeros((2, 5), int), **given)  # type: ignore[arg-type]
