"""Every option of every command acts or is refused: what does not apply to what was opened is an error that lists what does."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from brainlens.cli import app
from brainlens.cli.options import MISMATCH, options_of
from brainlens.cli.terminal import Forecast

Say = Callable[..., str]


@pytest.fixture
def error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Say:
    """Runs a command line that must be refused, and gives its one line."""
    from brainlens.cli import main

    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)

    def say(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["brainlens", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        said = capfd.readouterr()
        assert end.value.code == 2, said
        assert said.out == ""
        assert len(said.err.splitlines()) == 1, said.err
        return said.err

    return say


FMRI, EEG = ("align",), ("align", "--dataset", "phantom_eeg")
REFUSED = [
    *[((*command, "--option", "colour=red"), "has no option 'colour'; options are") for command in (
        ("encode",), ("describe",), ("align",), ("align", "--dataset", "phantom_eeg"), ("features", "miniature"),
        ("captions", "--score"), ("epochs",),
    )],
    (("encode", "--option", "seed=1"), "--seed"),
    (("report", ".", "--template", "talairach"), "'talairach' is not known; give MNI152"),
    (("figures", ".", "--format", "gif"), "'gif' is not one of pdf, svg, png"),
    (("align", "--option", "kappa"), "not name=value"),
    (("captions", "--captioner", "x", "--images", "empty", "--option", "kappa=1"), "--option"),
    (("captions", "--score", "--with-captions", "own"), "--with-captions"),
    *[((*command, "--seeds", "0"), "0 seeds are asked for; at least 1") for command in (FMRI, EEG)],
    # fMRI: what belongs to EEG and MEG
    *[((*FMRI, *option), option[0]) for option in (
        ("--protocol", "sideways"), ("--gallery", "nowhere"), ("--repeats", "2"), ("--without", "nonsense"), ("--ablation",),
        ("--prompts",), ("--amplitude", "1"),
    )],
    # EEG and MEG: what belongs to fMRI
    *[((*EEG, *option), option[0]) for option in (
        ("--steps", "9"), ("--accumulate", "2"), ("--queue", "-3"), ("--recompute",), ("--modality", "smell"), ("--region", "V9"),
        ("--one-each",),
    )],
    ((*EEG, "--from", "empty"), "--from empty keeps no model"),
    ((*EEG, "--subject", "1", "--subject", "sub-01"), "two or more different ones"),
    ((*EEG, "--preset", "nonsense"), "'nonsense'"),
    ((*EEG, "--from", "empty"), "empty"),
    ((*FMRI, "--from", "empty"), "empty"),
    ((*EEG, "--captions", "nosuch"), "--captions"),
    ((*EEG, "--encoder", "ridge", "--epochs", "3"), "--epochs"),
    ((*EEG, "--encoder", "nice", "--without", "saliency"), "--without"),
    ((*EEG, "--warp", "3"), "--warp"),
    ((*EEG, "--encoder", "nice", "--saliency-sign", "enhancing"), "--saliency-sign"),
    ((*EEG, "--saliency-sign", "up"), "'up' is not one of printed, enhancing"),
    ((*EEG, "--saliency-size", "8"), "size 8"),
    ((*EEG, "--without", "saliency", "--saliency-brightness"), "--saliency-brightness"),
    ((*FMRI, "--saliency-brightness"), "--saliency-brightness"),
    ((*FMRI, "--warp", "300"), "warp 300.0"),
    ((*FMRI, "--encoder", "ridge", "--queue", "9"), "--queue"),
    ((*FMRI, "--encoder", "ridge", "--steps", "9"), "--steps"),
    ((*FMRI, "--epochs", "2", "--steps", "9"), "--steps"),
    ((*FMRI, "--part-of-brain"), "--part-of-brain"),
    ((*FMRI, "--preset", "paper", "--region", "visual"), "add --part-of-brain"),
    # data
    (("align", "--data", "empty"), "--dataset"),
    (("encode", "--data", "empty"), "--dataset"),
    (("embed", "empty", "--data", "empty"), "--dataset"),
    (("features", "miniature", "--data", "empty"), "--dataset"),
    (("captions", "--score", "--data", "empty"), "--dataset"),
    (("epochs", "--data", "empty"), "--dataset"),
    (("align", "--dataset", "nsd", "--data", "empty", "--train", "9"), "--train"),
    (("encode", "--dataset", "haxby2001", "--data", "empty", "--test", "9"), "--test"),
    (("epochs", "--dataset", "eeglab_visual", "--data", "empty", "--subject", "2"), "--subject"),
    # encode
    *[(("encode", "--method", "ridge", *option), option[0]) for option in (
        ("--samples", "3"), ("--without", "scale"), ("--per-voxel",), ("--search",), ("--one-layer",), ("--refit",),
        ("--steps", "9"), ("--raw-tokens",), ("--single-trials",), ("--compare-topology",), ("--bottlenecks", "separate"),
        ("--padding", "zeros"), ("--readout-start", "linear"), ("--selector-start", "zero"), ("--no-scale-penalty",),
        ("--decay-steps", "9"), ("--selector-rate", "1"), ("--common", "none"), ("--search-beside",),
    )],
    (("encode", "--padding", "mirror"), "border, zeros"),
    (("encode", "--readout-start", "linear"), "--no-search"),
    (("encode", "--compare-topology", "--per-voxel"), "--per-voxel"),
    (("encode", "--method", "gnet", "--samples", "3"), "--samples"),
    (("encode", "--timestep", "3"), "--timestep"),
    (("encode", "--of-steps", "9"), "--of-steps"),
    (("encode", "--without", "smell"), "smell"),
    (("encode", "--preset", "nonsense"), "default, paper, released"),
    (("encode", "--method", "ridge", "--preset", "paper"), "--preset"),
    (("encode", "--method", "ridge", "--recipe", "paper"), "--preset"),
    *[(("paper", "ib_ba", *option), option[0]) for option in (("--seeds", "2"), ("--curve", "9"), ("--finetuned", "miniature"))],
    (("paper", "factortopy", "--seeds", "0"), "0 seeds"),
    # reconstruct
    (("reconstruct", "--preset", "nonsense"), "default, paper"),
    (("reconstruct", "--start", "nonsense"), "attention, predicted, ridge, random"),
    (("reconstruct", "--chooser", "nonsense"), "ridge, predictor"),
    (("reconstruct", "--tokens", "nonsense"), "joint, region"),
    (("reconstruct", "--tokens", "joint", "--start", "ridge"), "start attention"),
    (("reconstruct", "--start", "ridge", "--pretrain", "99"), "--pretrain"),
    (("reconstruct", "--preset", "paper", "--pretrain-steps", "9"), "--pretrain-steps"),
    (("reconstruct", "--candidates", "1", "--chooser", "ridge"), "--chooser"),
    (("reconstruct", "--candidates", "0"), "0 candidates"),
    (("reconstruct", "--sampling-steps", "0"), "steps=0"),
    (("reconstruct", "--scheduler", "pndm"), "ddim, ddpm, euler, dpm"),
    (("reconstruct", "--steps", "-1"), "steps -1"),
    (("reconstruct", "--width", "2"), "width 2.0"),
    (("reconstruct", "--tokens", "region", "--width", "0.3"), "evidence and width are of joint tokens"),
    (("reconstruct", "--trials", "1"), "trials 1"),
    (("reconstruct", "--guidance", "-1"), "guidance=-1"),
    (("reconstruct", "--regions", "0"), "regions 0"),
    (("reconstruct", "--low-level", "2"), "low-level 2"),
    (("reconstruct", "--explain", "0", "--lesion", "FFA"), "--lesion"),
    (("reconstruct", "--lesion-by", "refit"), "no --lesion names regions"),
    (("reconstruct", "--lesion", "FFA", "--lesion-by", "hammer"), "lesion_by 'hammer' is not one of removal, refit"),
    (("reconstruct", "--parcels", "empty"), "patches, regions, blocks"),
    (("reconstruct", "--atlas-table", "empty"), "--atlas-table"),
    (("reconstruct", "--parcels", "regions", "--edge", "2"), "--edge"),
    (("reconstruct", "--edge", "0"), "patches of 0 voxels"),
    (("reconstruct", "--pipeline", "empty"), "empty"),
    (("reconstruct", "--parcels", "lh.annot,rh.annot"), "annotation 'lh.annot' is not found"),
    (("reconstruct", "--parcels", "lh.annot,rh.annot", "--atlas-table", "empty"), "--atlas-table"),
    (("reconstruct", "--protocol", "nonsense"), "mindeye, brain-diffuser, neuroadapter"),
    (("reconstruct", "--features", "clip=miniature"), "--protocol mindeye"),
    (("reconstruct", "--protocol", "mindeye", "--features", "vgg=empty"), "alexnet, clip, inception"),
    (("reconstruct", "--protocol", "mindeye", "--features", "clip=empty"), "empty"),
    (("reconstruct", "--protocol", "mindeye", "--features", "alexnet=none.pth"), "none.pth"),
    (("reconstruct", "--dataset", "phantom_eeg", "--repeat-ceiling"), "--repeat-ceiling"),
    (("reconstruct", "--dataset", "phantom_eeg", "--region", "V1"), "channels and no regions"),
    (("reconstruct", "--dataset", "haxby2001", "--data", "empty"), "without its pictures"),
    (("reconstruct", "--dataset", "nsd", "--data", "empty", "--train", "9"), "--train"),
    # describe
    *[(("describe", "--words", "--dataset", "haxby2001", "--data", "empty", *option), option[0]) for option in (
        ("--model", "miniature"), ("--layer", "image"), ("--captions", "own"), ("--preset", "paper"), ("--top", "9"),
        ("--pictures", "9"),
        ("--tagger", "spacy"), ("--concreteness", "x"), ("--bank", "diffusion"), ("--crops",), ("--captioner", "x"),
        ("--sentences", "x"), ("--permutations", "9"),
    )],
    *[(("describe", *option), option[0]) for option in (
        ("--diffusion", "x"), ("--prompt", "a {}"), ("--drawing-steps", "9"), ("--drawing-guidance", "2"),
        ("--captioner", "x"), ("--sentences", "x"),
        ("--data", "empty"),
    )],
    (("describe", "--bank", "dreams"), "real, diffusion"),
    (("describe", "--bank", "diffusion", "--diffusion", "nowhere/at/all"), "nowhere"),
    (("describe", "--preset", "nonsense"), "default, paper, released"),
    (("describe", "--top", "0"), "top=0"),
    (("describe", "--dataset", "phantom_eeg"), "phantom_eeg is EEG"),
    (("describe", "--dataset", "images92", "--data", "empty"), "patterns without voxels"),
    (("describe", "--dataset", "haxby2001", "--data", "empty"), "--words"),
    # features, captions
    (("features", "miniature", "--timestep", "3"), "--timestep"),
    (("features", "miniature", "--no-inversion"), "--no-inversion"),
    (("captions", "--score", "--name", "x"), "--name"),
    (("captions", "--score", "--prompt", "x"), "--prompt"),
    (("captions", "--captioner", "x", "--file", "y"), "--file"),
    (("captions", "--captioner", "x", "--images", "empty", "--train", "9"), "--train"),
    # attribute
    *[(("attribute", "empty", "--method", "rise", *option), option[0]) for option in (
        ("--beta", "-4"), ("--variance", "1"), ("--lr", "1"), ("--steps", "9"), ("--copies", "2"), ("--sensitivity",),
        ("--draws", "2"), ("--layer", "2"),
    )],
    (("attribute", "empty", "--masks", "9"), "--masks"),
    (("attribute", "empty", "--method", "rise", "--normalise", "none"), "--normalise"),
    (("attribute", "empty", "--normalise", "sideways"), "'sideways' is not one of ('reference', 'none')"),
    (("attribute", "empty", "--rise-by", "regions"), "--rise-by"),
    (("attribute", "empty", "--of", "words", "--refine", "none"), "--refine"),
    (("attribute", "empty", "--of", "words", "--method", "rise", "--rise-by", "regions"), "--rise-by"),
]  # fmt: skip


@pytest.mark.parametrize("arguments, names", REFUSED, ids=[" ".join(a) for a, _ in REFUSED])
def test_an_option_that_does_not_apply_is_refused_by_name(error: Say, arguments: tuple[str, ...], names: str) -> None:
    assert names in error(*arguments)


def test_the_error_lists_the_options_that_do_apply(error: Say) -> None:
    said = error("align", "--encoder", "ridge", "--protocol", "across")
    assert "--protocol does not apply to fMRI (phantom); options that do: --dataset, --data" in said
    assert "--gallery" not in said.split("options that do")[1]


def test_a_run_of_eeg_refuses_what_is_of_brain_maps(error: Say, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    content = '{"task": "align", "config": {"dataset": "phantom_eeg"}, "metrics": {}, "provenance": {}, "arrays": {}}'
    (tmp_path / "run" / "result.json").write_text(content)
    for option in (("--of", "words"), ("--target", "nothing"), ("--layer", "99"), ("--trials", "0"), ("--beta", "-4"),
                   ("--seed", "1"), ("--masks", "9"), ("--sensitivity",)):  # fmt: skip
        assert f"{option[0]} does not apply to a run of EEG or MEG" in error("attribute", "run", *option)


ACTS = {  # options that are shown to act elsewhere: by whole runs in tests/runs, by tests of the terminal, or as plain paths
    "demo": {"out", "seed", "device", "train", "test"},
    "report": {"out", "title"},
    "figures": {"out", "dpi"},
    "convert": {"heads"},
    "sweep": {"table", "engine", "workers", "engine_option", "dry", "runs", "again"},
    "compare": {"out", "every"},
    "export": {"out", "hub"},
    "import": {"runs"},
    "example": {"seed"},
    "check": {"dataset", "option", "out", "seal"},
    "prepare": {"dataset", "data", "option", "subject", "out"},
    "decode": {
        "dataset",
        "data",
        "option",
        "rename",
        "subject",
        "target",
        "window",
        "folds",
        "permutations",
        "runs",
        "seed",
        "again",
    },
    "features": {"out", "dataset", "layer", "grid", "device", "train", "test"},
    "captions": {"captioner", "score", "model", "out", "device", "images", "dataset", "seed", "test"},
    "epochs": {"dataset", "runs", "seed"},
    "encode": {
        "dataset",
        "model",
        "method",
        "layer",
        "roi",
        "part",
        "subject",
        "seeds",
        "curve",
        "runs",
        "seed",
        "device",
        "train",
        "again",
        *MISMATCH,
    },
    "align": {
        "dataset",
        "model",
        "encoder",
        "batch",
        "precision",
        "region",
        "runs",
        "seed",
        "device",
        "test",
        "again",
        *MISMATCH,
    },
    "finetune": {"images", "labels", "out", "steps_", "lr", "batch", "per_class", "held", "seed", "device"},
    "paper": {"dataset", "roi", "steps_", "only", "out", "runs", "seed", "device", "train", "test"},
    "embed": {"dataset", "subject", "runs", "device", "again"},
    "predict": {"out", "device"},
    "reconstruct": {"dataset", "model", "region", "subject", "runs", "seed", "device", "test", "again", "explain"},
    "describe": {"dataset", "words", "roi", "subject", "runs", "seed", "device", "test", "again"},
    "attribute": {"of", "target", "method", "layer", "trials", "runs", "seed", "device", "again", "masks"},
}


def test_every_option_is_in_a_test() -> None:
    """A new option is written into the table above where it is refused, or into a run that it changes."""
    group = typer.main.get_command(app)
    flags = {argument.split()[0] for arguments, _ in REFUSED for argument in arguments if argument.startswith("--")}
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        options = {str(p.name): p for p in options_of(command)}
        missing = [n for n, p in options.items() if n not in ACTS.get(name, ()) and not flags & {*p.opts, *p.secondary_opts}]
        assert not missing, f"{name}: {missing}"


def test_a_long_stage_is_announced_once_with_a_way_to_shorten_it() -> None:
    now, said = [0.0], []
    forecast = Forecast(said.append, shorter="--steps N", clock=lambda: now[0])
    for second in range(20):
        now[0] = float(second)
        forecast("training volume", second / 400)
    assert said == ["training volume: about 398 s to go, judged by its first steps; shorter: --steps N".replace("398 s", "7 min")]
    for second in range(20, 30):
        now[0] = float(second)
        forecast("report", (second - 20) / 20)  # short: nothing is said
    assert len(said) == 1


@pytest.mark.realdata
def test_an_option_of_the_reader_acts(test_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from brainlens import store
    from brainlens.cli import main

    command = ["epochs", "--data", str(test_data / "eeglab_visual"), "--dataset", "eeglab_visual", "--runs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["brainlens", *command, "--option", "window=-0.1,0.5", "--option", "lowpass=none"])
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    config = store.load_result(next(tmp_path.glob("epochs-*"))).config
    assert config["window"] == pytest.approx([-0.1, 0.5], abs=0.01)
    assert config["dataset_options"] == {"window": [-0.1, 0.5], "lowpass": None}


class Screen(io.StringIO):
    """Standard output as a terminal of 80 columns, or as a pipe."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("columns", [2, 6, 12])
def test_no_table_is_cut(columns: int, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from brainlens.cli.terminal import show

    screen = Screen(terminal)
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    rows = [{f"a_long_name_{i}": f"value-{i}-{row}" for i in range(columns)} for row in range(2)]
    show(rows, "Title")
    shown = screen.getvalue()
    assert "…" not in shown
    if not terminal or columns != 6:
        for row in rows:
            for name, value in row.items():
                assert name in shown
                assert value in shown


def test_a_line_a_minute_comes_while_a_step_reports_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from brainlens.cli import terminal

    monkeypatch.setattr(terminal, "EVERY", 0.05)
    with terminal.steps() as tell:
        tell("a long step", None)
        time.sleep(0.5)
    said = capsys.readouterr().err
    assert said.count("a long step, ") >= 2
