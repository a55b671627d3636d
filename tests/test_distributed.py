"""Training on several ranks, where mpi4py and an mpiexec are: `ranks` says what is checked."""

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import nprnn
from nprnn import distributed
from nprnn.alone import Alone
from nprnn.columns import Columns

FOLDER = Path(sys.executable).parent
MPIEXEC = shutil.which("mpiexec", path=f"{FOLDER}{os.pathsep}{os.environ.get('PATH', '')}")
PACKAGE = str(Path(nprnn.__file__).parents[1])
CHECKS = [
    line.strip(" ,\n")
    for line in Path(__file__).with_name("ranks.py").read_text("utf-8").split("CHECKS = [")[1]
    .split("]")[0].strip().split("\n")
]  # fmt: skip
needs_mpi = pytest.mark.skipif(
    not (MPIEXEC and importlib.util.find_spec("mpi4py")), reason="needs mpi4py and mpiexec"
)


def start(size, *command, timeout=100):
    """Run a command on so many ranks."""
    return launch("-n", size, sys.executable, *command, timeout=timeout)


def launch(*arguments, timeout):
    """Run mpiexec, no longer than so many seconds."""
    assert MPIEXEC is not None
    environment = {**os.environ, "PYTHONPATH": PACKAGE, "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        [MPIEXEC, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    ) as job:  # fmt: skip
        try:
            out, err = job.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            job.terminate()  # if it were killed, it could not end the ranks, which hold the pipes
            pytest.fail(f"not through after {timeout} s: {job.communicate()}")
    return subprocess.CompletedProcess(job.args, job.returncode, out, err)


@pytest.fixture(scope="module", params=[2, 3])
def together(request):
    return start(request.param, Path(__file__).with_name("ranks.py"))


@needs_mpi
@pytest.mark.parametrize("name", CHECKS)
def test_the_ranks_agree_with_one_process(together, name):
    assert f"ok {name}\n" in together.stdout, together.stderr


def test_a_single_process_is_alone():
    alone = Alone()
    assert alone.columns(5) == slice(0, 5)
    grads = {"w": np.ones(3)}
    assert alone.mean(1.5, grads) == (1.5, grads)
    assert alone.highest(3, 4.5) == (3, 4.5)
    assert alone.share(b"x") == b"x"
    assert alone.part(np.arange(4)).tolist() == [0, 1, 2, 3]
    state = np.ones((1, 2, 3))
    assert alone.whole_state(state) is alone.own_state(state) is state


def test_nothing_of_mpi_is_imported_without_need():
    code = "import sys, nprnn, nprnn.cli; print([m for m in sys.modules if m.startswith('mpi')])"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": PACKAGE},
    )  # fmt: skip
    assert ended.stdout == "[]\n"


def test_without_mpi4py_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(ImportError, match=r"pip install 'nprnn\[mpi\]'"):
        distributed.Ranks()


def test_columns_and_parts_cover_everything():
    class Of(Alone):
        def __init__(self, rank, size):
            self.rank, self.size = rank, size

    for size in (1, 2, 3, 7):
        columns = [np.arange(21 * size)[Of(rank, size).columns(21 * size)] for rank in range(size)]
        assert np.concatenate(columns).tolist() == list(range(21 * size))
        assert {len(own) for own in columns} == {21}
        for N in (0, 1, 5, 100):
            parts = [Of(rank, size).part(np.arange(N)) for rank in range(size)]
            assert np.concatenate(parts).tolist() == list(range(N))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_masks_of_the_ranks_are_those_of_one_process(size):
    whole = np.random.default_rng(3)
    drawn = [whole.random((2, 5, 4), np.float32), whole.random((3, 1, 8), np.float32)]
    own = []
    for rank in range(size):
        rng = Columns(np.random.default_rng(3), rank, size)
        own.append([rng.random((*d.shape[:2], d.shape[2] // size), np.float32) for d in drawn])
        assert rng.bit_generator.state == whole.bit_generator.state
    for k in range(2):
        np.testing.assert_array_equal(np.concatenate([each[k] for each in own], axis=2), drawn[k])


TEXT = "the quick brown fox jumps over the lazy dog.\n" * 200
SMALL = ["--hidden-size", "16", "--batch-size", "6", "--num-steps", "20", "--dropout", "0.2",
         "--num-layers", "2"]  # fmt: skip


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(TEXT, "utf-8")
    return "book.txt"


def losses(folder):
    one = nprnn.checkpoint.load(nprnn.checkpoint.latest(folder))
    return [point.validation_loss or point.loss for point in one.history]


@needs_mpi
def test_the_command_trains_as_one_process_does(book, tmp_path):
    ended = start(3, "-m", "nprnn", "train", book, *SMALL, "--steps", "60")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("on held-out text") == 1  # one speaks for all
    assert ended.stderr.count("characters to train on, ") == 1
    assert {path.suffix for path in Path("book").iterdir()} == {".safetensors"}
    alone = start(1, "-m", "nprnn", "train", book, *SMALL, "--steps", "60", "--checkpoint", "one")
    assert alone.returncode == 0, alone.stderr
    np.testing.assert_allclose(losses("book"), losses("one"), rtol=1e-4)
    sampled = start(1, "-m", "nprnn", "sample", "book", "--length", "5")
    assert len(sampled.stdout) == 6


@needs_mpi
def test_it_goes_on_with_another_number_of_ranks(book):
    assert start(1, "-m", "nprnn", "train", book, *SMALL, "--steps", "50").returncode == 0
    for size, steps in ((3, 20), (2, 40)):
        resume = ["--resume"] if steps > 20 else []
        ended = start(size, "-m", "nprnn", "train", book, *(resume or SMALL), "--steps", steps,
                      "--checkpoint", "parts")  # fmt: skip
        assert ended.returncode == 0, ended.stderr
    alone = [sys.executable, "-m", "nprnn", "train", book, "--resume", "--steps", "50",
             "--checkpoint", "parts"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": PACKAGE}
    subprocess.run(alone, check=True, capture_output=True, env=environment)
    params = [
        nprnn.checkpoint.load(nprnn.checkpoint.latest(folder)).model.params
        for folder in ("book", "parts")
    ]
    for name, value in params[0].items():
        np.testing.assert_allclose(params[1][name], value, rtol=0, atol=2e-3 * np.abs(value).max())


@needs_mpi
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_to_one_rank_ends_all(book, number):
    command = [MPIEXEC, "-n", "2", sys.executable, "-m", "nprnn", "train", book, *SMALL,
               "--checkpoint-every", "20", "--epochs", "100000"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": PACKAGE, "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as job:
        ranks = children(job, "book/step-00000040.safetensors")
        os.kill(ranks[-1], number)
        out, err = job.communicate(timeout=10)
    end = time.monotonic() + 5  # the system clears away what mpiexec has ended
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        assert time.monotonic() < end
        time.sleep(0.05)
    position = nprnn.checkpoint.load(nprnn.checkpoint.latest("book")).position
    assert position.step >= 40
    if number == signal.SIGTERM:
        assert job.returncode == 128 + number
        assert f"stopped after step {position.step} of" in err
        assert "nprnn train book.txt --resume" in err
        assert out.count("checkpoint:") == 1
    else:
        assert job.returncode != 0
        # What mpiexec says of it is its own, and under load sometimes nothing.
        assert "Traceback" not in err
    ended = start(3, "-m", "nprnn", "train", book, "--resume", "--steps", position.step + 5)
    assert ended.returncode == 0, ended.stderr
    assert nprnn.checkpoint.load(nprnn.checkpoint.latest("book")).position.step == position.step + 5


def children(job, awaited):
    """Return the processes of the ranks, once a file is there."""
    end = time.monotonic() + 60
    while not Path(awaited).exists():
        assert job.poll() is None, job.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            command = path.with_name("cmdline").read_bytes()
            if b"nprnn\0train" in command and path.parent.joinpath("cwd").resolve() == Path.cwd():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return sorted(pid for pid in found if pid != job.pid)


@needs_mpi
@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (["book.txt"], ["other.txt"], "all ranks must have the same options; rank 1"),
        (["book.txt"], ["book.txt", "--lr", "0.1"], "the same options; rank 1"),
        (["same.txt"], ["same.txt"], "all ranks must have the same text; rank 1"),
        (["here.txt"], ["here.txt"], "on rank 1 of 2: here.txt: No such file"),
        (["book.txt", "--batch-size", "3"], ["book.txt", "--batch-size", "3"], "take 2 or 4"),
        (["none.txt"], ["none.txt"], "none.txt: No such file"),
    ],
)
def test_ranks_that_were_started_differently(book, first, second, words):
    Path("b").mkdir()
    for name in (book, "other.txt"):
        Path("b", name).write_text(TEXT, "utf-8")
        Path(name).write_text(TEXT, "utf-8")
    Path("same.txt").write_text(TEXT, "utf-8")
    Path("b/same.txt").write_text(TEXT + "a", "utf-8")
    Path("here.txt").write_text(TEXT, "utf-8")
    ended = start(
        1, "-m", "nprnn", "train", *first, ":", "-n", "1", "-wdir", str(Path("b").resolve()),
        sys.executable, "-m", "nprnn", "train", *second,
    )  # fmt: skip
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stderr.count("nprnn: error") == 1
    assert not list(Path().glob("*/*.safetensors"))


BAD = ["book.txt", "--lr", "banana"]
INSTALL = "training on several ranks needs mpi4py: pip install 'nprnn[mpi]'"


@needs_mpi
def test_wrong_arguments_of_one_rank_end_all(book):
    ended = start(1, "-m", "nprnn", "train", book, ":", "-n", "1", sys.executable, "-m",
                  "nprnn", "train", *BAD, timeout=20)  # fmt: skip
    assert ended.returncode == 2
    assert "on rank 1 of 2: argument --lr: expected a number" in ended.stderr
    assert "Traceback" not in ended.stderr


@needs_mpi
def test_wrong_arguments_of_all_are_told_once(book):
    ended = start(2, "-m", "nprnn", "train", *BAD, timeout=20)
    assert ended.returncode == 2
    assert ended.stderr.count("argument --lr: expected a number") == 1


@pytest.fixture
def without_mpi4py(tmp_path):
    """Return a PYTHONPATH that hides mpi4py."""
    (tmp_path / "none" / "mpi4py").mkdir(parents=True)
    (tmp_path / "none" / "mpi4py" / "__init__.py").write_text("raise ImportError", "utf-8")
    return f"{tmp_path / 'none'}{os.pathsep}{PACKAGE}"


@needs_mpi
@pytest.mark.parametrize("lacking", [{0}, {1}, {0, 1}])
def test_ranks_without_mpi4py_end_all(book, without_mpi4py, lacking):
    own = [
        ["-n", "1", "-env", "PYTHONPATH", without_mpi4py if rank in lacking else PACKAGE,
         sys.executable, "-m", "nprnn", "train", book]
        for rank in (0, 1)
    ]  # fmt: skip
    ended = launch(*own[0], ":", *own[1], timeout=20)
    assert ended.returncode != 0
    assert f"nprnn: error: on rank {min(lacking)}: {INSTALL}" in ended.stderr
    assert ended.stderr.count(INSTALL) == 1
    assert "Traceback" not in ended.stderr


@needs_mpi
def test_another_version_is_refused(book, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copytree(Path(PACKAGE, "nprnn"), tmp_path / "other" / "nprnn")
    top = tmp_path / "other" / "nprnn" / "__init__.py"
    top.write_text(
        top.read_text("utf-8").replace("__version__ = ", "__version__ = 'x' + "), "utf-8"
    )
    ended = start(1, "-m", "nprnn", "train", book, ":", "-n", "1", "-env", "PYTHONPATH",
                  tmp_path / "other", sys.executable, "-m", "nprnn", "train", book)  # fmt: skip
    assert ended.returncode == 2
    assert "the same version of nprnn; rank 1" in ended.stderr


def test_started_by_mpiexec_without_mpi4py(book, without_mpi4py):
    ended = subprocess.run(
        [sys.executable, "-m", "nprnn", "train", book], capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": without_mpi4py, "PMI_RANK": "0"},
    )  # fmt: skip
    assert ended.returncode == -signal.SIGTERM
    assert ended.stderr == f"nprnn: error: on rank 0: {INSTALL}\n"
