"""Checkpoints: what is read is what was written, or it is refused."""

import hashlib
import json
import math
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nprnn
from nprnn import checkpoint as checkpoints
from nprnn import optim, weights
from nprnn.checkpoint import Checkpoint, Folder, Point, latest, load, save
from nprnn.training import Position

TEXT = "she sells sea shells by the sea shore\n" * 8
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True),
    "plain": lambda p: optim.SGD(p, 0.1),
    "adagrad": optim.Adagrad,
    "rmsprop": lambda p: optim.RMSprop(p, centered=True, momentum=0.5),
    "adam": lambda p: optim.Adam(p, amsgrad=True),
    "adamw": optim.AdamW,
}


def trained(steps=7, optimizer="adam", order="sequential", vocabulary=None, **options):
    """Return a training after some steps, in the middle of an epoch."""
    vocabulary = vocabulary or nprnn.Vocabulary(TEXT)
    model = nprnn.LanguageModel(len(vocabulary), 5, rng=0, **options)
    one = Checkpoint(
        model,
        vocabulary,
        OPTIMIZERS[optimizer](model.params),
        Position(rng=np.random.default_rng(3).bit_generator.state),
        {"name": "sea.txt", "characters": len(TEXT), "sha256": "0" * 64},
        {"batch_size": 3, "order": order, "lr": 0.01, "steps": None, "nested": False},
        [Point(1, 5, 2.5, 0.75), Point(1, 6, math.inf, 0.5, 2.25)],
        (0.1, 0.2, 1),
        2.25,
    )
    if steps:
        go_on(one, steps)
    return one


def go_on(one, until):
    tokens = one.vocabulary.encode(TEXT)
    options = {"batch_size": 3, "num_steps": 10, "epochs": 99, "max_steps": until, "lr": 0.01}
    order = one.run["order"]
    records = nprnn.train(
        one.model, tokens, optimizer=one.optimizer, position=one.position, order=order, per="step",
        **options,
    )  # fmt: skip
    return [record._replace(seconds=0) for record in records]


def rewritten(path, change):
    """Write the file again with other tensors or another header, and with right hashes."""
    tensors, header = weights.load(path)
    change(tensors, header)
    header["data_sha256"] = checkpoints._data_hash(tensors)
    header["header_sha256"] = checkpoints._header_hash(header)
    weights.save(path, tensors, header)


@pytest.mark.parametrize("order", ["sequential", "random"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "options",
    [
        {"cell": "rnn", "nonlinearity": "relu", "dtype": np.float64},
        {"cell": "gru", "num_layers": 2, "dropout": 0.3},
        {"cell": "lstm", "dropout": 0.1, "embedding_size": 5, "tie_weights": True},
    ],
)
def test_a_training_goes_on_as_if_never_interrupted(tmp_path, order, optimizer, options):
    path, again = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    whole = trained(5, optimizer, order, **options)
    save(path, whole)
    other = load(path)
    assert go_on(other, 23) == go_on(whole, 23)  # a whole epoch and more
    save(path, whole)
    save(again, other)
    assert path.read_bytes() == again.read_bytes()


def test_everything_comes_back(tmp_path):
    path = tmp_path / "a.safetensors"
    one = trained(cell="lstm", num_layers=2)
    save(path, one)
    other = load(path)
    assert other.position.step == 7
    assert (other.position.epoch, other.position.batch) == (1, 7)  # with a state carried on
    for name in ("text", "run", "history", "unfinished", "best_loss", "versions"):
        assert getattr(other, name) == getattr(one, name), name
    assert repr(other.model) == repr(one.model)
    assert repr(other.optimizer) == repr(one.optimizer)
    assert other.vocabulary.tokens == one.vocabulary.tokens
    assert other.vocabulary.encode(TEXT).tolist() == one.vocabulary.encode(TEXT).tolist()
    tensors, header = weights.load(path)
    assert set(one.model.params) < set(tensors)  # under their own names, for any other program
    assert json.loads(header["format_version"]) == 1
    data = path.read_bytes()[8 + int.from_bytes(path.read_bytes()[:8], "little") :]
    assert header["data_sha256"] == hashlib.sha256(data).hexdigest()


def test_an_epochs_end_has_no_state(tmp_path):
    one = trained(1)
    while one.position.batch:
        go_on(one, one.position.step + 1)
    save(tmp_path / "a", one)
    assert load(tmp_path / "a").position == one.position
    assert one.position.state is None
    assert one.position.epoch == 2


@pytest.mark.parametrize(
    "vocabulary",
    [
        nprnn.Vocabulary(TEXT, unknown="<unk>", reserved=["<pad>"]),
        nprnn.Vocabulary(TEXT.split(), unknown="<unk>"),
        nprnn.Vocabulary("人之初\ud800😀" + TEXT),
    ],
)
def test_vocabularies(tmp_path, vocabulary):
    save(tmp_path / "a", trained(0, vocabulary=vocabulary))
    other = load(tmp_path / "a").vocabulary
    assert other.tokens == vocabulary.tokens
    assert (other.unknown, other.unknown_id) == (vocabulary.unknown, vocabulary.unknown_id)
    assert other.encode(TEXT[:50]).tolist() == vocabulary.encode(TEXT[:50]).tolist()
    ids = [2, 1, 3]
    assert other.decode(ids) == vocabulary.decode(ids)


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(["rnn", "gru", "lstm"]),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 3),
    st.none() | st.integers(1, 5),
    st.booleans(),
)
def test_shapes_follow_from_the_arguments_alone(cell, vocab, hidden, layers, embedding, tied):
    options = {"cell": cell, "num_layers": layers, "embedding_size": hidden if tied else embedding}
    model = nprnn.LanguageModel(vocab, hidden, tie_weights=tied, rng=0, **options)
    shapes = checkpoints.parameter_shapes(checkpoints._configuration(model))
    assert shapes == {name: value.shape for name, value in model.params.items()}


def edit(field, **members):
    """Return a change of some members of one value of the header."""

    def change(tensors, header):
        header[field] = json.dumps(json.loads(header[field]) | members)

    return change


def put(name, text):
    return lambda tensors, header: header.update({name: text})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, h: t.pop("readout.bias"), ["missing readout.bias", "(12,)"]),
        (lambda t, h: t.update(extra=np.ones(2)), ["unexpected 'extra'"]),
        (lambda t, h: t.pop("optimizer.step"), ["missing optimizer.step"]),
        (lambda t, h: t.pop("state.0"), ["missing state.0", "(1, 3, 5)"]),
        (lambda t, h: t.update({"readout.bias": np.zeros(12)}), ["readout.bias is float64"]),
        (lambda t, h: t["readout.bias"].fill(np.nan), ["readout.bias", "NaN or infinity"]),
        (lambda t, h: t["optimizer.exp_avg.readout.bias"].fill(np.inf), ["NaN or infinity"]),
        (lambda t, h: t.update({"optimizer.step": np.array(-1)}), ["step is -1"]),
        (lambda t, h: h.pop("format"), ["no checkpoint of nprnn", "nprnn.weights.load"]),
        (lambda t, h: h.pop("run"), ["header", "missing run"]),
        (put("more", "1"), ["header", "unexpected", "more"]),
        (put("format_version", "2"), ["format_version: 2", "a newer one may read it"]),
        (
            put("format", json.dumps("a" * 9999)),
            ["format_version: 1 of", "a newer one may read it"],
        ),
        (edit("optimizer", amsgrad="x" * 9999), ["amsgrad must be True or False, got 'xxx"]),
        (put("run", "{"), ["header, run: not strict JSON"]),
        (put("run", '{"a": NaN}'), ["header, run", "NaN"]),
        (put("run", '{"a": 1, "a": 2}'), ["header, run", "twice"]),
        (put("run", '{"a": [1]}'), ["header, run.a", "a string, a number"]),
        (put("run", '{"a": 1e999}'), ["header, run.a"]),
        (put("run", "[[[[1]]]]"), ["header, run", "nested too deep"]),
        (put("history", "[[1, 2, 3.0]]"), ["header, history: expected a list of 5"]),
        (put("history", "[[1, 2, true, 0.5, null]]"), ["header, history", "decimal point"]),
        (put("best_loss", "1"), ["header, best_loss"]),
        (put("best_loss", '"nan"'), ["header, best_loss", "finite"]),
        (put("best_loss", "1e999"), ["header, best_loss", "finite"]),
        (edit("model", hidden_size=10**9), ["readout.weight is float32", "expected"]),
        (edit("model", hidden_size=0), ["header, model.hidden_size", "1 .."]),
        (edit("model", hidden_size=5.0), ["header, model.hidden_size"]),
        (edit("model", num_layers=10**9), ["1000000000 layers"]),
        (edit("model", cell="cnn"), ["header, model.cell", "'rnn', 'gru', 'lstm'"]),
        (edit("model", dtype="float16"), ["header, model.dtype"]),
        (edit("model", dropout=2.0), ["dropout", "[0, 1)"]),
        (edit("model", vocab_size=True), ["header, model.vocab_size"]),
        (edit("vocabulary", tokens=["a"]), ["vocabulary: 1 tokens for vocab_size 12"]),
        (edit("vocabulary", tokens=["a"] * 12), ["distinct"]),
        (edit("vocabulary", tokens=[1] * 12), ["header, vocabulary.tokens", "a string"]),
        (edit("optimizer", name="Lion"), ["header, optimizer", "SGD"]),
        (edit("optimizer", lr=-1.0), ["lr", "[0, inf)"]),
        (edit("optimizer", momentum=0.5), ["header, optimizer", "unexpected"]),
        (edit("optimizer", betas="x"), ["betas"]),
        (edit("position", batch=0), ["middle of an epoch"]),
        (edit("position", batch=-1), ["header, position.batch"]),
        (edit("position", batch=99), ["batch 99"]),
        (edit("position", sequences=None), ["unexpected 'state.0'"]),
        (edit("generator", epoch=None), ["middle of an epoch"]),
        (edit("generator", now={"bit_generator": "MT19937"}), ["header, generator.now"]),
        (edit("text", sha256=None), ["header, text.sha256"]),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, words):
    path = tmp_path / "a.safetensors"
    save(path, trained(3))
    rewritten(path, change)
    with pytest.raises(weights.WeightsFileError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(str(caught.value)) < 700


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    path = tmp_path / "a"
    one = trained(3)
    save(path, one)
    before = path.read_bytes()
    numbers = nprnn.Vocabulary(range(12))
    mersenne = {"bit_generator": "MT19937"}
    for change, error, words in [
        ({"vocabulary": numbers}, TypeError, "vocabulary must have tokens"),
        ({"run": {"a": math.nan}}, ValueError, "JSON"),
        ({"position": Position(rng=mersenne)}, ValueError, "generator"),
        ({"optimizer": object()}, TypeError, "optimizer must be one of"),
    ]:
        broken = Checkpoint(**{**vars(one), **change})
        if "optimizer" in change:
            broken.optimizer = type("Mine", (optim.SGD,), {})(one.model.params, 0.1)
        with pytest.raises(error, match=words):
            save(path, broken)
        assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_keeps_some_and_cleans_up(tmp_path):
    home = tmp_path / "new" / "folder"
    folder = Folder(home, keep=2)
    left_over, other = home / ".weights-0123456789abcdef.tmp", home / "notes.txt"
    left_over.write_bytes(b"")
    other.write_bytes(b"")
    folder = Folder(home, keep=2)
    assert os.listdir(home) == ["notes.txt"]
    one = trained(1)
    for step in range(1, 6):
        go_on(one, step)
        assert folder.save(one) == latest(home)
    assert sorted(os.listdir(home)) == [
        "notes.txt",
        *(f"step-{s:08}.safetensors" for s in (3, 4, 5)),
    ]
    folder.save_best(one)
    assert latest(home).name == "step-00000005.safetensors"
    none = Folder(home, keep=0)
    go_on(one, 6)
    none.save(one)
    assert [path.name for path in checkpoints.numbered(home)] == ["step-00000006.safetensors"]


def test_which_checkpoint_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="nprnn train FILE"):
        latest()
    one = trained(2)
    first, second = Folder("b").save(one), Folder("a").save(one)
    os.utime(first, ns=(1, 1))
    assert latest() == second
    os.utime(second, ns=(0, 0))
    assert latest() == first
    assert latest("a") == second
    assert latest(second) == second
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty: the folder holds no checkpoint"):
        latest("empty")
    assert Folder("empty").save_best(one) == latest("empty")


def test_a_position_between_epochs_and_by_epoch():
    """Reported by the epoch, training stands at its end, and goes on from there."""
    one, whole = trained(0), trained(0)
    expected = go_on(whole, 30)
    options = {"batch_size": 3, "num_steps": 10, "epochs": 3, "lr": 0.01}
    records = nprnn.train(
        one.model, one.vocabulary.encode(TEXT), optimizer=one.optimizer, position=one.position,
        **options,
    )  # fmt: skip
    record = next(records)
    assert (one.position.epoch, one.position.batch) == (2, 0)
    assert record.step == one.position.step == one.optimizer.step_count
    assert go_on(one, 30) == expected[record.step :]
