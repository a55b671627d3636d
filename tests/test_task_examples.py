"""The examples of other tasks, run as a user runs them; what they claim, under the mark `slow`."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import nprnn

EXAMPLES = Path(__file__).parents[1] / "examples"
if not EXAMPLES.exists():
    pytest.skip("runs in a checkout", allow_module_level=True)

needs_sklearn = pytest.mark.skipif(not find_spec("sklearn"), reason="needs scikit-learn")
needs_statsmodels = pytest.mark.skipif(not find_spec("statsmodels"), reason="needs statsmodels")


def run(script, *arguments, status=0):
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        env={
            **os.environ,
            "PYTHONPATH": str(Path(nprnn.__file__).parents[1]),
            "PYTHONIOENCODING": "utf-8",
        },
        timeout=300,
    )
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    return result.stdout if status == 0 else result.stderr


def digits(*arguments):
    return float(
        re.search(r"test accuracy (\S+)% of 360", run("classify_digits.py", *arguments))[1]
    )


def forecast(*arguments):
    """Return the errors of network, last value and year before, a row for each horizon."""
    rows = re.findall(
        r"^ +(\d+) +(\S+) +(\S+) +(\S+)$", run("forecast_series.py", *arguments), re.MULTILINE
    )
    assert [row[0] for row in rows] == ["1", "3", "6", "12"]
    return [[float(value) for value in row[1:]] for row in rows]


def spaces(*arguments):
    """Return accuracy and F1 of: no spaces at all, one direction, both directions."""
    rows = re.findall(
        r"(\d+\.\d+)% +(\d\.\d+)$", run("restore_spaces.py", *arguments), re.MULTILINE
    )
    assert len(rows) == 3
    return [(float(accuracy), float(f1)) for accuracy, f1 in rows]


@needs_sklearn
def test_digits_from_their_rows():
    assert digits("--epochs", 8, "--hidden-size", 32) > 80


@needs_statsmodels
def test_a_forecast_beside_the_naive_ones():
    for network, last, year_before in forecast("--epochs", 15, "--hidden-size", 8):
        assert network < min(last, year_before)


def test_spaces_in_a_small_text(tmp_path):
    path = tmp_path / "text"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 60, "utf-8")
    none, *networks = spaces(path, "--steps", 150, "--hidden-size", 16)
    assert none[1] == 0
    assert all(f1 > 0.9 for _, f1 in networks)


@pytest.mark.parametrize("content", ["", "short", "12 34 !"])
def test_a_text_without_enough_letters_gets_a_sentence(tmp_path, content):
    path = tmp_path / "text"
    path.write_text(content, "utf-8")
    assert run("restore_spaces.py", path, status=2).count("error: ") == 1


@pytest.mark.slow
@needs_sklearn
def test_digits_reach_what_the_readme_says():
    assert min(digits("--seed", seed) for seed in range(3)) >= 95


@pytest.mark.slow
@needs_statsmodels
def test_the_forecast_is_better_by_far():
    for seed in range(3):
        for network, last, year_before in forecast("--seed", seed):
            assert network < 0.6 * min(last, year_before)


@pytest.mark.slow
def test_both_directions_are_clearly_better_than_one():
    _, one, both = spaces()
    assert 1 - both[1] < 0.75 * (1 - one[1])
