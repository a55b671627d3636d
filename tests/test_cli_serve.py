"""``nprnn serve``: the page of a checkpoint, from the command to Ctrl-C."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

import nprnn
from nprnn import checkpoint, cli
from nprnn.serve import make_server

COMMAND = [sys.executable, "-W", "error", "-m", "nprnn", "serve"]
PACKAGE = str(Path(nprnn.__file__).parents[1])
ENVIRONMENT = {**os.environ, "PYTHONPATH": PACKAGE, "PYTHONIOENCODING": "utf-8"}
VOCABULARY = nprnn.Vocabulary("the quick brown fox.\n")
MODEL = nprnn.LanguageModel(len(VOCABULARY), 6, rng=0)
posix = pytest.mark.skipif(os.name != "posix", reason="signals are sent the POSIX way")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder, in the current one, that holds a checkpoint of step 3."""
    monkeypatch.chdir(tmp_path)
    position = nprnn.training.Position(step=3)
    text = {"name": "fox.txt", "characters": 20, "sha256": "0" * 64}
    one = checkpoint.Checkpoint(MODEL, VOCABULARY, nprnn.Adam(MODEL.params), position, text)
    return checkpoint.Folder("fox").save(one).parent


@contextlib.contextmanager
def serving(*arguments, **environment):
    """Run the command; yield its process and the address that it writes."""
    with subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT | environment,
        encoding="utf-8",
    ) as process:
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def ask(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return answer.read().decode("utf-8")


@posix
@pytest.mark.parametrize("named", [[], ["fox"], ["fox/step-00000003.safetensors"]])
def test_the_page_is_there_until_ctrl_c(folder, named):
    with serving(*named, "--no-browser") as (process, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", url)
        facts = json.loads(ask(url + "model"))
        assert facts["name"] == os.path.join("fox", "step-00000003.safetensors")
        assert (facts["cell"], facts["hidden_size"]) == ("RNN", 6)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, err) == ("", f"{facts['name']}, step 3\nCtrl-C ends it\nstopped\n")


@posix
@pytest.mark.parametrize(("options", "opened"), [([], True), (["--no-browser"], False)])
def test_a_browser_is_opened_unless_it_is_not_wanted(folder, tmp_path, options, opened):
    """The browser here is one that stays in the foreground, as those in a terminal do."""
    browser = tmp_path / "browser.py"
    browser.write_text(
        "import pathlib, sys, urllib.request\n"
        "page = urllib.request.urlopen(sys.argv[1]).read()\n"
        "pathlib.Path('opened').write_bytes(page)\n"
        "sys.stderr.write('opened\\n')\n"
    )
    with serving(*options, BROWSER=f"{sys.executable} {browser} %s") as (process, url):
        page = ask(url)
        lines = [process.stderr.readline() for _ in range(3 if opened else 2)]
        assert lines[2:] == ["opened\n"] * opened
    assert Path("opened").exists() == opened
    if opened:
        assert Path("opened").read_text("utf-8") == page


@posix
def test_without_a_browser_it_says_so(folder):
    with serving(BROWSER="false %s", PATH="") as (process, url):
        lines = [process.stderr.readline() for _ in range(3)]
        assert lines[2] == "no browser was found: open the address in one\n"
        assert "<html" in ask(url)


def test_what_cannot_be_served_is_told_in_a_sentence(folder, capsys):
    with make_server(MODEL, VOCABULARY) as other:
        for arguments, sentence in [
            (["--port", other.server_port], f"cannot listen on port {other.server_port}: "),
            (["--port", 65536], "port must be in 0 .. 65535, got 65536"),
            (["nowhere"], "nowhere: No such file or directory"),
        ]:
            assert cli.run(["serve", "--no-browser", *map(str, arguments)]) == 2
            out, err = capsys.readouterr()
            assert out == ""
            assert f"nprnn: error: {sentence}" in err
            assert "Traceback" not in err
    with pytest.raises(SystemExit):
        cli.run(["serve", "--port", "-1"])
    assert "--port: must be at least 0, got -1" in capsys.readouterr().err
