"""What docs/tutorial.md has a newcomer type, in its order, with a second for each training."""

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from nprnn import cli

PAGE = Path(__file__).parents[1] / "docs" / "tutorial.md"
if not PAGE.exists():
    pytest.skip("runs in a checkout", allow_module_level=True)


def typed(blocks):
    """Return the lines that are commands; those of an output are indented, or begin otherwise."""
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if re.match("(nprnn|python) ", line)]


def test_the_tutorial_from_its_text_to_a_program(tmp_path, monkeypatch, capsys):
    blocks = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (program,) = [block for block in blocks if block.startswith("import ")]
    (lines,) = [block for block in blocks if block.startswith("The quick brown fox")]
    monkeypatch.chdir(tmp_path)
    Path("other.txt").write_text(lines, "utf-8")
    done = []
    for command, *arguments in typed(blocks):
        if command == "python":
            exec(arguments[1], {})
            continue
        if arguments[0] == "plot" and not find_spec("matplotlib"):
            continue
        if arguments[0] == "train":
            arguments += ["--max-seconds", "1", "--quiet"]
        assert cli.run(arguments) == 0, arguments
        done.append(arguments[0])
    assert {"train", "sample", "score", "inspect"} <= set(done)
    assert Path("english").is_dir()
    assert Path("english-2").is_dir()  # as the page says of a second training
    capsys.readouterr()
    exec(compile(program, "use.py", "exec"), {})
    assert len(capsys.readouterr().out) == 61  # 60 characters, and the line's end
