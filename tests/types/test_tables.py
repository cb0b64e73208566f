"""The four tables: what they refuse, what they keep together, and their arithmetic against plain loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainlens.types import (
    DataError,
    Features,
    Responses,
    Result,
    Sensors,
    Stimuli,
    Surface,
    Volume,
    check_no_leak,
    choose,
    positions,
    unique_ids,
)

EYE = np.eye(4)


def pictures(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), dtype=np.uint8)


def stimuli(names: str = "abc", seed: int = 0) -> Stimuli:
    return Stimuli(np.array(list(names)), pictures(len(names), seed))


def responses(trials: int = 24, units: int = 5, seed: int = 0) -> Responses:
    """Two subjects, two sessions each, three images; the last repeat is test."""
    rng = np.random.default_rng(seed)
    number = np.arange(trials)
    table = pd.DataFrame(
        {
            "stimulus": [f"i{n % 3}" for n in number],
            "subject": [str(1 + (n >= trials // 2)) for n in number],
            "session": [str(1 + n % 2) for n in number],
            "repeat": number // 3,
            "split": ["test" if n % 4 == 3 else "train" for n in number],
        }
    )
    roi = pd.DataFrame({"roi": [("V1", "V2")[u % 2] for u in range(units)], "ncsnr": np.linspace(0, 1, units)})
    return Responses(rng.normal(2, 3, (trials, units)).astype(np.float32), table, roi)


def spoilt(bad: list[int], *, units: int = 10, value: float = np.nan) -> Responses:
    whole = responses(units=units)
    data = whole.data.copy()
    data[3, bad] = value
    return Responses(data, whole.trials, whole.units)


def features(rows: int = 3) -> Features:
    return Features({"last": np.ones((rows, 2))}, np.array(list("abcdef")[:rows]), "net")


BAD = {
    "stimuli rows": (lambda: Stimuli(np.array(["a", "b"]), pictures(3)), "2 ids but 3 images"),
    "stimuli captions": (lambda: Stimuli(np.array(["a", "b"]), pictures(2), [["x"]]), "2 ids but 1 captions"),
    "stimuli table": (
        lambda: Stimuli(np.array(["a", "b"]), pictures(2), [], pd.DataFrame({"x": [1, 2, 3]})),
        "2 ids but 3 table",
    ),
    "captions of other ids": (
        lambda: Stimuli(np.array(["a", "b"]), pictures(2), {"a.png": ["x"]}),
        "captions name none of the 2 ids; they have 'a.png', the stimuli 'a'",
    ),
    "float pictures": (
        lambda: Stimuli(np.array(["a", "b"]), pictures(2) / 255.0),
        r"uint8 \(n, height, width, 3\), got float64 .*; multiply by 255",
    ),
    "grey pictures": (lambda: Stimuli(np.array(["a", "b"]), pictures(2)[..., 0]), "got uint8 .* convert them to RGB"),
    "numeric ids": (lambda: Stimuli(np.array([1, 2]), pictures(2)), "ids are strings"),
    "duplicate ids": (lambda: stimuli("aba"), "more than once, first 'a'"),
    "unknown stimulus": (lambda: stimuli().take(["a", "z"]), r"first 'z'.*3 ids, first 'a'; name them alike"),
    "ending of a file": (
        lambda: stimuli().take(["a.png", "b.png"]),
        "first 'a'; the ending of the file's name is the difference",
    ),
    "repeated ids asked of features": (lambda: features().take(["a", "a"]), "more than once"),
    "repeated ids asked of stimuli": (lambda: stimuli().take(["b", "b"]), "more than once"),
    "responses rows": (lambda: Responses(np.ones((4, 5)), responses().trials, responses().units), "24 trials and 5 units"),
    "responses turned": (lambda: Responses(responses().data.T, responses().trials, responses().units), r"pass data\.T"),
    "responses axes": (lambda: Responses(np.ones(24), responses().trials, responses().units), r"\(trial, unit\)"),
    "no stimulus column": (
        lambda: Responses(np.ones((2, 1)), pd.DataFrame({"image": ["a", "b"]}), pd.DataFrame(index=range(1))),
        r"'stimulus'; they have \['image'\]",
    ),
    "numeric stimulus": (
        lambda: Responses(np.ones((2, 1)), pd.DataFrame({"stimulus": [1, 2]}), pd.DataFrame(index=range(1))),
        "ids are strings, got int 1",
    ),
    "missing times": (lambda: Responses(np.ones((24, 5, 3)), responses().trials, responses().units), "3 time points"),
    "other space": (
        lambda: Responses(responses().data, responses().trials, responses().units, Volume(np.ones((2, 2, 2), bool), EYE)),
        "5 units but the space holds 8",
    ),
    "unknown measure": (lambda: Responses(np.ones((24, 5)), responses().trials, responses().units, measure="mV"), "uV"),
    "unknown roi": (lambda: responses().pick(roi="V9"), r"'V9'; it has \['V1', 'V2'\]"),
    "unknown unit column": (lambda: responses().pick(area="V1"), r"'area'; it has \['ncsnr', 'roi'\]"),
    "unknown split": (lambda: responses().where(split="held"), r"'held'; it has \['test', 'train'\]"),
    "unknown trial column": (lambda: responses().where(run="1"), "no column 'run'.*session"),
    "zscore by unknown column": (lambda: responses().zscore(by="run"), "no column 'run'.*session"),
    "zscore on too few": (lambda: responses(4).zscore(), "it needs 2"),
    "split without column": (
        lambda: Responses(np.ones((1, 1)), pd.DataFrame({"stimulus": ["a"]}), pd.DataFrame(index=range(1))).split(),
        "no column 'split'",
    ),
    "too many missing": (lambda: spoilt([0, 1, 2]).clean(), "30% of the 10 units.*20%"),
    "too many infinite": (lambda: spoilt([0, 1, 2], value=np.inf).clean(), "30% of the 10 units"),
    "nothing left": (
        lambda: Responses(np.ones((24, 5), np.float32), responses().trials, responses().units).clean(),
        "no unit is left",
    ),
    "leak by id": (lambda: check_no_leak(stimuli("abc"), stimuli("cd", seed=1)), "by id, first 'c'"),
    "leak by pixels": (lambda: check_no_leak(stimuli("abc"), stimuli("xy")), "'x' has the same pixels as training image 'a'"),
    "unknown layer": (lambda: features()["first"], r"net has no layer 'first'; it has \['last'\]"),
    "no layer": (lambda: Features({}, np.array(["a"]), "net"), "hold no layer"),
    "features rows": (lambda: Features({"last": np.ones((2, 2))}, np.array(["a"]), "net"), "1 rows"),
    "features grid": (
        lambda: Features({}, np.array(["a"]), "net", {"last": np.ones((1, 5, 2))}, {"last": (2, 2)}),
        "2 x 2 does not make 5 tokens",
    ),
    "features not finite": (
        lambda: Features({"last": np.array([[1.0], [np.inf]])}, np.array(["a", "b"]), "net").check_finite(),
        "layer 'last': image 'b'",
    ),
    "result with text": (lambda: Result("x", {"accuracy": "high"}), "'accuracy' must be a number"),  # type: ignore[dict-item]
    "mask of numbers": (lambda: Volume(np.ones((2, 2, 2)), EYE), "bool"),
    "flat affine": (lambda: Volume(np.ones((2, 2, 2), bool), np.zeros((4, 4))), "invertible"),
    "values of another mask": (lambda: Volume(np.ones((2, 2, 2), bool), EYE).fill(np.ones(7)), "8 voxels"),
    "hemisphere": (lambda: Surface("fsaverage5", np.array(["lh"]), np.array([3])), "'left' or 'right'"),
    "surface lengths": (lambda: Surface("fsaverage5", np.array(["left"]), np.array([3, 4])), "must match"),
    "sensor positions": (lambda: Sensors(np.array(["Oz"]), np.zeros((2, 3))), "1 names"),
    "voxels reordered": (lambda: volume_responses().columns(np.array([2, 1])), "not reordered"),
}


def volume_responses() -> Responses:
    mask = np.zeros((2, 3, 2), bool)
    mask.flat[[1, 2, 5, 8, 11]] = True
    whole = responses()
    return Responses(whole.data, whole.trials, whole.units, Volume(mask, np.diag([2.0, 3.0, 4.0, 1.0])))


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_that_says_what(name):
    call, match = BAD[name]
    with pytest.raises(DataError, match=match) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


def test_no_leak_is_no_error():
    check_no_leak(stimuli("abc"), stimuli("xy", seed=1))


def test_clean_counts_what_it_drops():
    whole = spoilt([1, 7])
    whole.data[:, 4] = 2.5
    cleaned, counts = whole.clean()
    assert counts == {"units_missing": 2, "units_constant": 1}
    keep = [0, 2, 3, 5, 6, 8, 9]
    np.testing.assert_array_equal(cleaned.data, whole.data[:, keep])
    pd.testing.assert_frame_equal(cleaned.units, whole.units.iloc[keep].reset_index(drop=True))
    again, none = cleaned.clean()
    assert again is cleaned
    assert none == {"units_missing": 0, "units_constant": 0}


def test_average_is_the_mean_over_the_repeats_of_each_subject():
    whole = responses()
    found = whole.average()
    pairs = list(dict.fromkeys(zip(whole.trials["subject"], whole.trials["stimulus"])))
    assert list(zip(found.trials["subject"], found.trials["stimulus"])) == pairs
    for row, (subject, name) in enumerate(pairs):
        same = [i for i in range(24) if (whole.trials["subject"][i], whole.trials["stimulus"][i]) == (subject, name)]
        np.testing.assert_allclose(found.data[row], sum(whole.data[i].astype(float) for i in same) / len(same), rtol=1e-6)
        assert found.trials["repeats"][row] == len(same)
    assert "repeat" not in found.trials.columns


def test_zscore_takes_its_statistics_from_training_trials_of_the_session():
    whole = responses()
    found = whole.zscore()
    for i in range(24):
        mine = whole.trials.iloc[i]
        base = [
            whole.data[j].astype(float)
            for j in range(24)
            if whole.trials["subject"][j] == mine["subject"]
            and whole.trials["session"][j] == mine["session"]
            and whole.trials["split"][j] == "train"
        ]
        expected = (whole.data[i] - np.mean(base, axis=0)) / np.std(base, axis=0)
        np.testing.assert_allclose(found.data[i], expected, rtol=1e-4, atol=1e-5)
    assert found.measure == "z"


def test_test_trials_shape_no_training_value():
    whole = responses()
    test = (whole.trials["split"] == "test").to_numpy()
    other = whole.data.copy()
    other[test] *= 100
    changed = Responses(other, whole.trials, whole.units)
    np.testing.assert_array_equal(changed.zscore().data[~test], whole.zscore().data[~test])
    assert not np.allclose(changed.zscore(fit_on=None).data[~test], whole.zscore(fit_on=None).data[~test])


def test_a_volume_gives_back_what_was_put_in():
    space = volume_responses().space
    assert isinstance(space, Volume)
    values = np.array([1.5, -2.0, 3.0, 0.0, 7.0], np.float32)
    filled = space.fill(values)
    np.testing.assert_array_equal(filled[space.mask], values)
    assert np.isnan(filled[~space.mask]).all()
    assert (space.fill(values, 0.0)[~space.mask] == 0).all()
    centres = [space.affine[:3, :3] @ index + space.affine[:3, 3] for index in np.argwhere(space.mask)]
    np.testing.assert_allclose(space.coordinates(), centres)


def test_a_part_of_the_units_keeps_its_place():
    whole = volume_responses()
    part = whole.pick(roi="V1")
    assert isinstance(part.space, Volume)
    assert isinstance(whole.space, Volume)
    np.testing.assert_array_equal(part.space.coordinates(), whole.space.coordinates()[[0, 2, 4]])
    np.testing.assert_array_equal(part.data, whole.data[:, [0, 2, 4]])
    surface = Surface("fsaverage5", np.array(["left", "left", "right", "right", "right"]), np.array([3, 9, 1, 4, 8]))
    chosen = Responses(whole.data, whole.trials, whole.units, surface).columns(np.array([4, 1])).space
    assert isinstance(chosen, Surface)
    assert (list(chosen.hemisphere), list(chosen.vertex)) == (["right", "left"], [8, 9])
    sensors = Sensors(np.array(list("vwxyz")), np.arange(15.0).reshape(5, 3))
    picked = Responses(whole.data, whole.trials, whole.units, sensors).columns(np.array([3, 0])).space
    assert isinstance(picked, Sensors)
    assert list(picked.names) == ["y", "v"]
    np.testing.assert_array_equal(picked.positions[:, 0], [9, 0])


def test_take_and_split_keep_rows_and_ids_together():
    whole = Stimuli(np.array(list("abc")), pictures(3), [["x"], [], ["y", "z"]], pd.DataFrame({"n": [1, 2, 3]}))
    taken = whole.take(["c", "a"])
    np.testing.assert_array_equal(taken.images, pictures(3)[[2, 0]])
    assert taken.captions == [["y", "z"], ["x"]]
    assert list(taken.table["n"]) == [3, 1]
    parts = responses().split()
    assert {name: len(part) for name, part in parts.items()} == {"train": 18, "test": 6}
    rows = Features({"last": np.arange(6.0).reshape(3, 2)}, np.array(list("abc")), "net").take(["b", "a"])
    np.testing.assert_array_equal(rows["last"], [[2, 3], [0, 1]])


LETTERS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None)
@given(column=LETTERS, data=st.data())
def test_the_order_in_which_values_are_wanted_does_not_matter(column, data):
    table = pd.DataFrame({"x": column, "y": [c.upper() for c in column]})
    wanted = data.draw(st.lists(st.sampled_from(sorted(set(column))), min_size=1, max_size=6))
    mask = choose(table, {"x": wanted}, "table")
    np.testing.assert_array_equal(mask, [c in wanted for c in column])
    np.testing.assert_array_equal(choose(table, {"x": data.draw(st.permutations(wanted))}, "table"), mask)
    both = {"x": wanted, "y": sorted({c.upper() for c in wanted})}
    np.testing.assert_array_equal(choose(table, dict(reversed(both.items())), "table"), choose(table, both, "table"))


@settings(max_examples=50, deadline=None)
@given(order=st.permutations(range(24)), seed=st.integers(0, 99))
def test_rows_chosen_are_the_same_whatever_the_order_of_trials(order, seed):
    whole = responses(seed=seed)
    shuffled = whole.rows(np.array(order))
    found, plain = shuffled.where(split="train", subject="1"), whole.where(subject="1", split="train")
    assert len(found) == len(plain)
    np.testing.assert_array_equal(found.data[np.lexsort(found.data.T)], plain.data[np.lexsort(plain.data.T)])
    back = np.argsort(order)
    np.testing.assert_array_equal(shuffled.rows(back).data, whole.data)


@settings(max_examples=50, deadline=None)
@given(names=st.lists(st.text(min_size=1, max_size=4).filter(lambda s: "\0" not in s), min_size=1, max_size=12, unique=True))
def test_positions_find_every_id(names):
    order = names[::-1]
    assert [names[i] for i in positions(order, names)] == order
    assert list(unique_ids(names)) == names


def test_captions_by_id_are_joined_by_id():
    told = {"c": ["two", "three"], "a": "one", "z": ["of no picture"]}
    assert Stimuli(np.array(["a", "b", "c"]), pictures(3), told).captions == [["one"], [], ["two", "three"]]
