"""The pictures that NSD showed, with the captions and the kinds of objects that COCO says of them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from brainlens.datasets.coco import annotation_files, coco_captions, coco_categories
from brainlens.datasets.hdf5 import Hdf5Images
from brainlens.datasets.pictures import NoImages
from brainlens.datasets.text_tables import read_table
from brainlens.types import DataError, Stimuli

INFO = Path("nsddata/experiments/nsd/nsd_stim_info_merged.csv")


def nsd_stimuli(folder: Path, trials: pd.DataFrame, captions: str | None) -> Stimuli:
    """The pictures of the trials; captions: a folder with annotation files of COCO (None: `annotations` in the folder).

    Raises DataError for pictures that the table of the experiment or the captions lack.
    """
    table = trials.drop_duplicates("stimulus")[["stimulus", "nsd", "split"]].reset_index(drop=True)
    path = folder / "nsddata_stimuli" / "stimuli" / "nsd" / "nsd_stimuli.hdf5"
    images: Hdf5Images | NoImages
    if path.exists():
        images = Hdf5Images(path, "imgBrick", table["nsd"].to_numpy())
    else:
        images = NoImages(len(table), f"{path} is missing; copy nsd_stimuli.hdf5 there to open the images")
    table["coco"] = _coco_numbers(folder, table)
    files = annotation_files(captions, folder / "annotations", "captions")
    told: list[list[str]] = []
    if files:
        if (table["coco"] == "").any():
            raise DataError(f"{folder / INFO} is missing or lacks images; it says which COCO picture each image is")
        numbers = table["coco"].astype(int)
        found = coco_captions(files, set(numbers))
        lacking = numbers[~numbers.isin(list(found))]
        if len(lacking):
            names = ", ".join(path.name for path in files)
            raise DataError(f"{names}: {len(lacking)} of {len(table)} images have no caption, first {lacking.iloc[0]}; "
                            "give captions_train2017.json and captions_val2017.json")  # fmt: skip
        told = [found[number] for number in numbers]
        kinds = coco_categories(annotation_files(captions, folder / "annotations", "instances"), set(numbers))
        table["category"] = [kinds.get(number, "") for number in numbers]
        table = table if kinds else table.drop(columns="category")
    table = table if (table["coco"] != "").any() else table.drop(columns="coco")
    return Stimuli(table["stimulus"].to_numpy(), images, told, table[[c for c in table.columns if c != "stimulus"]])


def _coco_numbers(folder: Path, table: pd.DataFrame) -> list[str]:
    """COCO's number of each image as a text; "" where the table of the experiment does not tell."""
    if not (folder / INFO).exists():
        return [""] * len(table)
    coco = read_table(folder / INFO, ("nsdId", "cocoId")).set_index("nsdId")["cocoId"]
    return [str(coco.get(str(i), "")) for i in table["nsd"]]
