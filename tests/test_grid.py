"""The example that trains a grid of networks: in one process, and over ranks where MPI is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_distributed import MPIEXEC, needs_mpi, start

SCRIPT = Path(__file__).parents[1] / "examples" / "grid.py"
if not SCRIPT.exists():
    pytest.skip("runs beside the examples", allow_module_level=True)
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
SMALL = ["--cells", "rnn", "gru", "--hidden-sizes", "4", "8", "--lrs", "0.01", "--seeds", "0", "1",
         "--steps", "8"]  # fmt: skip


def table(printed):
    rows = [line.split() for line in printed.splitlines()[1:]]
    return {tuple(row[:4]): float(row[4]) for row in rows}, [float(row[4]) for row in rows]


def alone(*options):
    return subprocess.run(
        [sys.executable, SCRIPT, *options], capture_output=True, text=True, timeout=100
    )


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT, "utf-8")
    return str(path)


def test_every_combination_is_trained_and_the_best_comes_first(book):
    ended = alone(book, *SMALL)
    assert ended.returncode == 0, ended.stderr
    losses, order = table(ended.stdout)
    assert set(losses) == {
        (cell, H, "0.01", seed) for cell in ("rnn", "gru") for H in "48" for seed in "01"
    }
    assert order == sorted(order)
    assert len(set(order)) == 8
    assert re.findall(r"^(\d) of 8:", ended.stderr, re.MULTILINE) == list("12345678")


@needs_mpi
@pytest.mark.skipif(not MPIEXEC, reason="needs mpiexec")
def test_ranks_find_the_same(book):
    ended = start(3, "-m", "mpi4py.futures", SCRIPT, book, *SMALL)
    assert ended.returncode == 0, ended.stderr
    assert table(ended.stdout)[0] == table(alone(book, *SMALL).stdout)[0]


def test_one_that_diverges_does_not_end_the_others(book):
    ended = alone(book, *SMALL[:5], "--lrs", "0.01", "1e38", "--steps", "5")
    assert ended.returncode == 0, ended.stderr
    losses, order = table(ended.stdout)
    assert order[-1] == float("inf")
    assert "not finite" in ended.stdout.splitlines()[-1]
    assert order[0] < 4
    assert len(losses) == 4


def test_what_cannot_be_read_is_told_once():
    ended = alone("none.txt", *SMALL)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("none.txt") == 1
    assert "Traceback" not in ended.stderr
