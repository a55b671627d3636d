"""A training that is killed, or whose disk fails, at any moment: nothing is lost.

By default saves are cut short in this process, at calls that they make of the system, and a few
processes are killed. What takes minutes kills a hundred, and with strace at every call:

    python -m pytest -m slow tests/test_kill.py
"""

import errno
import os
import random
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nprnn
from nprnn import checkpoint, cli, weights

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 10
COMMAND = [sys.executable, "-W", "error", "-m", "nprnn"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(nprnn.__file__).parents[1]),
    "PYTHONIOENCODING": "utf-8",
    "OPENBLAS_NUM_THREADS": "1",
}
# Every fourth step is saved, the best beside, and all but one of the older are removed.
SETTINGS = ["--hidden-size", "4", "--batch-size", "2", "--num-steps", "40", "--lr", "0.1",
            "--checkpoint-every", "4", "--quiet"]  # fmt: skip
STEPS = 12
ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EACCES", "EINTR")}
posix = pytest.mark.skipif(os.name == "nt", reason="signals are sent the POSIX way")


every = pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])


def arguments(folder, steps=STEPS):
    """Return the command to begin, or to go on if there is something to go on with."""
    resume = ["--resume"] if checkpoint.numbered(folder) else []
    limit = ["--steps", str(steps)]
    return ["train", "book.txt", *SETTINGS, *limit, "--checkpoint", str(folder), *resume]


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(TEXT, "utf-8")


@pytest.fixture
def undisturbed(book, capfd):
    """Return all that an undisturbed training writes, version after version, and what it leaves."""
    written, save = {}, checkpoint.save

    def recorded(path, one):
        save(path, one)
        written.setdefault(path.name, []).append(path.read_bytes())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", recorded)
        assert cli.run(arguments("whole")) == 0
    assert len(written[checkpoint.BEST]) > 1  # so that a file is replaced by another, too
    capfd.readouterr()
    return written, content("whole")


def assert_whole(folder, written):
    """Hold that each checkpoint is one that the undisturbed training wrote, and return the rest."""
    found = content(folder) if os.path.isdir(folder) else {}
    strangers = [name for name in found if name not in written]
    for name in found.keys() & written.keys():
        assert found[name] in written[name], name
    return strangers


# In this process


class PowerCut(BaseException):
    """The end of a process: nothing in it cleans up after that."""


class System:
    """What a save asks of the operating system, call after call.

    The call of number `at` fails with an error; without one it is the power that fails, for all
    calls from there on.
    """

    NAMES = ("close", "fsync", "listdir", "mkdir", "open", "replace", "unlink")

    def __init__(self, patch, at=0, error=None):
        self.count, self.at, self.error = 0, at, error
        for name in self.NAMES:
            patch.setattr(os, name, self.wrapped(getattr(os, name)))
        patch.setattr(weights, "open", self.opened, raising=False)

    def wrapped(self, function):
        def call(*given):
            self.tick(*given)
            return function(*given)

        return call

    def tick(self, *given):
        self.count += 1
        if self.at and self.count == self.at and self.error:
            paths = [str(each) for each in given[:1] if not isinstance(each, int)]
            raise OSError(self.error, os.strerror(self.error), *paths)
        if self.at and self.count >= self.at and not self.error:
            raise PowerCut

    def opened(self, path, mode):
        if mode == "rb":
            return open(path, mode)
        self.tick(path)
        return File(self, open(path, mode, buffering=0))


class File:
    """A file that is written to without a buffer."""

    def __init__(self, system, raw):
        self.system, self.raw, self.fileno, self.flush = system, raw, raw.fileno, raw.flush

    def write(self, data):
        try:
            self.system.tick()
        except BaseException:
            if self.system.count == self.system.at:
                self.raw.write(memoryview(data).cast("B")[: memoryview(data).nbytes // 2])
            raise
        self.raw.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        self.raw.close()
        self.system.tick()


def number_of_calls():
    command = arguments("counted")
    with pytest.MonkeyPatch.context() as patch:
        system = System(patch)
        assert cli.run(command) == 0
    return system.count


def cut_or_failed(command, at, error=None):
    """Run the command with a system that fails; return its status, None if the power failed."""
    with pytest.MonkeyPatch.context() as patch:
        System(patch, at, error)
        try:
            return cli.run(command)
        except PowerCut:
            return None


@every
def test_the_power_fails_at_any_call(undisturbed, capfd, stride):
    written, end = undisturbed
    last = number_of_calls()
    assert last > 100
    torn = 0
    for at in range(1, last + 1, stride):
        folder = f"run{at}"
        assert cut_or_failed(arguments(folder), at) is None
        strangers = assert_whole(folder, written)
        assert len(strangers) <= 1
        torn += len(strangers)
        assert cli.run(arguments(folder)) == 0, at
        assert content(folder) == end, at
    assert torn > 20 // stride


@every
def test_an_error_at_any_call_is_one_sentence(undisturbed, capfd, stride):
    written, end = undisturbed
    refused = 0
    for at in range(1, number_of_calls() + 1, stride):
        folder = f"run{at}"
        name, error = random.Random(at).choice(list(ERRORS.items()))
        capfd.readouterr()
        status = cut_or_failed(arguments(folder), at, error)
        refused += status == 2
        check_refusal(status, capfd.readouterr().err, folder, name)
        assert assert_whole(folder, written) == []
        assert cli.run(arguments(folder)) == 0, (at, name)
        assert content(folder) == end, (at, name)
    assert refused > 100 // stride


def check_refusal(status, err, folder, name):
    """Hold that an error ended the training with a sentence about it, if it did."""
    sentences = [line for line in err.splitlines() if "error" in line]
    assert status in (0, 2), err
    assert len(sentences) == (status == 2), err
    for line in sentences:
        assert line.startswith("nprnn: error: "), line
        assert str(folder) in line or "book.txt" in line
        assert os.strerror(ERRORS[name]) in line


def test_a_full_disk_is_told_with_what_to_do(book, capfd, monkeypatch):
    monkeypatch.setattr(nprnn.checkpoint, "save", full_after(checkpoint.save, 3))
    assert cli.run(arguments("run")) == 2
    words = "No space left on device; once it can be written, --resume goes on from "
    assert words + str(Path("run", "step-00000004.safetensors")) in capfd.readouterr().err
    monkeypatch.setattr(nprnn.checkpoint, "save", full_after(checkpoint.save, 0))
    before = content("run")
    assert cli.run(arguments("run")) == 2  # before the time is spent
    assert "No space left on device\n" in capfd.readouterr().err
    assert content("run") == before


def full_after(save, times):
    """Return a save for which there is no space after it was called so often."""
    calls = []

    def save_or_fail(path, one):
        calls.append(path)
        if len(calls) > times:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(path, one)

    return save_or_fail


# Processes


def run(folder, *tracer, steps=STEPS):
    """Run the command to its end, in a process of its own."""
    return subprocess.run([*tracer, *COMMAND, *arguments(folder, steps)], env=ENVIRONMENT,
                          capture_output=True, encoding="utf-8", timeout=60)  # fmt: skip


def killed_after(seconds, folder, steps):
    """Run the command, and kill it after a time; return whether that came before its end."""
    command = [*COMMAND, *arguments(folder, steps)]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as process:
        try:
            _, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            return True
    assert process.returncode == 0, err
    return False


def kill_again_and_again(times, steps):
    """Kill trainings so often in all; return how many kills left a part of a file behind."""
    run("whole", steps=steps)
    end = content("whole")
    start = time.perf_counter()
    run("whole", steps=steps)  # nothing is left to do
    start_up = time.perf_counter() - start
    rng = random.Random(7)
    kills = torn = number = 0
    while kills < times:
        number += 1
        while killed_after(start_up * rng.uniform(0.7, 2), folder := f"run{number}", steps):
            kills += 1
            if os.path.isdir(folder):
                torn += any(name.endswith(".tmp") for name in os.listdir(folder))
        assert content(folder) == end
    return torn


@posix
def test_a_few_kills(book):
    kill_again_and_again(3, steps=60)


@posix
@pytest.mark.slow
def test_a_hundred_kills_at_random_moments(book):
    torn = kill_again_and_again(100, steps=300)
    print(f"100 kills, {torn} of them while a file was written")
    assert torn > 0


@pytest.fixture
def strace():
    path = shutil.which("strace")
    if path is None:
        pytest.skip("needs strace")
    if subprocess.run([path, "-o", os.devnull, "true"], check=False).returncode:
        pytest.skip("strace may not trace here")
    return path


def calls(strace, folder):
    """Return the system calls of a training that name its folder: what, and the how many-th."""
    log = Path("calls.log")
    run("warm")  # so that what is compiled once is
    ended = run(folder, strace, "-f", "-y", "-o", str(log), "-e", "trace=%file,%desc")
    assert ended.returncode == 0, ended.stderr
    counts, found = {}, []
    for line in log.read_text("utf-8", "replace").splitlines():
        match = re.match(r"\d+ +(\w+)\(", line)
        if match is None or match[1] == "execve":
            continue
        name = match[1]
        counts[name] = counts.get(name, 0) + 1
        if str(folder) in line:
            found.append((name, counts[name]))
    shutil.rmtree(folder)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["SIGKILL", *ERRORS])
def test_every_system_call_of_a_training(undisturbed, strace, tmp_path, fault):
    """Kill it at the call, or let the call fail: each call on the folder, first to last."""
    written, end = undisturbed
    folder, log = tmp_path / "run", tmp_path / "log"
    found = calls(strace, folder)
    assert {"openat", "write", "fsync", "rename", "unlink", "close"} <= {name for name, _ in found}
    effect = "signal=SIGKILL" if fault == "SIGKILL" else f"error={fault}"
    statuses, torn = [], 0
    for name, number in found:
        inject = ["-e", f"trace={name}", "-e", f"inject={name}:{effect}:when={number}"]
        ended = run(folder, strace, "-f", "-y", "-o", str(log), *inject)
        where = (name, number, ended.returncode, ended.stderr)
        statuses.append(ended.returncode)
        traced = log.read_text("utf-8", "replace").splitlines()
        strangers = assert_whole(folder, written)
        torn += len(strangers)
        if fault == "SIGKILL":
            assert ended.returncode == -9, where
            assert str(folder) in traced[-2], where
            assert len(strangers) <= 1
        else:
            assert [str(folder) in line for line in traced if "(INJECTED)" in line] == [True], where
            check_refusal(ended.returncode, ended.stderr, folder, fault)
            assert strangers == [], where
        again = run(folder)
        assert again.returncode == 0, (where, again.stderr)
        assert content(folder) == end, where
        shutil.rmtree(folder)
    print(f"{fault} at {len(found)} calls: {statuses.count(0)} went on, {torn} parts of files left")
