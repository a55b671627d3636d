"""Training on several ranks, where mpi4py and an mpiexec are: `ranks` says what is checked."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nprnn
from nprnn import distributed
from nprnn.alone import Alone

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


def start(size, *command, timeout=100, **options):
    """Run a command on so many ranks."""
    assert MPIEXEC is not None
    environment = {**os.environ, "PYTHONPATH": PACKAGE, "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [MPIEXEC, "-n", str(size), sys.executable, *map(str, command)],
        capture_output=True, text=True, timeout=timeout, env=environment, **options,
    )  # fmt: skip


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
        rng = distributed._Columns(np.random.default_rng(3).bit_generator, rank, size)
        own.append([rng.random((*d.shape[:2], d.shape[2] // size), np.float32) for d in drawn])
        assert rng.bit_generator.state == whole.bit_generator.state
    for k in range(2):
        np.testing.assert_array_equal(np.concatenate([each[k] for each in own], axis=2), drawn[k])
