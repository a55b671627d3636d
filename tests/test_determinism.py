"""The same seed and the same number of threads give the same bytes, in every process."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import nprnn

PACKAGE = str(Path(nprnn.__file__).parents[1])
PROGRAM = """
import hashlib, itertools
import numpy as np, nprnn
text = "the quick brown fox jumps over the lazy dog.\\n" * 20
vocabulary = nprnn.Vocabulary(set(text.split()) | {"more"})
print(hashlib.sha256("".join(vocabulary.tokens).encode()).hexdigest())
vocabulary = nprnn.Vocabulary(text)
ids = vocabulary.encode(text)
for cell, optimizer, order in [("rnn", "SGD", "random"), ("gru", "Adam", "sequential"),
                               ("lstm", "RMSprop", "random")]:
    model = nprnn.LanguageModel(len(vocabulary), 24, cell=cell, num_layers=2, dropout=0.2, rng=7)
    made = getattr(nprnn, optimizer)(model.params, lr=0.01)
    records = list(nprnn.train(model, ids, batch_size=4, num_steps=10, epochs=2, order=order,
                               optimizer=made, rng=3, validation=ids[:99]))
    digest = hashlib.sha256(repr([r._replace(seconds=0) for r in records]).encode())
    for arrays in (model.params, made.state_dict()):
        for name in arrays:
            digest.update(name.encode() + arrays[name].tobytes())
    written = list(itertools.islice(model.generate(ids[:5], rng=1, temperature=0.9), 50))
    digest.update(vocabulary.decode(written).encode())
    print(cell, digest.hexdigest())
"""


def digests(**environment):
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": PACKAGE, "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        check=True,
    )
    assert ended.stderr == b""
    return ended.stdout


def test_every_process_and_every_hash_seed_gives_the_same_bytes():
    first = digests(PYTHONHASHSEED="0")
    assert first.count(b"\n") == 4
    assert {digests(PYTHONHASHSEED=seed) for seed in ("1", "12345", "random")} == {first}


@pytest.mark.skipif(os.name != "posix", reason="the folder's lines end as they do on POSIX")
def test_the_command_line_gives_the_same_files(tmp_path):
    made = set()
    for seed in ("0", "99"):
        folder = tmp_path / seed
        folder.mkdir()
        (folder / "book.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 20)
        command = [sys.executable, "-m", "nprnn", "train", "book.txt", "--steps", "20", "--quiet"]
        environment = {**os.environ, "PYTHONPATH": PACKAGE, "PYTHONHASHSEED": seed}
        subprocess.run(
            [*command, "--hidden-size", "16", "--checkpoint", "net"],
            env=environment, cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
        (newest,) = (folder / "net").glob("step-00000020.safetensors")
        made.add(hashlib.sha256(newest.read_bytes()).hexdigest())
    assert len(made) == 1
