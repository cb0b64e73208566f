"""The floors of the benchmarks against independent counts, and the page that is written of them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
Load = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def page() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_page", ROOT / "tools" / "bench_page.py")
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["bench_page"] = found
    spec.loader.exec_module(found)
    return found


# ------------------------------------------------------------------------------------------------------------------- counts


def test_the_formula_of_ridge_is_what_torch_counts(benchmark_program: Load) -> None:
    from brainlens.solvers.ridge import fold_labels, ridge_cv

    floor, ridge = benchmark_program("floor"), benchmark_program("ridge")
    n, p, targets, folds = 200, 24, 300, 5
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(n, p)) * np.linspace(3, 0.3, p), rng.normal(size=(n, targets))
    fold = fold_labels(n, folds=folds)
    counted = floor.counted(lambda: ridge_cv(x, y, ridge.ALPHAS, fold=fold))
    said = ridge.work("cpu", n, p, targets, folds, len(ridge.ALPHAS))
    assert said.macs + said.macs64 == pytest.approx(counted.macs, rel=0.1)


def test_blocks_behind_a_bottleneck_are_what_torch_counts(benchmark_program: Load) -> None:
    """Attention of the processor is among them, which torch itself leaves out."""
    from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder

    floor, program = benchmark_program("floor"), benchmark_program("bottleneck")
    design = VolumeDesign(patch=4, width=32, depth=4, heads=4, embed_dim=16)
    encoder = VolumeEncoder(np.ones((16, 16, 16), dtype=bool), design).eval().requires_grad_(False)
    tokens = torch.randn(3, encoder.n_patches + 1, 32, requires_grad=True)
    counted = floor.counted(lambda: encoder.forward_from(tokens, 1).sum().backward())
    said = 3 * program.block_macs(encoder.n_patches + 1, 32, 3)
    assert counted.macs == pytest.approx(said, rel=0.03)  # the embedding of the class token is not in the formula


def test_convolutions_are_counted_by_their_definition(benchmark_program: Load) -> None:
    floor, program = benchmark_program("floor"), benchmark_program("sensor_encoder")
    layers, x = program.layers(), torch.randn(4, 1, program.CHANNELS, 250)
    with torch.no_grad():
        counted = floor.counted(lambda: layers(x))
    temporal = 4 * 40 * program.CHANNELS * 226 * 25
    spatial, mix = 4 * 40 * 36 * 40 * program.CHANNELS, 4 * 36 * 40 * 40
    assert counted.macs == temporal + spatial + mix


def test_the_step_of_factortopy_is_that_of_its_cost_model(benchmark_program: Load) -> None:
    floor, program = benchmark_program("floor"), benchmark_program("factortopy")
    size = benchmark_program("cost").Size(program.VOXELS, program.BATCH, program.LAYERS, program.CHANNELS, program.WIDTH)
    work = program.work("cpu")
    assert work.macs == pytest.approx(19.5e9, rel=0.02)  # counted by hand in nn.factortopy
    assert work.bytes == 28 * (size.units * (size.width + 1) + size.layers * size.channels * size.width)
    assert floor.floor(work, floor.Rates(1e9, 1e9, 1e12, 1, "m"))[1] == "products"


def test_the_released_class_and_the_listing_give_our_outputs_and_gradients(
    benchmark_program: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = benchmark_program("factortopy")
    for name, value in (("LAYERS", 2), ("CHANNELS", 24)):
        monkeypatch.setattr(program, name, value)
    small = program.problem
    monkeypatch.setattr(program, "problem", lambda device: small(device, 150, 3))
    for listing in (False, True):
        if listing:
            monkeypatch.setenv(program.LISTING, "1")
        (run, ours), (other, theirs) = program.ours("cpu"), program.peer("cpu")
        run(), other()
        assert set(ours()) == set(theirs())
        assert benchmark_program("harness").relative_error(ours(), theirs()) < 1e-5


# ------------------------------------------------------------------------------------------------------------------- floor


def test_the_floor_is_the_longer_of_products_and_bytes(benchmark_program: Load) -> None:
    floor = benchmark_program("floor")
    rate = floor.Rates(macs=100.0, macs64=50.0, bytes=10.0, threads=2, machine="m")
    assert floor.floor(floor.Work(macs=200.0, macs64=50.0, bytes=10.0), rate) == (3.0, "products")
    assert floor.floor(floor.Work(macs=100.0, bytes=40.0), rate) == (4.0, "bytes")
    row = floor.against(8.0, floor.Work(bytes=40.0), rate)
    assert (row["floor_s"], row["share"], row["floor_by"], row["threads"], row["machine"]) == (4.0, 0.5, "bytes", 2, "m")


def test_rates_are_of_products_and_copies_of_this_machine(benchmark_program: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    floor = benchmark_program("floor")
    monkeypatch.setattr(floor, "SIDE", 256)
    monkeypatch.setattr(floor, "COPIED", 2**22)
    found = floor.rates()
    assert found.threads == torch.get_num_threads()
    assert found.machine.endswith("cores")
    assert 1e8 < found.macs64 < 1e14
    assert 1e8 < found.macs < 1e14
    assert 1e7 < found.bytes < 1e13


# ------------------------------------------------------------------------------------------------------------------ profile


def test_operators_are_of_one_kind_each(benchmark_program: Load) -> None:
    program, kinds = benchmark_program("profiled"), {}
    for name in (
        "mm",
        "addmm",
        "bmm",
        "mkldnn_convolution",
        "convolution_backward",
        "_scaled_dot_product_flash_attention_for_cpu",
    ):
        kinds[name] = "products"
    for name in ("copy_", "index_select", "gather", "cat", "_to_copy", "constant_pad_nd", "slice_backward", "fill_"):
        kinds[name] = "copies and gathers"
    for name in ("gelu_", "elu_backward", "add_", "linalg_vector_norm", "sum", "native_layer_norm", "_softmax", "threshold"):
        kinds[name] = "elementwise and sums"
    kinds |= dict.fromkeys(("_linalg_eigh", "linalg_cholesky_ex", "linalg_svd"), "factorisations")
    assert {name: program.kind_of(f"aten::{name}") for name in kinds} == kinds


def test_a_profile_says_what_a_run_spends_its_time_in(benchmark_program: Load) -> None:
    program = benchmark_program("profiled")
    x = torch.randn(600, 600)

    def products() -> None:
        for _ in range(20):
            x @ x

    def plain() -> None:
        sum(number * number for number in range(2_000_000))

    found, other = program.profiled(products), program.profiled(plain)
    assert found["shares"]["products"] > 0.5
    assert found["first"][0][0] == "mm"
    assert other["shares"]["the rest"] > 0.9
    assert other["first"][0][0].startswith("test_benchmarks.py:")
    assert all(sum(each["shares"].values()) == pytest.approx(1, abs=0.01) for each in (found, other))


def test_the_most_memory_is_held_where_it_is_taken(benchmark_program: Load) -> None:
    from brainlens.solvers.ridge import fold_labels, ridge_cv

    program, rng = benchmark_program("profiled"), np.random.default_rng(0)
    x, y, fold = rng.normal(size=(800, 100)), rng.normal(size=(800, 2000)), fold_labels(800, folds=5)
    with program.Watched() as memory:
        ridge_cv(x, y, np.logspace(0, 3, 8), fold=fold)
    assert memory.place.startswith("ridge.py:")


# ------------------------------------------------------------------------------------------------------------------- page

ROW: dict[str, Any] = {
    "name": "ridge", "device": "cpu", "peer": "another", "time_s": 1.0, "peer_time_s": 7.0, "time_ratio": 7.0, "peak_mb": 10.0,
    "peer_peak_mb": 40.0, "memory_ratio": 4.0, "max_rel_error": 1e-6, "floor_s": 0.25, "share": 0.25, "floor_by": "products",
    "threads": 2, "machine": "a processor, 2 cores", "rate_gmac_s": 90.0, "rate_gmac64_s": 44.0, "rate_gbyte_s": 12.0,
    "date": "2026-01-02",
}  # fmt: skip


@pytest.mark.parametrize(
    ("reached", "most", "said"), [(7.0, False, "yes"), (5.9, False, "**no**"), (5.9, True, "yes"), (6.1, True, "**no**")]
)
def test_a_goal_is_met_by_what_was_measured(page: ModuleType, reached: float, most: bool, said: str) -> None:
    goal = page.Goal("ridge", "time_ratio", 6, bound="the product that is left", most=most)
    line = page.goals([{**ROW, "time_ratio": reached}], [goal]).splitlines()[-1]
    assert f"| {said} |" in line
    assert ("the product that is left" in line) == (said != "yes")
    assert "| 28x |" in line  # the peer's seven seconds over a floor of a quarter


def test_a_missed_goal_says_what_the_time_is_spent_in(page: ModuleType) -> None:
    shares = {"products": 0.5, "factorisations": 0.0, "copies and gathers": 0.04, "elementwise and sums": 0.4, "the rest": 0.06}
    profile = {"shares": shares, "first": [["mm", 0.5], ["abs", 0.3]], "most_memory_in": "ridge.py:errors", "date": "2026-01-05"}
    row, goal = ROW | {"profile": profile}, page.Goal("ridge", "time_ratio", 8, bound="residuals")
    line = page.goals([row], [goal]).splitlines()[-1]
    said = "products 50 % of the time (at 50 % of the machine's rate), elementwise and sums 40 % of the time"
    assert f"residuals; {said}, the rest 6 % of the time |" in line
    assert "50 %" not in page.goals([row], [page.Goal("ridge", "time_ratio", 6, bound="residuals")])  # which is met
    memory = page.Goal("ridge", "memory_ratio", 8, bound="blocks")
    assert "blocks; most memory is held in `ridge.py:errors` |" in page.goals([row], [memory])
    text = page.page([row], [goal], ["ridge"])
    assert "| ridge | 2 | 50 % | 0 % | 4 % | 40 % | 6 % | 14x | `mm` 50 %, `abs` 30 % | `ridge.py:errors` | 2026-01-05 |" in text
    python = profile | {"shares": {**shares, "products": 0.0, "the rest": 0.9}, "first": [["half.py:as_half", 0.7]]}
    assert "`half.py:as_half` 70 %" in page.spent({**row, "profile": python}, "time_ratio")


def test_a_goal_at_equal_scores_is_missed_where_they_are_not(page: ModuleType) -> None:
    goal = page.Goal("ridge", "time_ratio", 6, bound="b", needs="alike")
    assert not goal.met(ROW)
    assert not goal.met({**ROW, "alike": False})
    assert goal.met({**ROW, "alike": True})


def test_a_goal_without_a_row_is_said_to_be_unmeasured(page: ModuleType) -> None:
    goal = page.Goal("ridge", "time_ratio", 6, bound="b")
    before = {key: value for key, value in ROW.items() if key != "threads"}  # a row from before the floor was measured
    for rows in ([], [before]):
        assert "not measured" in page.goals(rows, [goal])
        assert "yes" not in page.goals(rows, [goal])


def test_the_page_holds_floor_share_machine_threads_date_and_device_of_every_row(page: ModuleType) -> None:
    failed = {"name": "store", "device": "cuda", "threads": None, "failed": "no such device", "date": "2026-01-03"}
    text = page.page([ROW, failed], [], ["ridge", "store", "mvnn"])
    line = next(line for line in text.splitlines() if line.startswith("| ridge"))
    for part in ("| 0.25 | products | 25 % | 2 | a processor, 2 cores | cpu | 2026-01-02 |",):
        assert part in line
    assert "failed: no such device" in text
    assert "2026-01-02 (others: 1.4 cores)" in page.measured([{**ROW, "others_cores": 1.44}])
    assert "Not measured yet: mvnn." in text
    tables = [line.count("|") for line in text.split("## Rates")[0].splitlines() if line.startswith("|")]
    assert len(set(tables)) == 1, tables


def test_a_new_row_replaces_its_own_kind_alone(page: ModuleType) -> None:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        spec = importlib.util.spec_from_file_location("bench", ROOT / "tools" / "bench.py")
        assert spec is not None
        assert spec.loader is not None
        bench = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(bench)
    finally:
        sys.path.remove(str(ROOT / "tools"))
    old = {key: value for key, value in ROW.items() if key != "threads"}
    one, two, gpu = {**ROW, "threads": 1}, {**ROW, "threads": 2}, {**ROW, "device": "cuda"}
    assert bench.merged([old, gpu], two) == [two, gpu]
    assert bench.merged([two], one) == [two, one]
    assert bench.merged([two, one], {**one, "time_s": 9.0})[1]["time_s"] == 9.0
    assert set(page.UNITS) >= {goal.key for goal in bench.GOALS}
    assert {goal.name for goal in bench.GOALS} <= set(bench.NAMES)
    assert not any(character.isdigit() for goal in bench.GOALS for character in goal.bound)  # figures come from rows alone
    assert all((ROOT / "benchmarks" / f"{name}.py").exists() for name in bench.NAMES)


def test_scripts_of_the_usual_libraries_read_the_recording_that_is_made(
    benchmark_program: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from brainlens import datasets, miniatures

    pytest.importorskip("himalaya")
    program = benchmark_program("recording_to_result")
    for name, value in (("VOXELS", 150), ("TEST", 12), ("NOISE", 0.5)):
        monkeypatch.setattr(program, name, value)
    program.make(tmp_path / "own", 140)
    recording = datasets.load("folder", tmp_path / "own")
    assert recording.responses.data.shape == (152 * program.REPEATS, 150)
    for script in program.SCRIPTS.values():
        (score,) = script(tmp_path / "own", miniatures.folder("clip")).values()
        assert score > 0.2  # chance: 0, or one in twelve


def test_a_process_is_timed_with_its_own_memory(benchmark_program: Load) -> None:
    program = benchmark_program("recording_to_result")
    taken, peak, said = program.timed([sys.executable, "-c", "x = bytearray(200 << 20); print('done')"])
    assert said.strip() == "done"
    assert taken > 0
    assert peak > 200
    with pytest.raises(SystemExit, match="no such thing"):
        program.timed([sys.executable, "-c", "raise SystemExit('no such thing')"])
