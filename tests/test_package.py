"""What importing and building the package promises."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nprnn

ROOT = Path(__file__).parents[1]


def run(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout


def test_importing_loads_numpy_and_nothing_else():
    code = """
import sys, numpy
before = set(sys.modules)
import nprnn
new = {name.split('.')[0] for name in set(sys.modules) - before}
print(sorted(new - set(sys.stdlib_module_names) - {'numpy'}))
print('numpy.random' in set(sys.modules) - before, nprnn.__version__)
"""
    assert run(code) == f"['nprnn']\nFalse {nprnn.__version__}\n"


def test_no_random_state_is_touched():
    code = """
import numpy, random
numpy.random.seed(3); random.seed(3)
before = repr(numpy.random.get_state()), random.getstate()
import nprnn
layer = nprnn.RNN(3, 4, rng=0); layer.forward([[0]], rng=1)
assert before == (repr(numpy.random.get_state()), random.getstate())
"""
    run(code)


def test_everything_public_is_documented():
    for name in nprnn.__all__:
        assert getattr(nprnn, name).__doc__, name


SOURCES = sorted((ROOT / "nprnn").rglob("*.py"))


@pytest.mark.skipif(not SOURCES, reason="runs in a checkout")
@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_package_never_prints_and_needs_numpy_alone(path):
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"{path.name}:{node.lineno}"
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
            assert "scipy" not in names


@pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="runs in a checkout")
def test_numpy_is_the_only_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["dependencies"] == ["numpy>=1.26"]
