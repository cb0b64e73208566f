"""Text files of any editor, and captions as one text or several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from brainlens.datasets.text_tables import read_table
from brainlens.types import DataError, Stimuli, as_captions, read_lines, read_text

TEXT = "stimulus,split\nfaçade,train\n猫 ,test\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_files_of_any_editor_hold_the_same_text(tmp_path: Path, encoding: str, ends: str) -> None:
    path = tmp_path / "a b ü.csv"
    path.write_bytes((TEXT + "\n\n").replace("\n", ends).encode(encoding))
    assert read_lines(path) == ["stimulus,split", "façade,train", "猫 ,test"]
    table = read_table(path, ("split", "stimulus"))
    assert table.to_dict("list") == {"stimulus": ["façade", "猫"], "split": ["train", "test"]}


def test_another_encoding_and_a_missing_file_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(TEXT[:20].encode("latin-1"))
    with pytest.raises(DataError, match=r"a.csv is not UTF-8 text \(byte 0xe7 at 17\); save it as UTF-8"):
        read_text(path)
    with pytest.raises(DataError, match=r"none.csv is missing"):
        read_text(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("a.csv", "", "is empty; its first line names the columns"),
        ("a.csv", "stimulus,split\na,b,c\n", "is not a table"),
        ("a.csv", "stimulus,split,split\na,b,c\n", "the column 'split' comes twice"),
        ("a.csv", "image,split\na,b\n", "has no column 'stimulus'; it has image, split"),
        ("a.tsv", "stimulus,split\na,b\n", "has no column 'stimulus'; it has stimulus,split"),
    ],
)
def test_wrong_tables_are_one_line(tmp_path: Path, name: str, text: str, match: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=match) as caught:
        read_table(tmp_path / name, ("stimulus",))
    assert len(str(caught.value).splitlines()) == 1


def test_cells_are_texts_whatever_they_look_like(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("stimulus;repeat\n001;NA\n1e3;\n", encoding="utf-8")
    assert read_table(tmp_path / "a.csv").to_dict("list") == {"stimulus": ["001", "1e3"], "repeat": ["NA", ""]}


def test_a_text_alone_is_one_caption() -> None:
    images = np.zeros((4, 2, 2, 3), np.uint8)
    stimuli = Stimuli(np.array(["a", "b", "c", "d"]), images, ["a red square", None, ("x", "y"), []])
    assert stimuli.captions == [["a red square"], [], ["x", "y"], []]
    for wrong in (7, [7], {"en": "a cat"}, ["a", None]):
        with pytest.raises(DataError, match="captions of it: a text or a list of texts is expected"):
            as_captions(wrong, "it")
    with pytest.raises(DataError, match="captions of stimulus 'a'"):
        Stimuli(np.array(["a"]), images[:1], [3])
