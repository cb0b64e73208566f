"""The rooms of the house: who may import whom, who may write, and what is never done."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import brainlens

ROOT = Path(brainlens.__file__).parent
MODULES = sorted(ROOT.rglob("*.py"))

FLOOR = {
    "moved": 0,  # old names, by text alone
    "looks": -1,  # who draws, by text alone
    "warned": -1,  # one line of text
    "choices": -1,  # words of options, by text alone
    "types": 0,
    "subjects": 1,
    "parcels": 1,
    "engines": 1,
    "store": 2,
    "solvers": 3,
    "metrics": 3,
    "nn": 4,
    "phantom": 5,
    "stimuli": 5,
    "signals": 5,
    "miniatures": 5,
    "backbones": 6,
    "attribution": 6,
    "datasets": 7,
    "models": 8,
    "encode": 9,
    "align": 9,
    "attribute": 9,
    "reconstruct": 9,
    "describe": 9,
    "plots": 10,
    "report": 11,
    "claims": 12,
    "cli": 13,
}
HEAVY = ("torch", "transformers", "diffusers", "nilearn", "mne", "sklearn", "scipy", "matplotlib", "nibabel")
WRITERS = {
    *("savefig", "to_csv", "to_json", "to_parquet", "to_pickle", "to_excel", "tofile", "savetxt", "savez", "dump"),
    *("savez_compressed", "save_file", "save_pretrained", "write_text", "write_bytes", "to_filename", "write_image"),
}
FORBIDDEN_WORDS = ("utils", "core", "base", "helpers", "common")


def room(path: Path) -> str:
    part = path.relative_to(ROOT).parts[0]
    return part.removesuffix(".py")


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def imported_rooms(path: Path) -> set[str]:
    """Rooms of brainlens that a module imports anywhere, inside functions too."""
    found = set()
    package = ("brainlens", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(p for p in (base, node.module or "") if p)
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "brainlens" else [module]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("brainlens.")}
    return {name for name in found if name != "__version__"}


def test_every_room_has_its_floor():
    rooms = {room(p) for p in MODULES} - {"__init__", "__main__"}
    assert rooms <= set(FLOOR), f"say on which floor these stand: {sorted(rooms - set(FLOOR))}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_go_down_only(path):
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    wrong = [name for name in imported_rooms(path) if name != here and FLOOR.get(name, 99) >= FLOOR[here]]
    assert not wrong, f"{here} imports {wrong}, which stand on its own floor or above"


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) == "attribution"], ids=lambda p: p.name)
def test_attribution_works_on_callables_and_knows_no_network(path):
    assert imported_rooms(path) <= {"attribution", "types", "metrics"}


def writes(path: Path) -> list[str]:
    """Calls that write a file: known writers, np.save and torch.save, open for writing, and removal or renaming."""
    found = []
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        if name in WRITERS or (name == "save" and owner in ("np", "numpy", "torch", "nib", "nibabel")):
            buffer = bool(node.args) and "buffer" in ast.unparse(node.args[0]).lower()
            if not buffer:
                found.append(f"line {node.lineno}: {owner}.{name}")
        if (name == "open" and owner in ("", "Path", "io")) or (name == "open" and "path" in owner.lower()):
            given = [*(node.args[1:2] if owner in ("", "io") else node.args[:1])]
            given += [k.value for k in node.keywords if k.arg == "mode"]
            if any(isinstance(m, ast.Constant) and isinstance(m.value, str) and set(m.value) & set("wax+") for m in given):
                found.append(f"line {node.lineno}: open for writing")
    return found


@pytest.mark.parametrize("path", [p for p in MODULES if room(p) != "store"], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_only_the_store_writes(path):
    assert not writes(path), f"{path.name} writes: {writes(path)}; use brainlens.store"


def test_the_search_for_writers_finds_them(tmp_path):
    bad = tmp_path / "bad.py"
    for line in (
        'open("x", "w")',
        "np.save(p, a)",
        "path.write_text('x')",
        "figure.savefig('a.png')",
        "open(p, mode='ab')",
        "t.to_csv(p)",
    ):
        bad.write_text(line)
        assert writes(bad), line
    for line in ('open("x")', 'open(p, "rb")', "store.save_array(f, 'x', a)", "Image.open(p)", "figure.savefig(buffer)"):
        bad.write_text(line)
        assert not writes(bad), line


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_pickle_and_no_code_from_data(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            call = ast.unparse(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            assert given.get("allow_pickle", "False") == "False", f"line {node.lineno}: allow_pickle"
            assert given.get("trust_remote_code", "False") == "False", f"line {node.lineno}: trust_remote_code"
            if call == "torch.load":
                assert given.get("weights_only") == "True", f"line {node.lineno}: torch.load without weights_only=True"
            assert call not in ("eval", "exec", "pickle.load", "pickle.loads", "joblib.load", "np.nan_to_num"), (
                f"line {node.lineno}: {call}"
            )
            assert not call.endswith("extractall"), f"line {node.lineno}: no archive is unpacked here"
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
            assert not names & {"pickle", "cloudpickle", "dill", "joblib", "torchvision", "timm"}, f"line {node.lineno}: {names}"
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.module.split(".")[0] not in ("pickle", "joblib", "torchvision", "timm"), f"line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_drawer_for_odds_and_ends(path):
    assert not set(path.relative_to(ROOT).with_suffix("").parts) & set(FORBIDDEN_WORDS)


def test_help_lists_what_is_imported_only_when_asked_for():
    import brainlens.reconstruct

    assert set(brainlens.reconstruct.__all__) <= set(dir(brainlens.reconstruct))


def test_the_command_line_imports_nothing_heavy():
    script = f"import sys, brainlens.cli; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["types", "store"])
def test_the_ground_floors_are_light(module):
    script = f"import sys, brainlens.{module}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


PROGRAMS = sorted(path for room in ("benchmarks", "tools") for path in (ROOT.parents[1] / room).glob("*.py"))


@pytest.mark.parametrize("path", PROGRAMS, ids=[f"{path.parent.name}/{path.name}" for path in PROGRAMS])
def test_what_a_program_beside_the_library_imports_is_there(path: Path) -> None:
    imported = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom) and node.module]
    for node in imported:
        if node.module.split(".")[0] != "brainlens":
            continue
        module = importlib.import_module(node.module)
        for name in (alias.name for alias in node.names):
            if not hasattr(module, name):
                importlib.import_module(f"{node.module}.{name}")  # a module of the package
