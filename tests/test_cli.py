"""The command: what it writes, its exit statuses, and that no traceback reaches anyone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nprnn
from nprnn import cli, course

COMMAND = [sys.executable, "-m", "nprnn"]
PACKAGE = str(Path(nprnn.__file__).parents[1])  # found from any folder, in a checkout too
ENVIRONMENT = {**os.environ, "PYTHONPATH": PACKAGE, "PYTHONIOENCODING": "utf-8"}
LOOP = "open(__file__ + '.started', 'w').close()\n\ndef one_hot(i, n):\n    while True: pass\n"


def nprnn_exercise(*arguments, **settings):
    """Run the command; what it writes must fit a console, and be no traceback."""
    ended = subprocess.run(
        [*COMMAND, "exercise", *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        env=ENVIRONMENT,
        **settings,
    )
    written = ended.stdout + ended.stderr
    assert "Traceback" not in written
    assert "--json" in arguments or all(len(line) <= 80 for line in written.splitlines()), written
    return ended.returncode, ended.stdout, ended.stderr


def run(capsys, *arguments):
    """Run the command in this process, which is quicker."""
    try:
        status = cli.run(list(map(str, arguments)))
    except SystemExit as end:  # argparse, for wrong use
        status = end.code
    return status, *capsys.readouterr()


def test_an_exercise_from_start_to_end(tmp_path):
    status, out, err = nprnn_exercise("list")
    assert (status, err) == (0, "")
    assert [line.split()[0] for line in out.split("\n\n")[0].splitlines()] == [*course.exercises()]

    status, out, err = nprnn_exercise("start", "sgd", "work", cwd=tmp_path)
    assert (status, err) == (0, "")
    path = os.path.join("work", "sgd.py")
    assert out == f"{path} is written; fill it in, then\n\nnprnn exercise check {path}\n"

    status, out, err = nprnn_exercise("check", path, cwd=tmp_path)
    assert (status, out, err) == (1, "sgd_step  is not written yet\n0 of 1 passed\n", "")

    status, out, err = nprnn_exercise("solution", "sgd")
    assert (status, out, err) == (0, course.solution("sgd"), "")
    (tmp_path / path).write_text(out, "utf-8")
    status, out, err = nprnn_exercise("check", path, cwd=tmp_path)
    assert (status, out, err) == (0, "sgd_step  passes\n1 of 1 passed\n", "")

    (tmp_path / path).write_text(course.solution("sgd").replace("- lr", "+ lr"), "utf-8")
    status, out, err = nprnn_exercise("check", "--json", path, cwd=tmp_path)
    assert (status, err) == (1, "")
    (result,) = json.loads(out)["results"]
    assert result["diagnosis"][0]["name"] == "the sign is wrong: it climbs"


@pytest.mark.parametrize("name", course.exercises())
def test_solutions_are_shown_as_they_are(name, capsys):
    assert run(capsys, "exercise", "solution", name) == (0, course.solution(name), "")


@pytest.mark.parametrize("action", ["start", "solution"])
def test_a_name_that_there_is_not(action, capsys):
    status, out, err = run(capsys, "exercise", action, "lstm")
    assert (status, out) == (2, "")
    assert err.startswith("nprnn: error: there is no exercise 'lstm'; there are one_hot, rnn_step")
    assert err.count("\n") == 1


def test_start_overwrites_nothing(tmp_path, capsys):
    assert run(capsys, "exercise", "start", "rnn", tmp_path)[0] == 0
    path = tmp_path / "rnn.py"
    path.write_text("mine")
    status, out, err = run(capsys, "exercise", "start", "rnn", tmp_path)
    assert (status, out) == (2, "")
    assert err.startswith(f"nprnn: error: {path} is there already and was left as it is")
    assert path.read_text() == "mine"
    status, _, err = run(capsys, "exercise", "start", "rnn", path)
    assert (status, err) == (2, f"nprnn: error: {path} is a file, not a folder\n")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do all")
def test_a_folder_that_may_not_be_written(tmp_path, capsys):
    tmp_path.chmod(0o500)
    status, _, err = run(capsys, "exercise", "start", "rnn", tmp_path)
    assert (status, err) == (2, f"nprnn: error: {tmp_path / 'rnn.py'}: Permission denied\n")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_file_that_cannot_be_checked(form, tmp_path, capsys):
    path = tmp_path / "learner.py"
    for make, sentence in (
        (lambda: None, f"{path}: No such file or directory"),
        (path.mkdir, f"{path}: Is a directory"),
        (lambda: path.rmdir() or path.write_text("def f(:"), f"{path}, line 1: invalid syntax"),
        (lambda: path.write_bytes(b"\xff"), f"{path} is not UTF-8 text (line 1)"),
        (lambda: path.write_text("x = 1"), f"{path} defines none of the exercises' functions"),
    ):
        make()
        status, out, err = run(capsys, "exercise", "check", path, *form)
        assert (status, err) == (1, "")
        told = json.loads(out)["error"] if form else " ".join(out.split())
        assert told.startswith(sentence)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["exercise"],
        ["exercise", "none"],
        ["exercise", "start"],
        ["exercise", "check"],
        ["exercise", "check", "x", "--time-limit", "0"],
        ["exercise", "check", "x", "--time-limit", "nan"],
        ["exercise", "check", "x", "--time-limit", "long"],
    ],
)
def test_wrong_use(arguments, capsys):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("usage: nprnn")
    assert "error: " in err


def test_version_and_help(capsys):
    assert run(capsys, "--version") == (0, f"nprnn {nprnn.__version__}\n", "")
    for arguments in (["--help"], ["exercise", "--help"], ["exercise", "check", "--help"]):
        status, out, err = run(capsys, *arguments)
        assert (status, err) == (0, "")
        assert out.startswith("usage: nprnn")


def test_without_hypothesis_there_is_a_hint(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    status, out, err = run(capsys, "exercise", "check", tmp_path)
    sentence = "checking needs the package hypothesis: pip install hypothesis"
    assert (status, out, err) == (2, "", f"nprnn: error: {sentence}\n")


def test_a_loop_ends_with_the_time_limit(tmp_path):
    path = tmp_path / "loop.py"
    path.write_text(LOOP)
    status, out, err = nprnn_exercise("check", "loop.py", "--time-limit", "0.5", cwd=tmp_path)
    assert (status, err) == (1, "")
    assert "still running after 0.5 s, in line 4: does a loop never end?" in out


def test_a_console_that_cannot_show_mathematics():
    ended = subprocess.run(
        [*COMMAND, "exercise", "solution", "gru_step"],
        capture_output=True,
        env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"},
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"r  = ?(W_ir x" in ended.stdout


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
def test_a_reader_that_has_gone():
    with subprocess.Popen(
        [*COMMAND, "exercise", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        command.stdout.close()
        assert command.stderr.read() == b""
        assert command.wait(60) == 1


@pytest.mark.skipif(os.name != "posix", reason="pipes and signals of POSIX")
def test_interrupted(tmp_path):
    path = tmp_path / "loop.py"
    path.write_text(LOOP)
    with subprocess.Popen(
        [*COMMAND, "exercise", "check", path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        deadline = time.monotonic() + 60
        while not (tmp_path / "loop.py.started").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        command.send_signal(signal.SIGINT)
        assert command.communicate(timeout=60) == (b"", b"stopped\n")
        assert command.returncode == 130
