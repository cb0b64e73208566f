"""The bank: the same pictures whatever the order of nouns or a restart, and nothing drawn twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from brainlens.describe.bank import Bank, bank_of, drawn_bank, picture_seed, real_rows
from brainlens.models.generation.text_drawing import TextDrawer, load_drawer
from brainlens.types import DataError, Features


class Painter:
    """Pictures of noise by seed; counts what it draws, and stops after so many nouns."""

    def __init__(self, stop: int | None = None) -> None:
        self.drawn, self.calls, self.stop = 0, 0, stop

    def __call__(self, prompts, seeds) -> np.ndarray:
        if self.calls == self.stop:
            raise KeyboardInterrupt
        self.calls += 1
        self.drawn += len(prompts)
        return np.stack([np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8) for seed in seeds])


def by_noun(stimuli) -> dict[str, np.ndarray]:
    return {str(name): image for name, image in zip(stimuli.ids, stimuli.images)}


def test_the_bank_is_the_same_in_any_order_and_after_an_interruption(tmp_path: Path) -> None:
    whole = by_noun(drawn_bank(["cat", "boat", "house"], Painter(), tmp_path / "a", pictures=3))
    stopped = Painter(stop=1)
    with pytest.raises(KeyboardInterrupt):
        drawn_bank(["house", "cat", "boat"], stopped, tmp_path / "b", pictures=3)
    rest = Painter()
    again = by_noun(drawn_bank(["house", "cat", "boat"], rest, tmp_path / "b", pictures=3))
    assert stopped.drawn + rest.drawn == 9
    assert set(whole) == set(again) == {f"{noun}#{k}" for noun in ("cat", "boat", "house") for k in range(3)}
    for name, image in whole.items():
        assert_array_equal(image, again[name])
    last = Painter()
    more = by_noun(drawn_bank(["cat", "dog"], last, tmp_path / "b", pictures=5))
    assert last.drawn == 2 + 5  # the missing pictures of a noun that is there, and a new noun
    assert_array_equal(more["cat#1"], whole["cat#1"])


def test_seeds_are_those_of_noun_number_and_seed() -> None:
    seeds = {picture_seed(noun, k, seed) for noun in ("cat", "boat") for k in range(5) for seed in (0, 1)}
    assert len(seeds) == 20
    assert picture_seed("cat", 0) == picture_seed("cat", 0, 0)


def test_what_a_bank_refuses(tmp_path: Path) -> None:
    drawn_bank(["cat"], Painter(), tmp_path / "a", pictures=1, key="model 1")
    with pytest.raises(DataError, match="another model"):
        drawn_bank(["cat"], Painter(), tmp_path / "a", pictures=1, key="model 2")
    with pytest.raises(DataError, match=r"one \{\}"):
        drawn_bank(["cat"], Painter(), tmp_path / "b", prompt="a picture")
    with pytest.raises(DataError, match="at least one"):
        drawn_bank([], Painter(), tmp_path / "b")
    with pytest.raises(DataError, match="expected uint8"):
        drawn_bank(["cat"], lambda prompts, seeds: np.zeros((1, 4, 4)), tmp_path / "c", pictures=1)


def test_real_pictures_are_chosen_by_the_nouns_own_seed() -> None:
    rng = np.random.default_rng(0)
    present = rng.random((50, 3)) < 0.4
    present[:, 2] = False
    rows = np.arange(40)
    chosen, noun = real_rows(["cat", "boat", "dog"], present, rows, pictures=6)
    assert (chosen < 40).all()
    assert all(present[row, c] for row, c in zip(chosen, noun))
    np.testing.assert_array_equal(np.bincount(noun, minlength=3), [6, 6, 0])
    turned, other = real_rows(["boat", "cat"], present[:, [1, 0]], rows, pictures=6)
    assert_array_equal(chosen[noun == 0], turned[other == 1])
    with pytest.raises(DataError, match="no picture"):
        real_rows(["dog"], present[:, 2:], rows, pictures=6)


@pytest.fixture(scope="module")
def drawer(tmp_path_factory, made_pipeline) -> TextDrawer:
    folder = made_pipeline.build_pipeline(tmp_path_factory.mktemp("bank") / "tiny")
    return load_drawer(folder, steps=3, batch=2)


def test_a_random_pipeline_draws_by_prompt_and_seed(drawer, tmp_path: Path) -> None:
    both = drawer.draw(["a", "a a"], [1, 2])
    assert both.dtype == np.uint8
    assert both.ndim == 4
    one = drawer.draw(["a a"], [2])
    assert np.abs(both[1].astype(int) - one[0]).max() <= 1  # of other batches the last bit may differ
    assert (drawer.draw(["a"], [3]) != both[:1]).any()
    made = drawn_bank(["a", "a a"], drawer.draw, tmp_path, pictures=2, key=drawer.key, prompt="{}")
    assert len(made) == 4
    x = np.arange(8.0).reshape(4, 2)
    bank = bank_of(Features({"image": x}, made.ids, "net"), made, ("image",))
    assert bank.nouns == ("a", "a a")
    assert_array_equal(bank.noun, [0, 0, 1, 1])
    assert_array_equal(bank.x, x)


def test_prompts_that_the_text_encoder_cannot_hold(drawer) -> None:
    assert drawer.fits("a")
    assert not drawer.fits("a " * 20)
    assert not drawer.fits("zebra")
    with pytest.raises(DataError, match="cannot hold the prompt 'zebra'"):
        drawer.draw(["zebra"], [0])
    with pytest.raises(DataError, match="steps=0"):
        load_drawer("x", steps=0)


def test_a_picture_of_several_nouns_is_kept_once() -> None:
    x = np.random.default_rng(0).normal(size=(5, 3))
    rows = np.array([4, 1, 4, 0, 1])
    once, back = Bank(x[rows], np.array([0, 0, 1, 1, 2]), ("a", "b", "c"), "real", rows).pictures()
    assert len(once) == 3
    np.testing.assert_array_equal(once[back], x[rows])
    drawn = Bank(x, np.array([0, 0, 1, 1, 2]), ("a", "b", "c"), "diffusion", np.zeros(0, np.int64))
    np.testing.assert_array_equal(drawn.pictures()[0][drawn.pictures()[1]], x)
