"""What nobody should pass, in one table: each is refused with its sentence, and nothing is lost.

A case is a name, what is done, and words of the sentence that comes. What is done is either a call,
which must raise, or a list of arguments for the command ``nprnn``, which must end with status 2.
"""

import codecs
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import nprnn
from nprnn import GRU, LSTM, RNN, LanguageModel, Vocabulary, checkpoint, cli, encoding, weights

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 20
X = np.zeros((4, 2, 3), np.float32)
IDS = np.zeros((4, 2), int)
RAGGED = [[0], [0, 1]]
OBJECTS = np.array([None, {}], object)
STRINGS = np.array(["a", "b"])
BAD_FILES = {
    "nowhere.txt": "cannot read 'nowhere.txt': No such file or directory",
    "folder": "cannot read 'folder': Is a directory",
    "empty.txt": "'empty.txt' is empty: there is nothing to learn from",
    "nul.txt": "'nul.txt' is not a text: it has a NUL byte at position 7",
    "utf16.txt": "NUL byte at position 3; if it is UTF-16, save it as UTF-8",
    "latin1.txt": "'latin1.txt' is not UTF-8: byte 0xe9 at position 3",
    "first.txt": "byte 0xff at position 0",
    "cut.txt": "byte 0xe2 at position 100",
    "overlong.txt": "byte 0xc0 at position 1",
    "surrogate.txt": "byte 0xed at position 2",
}
if hasattr(os, "mkfifo"):
    BAD_FILES["pipe"] = "'pipe' is not a regular file but a pipe or a device"
if os.path.exists("/dev/null"):
    BAD_FILES[os.devnull] = "is not a regular file but a pipe or a device"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with texts, good and bad, and a small network."""
    path = tmp_path_factory.mktemp("inputs")
    contents = {
        "book.txt": TEXT.encode(),
        "short.txt": b"short",
        "foreign.txt": "ünïcödé ¿? ".encode() * 50,
        "empty.txt": b"",
        "nul.txt": b"nothing\0" * 9,
        "utf16.txt": "a text".encode("utf-16"),
        "latin1.txt": "café, crème".encode("latin-1") * 9,
        "first.txt": b"\xff" + b"a" * 99,
        "cut.txt": b"a" * 100 + "€".encode()[:2],
        "overlong.txt": b"a\xc0\xaf" * 50,
        "surrogate.txt": b"ab\xed\xa0\x80" * 50,
    }
    for name, content in contents.items():
        (path / name).write_bytes(content)
    (path / "folder").mkdir()
    if "pipe" in BAD_FILES:
        os.mkfifo(path / "pipe")
    before = Path.cwd()
    os.chdir(path)
    try:
        settings = ["--hidden-size", "4", "--batch-size", "2", "--num-steps", "8", "--quiet"]
        arguments = ["train", "book.txt", *settings, "--steps", "2", "--checkpoint", "net"]
        assert cli.run(arguments) == 0
    finally:
        os.chdir(before)
    whole = checkpoint.latest(path / "net").read_bytes()
    (path / "damaged.safetensors").write_bytes(whole[:-9] + b"x" + whole[-8:])
    (path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    weights.save(path / "weights.safetensors", {"w": np.ones(3)})
    return path


def content(folder):
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def shared():
    """Return what the calls are made on, anew for each."""
    return SimpleNamespace(
        rnn=RNN(3, 5, rng=0),
        lstm=LSTM(3, 5, rng=0),
        both=GRU(3, 5, 2, bidirectional=True, rng=0),
        cell=nprnn.GRUCell(3, 5, rng=0),
        linear=nprnn.Linear(3, 2, rng=0),
        embedding=nprnn.Embedding(4, 3, rng=0),
        model=LanguageModel(3, 4, rng=0),
        tagger=nprnn.SequenceTagger(3, 4, 2, rng=0),
        params={"w": np.ones((2, 3), np.float32)},
        grads={"w": np.ones((2, 3), np.float32)},
    )


def arrays_of(one):
    """Return copies of all parameters."""
    owners = [vars(one).get(name) for name in vars(one)]
    dicts = [getattr(owner, "params", owner) for owner in owners]
    return [{name: np.array(value) for name, value in each.items()} for each in dicts]


def sgd(s, **options):
    return nprnn.SGD(s.params, **{"lr": 0.1, **options})


def train(s, **options):
    tokens = options.pop("tokens", np.zeros(40, int))
    return nprnn.train(s.model, tokens, **{"batch_size": 2, "num_steps": 5, **options})


def changing(s):
    """Read a file that somebody writes to at the same time."""
    path = s.scratch / "log.txt"
    path.write_text("a line\n" * 9)
    honest = codecs.getincrementaldecoder

    def meddling(name):
        with path.open("a") as file:
            file.write("another line\n")
        return honest(name)

    s.monkeypatch.setattr(encoding.codecs, "getincrementaldecoder", meddling)
    return path


def vanishing(s):
    """Read a file that somebody removes between the first and the second time."""
    path = s.scratch / "gone.txt"
    path.write_text("a line\n" * 9)
    honest = encoding.count_characters

    def meddling(blocks):
        counts = honest(blocks)
        path.unlink()
        return counts

    s.monkeypatch.setattr(encoding, "count_characters", meddling)
    return path


def locked(s):
    def refuse(name, flags):
        raise PermissionError(13, "Permission denied", name)

    s.monkeypatch.setattr(encoding, "_open_at_once", refuse)
    return "book.txt"


CASES = {
    # Encoding
    "one_hot beyond": (lambda s: nprnn.one_hot([5], 3), "indices must be integers in 0 .. num_cl"),
    "one_hot negative": (lambda s: nprnn.one_hot([-1], 3), "= 2, got -1"),
    "one_hot float": (lambda s: nprnn.one_hot([0.5], 3), "indices must be an array of integers"),
    "one_hot string": (lambda s: nprnn.one_hot(["a"], 3), "indices must be an array of numbers"),
    "one_hot complex": (lambda s: nprnn.one_hot([1j], 3), "integers, got dtype complex128"),
    "one_hot ragged": (lambda s: nprnn.one_hot(RAGGED, 3), "indices must be an array, got list"),
    "one_hot of none": (lambda s: nprnn.one_hot([0], 0), "num_classes must be at least 1, got 0"),
    "one_hot of 2.5": (lambda s: nprnn.one_hot([0], 2.5), "num_classes must be an integer, got 2"),
    "one_hot of True": (lambda s: nprnn.one_hot([0], True), "must be an integer, got True"),
    "one_hot dtype": (lambda s: nprnn.one_hot([0], 2, "no"), "dtype must be one of NumPy's"),
    "vocabulary of a number": (lambda s: Vocabulary(5), "tokens must be a str or an iterable"),
    "vocabulary min_freq": (lambda s: Vocabulary("ab", min_freq=0), "min_freq must be at least 1"),
    "vocabulary min_freq text": (lambda s: Vocabulary("ab", min_freq="2"), "min_freq must be an i"),
    "vocabulary reserved": (lambda s: Vocabulary("ab", reserved="xy"), "reserved must be a seq"),
    "vocabulary twice": (lambda s: Vocabulary("a", unknown="x", reserved=["x"]), "distinct tokens"),
    "encode unknown": (lambda s: Vocabulary("ab").encode("abc"), "'c' (U+0063) at position 2"),
    "encode one more": (lambda s: Vocabulary("a").encode("a" * 99 + "b"), "'b' (U+0062) at positi"),
    "encode number": (lambda s: Vocabulary("ab").encode(5), "text must be a str or an iterable"),
    "encode nothing known": (lambda s: Vocabulary("").encode("a"), "not among the 0 of the vocab"),
    "decode beyond": (lambda s: Vocabulary("ab").decode([2]), "ids must be integers in 0 .. len("),
    "decode grid": (lambda s: Vocabulary("ab").decode([[0]]), "ids must have shape (number of"),
    "decode float": (lambda s: Vocabulary("ab").decode([0.5]), "ids must be an array of integers"),
    "decode objects": (lambda s: Vocabulary("ab").decode(OBJECTS), "numbers, got dtype object"),
    "read a number": (lambda s: nprnn.read_text(5), "path must be a str or path-like, got int"),
    "read a NUL path": (lambda s: nprnn.read_text("a\0b"), "path must not hold a NUL character"),
    "read errors": (lambda s: nprnn.read_text("book.txt", errors="ignore"), "'strict', 'replace'"),
    "read while written": (lambda s: nprnn.read_text(changing(s)), "changed while it was read"),
    "encode while written": (lambda s: nprnn.encode_file(changing(s)), "changed while it was read"),
    "encode vanishing": (lambda s: nprnn.encode_file(vanishing(s)), "gone.txt': No such file or d"),
    "read locked": (lambda s: nprnn.read_text(locked(s)), "'book.txt': Permission denied"),
    "encode locked": (lambda s: nprnn.encode_file(locked(s)), "'book.txt': Permission denied"),
    "encode_file words": (
        lambda s: nprnn.encode_file("book.txt", Vocabulary(["two", "words"])),
        "vocabulary must be one of characters",
    ),
    "encode_file unknown": (
        lambda s: nprnn.encode_file("book.txt", Vocabulary("the ")),
        "the unknown character 'q' (U+0071) at position 4",
    ),
    "encode_file errors": (lambda s: nprnn.encode_file("book.txt", errors=0), "errors must be one"),
    # Batches
    "batches grid": (lambda s: nprnn.sequential_batches(IDS, 1, 1), "tokens must have shape (N,)"),
    "batches floats": (lambda s: nprnn.random_batches(X[0, 0], 1, 1), "tokens must be an array of"),
    "batches few": (lambda s: nprnn.sequential_batches(range(5), 2, 3), "tokens has 5, too few"),
    "batches of 0": (lambda s: nprnn.random_batches(range(9), 0, 1), "batch_size must be at least"),
    "batches steps": (lambda s: nprnn.random_batches(range(9), 1, 1.5), "num_steps must be an int"),
    "batches start": (
        lambda s: list(nprnn.sequential_batches(range(9), 1, 1, start=-1)),
        "start must be at least 0, got -1",
    ),
    "batches rng": (lambda s: nprnn.random_batches(range(9), 1, 1, rng="x"), "rng must be a numpy"),
    # Layers: construction
    "layer input": (lambda s: RNN(0, 5), "input_size must be at least 1, got 0"),
    "layer hidden": (lambda s: GRU(3, "8"), "hidden_size must be an integer, got '8'"),
    "layer layers": (lambda s: LSTM(3, 5, 1.5), "num_layers must be an integer, got 1.5"),
    "layer nonlinearity": (lambda s: RNN(3, 5, nonlinearity="sin"), "one of 'tanh', 'relu'; got"),
    "layer dropout 1": (lambda s: RNN(3, 5, 2, dropout=1), "dropout must be a number in [0, 1)"),
    "layer dropout NaN": (lambda s: RNN(3, 5, 2, dropout=np.nan), "number in [0, 1), got nan"),
    "layer dropout complex": (lambda s: RNN(3, 5, 2, dropout=1j), "dropout must be a real number"),
    "layer bias": (lambda s: GRU(3, 5, bias="yes"), "bias must be True or False, got 'yes'"),
    "layer dtype": (lambda s: GRU(3, 5, dtype=int), "numpy.float32 or numpy.float64, got int64"),
    "layer half": (lambda s: GRU(3, 5, dtype="float16"), "or numpy.float64, got float16"),
    "layer rng": (lambda s: GRU(3, 5, rng=-1), "rng must be at least 0, got -1"),
    "layer rng float": (lambda s: GRU(3, 5, rng=1.5), "rng must be a numpy.random.Generator or a"),
    "layer forget": (lambda s: LSTM(3, 5, forget_bias=np.inf), "forget_bias must be a number in"),
    "layer init": (lambda s: RNN(3, 5, recurrent_init="zeros"), "recurrent_init must be one of"),
    # Layers: calls
    "x width": (lambda s: s.rnn(X[..., :2]), "x must have shape (T, B, I=3) or, without a batch"),
    "x flat": (lambda s: s.rnn(X[0, 0]), "x must have shape"),
    "x deep": (lambda s: s.lstm(X[None]), "x must have shape"),
    "x double": (lambda s: s.rnn(X.astype(float)), "x has dtype float64, the parameters float32"),
    "x half": (lambda s: s.rnn(X.astype(np.float16)), "float32 or float64, got dtype float16"),
    "x object": (lambda s: s.rnn(X.astype(object)), "x must be an array of numbers, got dtype obj"),
    "x string": (lambda s: s.rnn(X.astype(str)), "x must be an array of numbers, got dtype <U"),
    "x bool": (lambda s: s.rnn(X > 0), "x must be an array of float32 or float64, got dtype bool"),
    "x ragged": (lambda s: s.rnn(RAGGED), "x must be an array, got list"),
    "x None": (lambda s: s.rnn(None), "x must be an array of numbers, got dtype object"),
    "x no steps": (lambda s: s.rnn(X[:0]), "x must have at least one time step; got shape (0, 2"),
    "ids beyond": (lambda s: s.rnn(IDS + 3), "x must be integers in 0 .. input_size-1 = 2, got 3"),
    "ids negative": (lambda s: s.rnn(IDS - 1), "x must be integers in 0 .. input_size-1 = 2, got"),
    "ids deep": (lambda s: s.rnn(IDS[None]), "integers are classes: for numbers pass x.astype"),
    "state batch": (lambda s: s.rnn(X, X[:1, :1]), "state must have shape (L*D=1, B=2, H=5); got"),
    "state layers": (lambda s: s.both(X, np.zeros((2, 2, 5), "f")), "state must have shape (L*D=4"),
    "state double": (lambda s: s.rnn(X, np.zeros((1, 2, 5))), "state has dtype float64, the param"),
    "state integers": (lambda s: s.rnn(X, np.zeros((1, 2, 5), int)), "state must be an array of f"),
    "state single": (lambda s: s.lstm(X, np.zeros((1, 2, 5), "f")), "state must be a tuple of 2"),
    "state three": (lambda s: s.lstm(X, (None,) * 3), "state must be a tuple of 2 arrays, such as"),
    "lengths floats": (lambda s: s.rnn(X, lengths=[1.0, 2.0]), "lengths must be integers, got dt"),
    "lengths long": (lambda s: s.rnn(X, lengths=[1, 5]), "lengths must be in 0 .. T=4, got 1 to 5"),
    "lengths negative": (lambda s: s.rnn(X, lengths=[-1, 2]), "lengths must be in 0 .. T=4, got -"),
    "lengths many": (lambda s: s.rnn(X, lengths=[1, 2, 3]), "lengths must have shape (B=2,); got"),
    "lengths unbatched": (lambda s: s.rnn(X[:, 0], lengths=[2]), "lengths need a batch"),
    "backward cache": (lambda s: s.rnn.backward(None, None, 5), "cache must be what forward retur"),
    "backward other cache": (
        lambda s: s.rnn.backward(None, None, s.both.forward(X)[2]),
        "cache must come from this layer",
    ),
    "backward d_output": (
        lambda s: s.rnn.backward(X, None, s.rnn.forward(X)[2]),
        "d_output must have shape of the output, (4, 2, 5); got (4, 2, 3)",
    ),
    "backward d_state": (
        lambda s: s.rnn.backward(None, np.zeros((1, 2, 5)), s.rnn.forward(X)[2]),
        "d_state has dtype float64, the parameters float32",
    ),
    "cell width": (lambda s: s.cell(X[0, :, :2]), "x must have shape"),
    "cell state": (lambda s: s.cell(X[0], X[0]), "state must have shape"),
    "params missing": (lambda s: s.rnn.with_params({}), "missing weight_ih_l0 (5, 3)"),
    "params list": (lambda s: s.rnn.with_params([X]), "params must be a dict of arrays, got list"),
    "params more": (lambda s: s.rnn.with_params(s.rnn.params | {"w": X}), "unexpected w"),
    "params shape": (
        lambda s: s.rnn.with_params(s.rnn.params | {"bias_ih_l0": X}),
        "bias_ih_l0 has shape (4, 2, 3), expected (5,)",
    ),
    "params mixed": (
        lambda s: s.rnn.with_params(s.rnn.params | {"bias_ih_l0": np.zeros(5)}),
        "float32 and float64 are mixed",
    ),
    "params objects": (
        lambda s: s.rnn.with_params(s.rnn.params | {"bias_ih_l0": OBJECTS}),
        "params['bias_ih_l0'] must be an array of numbers",
    ),
    "linear width": (lambda s: s.linear(X[..., :2]), "x must have shape (..., in_features=3)"),
    "linear integers": (lambda s: s.linear(IDS), "x must be an array of float32 or float64"),
    "linear scalar": (lambda s: s.linear(np.float32(1)), "x must have shape (..., in_features=3)"),
    "linear backward": (
        lambda s: s.linear.backward(X, s.linear.forward(X)[1]),
        "d_y must have shape of y, (4, 2, 2); got (4, 2, 3)",
    ),
    "embedding beyond": (lambda s: s.embedding([4]), "ids must be integers in 0 .. num_embeddings"),
    "embedding floats": (lambda s: s.embedding([0.5]), "ids must be an array of integers"),
    "embedding backward": (
        lambda s: s.embedding.backward(X, s.embedding.forward([0])[1]),
        "d_vectors must have shape of the vectors, (1, 3); got (4, 2, 3)",
    ),
    # Losses
    "entropy integers": (lambda s: nprnn.softmax_cross_entropy(IDS, [0]), "logits must be an arra"),
    "entropy scalar": (lambda s: nprnn.softmax_cross_entropy(1.0, 0), "logits must have shape (.."),
    "entropy targets": (lambda s: nprnn.softmax_cross_entropy(X, [0]), "targets must have shape l"),
    "entropy class": (
        lambda s: nprnn.softmax_cross_entropy(X, IDS + 3),
        "targets must be integers in 0 .. V-1 = 2, got 3",
    ),
    "entropy floats": (lambda s: nprnn.softmax_cross_entropy(X, X[..., 0]), "targets must be an a"),
    "entropy mask": (lambda s: nprnn.softmax_cross_entropy(X, IDS, [1]), "mask must have shape (4"),
    "entropy mask 2": (lambda s: nprnn.softmax_cross_entropy(X, IDS, IDS + 2), "only True and Fal"),
    "entropy mask 0": (lambda s: nprnn.softmax_cross_entropy(X, IDS, IDS), "mask leaves no positi"),
    "entropy nothing": (lambda s: nprnn.softmax_cross_entropy(X[:0], IDS[:0]), "no positions (sha"),
    "squares shape": (lambda s: nprnn.mean_squared_error(X, X[0]), "target must have shape predic"),
    "squares dtype": (lambda s: nprnn.mean_squared_error(X, X.astype(float)), "target has dtype f"),
    "squares strings": (lambda s: nprnn.mean_squared_error(STRINGS, STRINGS), "prediction must be"),
    # Clipping and optimizers
    "clip norm 0": (lambda s: nprnn.clip_grad_norm(s.grads, 0), "max_norm must be a number in (0,"),
    "clip norm NaN": (lambda s: nprnn.clip_grad_norm(s.grads, np.nan), "(0, inf], got nan"),
    "clip norm text": (lambda s: nprnn.clip_grad_norm(s.grads, "1"), "max_norm must be a real num"),
    "clip value": (lambda s: nprnn.clip_grad_value(s.grads, -1), "clip_value must be a number in"),
    "clip list": (lambda s: nprnn.clip_grad_norm([1.0], 1), "grads must be a dict of arrays, got "),
    "clip integers": (lambda s: nprnn.clip_grad_norm({"w": IDS}, 1), "ndarray of floats, got int6"),
    "clip NaN": (
        lambda s: nprnn.clip_grad_norm(s.grads | {"b": np.array([1, np.nan])}, 1),
        "grads['b'] has 1 of 2 entries not finite, the first at (1,): nan",
    ),
    "optimizer lr": (lambda s: sgd(s, lr=-1), "lr must be a number in [0, inf), got -1"),
    "optimizer lr NaN": (lambda s: nprnn.Adam(s.params, lr=np.nan), "lr must be a number in [0, i"),
    "optimizer betas": (lambda s: nprnn.Adam(s.params, betas=(1.0, 0.9)), "[0, 1), got 1"),
    "optimizer params": (lambda s: nprnn.SGD([X], 0.1), "params must be a dict of arrays, got lis"),
    "optimizer kinds": (lambda s: nprnn.SGD({"w": IDS}, 0.1), "params['w'] must be an ndarray of "),
    "step missing": (lambda s: sgd(s).step({}), "grads do not fit the parameters: missing w"),
    "step more": (lambda s: sgd(s).step(s.grads | {"b": X}), "unexpected b"),
    "step dtype": (lambda s: sgd(s).step({"w": np.ones((2, 3))}), "must be float32 like its param"),
    "step shape": (lambda s: sgd(s).step({"w": X}), "grads['w'] must have shape (2, 3); got (4"),
    "step complex": (lambda s: sgd(s).step({"w": s.grads["w"] * 1j}), "must be float32 like its"),
    "step list": (lambda s: sgd(s).step({"w": [[1.0]]}), "must be float32 like its parameter"),
    "state dict": (lambda s: sgd(s, momentum=0.9).load_state_dict({}), "missing step ()"),
    # Models
    "model cell": (lambda s: LanguageModel(3, 4, cell="cnn"), "cell must be one of 'rnn', 'gru', "),
    "model tied": (lambda s: LanguageModel(3, 4, tie_weights=True), "needs embedding_size=hidden_"),
    "model option": (lambda s: LanguageModel(3, 4, cell="gru", nonlinearity="relu"), "belongs to "),
    "model vocabulary": (lambda s: LanguageModel(0, 4), "vocab_size must be at least 1, got 0"),
    "model inputs": (lambda s: s.model.loss_and_grads(X, IDS), "inputs must have shape (T, B)"),
    "model targets": (lambda s: s.model.loss_and_grads(IDS, IDS[0]), "targets must have shape log"),
    "model class": (lambda s: s.model.loss(IDS, IDS + 3), "targets must be integers in 0 .. V-1"),
    "model recompute": (
        lambda s: s.model.loss_and_grads(IDS, IDS, recompute_every=0),
        "recompute_every must be at least 1, got 0",
    ),
    "tagger mask": (lambda s: s.tagger.loss(X, IDS, lengths=[1, 2], mask=[1]), "mask must have sh"),
    "prefix beyond": (lambda s: s.model.generate([3]), "prefix must be integers in 0 .. vocab_siz"),
    "prefix grid": (lambda s: s.model.generate([[0]]), "prefix must have shape (number of tokens,"),
    "prefix text": (lambda s: s.model.generate("abc"), "prefix must be an array of numbers"),
    "temperature": (lambda s: s.model.generate([0], temperature=-1), "temperature must be a numbe"),
    "temperature NaN": (lambda s: s.model.generate([0], temperature=np.nan), "[0, inf), got nan"),
    "top_k": (lambda s: s.model.generate([0], top_k=0), "top_k must be at least 1, got 0"),
    "top_p": (lambda s: s.model.generate([0], top_p=1.5), "top_p must be a number in (0, 1], got "),
    # Training
    "train few": (lambda s: train(s, tokens=[0, 1]), "tokens has 2, too few for one batch"),
    "train ids": (lambda s: train(s, tokens=[3] * 40), "tokens must be integers in 0 .. vocab_siz"),
    "train floats": (lambda s: train(s, tokens=[0.5] * 40), "tokens must be an array of integers"),
    "train model": (lambda s: nprnn.train(s.rnn, [0] * 40), "model must be a LanguageModel, got R"),
    "train norm": (lambda s: train(s, max_norm=0), "max_norm must be a number in (0, inf], got 0"),
    "train norm NaN": (lambda s: train(s, max_norm=np.nan), "max_norm must be a number in (0, inf"),
    "train order": (lambda s: train(s, order="sorted"), "order must be one of 'sequential', 'rand"),
    "train nonfinite": (lambda s: train(s, on_nonfinite="skip"), "on_nonfinite must be one of 'ra"),
    "train optimizer": (lambda s: train(s, optimizer="adam"), "optimizer must have a method step"),
    "train seconds": (lambda s: train(s, max_seconds=-1), "max_seconds must be a number in (0, in"),
    "evaluate": (lambda s: nprnn.evaluate(s.model, [0]), "tokens must have shape (N,), N at least"),
    # Files of weights
    "load a text": (lambda s: weights.load("book.txt"), "book.txt: "),
    "load nothing": (lambda s: weights.load("nowhere"), "No such file or directory"),
    "load half": (lambda s: checkpoint.load("half.safetensors"), "half.safetensors: "),
    "load damaged": (lambda s: checkpoint.load("damaged.safetensors"), "it was damaged"),
    "load weights": (lambda s: checkpoint.load("weights.safetensors"), "no checkpoint of nprnn, b"),
    "latest of none": (lambda s: checkpoint.latest("folder"), "folder: the folder holds no checkp"),
    # The command line: files
    **{f"read {name}": (lambda s, n=name: nprnn.read_text(n), w) for name, w in BAD_FILES.items()},
    **{f"encode {name}": (lambda s, n=name: nprnn.encode_file(n), w)
       for name, w in BAD_FILES.items()},
    **{f"train {name}": (["train", name], w) for name, w in BAD_FILES.items()},
    **{f"score {name}": (["score", "net", name], w) for name, w in BAD_FILES.items()},
    **{f"resume {name}": (["train", name, "--resume", "--checkpoint", "net"], w)
       for name, w in BAD_FILES.items()},
    "replaced NUL": (["train", "nul.txt", "--errors", "replace"], "has a NUL byte at position 7"),
    "replaced and short": (["train", "surrogate.txt", "--errors", "replace", "--init-from", "net"],
                           "has characters that the network has not seen: '�'"),
    "train short": (["train", "short.txt"], "the text is too short: 5 characters, where at least "),
    "train nothing": (["train"], "which text? nprnn train FILE"),
    "score foreign": (["score", "net", "foreign.txt"], "foreign.txt has characters that the netwo"),
    "score nothing left": (["score", "net", "foreign.txt", "--unknown", "skip", "--passages", "-1"],
                           "--passages: must be at least 0"),
    "init foreign": (["train", "foreign.txt", "--init-from", "net"], "(--unknown skip leaves them"),
    "init text": (["train", "book.txt", "--init-from", "book.txt"], "book.txt: "),
    "init nowhere": (["train", "book.txt", "--init-from", "nowhere"], "nowhere: No such file"),
    "resume other": (["train", "foreign.txt", "--resume", "--checkpoint", "net"], "is not that of"),
    "resume cell": (["train", "--resume", "--checkpoint", "net", "--cell", "rnn"], "--cell rnn do"),
    "resume errors": (["train", "--resume", "--checkpoint", "net", "--errors", "replace"],
                      "--errors replace does not go with --resume"),
    "train again": (["train", "book.txt", "--checkpoint", "net"], "holds checkpoints already"),
    "train into a file": (["train", "book.txt", "--checkpoint", "short.txt"], "short.txt: File ex"),
    "sample nowhere": (["sample", "nowhere"], "nowhere: No such file or directory"),
    "sample text": (["sample", "book.txt"], "book.txt: "),
    "sample half": (["sample", "half.safetensors"], "half.safetensors: "),
    "sample damaged": (["sample", "damaged.safetensors"], "it was damaged"),
    "sample weights": (["sample", "weights.safetensors"], "no checkpoint of nprnn, but tensors al"),
    "sample folder": (["sample", "folder"], "folder: the folder holds no checkpoint"),
    "inspect nowhere": (["inspect", "nowhere"], "nowhere: No such file or directory"),
    "inspect text": (["inspect", "book.txt"], "book.txt: "),
    "inspect damaged": (["inspect", "damaged.safetensors"], "it was damaged"),
    # The command line: prefixes
    "prefix unknown": (["sample", "net", "--prefix", "été"], "--prefix has characters that the ne"),
    "prefix long": (["sample", "net", "--prefix", "the" * 999 + "É"], "has not seen: 'É' (--unkno"),
    "prefix NUL": (["sample", "net", "--prefix", "a\0b"], "has not seen: '\\x00'"),
    "prefix bytes": (["sample", "net", "--prefix", "\udcff"], "has not seen: '\\udcff'"),
    "prefix emoji": (["sample", "net", "--prefix", "a 🙂"], "has not seen: '🙂'"),
    # The command line: options
    **{f"{option} {value}": ([command, *file, option, value], f"{option}: {words}")
       for command, file, option, value, words in [
           ("train", ["book.txt"], "--hidden-size", "0", "must be at least 1, got 0"),
           ("train", ["book.txt"], "--hidden-size", "8.5", "expected a whole number, got '8.5'"),
           ("train", ["book.txt"], "--hidden-size", "", "expected a whole number, got ''"),
           ("train", ["book.txt"], "--num-layers", "-1", "must be at least 1, got -1"),
           ("train", ["book.txt"], "--batch-size", "many", "expected a whole number, got 'many'"),
           ("train", ["book.txt"], "--num-steps", "0", "must be at least 1, got 0"),
           ("train", ["book.txt"], "--cell", "cnn", "invalid choice: 'cnn'"),
           ("train", ["book.txt"], "--dropout", "1", "must be below 1, got 1"),
           ("train", ["book.txt"], "--dropout", "nan", "must be a number of at least 0, got nan"),
           ("train", ["book.txt"], "--lr", "0", "must be above 0, got 0"),
           ("train", ["book.txt"], "--lr", "inf", "must be a number of at least 0, got inf"),
           ("train", ["book.txt"], "--lr", "1e999", "must be a number of at least 0, got 1e999"),
           ("train", ["book.txt"], "--lr", "fast", "expected a number, got 'fast'"),
           ("train", ["book.txt"], "--max-norm", "0", "must be above 0, got 0"),
           ("train", ["book.txt"], "--max-norm", "nan", "must be a number of at least 0, got nan"),
           ("train", ["book.txt"], "--optimizer", "lion", "invalid choice: 'lion'"),
           ("train", ["book.txt"], "--schedule", "none", "invalid choice: 'none'"),
           ("train", ["book.txt"], "--order", "sorted", "invalid choice: 'sorted'"),
           ("train", ["book.txt"], "--seed", "-1", "must be at least 0, got -1"),
           ("train", ["book.txt"], "--epochs", "0", "must be at least 1, got 0"),
           ("train", ["book.txt"], "--steps", "1e3", "expected a whole number, got '1e3'"),
           ("train", ["book.txt"], "--max-seconds", "0", "must be above 0, got 0"),
           ("train", ["book.txt"], "--keep", "-1", "must be at least 0, got -1"),
           ("train", ["book.txt"], "--checkpoint-every", "0", "must be at least 1, got 0"),
           ("train", ["book.txt"], "--unknown", "guess", "invalid choice: 'guess'"),
           ("train", ["book.txt"], "--errors", "ignore", "invalid choice: 'ignore'"),
           ("train", ["book.txt"], "--on-nonfinite", "skip", "invalid choice: 'skip'"),
           ("train", ["book.txt"], "--max-rollbacks", "0", "must be at least 1, got 0"),
           ("sample", ["net"], "--length", "-1", "must be at least 0, got -1"),
           ("sample", ["net"], "--temperature", "-1", "must be a number of at least 0, got -1"),
           ("sample", ["net"], "--temperature", "hot", "expected a number, got 'hot'"),
           ("sample", ["net"], "--top-k", "0", "must be at least 1, got 0"),
           ("sample", ["net"], "--top-p", "1.5", "must be at most 1, got 1.5"),
           ("sample", ["net"], "--seed", "x", "expected a whole number, got 'x'"),
           ("sample", ["net"], "--samples", "0", "must be at least 1, got 0"),
           ("sample", ["net"], "--stop", "", "must not be empty"),
           ("sample", ["net"], "--unknown", "guess", "invalid choice: 'guess'"),
           ("score", ["net", "book.txt"], "--unknown", "", "invalid choice: ''"),
           ("score", ["net", "book.txt"], "--errors", "ignore", "invalid choice: 'ignore'"),
           ("score", ["net", "book.txt"], "--passages", "few", "expected a whole number, got 'few"),
       ]},
    "no command": ([], "the following arguments are required: COMMAND"),
    "other command": (["sing"], "invalid choice: 'sing'"),
    "other option": (["sample", "net", "--sing"], "unrecognized arguments: --sing"),
    "no value": (["sample", "net", "--length"], "expected one argument"),
}  # fmt: skip


def test_there_are_many():
    assert len(CASES) >= 250
    assert all(words for _, words in CASES.values())


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_with_its_sentence(name, folder, tmp_path, monkeypatch, capsys):
    action, words = CASES[name]
    monkeypatch.chdir(folder)
    files, one = content(folder), shared()
    before = arrays_of(one)
    if callable(action):
        with pytest.raises((ValueError, TypeError, OSError)) as caught:
            action(SimpleNamespace(**vars(one), scratch=tmp_path, monkeypatch=monkeypatch))
        said = str(caught.value)
        assert not isinstance(caught.value, UnicodeError), "Python's own message"
    else:
        said = refusal(action, capsys)
    assert words in said
    assert "\n" not in said.strip()
    assert content(folder) == files
    for arrays, kept in zip(arrays_of(one), before, strict=True):
        for key, value in kept.items():
            np.testing.assert_array_equal(arrays[key], value)


def refusal(arguments, capsys):
    """Run the command, which must refuse; return its sentence."""
    try:
        status = cli.run(arguments)
    except SystemExit as end:  # argparse
        status = end.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, "")
    assert "Traceback" not in err
    assert err.count("error: ") == 1
    return err.partition("error: ")[2]


# What is unusual, and good


def test_bom_and_line_ends_of_any_kind_make_no_difference(tmp_path):
    path = tmp_path / "text"
    for written in ("a\nb\nc\n", "\ufeffa\nb\nc\n", "a\r\nb\r\nc\r\n", "a\rb\rc\r", "a\r\nb\rc\n"):
        path.write_bytes(written.encode())
        assert nprnn.read_text(path) == "a\nb\nc\n"
    path.write_bytes(b"a\n\r\r\nb")
    assert nprnn.read_text(path) == "a\n\n\nb"


@pytest.mark.parametrize("size", [1, 2, 3, 1 << 20])
@pytest.mark.parametrize("name", ["latin1.txt", "first.txt", "cut.txt", "overlong.txt"])
def test_bytes_that_are_not_utf8_are_replaced_on_request(folder, monkeypatch, name, size):
    monkeypatch.setattr(encoding, "_BLOCK", size)
    path = folder / name
    wanted = path.read_bytes().decode("utf-8", "replace")
    assert nprnn.read_text(path, errors="replace") == wanted
    tokens, vocabulary = nprnn.encode_file(path, errors="replace")
    assert vocabulary.decode(tokens) == wanted


def run(capsys, *arguments):
    assert cli.run([*map(str, arguments)]) == 0
    return capsys.readouterr().out


SMALL = ["--hidden-size", "4", "--batch-size", "2", "--num-steps", "8", "--quiet"]


def test_training_with_replaced_bytes_goes_on_with_them(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = folder / "latin1.txt"
    same = ["train", text, *SMALL, "--checkpoint", "net"]
    run(capsys, *same, "--errors", "replace", "--steps", "3")
    run(capsys, "train", text, "--resume", "--checkpoint", "net", "--steps", "5", "--quiet")
    one = checkpoint.load(checkpoint.latest("net"))
    assert one.position.step == 5
    assert "�" in one.vocabulary.tokens
    assert "characters, the first" in run(capsys, "score", "net", text, "--errors", "replace")


def test_one_character_repeated_is_a_text(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("a" * 200)
    run(capsys, "train", "a.txt", *SMALL, "--steps", "3")
    long = "a" * 500  # longer than what it was trained on
    assert run(capsys, "sample", "a", "--length", "5", "--prefix", long) == long + "aaaaa\n"
    assert "0.0000 bits per character, perplexity 1" in run(capsys, "score", "a", "a.txt")
    model = LanguageModel(1, 4, rng=0)
    loss, grads, _ = model.loss_and_grads(np.zeros((5, 2), int), np.zeros((5, 2), int))
    assert loss == 0
    assert not any(gradient.any() for gradient in grads.values())
    ids = model.generate([], rng=0)
    assert [next(ids) for _ in range(3)] == [0, 0, 0]


def test_a_hundred_thousand_different_characters(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    points = [point for point in range(0x3400, 0x3400 + 102_048) if not 0xD800 <= point < 0xE000]
    text = "".join(map(chr, points))
    assert len(text) == 100_000
    Path("many.txt").write_text(text, "utf-8")
    tokens, vocabulary = nprnn.encode_file("many.txt")
    assert len(vocabulary) == len(set(tokens.tolist())) == 100_000
    assert vocabulary.decode(tokens) == text
    run(capsys, "train", "many.txt", "--hidden-size", "2", "--batch-size", "2", "--num-steps", "4",
        "--steps", "1", "--quiet", "--optimizer", "sgd")  # fmt: skip
    assert len(run(capsys, "sample", "many", "--length", "5")) == 6


@pytest.mark.parametrize("unknown", ["skip", "nearest"])
def test_unknown_characters_are_left_out_or_replaced_on_request(folder, capsys, unknown):
    network = folder / "net"
    out = run(capsys, "sample", network, "--prefix", "ÉtÉ🙂", "--unknown", unknown, "--length", "3")
    assert out.startswith("t" if unknown == "skip" else "ete")
    arguments = ["score", network, folder / "foreign.txt", "--unknown", unknown]
    assert "bits per character" in run(capsys, *arguments)
