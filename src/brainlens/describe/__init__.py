"""`describe`: what each voxel means, in words.

An encoding model predicts every voxel from pooled features. A voxel's candidates are the nouns of the captions of its strongest
pictures; each is scored by how high its pictures rank in a bank that all voxels share; the best is tested on the measured
responses to test images, which chose nothing. BrainLMM (Gao et al.), Describe-and-Dissect (Bai et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

import numpy as np

from brainlens import store
from brainlens.describe.agreement import label_agreement
from brainlens.describe.bank import Bank, real_rows
from brainlens.describe.crops import CropPool
from brainlens.describe.evidence import Described, encoding_scores, evidence_of, halves_agreement
from brainlens.describe.labelling import Close, Labels, label_voxels, strongest_of_readouts
from brainlens.describe.words import describe_words
from brainlens.metrics import semantics
from brainlens.metrics.semantics import top_concepts
from brainlens.models.encoding import RidgeCV
from brainlens.models.encoding.layered import pooled
from brainlens.models.encoding.tables import tables
from brainlens.stimuli.nouns import Vocabulary, presence, tagger, vocabulary
from brainlens.types import DataError, Features, Responses, Result, Stimuli, check_kinds
from brainlens.warned import warn

__all__ = [
    "BASELINES",
    "PAPER",
    "RELEASED",
    "Beside",
    "Describing",
    "Space",
    "baseline_scores",
    "describe",
    "describe_words",
    "fit_describe",
    "label_agreement",
]
ALPHAS = tuple(float(a) for a in np.logspace(-8, 10, 37))  # the paper's range
BASELINES = ("clip_msm", "text_readout", "majority", "brainscuba")
SHOWN = 5  # strongest pictures that are kept of each voxel
Tell = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Describing:
    """How voxels are described.

    layers: pooled layers side by side, a text is one (None: "image", the network's embedding). alphas: ridge penalties. top:
    strongest pictures (and crops) whose captions give candidates; pictures: t of each noun in the bank; best: a of eq. 2 (None:
    half of them); close: pictures whose likeness weights the scores as in the released code
    (`metrics.semantics.closeness_scores`), None: not at all, as in the paper; labels: kept of each voxel. tagger: "lexicon",
    "spacy" or "spacy:MODEL"; least: training images that a noun must be in; concreteness: table of norms, nouns below
    least_concrete go. permutations, resamples of the test images; level of the false discovery rate.

    | setting | paper | default | why |
    |---|---|---|---|
    | top | 10 | 40 | captions of whole pictures, where the paper captions crops too |
    | pictures, best | 10, 5 (code) | 100, half | other things in real pictures average out |
    | close | none (paper), 10 (code) | none | the paper's equation needs no second network |
    """

    layers: tuple[str, ...] | None = None
    alphas: tuple[float, ...] = ALPHAS
    top: int = 40
    pictures: int = 100
    best: int | None = None
    close: int | None = None
    labels: int = 4
    tagger: str = "lexicon"
    least: int = 5
    concreteness: str | None = None
    least_concrete: float = 4.0
    permutations: int = 2000
    resamples: int = 2000
    level: float = 0.05

    def __post_init__(self) -> None:
        if isinstance(self.layers, str):
            object.__setattr__(self, "layers", (self.layers,))
        for name in ("top", "pictures", "labels", "least", "permutations", "resamples"):
            if getattr(self, name) < 1:
                raise DataError(f"describe: {name}={getattr(self, name)}; it is 1 or more")
        if not 0 < self.level < 1:
            raise DataError(f"describe: level={self.level} of the false discovery rate lies between 0 and 1")
        if self.close is not None and (self.close < 1 or self.layers not in (None, ("image",))):
            raise DataError("describe: close compares embeddings of pictures, 1 or more, of the layer 'image' alone")


PAPER = Describing(top=10, pictures=10, best=5)
RELEASED = replace(PAPER, close=10)


@dataclass(frozen=True)
class Space:
    """An image-text space for the baselines: images (image, d) in the order of the features, texts(nouns) -> (noun, d).

    readout: whether the encoding model reads these image embeddings, so that its weights lie in the space of the texts.
    """

    images: np.ndarray
    texts: Callable[[tuple[str, ...]], np.ndarray]
    readout: bool = False


@dataclass(frozen=True)
class Beside:
    """What is given beside the recording: bank: pictures of nouns (None: real training pictures, `bank.real_rows`); crops: a pool
    of crops beside the whole pictures; space: for the baselines that need texts."""

    bank: Bank | None = None
    crops: CropPool | None = None
    space: Space | None = None


def describe(
    responses: Responses,
    features: Features,
    stimuli: Stimuli,
    *,
    design: Describing | None = None,
    bank: Bank | None = None,
    crops: CropPool | None = None,
    space: Space | None = None,
    seed: int = 0,
) -> Result:
    """Labels of every voxel with scores, evidence and baselines: the result of `fit_describe`."""
    return fit_describe(responses, features, stimuli, design=design, beside=Beside(bank, crops, space), seed=seed)[0]


def fit_describe(
    responses: Responses,
    features: Features,
    stimuli: Stimuli,
    *,
    design: Describing | None = None,
    beside: Beside | None = None,
    seed: int = 0,
    tell: Tell | None = None,
) -> tuple[Result, RidgeCV]:
    """Describes voxels; returns the result and the encoding model, whose weights read the raw pooled features.

    responses: trials with `stimulus` and `split`, z-scored; features: pooled layers of all images; stimuli: their captions (one
    list an image).

    Arrays over units: label (unit, k) numbers into the table `nouns`, -1 for none; score (eq. 2), weight (softmax), auroc_label
    (unit, k); auroc (unit, noun); r2, r2_cv, p_r2, q_r2; label_r, label_p, label_q; significant; strongest (unit, 5) rows of the
    table `pool`, whole pictures; baseline/NAME (unit, k). A voxel whose cross-validated R2 is not above 0 has no label and is
    counted.
    Raises DataError for images without captions, captions without nouns, layers that are not found, and split mistakes.
    """
    chosen, given, started, say = design or Describing(), beside or Beside(), store.Start(), tell or _silent
    check_kinds("describe", responses=(responses, Responses), features=(features, Features), stimuli=(stimuli, Stimuli))
    layers = chosen.layers or ("image",)
    if chosen.layers is None and "image" not in features.data:
        have, example = list(features.data), next(iter(features.data), "NAME")
        raise DataError(
            f"describe reads the pooled layer 'image', {features.model} has {have}; name one, "
            f"design=Describing(layers=({example!r},))"
        )
    data = tables(responses, features, seed=seed, verb="describe")
    rows, y, _ = data.fitting
    words, present = _words(stimuli.take(features.ids), rows, chosen)
    say("ridge from pooled features", None)
    x = pooled(features, layers)
    model = fit_ridge(x[rows], y, chosen.alphas, seed=seed)
    scored = encoding_scores(model, x[data.test.rows], data.test.y, resamples=chosen.resamples, seed=seed)
    bank = given.bank
    if bank is None:
        chosen_rows, numbers = real_rows(words.nouns, present, rows, pictures=chosen.pictures, seed=seed)
        bank = Bank(x[chosen_rows], numbers, words.nouns, "real", chosen_rows)
    problem = _Problem(x[rows], y, present[rows], bank, _numbered(bank, words.nouns), chosen, seed)
    pool, pool_present, crops = x[rows], present[rows], None
    if given.crops is not None:
        say("crops", None)
        crops = given.crops.make(model, x, rows, present=present, nouns=words.nouns)
        pool, pool_present = np.concatenate([pool, crops.x]), np.concatenate([pool_present, crops.present])
    say("labels", None)
    found = problem.label(model.coef_, pool, pool_present)
    label = gate(found, model.best_score_)
    if not (label[:, 0] >= 0).any():
        _warn_of_no_label(model.best_score_, words, len(rows), chosen.least)
    say("evidence", None)
    proof = evidence_of(label, found.auroc, data.test.y, present=present[data.test.rows], design=chosen, seed=seed)
    halves = halves_agreement(problem.first_of, len(rows), seed=seed)
    scores = baseline_scores(model, x[rows], found.counts, nouns=words.nouns, space=given.space, rows=rows)
    others = {name: np.where(label[:, :1] >= 0, top_concepts(each, chosen.labels), -1) for name, each in scores.items()}
    config = {"layers": list(layers), "model": features.model, "bank": bank.source, "design": asdict(chosen), "seed": seed}
    prints = [store.fingerprint(each) for each in (responses, features)]
    provenance = store.provenance(seed, "cpu", prints, started)
    counted = {} if crops is None else crops.counted(found.strongest, len(rows))
    strongest = found.strongest[:, :SHOWN] if crops is None else strongest_of_readouts(model.coef_, x[rows], SHOWN)
    parts = Described(data, label, found, words, problem.noun, scored, proof, halves, others, strongest, counted)
    result = Result(
        "describe", parts.metrics(), parts.arrays(), data.units, parts.tables(), config | {"crops": int(counted.get("crops", 0))}
    )
    return replace(result, provenance=provenance, space=data.space), model


@dataclass(frozen=True)
class _Problem:
    """Training images (x, y, present), the bank and the settings: what labels are made from, for all images or some of them."""

    x: np.ndarray
    y: np.ndarray
    present: np.ndarray
    bank: Bank
    noun: np.ndarray
    design: Describing
    seed: int

    def label(self, weights: np.ndarray, pool: np.ndarray, present: np.ndarray) -> Labels:
        """Labels of readouts, their candidates from a pool of pictures.

        A real picture that stands for several nouns is answered once, so that its places in the bank tie: the same product at
        another column of a matrix may differ in its last bit, and a rank would hang on it.
        """
        once, back = self.bank.pictures()
        return label_voxels(
            lambda part: weights[part] @ pool.T, lambda part: (weights[part] @ once.T)[:, back], voxels=len(weights),
            present=present, noun=self.noun, top=self.design.top, a=self.design.best, labels=self.design.labels,
            close=None if self.design.close is None else Close(pool, self.bank.x, self.design.close),
        )  # fmt: skip

    def first_of(self, part: np.ndarray) -> np.ndarray:
        """First labels (unit,) from some of the training images, by number; the bank stays the same."""
        model = fit_ridge(self.x[part], self.y[part], self.design.alphas, seed=self.seed)
        return gate(self.label(model.coef_, self.x[part], self.present[part]), model.best_score_)[:, 0]


def gate(found: Labels, score: np.ndarray) -> np.ndarray:
    """Labels of voxels that the encoding model predicts in cross-validation; test images have no say in it.

    score (voxel,) -> numbers (voxel, k), -1 where it is not above 0.
    """
    return np.where((np.asarray(score) > 0)[:, None], found.number, -1)


def _warn_of_no_label(score: np.ndarray, words: Vocabulary, images: int, least: int) -> None:
    """Says why no voxel has a word: how many voxels are predicted, and how many nouns there are to choose from."""
    rare = sum(why == "rare" for why in words.dropped.values())
    warn(
        f"describe: no voxel has a word; {int((np.asarray(score) > 0).sum())} of {len(score)} are predicted in cross-validation "
        f"(R2 above 0), and {len(words.nouns)} nouns are in {least} of {images} training images or more ({rare} are in fewer); "
        "give more images, or Describing(least=...)",
    )


def fit_ridge(x: np.ndarray, y: np.ndarray, alphas: tuple[float, ...] = ALPHAS, *, seed: int = 0) -> RidgeCV:
    """RidgeCV on standardised features, its weights turned back so that they read raw ones; folds of random images.

    x (image, feature), y (image, voxel).
    Constant features get the weight 0. The penalty of a voxel is chosen by cross-validation within the images given.
    """
    mean, spread = x.mean(axis=0), x.std(axis=0)
    kept = np.ptp(x, axis=0) > 1e-6 * np.abs(x).max(axis=0)
    order = np.random.default_rng(seed).permutation(len(x))
    scale = np.where(kept, 1 / np.where(kept, spread, 1), 0).astype(np.float32)
    model = RidgeCV(alphas, cv=min(5, len(x))).fit(((x - mean) * scale)[order], y[order])
    model.coef_ = (model.coef_ * scale).astype(np.float32)
    model.intercept_ = (model.intercept_ - model.coef_ @ mean).astype(np.float32)
    return model


def _words(stimuli: Stimuli, rows: np.ndarray, design: Describing) -> tuple[Vocabulary, np.ndarray]:
    """The vocabulary of the training images, and which images of the features name which noun."""
    if not any(stimuli.captions[i] for i in rows):
        raise DataError("describe: the training images have no captions; make some with `brainlens captions`, or use --words")
    found = tagger(design.tagger).nouns(stimuli.captions)
    norms = None
    if design.concreteness is not None:
        from brainlens.stimuli.nouns import read_concreteness

        norms = read_concreteness(design.concreteness)
    words = vocabulary([found[i] for i in rows], least=design.least, concreteness=norms, least_concrete=design.least_concrete)
    return words, presence(found, words.nouns)


def _numbered(bank: Bank, nouns: tuple[str, ...]) -> np.ndarray:
    """The noun of each picture of the bank as a number into `nouns`. Raises DataError for a noun that is not among them."""
    missing = sorted({bank.nouns[c] for c in np.unique(bank.noun)} - set(nouns))
    if missing:
        raise DataError(f"describe: the bank shows {missing[0]!r}, which is no noun of the captions; make it for this vocabulary")
    number = {name: i for i, name in enumerate(nouns)}
    return np.array([number[bank.nouns[c]] for c in bank.noun])


def baseline_scores(
    model: RidgeCV, x: np.ndarray, counts: np.ndarray, *, nouns: tuple[str, ...], space: Space | None, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """Scores (unit, noun) of the baselines that can be computed, from the same encoding model and vocabulary.

    x (image, feature) of the training images, at `rows` among the images of the space; counts (unit, noun) as in `Labels`.
    """
    scores = {"majority": semantics.majority(counts)}
    if space is not None:
        texts, images = space.texts(nouns), space.images[rows]
        scores["clip_msm"] = semantics.soft_wpmi(model.coef_ @ x.T, images, texts)
        if space.readout:
            moves = np.linalg.norm(model.coef_, axis=1) > 0
            weights = np.where(moves[:, None], model.coef_, 1.0)
            scores["text_readout"] = semantics.text_readout(weights, texts)
            scores["brainscuba"] = semantics.text_readout(semantics.project_weights(weights, images), texts)
    return {name: scores[name] for name in BASELINES if name in scores}


def _silent(text: str, share: float | None = None) -> None:
    """No progress is shown."""
