"""Reading a file runs nothing: what the package's code may not hold, and what a process sees."""

import ast
import json
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import nprnn
from nprnn import checkpoint, cli, optim, weights
from nprnn.checkpoint import Checkpoint, Folder
from nprnn.training import Position

PACKAGE = Path(nprnn.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

RUNS_CODE = {"eval", "exec", "compile", "__import__", "builtins", "__builtins__", "globals"}
UNSAFE_MODULES = {
    "builtins", "cloudpickle", "code", "codeop", "copyreg", "dbm", "dill", "imp", "joblib",
    "marshal", "multiprocessing", "pickle", "pickletools", "pty", "runpy", "shelve", "subprocess",
    "xmlrpc", "yaml",
}  # fmt: skip
UNSAFE_ATTRIBUTES = {
    "exec_module", "load_module", "system", "popen", "allow_pickle", "loads_pickle", "execv",
    "execve", "posix_spawn", "spawnv", "startfile", "unpickle",
}  # fmt: skip
NUMPY_READERS = {"load", "fromregex", "genfromtxt", "loadtxt"}  # load unpickles, the others eval
# A learner's own file is there to be run: when they ask for it, in a process of its own. And what
# its answers are compared with are the package's own solutions, with mistakes planted in them.
EXERCISES = {
    ("course/checking.py", "subprocess"),
    ("course/runner.py", "exec_module"),
    ("course/mistakes.py", "exec_module"),
}


def unsafe(tree):
    """Yield what could run code that stands in a file."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in RUNS_CODE:
                yield name
            case ast.Import(names=names):
                yield from (each.name for each in names if root(each.name) in UNSAFE_MODULES)
            case ast.ImportFrom(module=str(module), names=names):
                if root(module) in UNSAFE_MODULES:
                    yield module
                yield from (each.name for each in names if each.name in UNSAFE_MODULES)
            case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr=name) if (
                name in NUMPY_READERS
            ):
                yield f"np.{name}"
            case ast.Attribute(attr=name) if name in UNSAFE_ATTRIBUTES:
                yield name
            case ast.keyword(arg="allow_pickle"):
                yield "allow_pickle"
            case ast.Call(func=ast.Attribute(attr="import_module"), args=[name, *_]) if (
                not is_own_or_fixed(name)
            ):
                yield "import_module"


def root(module):
    return module.split(".")[0]


def is_own_or_fixed(name):
    """Whether a module is named in the code, or is one of the package's own."""
    if isinstance(name, ast.JoinedStr):
        first = name.values[0]
        return isinstance(first, ast.FormattedValue) and ast.unparse(first.value) in (
            "__name__",
            "__package__",
        )
    return isinstance(name, ast.Constant)


def test_nothing_in_the_package_runs_what_a_file_holds():
    found = {
        (path.relative_to(PACKAGE).as_posix(), what)
        for path in SOURCES
        for what in unsafe(ast.parse(path.read_text("utf-8")))
    }
    assert found == EXERCISES


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import os, marshal as m",
        "import xmlrpc.client",
        "eval('1')",
        "f = exec",
        "np.load(path)",
        "numpy.genfromtxt(path)",
        "anything.load(path, allow_pickle=False)",
        "os.system('ls')",
        "importlib.import_module(header['cell'])",
        "importlib.import_module(f'{name}.x')",
        "__builtins__['eval']",
        "def f():\n    import shelve",
    ],
)
def test_the_search_finds_what_it_looks_for(code):
    assert list(unsafe(ast.parse(code)))


def test_the_search_finds_nothing_else():
    code = "import re, json\nre.compile('a')\njson.loads('1')\nweights.load(path)\nnp.loads_of = 1"
    assert not list(unsafe(ast.parse(code)))


# What a process sees

CHILD = """
import sys
from nprnn import checkpoint, weights

seen = []
sys.addaudithook(lambda event, arguments: seen.append([event, *map(str, arguments)]))
for path in sys.argv[1:]:
    for load in (checkpoint.load, weights.load):
        try:
            load(path)
        except weights.WeightsFileError:
            pass
found = list(seen)
import wave  # which the hook must see
assert any(event == "import" for event, *_ in seen[len(found):])
import json
print(json.dumps(found))
"""


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def trained():
    vocabulary = nprnn.Vocabulary("aé人😀")
    tokens = vocabulary.encode("aé人😀" * 40)
    model = nprnn.LanguageModel(4, 3, cell="gru", dropout=0.5, embedding_size=2, rng=0)
    text = {"name": "a", "characters": 160, "sha256": ""}
    generator = np.random.default_rng(1).bit_generator.state
    one = Checkpoint(model, vocabulary, optim.Adam(model.params), Position(rng=generator), text)
    steps = nprnn.train(model, tokens, batch_size=2, num_steps=5, epochs=1, max_steps=2, per="step",
                        optimizer=one.optimizer, position=one.position)  # fmt: skip
    assert len(list(steps)) == 2
    return one


def files(folder):
    """Write a sound file, damaged ones, and some that would run code if they were trusted."""
    checkpoint.save(folder / "sound", trained())
    content = (folder / "sound").read_bytes()
    (folder / "cut").write_bytes(content[:-1])
    (folder / "flipped").write_bytes(content.replace(b"rnn.bias_ih_l0", b"rnn.bias_hh_l0"))
    (folder / "value").write_bytes(content.replace(b"Adam", b"eval"))
    (folder / "pickle").write_bytes(pickle.dumps(Harmful()))
    np.savez(folder / "npz.npz", np.array([Harmful()], object))
    np.save(folder / "npy.npy", np.array([Harmful()], object))
    with zipfile.ZipFile(folder / "zip", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Harmful()))
    weights.save(folder / "tensors", {"a": np.ones(3)}, {"format": "pt", "code": "import os"})
    return sorted(path for path in folder.iterdir())


def test_loading_opens_the_file_to_read_it_and_does_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "files").mkdir()
    paths = files(tmp_path / "files")
    before = [path.read_bytes() for path in paths]
    monkeypatch.chdir(tmp_path)
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", CHILD, *map(str, paths)],
        env={"PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(ended.stdout)
    assert len(found) == 2 * len(paths)
    assert [each[:3] for each in found] == [
        ["open", str(path), "r"] for path in paths for _ in range(2)
    ]
    assert [path.read_bytes() for path in paths] == before
    assert not Path("harm").exists()


# Files that were never finished


def test_what_was_never_finished_is_never_read(tmp_path):
    """Not even if it is whole, newer, and the only one; it goes when the folder is written to."""
    folder = Folder(tmp_path / "run")
    sound = folder.save(trained())
    left_over = folder.path / ".weights-00000000000000ff.tmp"
    left_over.write_bytes(sound.read_bytes())
    assert checkpoint.latest(folder.path) == sound
    sound.unlink()
    with pytest.raises(FileNotFoundError, match="holds no checkpoint"):
        checkpoint.latest(folder.path)
    others = [folder.path / name for name in (".weights-1.tmp", "weights.tmp", "notes.tmp")]
    for other in others:
        other.touch()
    Folder(folder.path)
    assert sorted(folder.path.iterdir()) == sorted(others)


def test_a_checkpoint_sends_no_command_to_a_terminal(tmp_path, monkeypatch, capsys):
    """A vocabulary, a name or a setting may hold what clears the screen, or writes its title."""
    monkeypatch.chdir(tmp_path)
    escape = "\x1b]0;owned\x07\x1b[2J\x9b"
    one = trained()
    one.vocabulary = nprnn.Vocabulary("", reserved=list("\x1b\x9b\ra"))
    one.text["name"] = one.text["sha256"] = one.versions["numpy"] = escape
    one.run |= {escape: escape}
    checkpoint.save("evil", one)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for command in (["inspect", "evil"], ["sample", "evil"], ["train", "--resume"]):
        cli.run(command)
        out, err = capsys.readouterr()
        assert len(out + err) > 50
        assert not {"\x1b", "\x9b", "\x07", "\r"} & set(out + err), command
    assert cli.run(["sample", escape]) == 2
    assert "�[2J" in capsys.readouterr().err
