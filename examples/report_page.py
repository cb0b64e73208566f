"""One page to send on: results in memory become a self-contained HTML file, and every figure a file of its own."""

from pathlib import Path

import numpy as np
import pandas as pd

from brainlens import Features, Responses, report, store
from brainlens.encode import encode


def main(out: Path) -> Path:
    rng = np.random.default_rng(0)
    ids = [f"image-{i:03d}" for i in range(160)]
    features = Features.from_arrays({f"layer{i}": rng.normal(size=(160, 12)) for i in (1, 2)}, ids, model="my network")
    Y = features["layer2"] @ rng.normal(size=(12, 40)) / 3 + rng.normal(size=(160, 40))
    split = np.where(np.arange(160) < 120, "train", "test")
    responses = Responses.from_arrays(Y.astype(np.float32), ids, split=split, roi=["V1"] * 20 + ["IT"] * 20)

    result = encode(responses, features, method="ridge")

    store.save_result(result, out / "runs" / "my-ridge")
    page = report.build(out / "runs", out / "report_page.html", title="My responses and my network")
    report.save_figures(out / "runs", out / "figures", kind="svg")
    assert isinstance(result.scores(), pd.DataFrame)  # the same numbers as a table
    return page


if __name__ == "__main__":
    print(main(Path()))
