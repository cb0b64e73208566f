"""Several subjects as one: regions with intervals over subjects and stimuli, and channels of EEG and MEG."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t as student

from brainlens.attribute import group
from brainlens.attribute.group import group_of_channels, regions_over_subjects
from brainlens.metrics.attribution import sign_flip_p
from brainlens.report.page import sections
from brainlens.types import DataError, Result, Sensors, Volume

NAMES = [f"E{i}" for i in range(8)]
SHAPE = (4, 3, 2)
ROI = ["V1", "V2", "FFA"] * 8


def brain(seed: int, *, images: int = 20, own: float = 0.2, stimulus: float = 0.2) -> Result:
    """A subject whose maps have V1 at 1.5 times the others, plus a part of the subject's, of the image's and noise."""
    rng, shared = np.random.default_rng([seed, 1]), np.random.default_rng(99)
    mean = np.where(np.array(ROI) == "V1", 1.5, 1.0) + own * np.repeat(rng.normal(size=8), 3)
    images_part = stimulus * shared.normal(size=(images, 3))[:, [0, 1, 2] * 8]
    maps = np.abs(3 * (mean + images_part + 0.2 * rng.normal(size=(images, 24))))
    tables = {"trials": pd.DataFrame({"stimulus": [f"i{k}" for k in range(images)]})}
    space = Volume(np.ones(SHAPE, bool), np.diag([8.0, 8, 8, 1]))
    arrays = {"map/brain": maps, "map/brain_mean": maps.mean(0)}
    return Result("attribute", {}, arrays, pd.DataFrame({"roi": ROI}), tables, {"run": f"s{seed}"}, {}, space)


def test_regions_over_subjects_are_means_of_scaled_maps() -> None:
    results = [brain(seed) for seed in range(4)]
    table = group(results).tables["regions_of_group"].set_index("roi")
    for name in ("V1", "V2", "FFA"):
        inside = np.array(ROI) == name
        each = [r.arrays["map/brain"].mean(0)[inside].mean() / r.arrays["map/brain"].mean() for r in results]
        assert table.loc[name, "map"] == pytest.approx(np.mean(each))
        reach = student.ppf(0.975, 3) * np.std(each, ddof=1) / 2  # what subjects differ in alone is less than the whole
        assert table.loc[name, "map.high"] - np.mean(each) >= reach * 0.999
        assert table.loc[name, "units"] == 8
    assert table.loc["V1", "map.low"] > 1 > table.loc["V2", "map.high"]
    assert group(results).config["interval_over"] == "subjects and stimuli"
    assert group(results[:2]).config["interval_over"] == "stimuli"


def test_an_interval_of_two_subjects_is_that_of_their_images_drawn_alike() -> None:
    results = [brain(seed) for seed in range(2)]
    maps = [np.asarray(r.arrays["map/brain"]) for r in results]
    rng = np.random.default_rng(5)
    drawn = []
    for _ in range(4000):
        rows = rng.integers(0, 20, 20)
        drawn.append(np.mean([m[rows][:, ::3].mean() / m[rows].mean() for m in maps]))
    table = group(results).tables["regions_of_group"].set_index("roi")
    reach = (table.loc["V1", "map.high"] - table.loc["V1", "map.low"]) / 2
    assert reach == pytest.approx(1.96 * np.std(drawn), rel=0.12)  # draws of Poisson counts against those of rows


@pytest.mark.parametrize("change", ["no regions", "no trials"])
def test_without_regions_or_single_trials_there_is_no_table(change: str) -> None:
    results = [brain(seed) for seed in range(3)]
    if change == "no regions":
        results = [replace(r, units=pd.DataFrame(index=range(24))) for r in results]
    else:
        results = [replace(r, tables={}) for r in results]
    assert regions_over_subjects(results, np.ones(3)).empty
    assert "regions_of_group" not in group(results).tables


def test_the_page_draws_the_regions_of_a_group() -> None:
    (section,) = [s for s in sections(group([brain(seed) for seed in range(3)]), dpi=50) if s.title == "Over subjects"]
    captions = [picture.caption for picture in section.pictures if picture.png and not picture.note]
    assert any("each region over 3 subjects" in text and "over subjects and stimuli" in text for text in captions)


# --- EEG and MEG


def scalp(seed: int, names: list[str] = NAMES, times: int = 30, size: float = 1.0) -> Result:
    """Contributions of a subject: channels E0 and E1 speak for the right image from sample 10 to 19."""
    rng = np.random.default_rng(seed)
    course = 0.02 * rng.normal(size=(len(names), times))
    for i, name in enumerate(names):
        if name in ("E0", "E1"):
            course[i, 10:20] += 0.3
    angle, height = 2.4 * np.arange(len(names)), np.linspace(0.1, 0.9, len(names))  # around the head and up
    places = 0.09 * np.stack([np.sqrt(1 - height**2) * np.cos(angle), np.sqrt(1 - height**2) * np.sin(angle), height], axis=1)
    by_time = np.stack([course[:, k : k + 10].sum(1) for k in (0, 10, 20)])
    arrays = {"contribution": course, "topomap/contribution": course.sum(1), "topomap/contribution_by_time": by_time}
    titles = pd.DataFrame({"map": "contribution_by_time", "title": ["a", "b", "c"]})
    units = pd.DataFrame({"channel": names})
    return Result(
        "attribute", {}, {k: size * v for k, v in arrays.items()}, units, {"topomap": titles}, {"run": f"s{seed}"}, {},
        Sensors(np.array(names), places),
    )  # fmt: skip


def test_a_group_of_channels_is_the_mean_of_scaled_maps_on_the_channels_of_all() -> None:
    other = [*NAMES[::-1], "E9"]
    results = [scalp(seed, NAMES if seed % 2 else other, size=1.0 + seed) for seed in range(8)]
    found = group_of_channels(results, flips=2000)
    common = [str(name) for name in found.units["channel"]]
    assert common == NAMES[::-1]
    maps = []
    for result in results:
        own = list(result.units["channel"])
        row = np.array([result.arrays["contribution"][own.index(name)].sum() for name in common])
        maps.append(row / np.abs(row).mean())
    mean = np.mean(maps, axis=0)
    np.testing.assert_allclose(found.arrays["topomap/contribution"], mean)
    np.testing.assert_allclose(found.arrays["contribution"].sum(1), mean)
    np.testing.assert_allclose(found.arrays["topomap/contribution_by_time"].sum(0), mean)
    np.testing.assert_allclose(found.arrays["map/p"], sign_flip_p(np.array(maps), flips=2000), rtol=1e-6)
    table = found.tables["channels"].set_index("channel")
    for i, name in enumerate(common):
        each = np.array(maps)[:, i]
        reach = student.ppf(0.975, 7) * each.std(ddof=1) / np.sqrt(8)
        assert table.loc[name, "contribution.high"] - table.loc[name, "contribution"] == pytest.approx(reach)
    assert set(table.index[(found.arrays["map/q"] <= 0.05)]) >= {"E0", "E1"}
    assert [str(name) for name in found.space.names] == common
    np.testing.assert_array_equal(found.space.positions, results[0].space.positions[:8])


@pytest.mark.parametrize("seed", range(3))
def test_channels_that_say_nothing_are_rarely_called_so(seed: int) -> None:
    rng = np.random.default_rng(seed)
    called = []
    for _ in range(40):
        results = [replace(scalp(0), arrays={"contribution": rng.normal(size=(8, 5))}) for _ in range(8)]
        called.append((group_of_channels(results, flips=500).arrays["map/q"] <= 0.05).any())
    assert np.mean(called) <= 0.15  # .05 of 40 draws is below .15 in 99 of 100


def test_the_page_of_a_group_of_channels() -> None:
    drawn = sections(group_of_channels([scalp(seed) for seed in range(6)], flips=500), dpi=50)
    titles = [section.title for section in drawn]
    assert {"Over subjects", "Sensors and time"} <= set(titles)
    for section in drawn:
        assert all(picture.png and not picture.note for picture in section.pictures), section.title
    assert "contribution.low" not in group_of_channels([scalp(0), scalp(1)]).tables["channels"].columns


@pytest.mark.parametrize(
    ("results", "match"),
    [
        ([scalp(0)], "at least 2"),
        ([scalp(0), brain(0)], "result 1 is a 'attribute' result without contributions"),
        ([scalp(0), scalp(1, times=20)], "times differ in number"),
        ([scalp(0), scalp(1, [f"X{i}" for i in range(8)])], "no channel is of all of them"),
        ([scalp(0), scalp(1, size=0.0)], "the map of result 1 is zero everywhere"),
    ],
)
def test_what_makes_no_group_of_channels_is_one_line(results: list[Result], match: str) -> None:
    with pytest.raises(DataError, match=match) as caught:
        group_of_channels(results)
    assert len(str(caught.value).splitlines()) == 1
