"""The command as a user runs it: the phantom with kinds, a localiser by names, real pictures, and the pages of both."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from PIL import Image
from scipy.stats import rankdata

from brainlens import miniatures, report, store
from brainlens.backbones import vision
from brainlens.backbones.class_words import ClassSpace, load_class_space
from brainlens.backbones.places import place_features
from brainlens.datasets.source import Source, open_recording, picture_folder
from brainlens.describe import Describing
from brainlens.describe.bank import Bank, real_rows
from brainlens.describe.labelling import label_voxels
from brainlens.describe.run import Asked, drawn_for, run_describe
from brainlens.encode.predict import run_predict
from brainlens.metrics.retrieval import ranks
from brainlens.models.encoding import RidgeCV
from brainlens.models.generation.text_drawing import TextDrawer
from brainlens.phantom.scenes import make_scenes
from brainlens.plots import words
from brainlens.report.words_page import build_words, page_data, render_words
from brainlens.stimuli.nouns import LexiconTagger, read_concreteness, vocabulary
from brainlens.types import DataError, Features, Responses, Result, Stimuli

QUICK = Describing(top=20, pictures=20, least=3, permutations=200, resamples=100, alphas=tuple(np.logspace(0, 5, 6)))


def tell(text: str, share: float | None = None) -> None:
    """Nothing is shown."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Two regions of the phantom with kinds, with crops."""
    source = Source(n_train=200, n_test=60, options={"concepts": "kinds"}, regions=("FFA", "PPA"))
    folders, rows = run_describe(source, tmp_path_factory.mktemp("runs"), Asked(QUICK, crops=True), tell=tell)
    assert rows
    return folders[0], store.load_result(folders[0])


def test_a_run_keeps_model_labels_and_cards(run) -> None:
    folder, result = run
    assert (folder / "model").is_dir()
    assert {"label", "auroc", "noun_embedding", "cards/images", "baseline/clip_msm", "baseline/brainscuba"} <= set(result.arrays)
    assert result.config["crops"] == result.metrics["describe/crops"] > 50
    assert result.metrics["describe/crops_asked"] >= result.metrics["describe/crops"]
    assert 0 < result.metrics["describe/strongest_share_crops"] < 1
    assert result.config["dataset_options"] == {"concepts": "kinds"}
    units = result.units
    assert units is not None
    assert (units["kind"] != "").all()


def test_its_model_predicts_new_pictures(run, tmp_path) -> None:
    """Pictures of the recording as files: the same as the stored weights on the layers of the pictures in memory."""
    folder, _ = run
    source = Source(n_train=200, n_test=60, options={"concepts": "kinds"}, regions=("FFA", "PPA"))
    recording = open_recording(source, embeddings=False, device="cpu", tell=tell)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(3):
        Image.fromarray(recording.stimuli.images[i]).save(pictures / f"{i}.png")
    out, rows = run_predict(folder, pictures, out=tmp_path / "guess.npy", tell=tell)
    model = RidgeCV.load(folder / "model")
    expected = recording.layers.data["image"][:3].astype(np.float32) @ model.coef_.T + model.intercept_
    np.testing.assert_allclose(np.load(out), expected, atol=0.02 * expected.std())
    assert {row["fact"] for row in rows} >= {"images", "units", "model", "network"}


def test_cards_show_the_strongest_whole_pictures_and_what_is_cut_from_them(run) -> None:
    """Predicted again from the stored model; every box is a crop that stands beside the pictures."""
    folder, result = run
    source = Source(n_train=200, n_test=60, options={"concepts": "kinds"}, regions=("FFA", "PPA"))
    layers = open_recording(source, embeddings=False, device="cpu", tell=tell).layers
    model, pool = RidgeCV.load(folder / "model"), result.tables["pool"]["stimulus"].astype(str).to_numpy()
    rows = np.array([layers.ids.tolist().index(name) for name in pool])
    guess = layers.data["image"][rows] @ model.coef_.T
    for unit in result.arrays["cards/unit"]:
        expected = np.argsort(-guess[:, unit], kind="stable")[:5]
        np.testing.assert_allclose(guess[result.arrays["strongest"][unit], unit], guess[expected, unit], rtol=1e-4)
    boxes = result.arrays["cards/boxes"]
    assert boxes.shape == (len(result.arrays["cards/unit"]), 5, 4, 4)
    some = boxes[np.isfinite(boxes).all(axis=-1)]
    assert len(some) > 5
    assert ((some >= 0) & (some <= 1)).all()
    assert (some[:, 2:] > some[:, :2]).all()
    drawn = words.voxel_cards(result)
    assert sum(len(ax.patches) for ax in drawn.axes) == 2 * len(some)  # a dark line on a bright one
    assert not any(ax.patches for ax in words.voxel_cards(without(result, "cards/boxes")).axes)


def without(result: Result, name: str) -> Result:
    return replace(result, arrays={key: value for key, value in result.arrays.items() if key != name})


def test_colours_are_the_first_three_components_by_rank(run) -> None:
    from sklearn.decomposition import PCA

    _, result = run
    values = np.asarray(result.arrays["noun_embedding"], np.float64)
    theirs = PCA(3, svd_solver="full").fit_transform(values)
    ours = words.word_colours(result, method="pca")
    for k in range(3):
        r = np.corrcoef(rankdata(theirs[:, k]), ours[:, k])[0, 1]
        assert abs(r) == pytest.approx(1.0)
    few = {name: table.iloc[:2] for name, table in result.tables.items()}
    small = replace(result, tables=few, arrays={**result.arrays, "noun_embedding": values[:2]})
    assert words.word_colours(small).shape == (2, 3)
    assert words.colour_method(small) == "pca"


def test_colours_are_umaps_where_it_is_installed(run) -> None:
    pytest.importorskip("umap", reason="needs the extra brainlens[umap]")
    _, result = run
    assert len(result.tables["nouns"]) >= 30
    assert words.colour_method(result) == "umap"
    found = words.word_colours(result)
    np.testing.assert_array_equal(found, words.word_colours(result, method="umap"))
    assert np.abs(found - words.word_colours(result, method="pca")).max() > 0.05


def test_a_drawn_bank_is_made_once_and_shared(tmp_path: Path, made_pipeline, monkeypatch) -> None:
    """A random pipeline that reads the phantom's words: nouns x pictures are drawn, whatever the voxels, and kept."""
    folder = made_pipeline.build_pipeline(tmp_path / "tiny")
    words_folder = miniatures.folder("clip")
    tokenizer = transformers.AutoTokenizer.from_pretrained(words_folder)
    shutil.rmtree(folder / "tokenizer")
    tokenizer.model_max_length = 16
    tokenizer.save_pretrained(folder / "tokenizer")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    numbers = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = transformers.CLIPTextConfig(
        **small, **numbers, vocab_size=len(tokenizer), max_position_embeddings=16, pad_token_id=tokenizer.pad_token_id
    )
    transformers.CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    asked = Asked(
        replace(QUICK, pictures=2), "diffusion", str(folder), steps=2
    )  # whose text encoder does not know the published prompt
    stimuli = make_scenes(60, size=16)
    split = np.where(np.arange(60) < 45, "train", "test")
    trials = pd.DataFrame({"stimulus": stimuli.ids, "split": split})
    responses = Responses(np.zeros((60, 3), np.float32), trials, pd.DataFrame(index=range(3)))
    drawn: list[int] = []
    draw = TextDrawer.draw
    monkeypatch.setattr(TextDrawer, "draw", lambda self, prompts, seeds: drawn.append(len(prompts)) or draw(self, prompts, seeds))

    def pooled_of(pictures: Stimuli) -> Features:
        return Features({"image": np.stack([image.mean(axis=(0, 1)) for image in pictures.images])}, pictures.ids, "mean")

    def bank(asked: Asked) -> Bank:
        return drawn_for(asked, stimuli, responses, pooled_of, tmp_path, tell=tell)

    first = bank(asked)
    nouns = vocabulary(LexiconTagger().nouns(stimuli.captions[:45]), least=3).nouns
    assert first.nouns == nouns
    assert sum(drawn) == 2 * len(nouns) == len(first)
    again = bank(asked)
    assert sum(drawn) == len(first)  # nothing is drawn twice
    np.testing.assert_array_equal(again.x, first.x)
    named = bank(replace(asked, prompt="a picture of a {}"))
    assert sum(drawn) == len(first)  # the very prompt that was chosen
    np.testing.assert_array_equal(named.x, first.x)
    with pytest.raises(DataError, match="holds none of"):
        bank(replace(asked, prompt="an unspeakable {}"))


def test_the_words_of_several_subjects_are_compared_in_a_run_of_their_own(tmp_path: Path) -> None:
    source = Source(n_train=120, n_test=40, subjects=("1", "2"), options={"concepts": "kinds"}, regions=("FFA", "PPA"))
    folders, rows = run_describe(source, tmp_path, Asked(replace(QUICK, permutations=50, resamples=20)), tell=tell)
    results = [store.load_result(folder) for folder in folders]
    assert [result.config.get("method") for result in results] == [None, None, "agreement"]
    assert results[-1].config["runs"] == ["1", "2"]
    assert any(str(row["metric"]).startswith("describe/agreement/") for row in rows)
    text = report.build(folders[-1], tmp_path / "report.html").read_text()
    assert "first words of 2 descriptions" in text


def test_figures_are_drawn_from_a_run(run) -> None:
    _, result = run
    for make in (words.word_map, words.word_histograms, words.voxel_cards):
        assert make(result).axes
    nouns = result.tables["nouns"]["noun"].tolist()[:2]
    assert words.concept_rows(result, nouns).axes
    colours = words.word_colours(result)
    assert colours.shape == (len(result.tables["nouns"]), 3)
    assert 0 <= colours.min() <= colours.max() <= 1
    with pytest.raises(DataError, match="'zebra' is not in the vocabulary"):
        words.concept_rows(result, ["zebra"])


def test_the_report_shows_words(run, tmp_path: Path) -> None:
    folder, _ = run
    text = report.build(folder, tmp_path / "report.html").read_text()
    assert "Words of voxels" in text
    assert "Not drawn" not in text


def test_the_page_of_words_holds_every_voxel_and_nothing_from_outside(run) -> None:
    folder, result = run
    text = build_words(folder).read_text()
    assert "simulation" in text
    assert not re.search(r"(src|href)=|https?://|@import|url\(", text)
    data = page_data(result)
    assert len(data["label"]) == len(data["xyz"]) == len(result.arrays["label"])
    names = result.tables["nouns"]
    strange = {**result.tables, "nouns": names.assign(noun=["</script><b>x", *names["noun"].tolist()[1:]])}
    assert "</script><b>" not in render_words(replace(result, tables=strange))
    with pytest.raises(DataError, match="without labels"):
        render_words(Result("encode", {}))


def test_ten_thousand_rows_are_virtual_and_quiet_in_a_browser(run, tmp_path: Path, chromium: ModuleType) -> None:
    _, result = run
    times = -(-10_000 // len(result.arrays["label"]))
    units = pd.concat([result.units] * times, ignore_index=True).iloc[:10_000]
    many = {
        name: np.concatenate([array] * times)[:10_000]
        for name, array in result.arrays.items()
        if len(array) == len(result.arrays["label"]) and not name.startswith("cards")
    }
    page = tmp_path / "words.html"
    page.write_text(render_words(replace(result, arrays=many, units=units, space=None)))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr", "--dump-dom"]
    command = [chromium.browser(), *flags, f"--user-data-dir={tmp_path / 'profile'}", page.as_uri()]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, check=True)
    assert "10,000 of 10,000 voxels" in done.stdout
    assert 10 < done.stdout.count('class="row') < 100  # what is in view, not all
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_heads_stand_over_their_columns_and_numbers_are_explained(run, tmp_path: Path, chromium: ModuleType) -> None:
    page = tmp_path / "words.html"
    page.write_text(render_words(run[1]))
    with chromium.Tab(page, tmp_path / "profile") as tab:
        tab.wait("document.querySelectorAll('#space .row').length > 5")
        lefts = "[...document.querySelectorAll('%s > span')].map((e) => e.getBoundingClientRect().left)"
        heads, cells = tab.value(lefts % "#head"), tab.value(lefts % "#space .row:first-child")
        np.testing.assert_allclose(heads, cells, atol=1)
        assert "chance 0.500" in tab.value("document.getElementById('regions').textContent")
        assert ".5 as by chance" in tab.value("document.getElementById('said').textContent")
        assert "weight among the candidates" in tab.value("document.body.textContent")
        assert "-0." not in tab.value("document.getElementById('space').textContent")  # a minus, not a hyphen
        assert tab.said == []


def test_shares_of_voxels_say_of_how_many_and_what_chance_gives(run) -> None:
    _, result = run
    scores = result.scores().set_index("metric")
    labelled = result.arrays["label"][:, 0] >= 0
    for name in ("significant_share", "r2_share_significant"):
        assert scores.loc[f"describe/{name}", "n"] == len(labelled)
    for name in ("majority", "clip_msm"):
        row = scores.loc[f"describe/{name}/same_label_share"]
        both = labelled & (result.arrays[f"baseline/{name}"][:, 0] >= 0)
        theirs, ours = (each[both, 0] for each in (result.arrays[f"baseline/{name}"], result.arrays["label"]))
        assert row["n"] == both.sum()
        assert row["value"] == pytest.approx(np.mean(theirs == ours))
        assert row["chance"] == pytest.approx(np.mean(theirs[:, None] == ours))  # every pair of voxels
    text = report.render([("one", result)])
    for part in ("train", "validation", "test"):
        assert f"{result.metrics[f'describe/images_{part}']:,.0f} {part} pictures" in text
    assert f"{len(labelled):,} voxels" in text


@pytest.mark.realdata
def test_words_of_a_real_recording_by_name(test_data: Path, tmp_path: Path) -> None:
    source = Source("haxby2001", test_data / "haxby2001")
    folders, rows = run_describe(source, tmp_path, Asked(words=True), tell=tell)
    result = store.load_result(folders[0])
    table = result.tables["words"]
    assert result.metrics["describe/words/categories"] == 8
    assert set(table["label"]) >= {"face", "house", "cat"}
    assert table["ceiling"].notna().all()
    assert rows
    assert report.build(folders[0], tmp_path / "report.html").exists()


@pytest.fixture(scope="module")
def photographs(test_data: Path):
    return picture_folder(test_data / "coco_captions")


@pytest.fixture(scope="module")
def classes(test_data: Path, photographs) -> tuple[ClassSpace, np.ndarray]:
    """MobileNetV2's classes under MiniLM, and the photographs there."""
    space = load_class_space(test_data / "mobilenet_v2_1.0_224", test_data / "minilm_l6")
    return space, space.images(photographs).data["image"]


@pytest.mark.realdata
def test_a_classifier_and_a_sentence_encoder_make_a_space(photographs, classes) -> None:
    """51 photographs, image -> captions: .45 for the mean of five captions, .33 for the first alone; chance is .02."""
    space, images = classes
    captions = [text for several in photographs.captions for text in several]
    owner = np.repeat(np.arange(len(photographs)), [len(several) for several in photographs.captions])
    texts = space.texts(captions)
    mean = np.stack([texts[owner == i].mean(axis=0) for i in range(len(photographs))])
    assert (ranks(images, mean) == 0).mean() > 0.37
    assert (ranks(images, texts[np.searchsorted(owner, np.arange(len(photographs)))]) == 0).mean() > 0.25


@pytest.mark.realdata
def test_voxels_that_read_a_word_are_given_it_from_human_captions(test_data: Path, photographs, classes) -> None:
    """In-silico voxels, each the similarity of a photograph's classes to one of 23 nouns: the noun is among the first three
    labels of .65 of them, where chance is .13."""
    space, images = classes
    norms = read_concreteness(test_data / "concreteness" / "brysbaert_concreteness.csv.gz")
    nouns = LexiconTagger().nouns(photographs.captions)
    found = vocabulary(nouns, least=3, concreteness=norms, least_concrete=4.8)
    responses = space.texts(found.nouns) @ images.T
    rows, noun = real_rows(found.nouns, found.present, np.arange(len(photographs)), pictures=10)
    labels = label_voxels(
        lambda part: responses[part], lambda part: responses[part][:, rows], voxels=len(responses), present=found.present,
        noun=noun, top=10, labels=4,
    )  # fmt: skip
    assert len(found.nouns) > 15
    assert np.mean([voxel in labels.number[voxel, :3] for voxel in range(len(responses))]) > 0.4


@pytest.mark.realdata
def test_places_of_a_convolutional_network_average_to_its_embedding(test_data: Path, photographs) -> None:
    some = photographs.take(photographs.ids[:3])
    found = place_features(vision.load(test_data / "mobilenet_v2_1.0_224"), some)
    np.testing.assert_allclose(found.tokens["image"].mean(axis=1), found.data["image"], rtol=1e-4, atol=1e-5)
    dino = place_features(vision.load(test_data / "dinov2_vits14_11blocks"), some)
    assert dino.tokens["image"].shape[2] == dino.data["image"].shape[1]


def test_places_of_clip_lie_in_the_space_of_its_embedding() -> None:
    """Patches of the miniature through the layers that its class token goes through, against the network's own modules."""
    network = vision.load(miniatures.folder("clip"))
    stimuli = make_scenes(2)
    found = place_features(network, stimuli)
    with torch.inference_mode():
        pixels = torch.from_numpy(network.preprocess.batch(list(stimuli.images)))
        states = network.model.vision_model(pixel_values=pixels).last_hidden_state
        own = network.model.visual_projection(network.model.vision_model.post_layernorm(states))
    np.testing.assert_allclose(found.tokens["image"], own[:, 1:].numpy(), atol=1e-5)
    np.testing.assert_allclose(found.data["image"], own[:, 0].numpy(), atol=1e-5)


@pytest.mark.realdata
def test_the_phantom_of_photographs_is_described_through_networks_without_a_clip(test_data: Path, photographs, tmp_path) -> None:
    """The brain reads DINOv2, the encoding model MobileNetV2, words are compared by MiniLM, captions are people's.

    Every part runs and counts. 36 training photographs hold too little for a word to be sure of, and none is called so.
    """
    options = {"pictures": (str(test_data / "coco_captions"),), "brain_network": str(test_data / "dinov2_vits14_11blocks")}
    source = Source(n_train=40, n_test=11, model=str(test_data / "mobilenet_v2_1.0_224"), options=options, regions=("FFA", "PPA"))
    folders, _ = run_describe(source, tmp_path, Asked(QUICK, sentences=str(test_data / "minilm_l6")), tell=tell)
    result = store.load_result(folders[0])
    captions = {name: " ".join(own).lower() for name, own in zip(photographs.ids, photographs.captions, strict=True)}
    for noun in result.tables["nouns"]["noun"]:
        assert sum(str(noun) in text for text in captions.values()) >= QUICK.least
    assert result.metrics["describe/labelled"] + result.metrics["describe/unlabelled"] == len(result.units)
    assert {"baseline/clip_msm", "noun_embedding"} <= set(result.arrays)
    assert result.arrays["noun_embedding"].shape[0] == len(result.tables["nouns"])
    assert result.metrics["describe/significant"] <= 0.05 * len(result.units)
    with pytest.raises(DataError, match="not CLIP"):
        open_recording(source, tell=tell)  # embeddings of captions need a network that reads them
