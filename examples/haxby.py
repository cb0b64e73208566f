"""Which category was seen, and which voxels tell? Haxby et al. (2001), real fMRI of one subject.

Needs the recording in $BRAINLENS_TEST_DATA/haxby2001; `brainlens datasets haxby2001` says where it comes from.
"""

import os
from pathlib import Path

import brainlens
from brainlens.encode import decode, haxby2001_encode
from brainlens.plots import slabs


def main(out: Path) -> Path:
    recording = brainlens.load("haxby2001", Path(os.environ["BRAINLENS_TEST_DATA"]) / "haxby2001")

    told = decode(recording.responses)
    result = haxby2001_encode(recording.responses)

    share = told.metrics["decode/accuracy"]
    title = f"R² of the category shown; 8-way decoding {100 * share:.0f} % correct, chance 12.5 %"
    figure = slabs.mosaic(result, "r2", title=title, unit="R², runs left out")
    path = out / "haxby.png"
    figure.savefig(path, dpi=110)
    return path


if __name__ == "__main__":
    print(main(Path()))
