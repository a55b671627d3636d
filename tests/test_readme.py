"""Every code block of the README runs, and says what it says there."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
if not README.exists():
    pytest.skip("runs in a checkout", allow_module_level=True)

TEXT = README.read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
PYTHON = [code for language, code in BLOCKS if language == "python"]


@pytest.mark.parametrize("code", PYTHON, ids=lambda code: code.split("\n")[3])
def test_python_blocks_run(code, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # some write files
    exec(compile(code, str(README), "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    for promised in re.findall(r"print\(.*\)  # (.*)$", code, re.MULTILINE):
        pattern = ".*".join(map(re.escape, promised.split("...")))
        assert re.search(pattern, printed), printed


def test_shell_blocks_are_those_that_the_gate_runs():
    """`.ci/run` takes the commands from here: the main job, then the tests."""
    shell = [code for language, code in BLOCKS if language == "sh"]
    assert [code.split()[-1] for code in shell] == ["examples/train_text.py", "pytest"]
    assert all(code.count("\n") == 1 for code in shell)
    assert {language for language, _ in BLOCKS} == {"python", "sh", "text"}


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)", TEXT):
        assert (README.parent / target).exists(), target


def test_the_use_of_the_library_is_fifteen_lines():
    lines = [line for line in PYTHON[0].split("\n") if line.strip()]
    assert len(lines) <= 15
