"""The rooms: imports run one way, and every public module says what it is."""

import ast
import subprocess
import sys
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


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            other = name.split(".")[0]
            assert other not in ALLOWED or other in ALLOWED[room], f"{path} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_no_process_logs_but_plainly() -> None:
    """What others said reaches a log through `common.untrusted_text.PlainFormatter` alone."""
    for path in FILES:
        if path.name != "plain_text.py":
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


@pytest.mark.parametrize("module", ["client.service.service", "server.service.service", "hemofed"])
def test_what_waits_most_of_the_time_is_light(module: str) -> None:
    """torch is for the processes that compute: elsewhere it is seconds and 150 MB for nothing."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
