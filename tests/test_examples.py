"""The scripts in examples/, run as a user runs them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import naive
import numpy as np
import pytest

import nprnn
from nprnn.gradcheck import check_gradients

EXAMPLES = Path(__file__).parents[1] / "examples"
if not EXAMPLES.exists():
    pytest.skip("runs in a checkout", allow_module_level=True)
sys.path.insert(0, str(EXAMPLES))
import rnn_from_scratch as scratch  # noqa: E402

TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
SMALL = ["--hidden-size", "16", "--epochs", "3", "--length", "40"]
OPTIONS = (
    "--cell --hidden-size --num-layers --dropout --batch-size --num-steps --optimizer --lr "
    "--schedule --max-norm --epochs --max-seconds --seed --prefix --length --temperature"
)
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(Path(nprnn.__file__).parents[1])]),
    "PYTHONIOENCODING": "utf-8",
}


def run(*arguments, script="train_text.py", **options):
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / script), *map(str, arguments)],
        capture_output=True,
        encoding="utf-8",
        env={**ENVIRONMENT, **options.pop("env", {})},
        stdin=subprocess.DEVNULL,
        timeout=120,
        **options,
    )


def rows(progress):
    """Return the rows of the table that training writes, cell by cell."""
    return [line.split() for line in re.findall(r"^ +\d+% .*", progress, re.MULTILINE)]


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text(TEXT, "utf-8")
    return path


def test_the_main_job(book):
    first, second = run(book, *SMALL, "--prefix", "the "), run(book, *SMALL, "--prefix", "the ")
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout  # the same seed
    assert run(book, *SMALL, "--seed", "1").stdout != first.stdout
    head, text = first.stdout.split("\n\n", 1)
    assert re.search(r"perplexity \d+\.\d+\nbits per character: this network \d.*zlib.*lzma", head)
    assert text.startswith("the ")
    assert len(text) == 4 + 40 + 1
    assert set(text) <= set(TEXT)
    assert "2,430 characters to train on, 270 held out" in first.stderr
    assert "warning: 2,430 characters" in first.stderr
    assert rows(first.stderr)[-1][:2] == ["100%", "3"]
    assert "\r" not in first.stderr
    assert "Traceback" not in first.stderr


@pytest.mark.parametrize("length", [20, 25, 40, 90, 141, 300])
def test_tiny_texts_do_not_crash(tmp_path, length):
    path = tmp_path / "text"
    path.write_text((TEXT * 2)[:length], "utf-8")
    for extra in ([], ["--num-steps", "1000"], ["--batch-size", "1", "--num-steps", "1"]):
        result = run(path, "--hidden-size", "4", "--length", "5", "--max-seconds", "2", *extra)
        assert result.returncode == 0, result.stderr
        assert "bits per character" in result.stdout


@pytest.mark.parametrize(
    "options",
    [
        "--cell gru --optimizer adamw --schedule exponential",
        "--cell lstm --num-layers 2 --dropout 0.2 --optimizer rmsprop --schedule step",
        "--cell rnn --optimizer adagrad --schedule constant",
        "--cell lstm --optimizer sgd --schedule cosine",
    ],
)
def test_cells_optimizers_and_schedules(book, options):
    small = ["--hidden-size", "24", "--epochs", "60", "--length", "20", "--max-seconds", "60"]
    result = run(book, *small, *options.split())
    assert result.returncode == 0, result.stderr
    assert options.split()[1] in result.stderr
    uniform = len(set(TEXT))
    assert float(re.search(r"perplexity ([\d.]+)$", result.stdout, re.M)[1]) < 0.7 * uniform


def test_a_run_out_of_time_says_so(book):
    result = run(book, "--max-seconds", "0.3", "--length", "5", "--epochs", "10000")
    assert "the 0.3 s are over" in result.stderr


def test_validation_perplexity_falls_and_beats_guessing(book):
    result = run(
        book, "--hidden-size", "32", "--lr", "0.02", "--length", "9", "--max-seconds", "20"
    )
    table = rows(result.stderr)
    assert float(table[-1][5]) < 2 < 10 < float(table[0][3])


@pytest.mark.parametrize(
    "text",
    [
        "人之初性本善，性相近习相远。" * 40,
        "مرحبا بالعالم " * 60,
        "😀😃 👩‍👩‍👧 🎉\n" * 50,
        "a" * 400,
    ],
)
def test_any_script_works(tmp_path, text):
    path = tmp_path / "text"
    path.write_text(text, "utf-8")
    result = run(path, *SMALL)
    assert result.returncode == 0, result.stderr
    assert set(result.stdout.split("\n\n", 1)[1].rstrip("\n")) <= set(text)
    narrow = run(path, *SMALL, env={"PYTHONIOENCODING": "ascii"})
    assert narrow.returncode == 0, narrow.stderr


def test_the_default_text_needs_no_file():
    assert run("--max-seconds", "0.5", "--length", "5", "--hidden-size", "8").returncode == 0
    assert len(nprnn.read_text()) > 300_000


def test_help_shows_the_defaults():
    result = run("--help", env={"COLUMNS": "80"})
    assert result.returncode == 0
    for option in OPTIONS.split():
        words = " ".join(result.stdout.split())
        assert re.search(rf"{option} [A-Z]+ [^(]*\(default: ", words), option
    assert max(map(len, result.stdout.split("\n"))) <= 80


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (b"", [], "is empty"),
        (b"short", [], "too short: 5 characters"),
        (b"a\xff" * 50, [], "is not UTF-8: byte 0xff at position 1"),
        (b"binary\0" * 50, [], "not a text: it has a NUL byte at position 6"),
        (TEXT.encode("utf-16"), [], "UTF-16"),
        (
            TEXT.encode(),
            ["--prefix", "Zé"],
            "--prefix has characters that the network has not seen: 'Z', 'é'",
        ),
        (TEXT.encode(), ["--hidden-size", "0"], "--hidden-size: must be at least 1, got 0"),
        (TEXT.encode(), ["--hidden-size", "-3"], "--hidden-size: must be at least 1, got -3"),
        (TEXT.encode(), ["--batch-size", "x"], "--batch-size: expected a whole number, got 'x'"),
        (TEXT.encode(), ["--num-steps", "1.5"], "--num-steps: expected a whole number"),
        (TEXT.encode(), ["--cell", "cnn"], "--cell: invalid choice: 'cnn'"),
        (TEXT.encode(), ["--optimizer", "lion"], "--optimizer: invalid choice: 'lion'"),
        (TEXT.encode(), ["--schedule", "up"], "--schedule: invalid choice: 'up'"),
        (TEXT.encode(), ["--dropout", "1"], "--dropout: must be below 1, got 1"),
        (TEXT.encode(), ["--num-layers", "0"], "--num-layers: must be at least 1"),
        (TEXT.encode(), ["--lr", "0"], "--lr: must be above 0"),
        (TEXT.encode(), ["--lr", "nan"], "--lr: must be a number of at least 0, got nan"),
        (TEXT.encode(), ["--max-norm", "-1"], "--max-norm"),
        (TEXT.encode(), ["--epochs", "0"], "--epochs: must be at least 1"),
        (TEXT.encode(), ["--max-seconds", "inf"], "--max-seconds"),
        (TEXT.encode(), ["--seed", "-1"], "--seed: must be at least 0"),
        (TEXT.encode(), ["--length", "-1"], "--length"),
        (TEXT.encode(), ["--temperature", "-0.5"], "--temperature"),
        (TEXT.encode(), ["--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(tmp_path, content, arguments, words):
    path = tmp_path / "text"
    path.write_bytes(content)
    result = run(path, *arguments)
    assert result.returncode == 2
    assert words in result.stderr.replace("\n", " ")
    assert result.stderr.count("error:") == 1
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert path.read_bytes() == content


def test_files_that_cannot_be_read(tmp_path):
    for path, words in [
        (tmp_path / "nowhere", "No such file"),
        (tmp_path, "directory" if os.name != "nt" else "ermission"),
    ]:
        result = run(path)
        assert result.returncode == 2
        assert words in result.stderr
        assert str(path) in result.stderr.replace("\\\\", "\\")
        assert result.stderr.count("\n") == 1


def test_a_learning_rate_that_is_too_high_is_told(book):
    result = run(book, *SMALL, "--lr", "1e30")
    assert result.returncode == 0
    assert "worse than guessing; try a lower --lr" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals are sent the POSIX way")
def test_ctrl_c_stops_training_and_still_writes(book):
    command = [sys.executable, str(EXAMPLES / "train_text.py"), str(book), "--epochs", "100000"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, encoding="utf-8"
    )
    line = ""
    while not rows(line):
        line = process.stderr.readline()
        assert line
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "stopped" in err
    assert "Traceback" not in err
    assert "bits per character" in out


@pytest.mark.skipif(os.name == "nt", reason="pipes break the POSIX way")
def test_a_reader_that_goes_away_is_no_traceback(book):
    command = (
        f"'{sys.executable}' '{EXAMPLES / 'train_text.py'}' '{book}' --epochs 1 --hidden-size 8"
    )
    result = subprocess.run(
        f"{command} --length 100000 2>errors | head -c 10",
        shell=True,
        cwd=book.parent,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=60,
    )
    assert result.returncode == 0
    assert "Traceback" not in (book.parent / "errors").read_text("utf-8")


@pytest.fixture
def small_net():
    rng = np.random.default_rng(0)

    def get_params(vocab_size, num_hiddens, _):
        shapes = {"W_xh": (vocab_size, num_hiddens), "W_hh": (num_hiddens, num_hiddens)}
        shapes |= {"b_h": (num_hiddens,), "W_hq": (num_hiddens, vocab_size), "b_q": (vocab_size,)}
        return {name: rng.normal(0, 0.7, size) for name, size in shapes.items()}

    return scratch.RNNModelScratch(4, 3, get_params, scratch.init_rnn_state, scratch.rnn)


def test_the_network_from_scratch_is_the_definition(small_net):
    rng = np.random.default_rng(1)
    X, Y = rng.integers(0, 4, (2, 5, 6))  # (B, T)
    (H,) = state = (rng.normal(size=(5, 3)),)
    outputs, (final,) = small_net(X, state)
    p = small_net.params
    named = {
        "rnn.weight_ih_l0": p["W_xh"].T,
        "rnn.weight_hh_l0": p["W_hh"].T,
        "rnn.bias_ih_l0": p["b_h"],
        "rnn.bias_hh_l0": np.zeros(3),
        "readout.weight": p["W_hq"].T,
        "readout.bias": p["b_q"],
    }
    expected, expected_state = naive.language_model_loss(named, X.T, Y.T, H[None], "tanh")
    loss, _, _ = small_net.loss_and_grads(X, Y, state)
    assert outputs.shape == (6 * 5, 4)
    assert loss == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(final, expected_state[0], atol=1e-12)


def test_every_gradient_from_scratch(small_net):
    rng = np.random.default_rng(1)
    X, Y = rng.integers(0, 4, (2, 5, 6))
    state = (rng.normal(size=(5, 3)),)
    _, grads, _ = small_net.loss_and_grads(X, Y, state)

    def loss(params):
        outputs, _ = scratch.rnn(nprnn.one_hot(X.T, 4), state, params)
        return nprnn.softmax_cross_entropy(outputs, Y.T.reshape(-1))[0]

    check_gradients(loss, small_net.params, grads, method="complex")
    check_gradients(loss, small_net.params, grads, method="central")


def test_the_state_goes_back_in_for_any_batch_size():
    net = scratch.RNNModelScratch(5, 8, scratch.get_params, scratch.init_rnn_state, scratch.rnn)
    for batch_size in (1, 2, 7):
        X = np.ones((batch_size, 3), int)
        outputs, state = net(X, net.begin_state(batch_size))
        again, state = net(X, state)
        assert outputs.shape == again.shape == (3 * batch_size, 5)
        assert outputs.dtype == np.float32
        assert len(state) == 1
        assert state[0].shape == (batch_size, 8)


def test_the_chapter_from_end_to_end(book):
    book.write_text(TEXT, "utf-8")
    arguments = ["--epochs", "40", "--num-hiddens", "32", "--concise-hiddens", "32"]
    result = run(book, *arguments, script="rnn_from_scratch.py")
    assert result.returncode == 0, result.stderr
    differences = re.findall(r"differ by at most (\S+) of", result.stdout)
    assert len(differences) == 2
    assert max(map(float, differences)) < 1e-4
    perplexities = re.findall(r"^perplexity (\S+), (\S+) tokens/sec$", result.stdout, re.MULTILINE)
    assert len(perplexities) == 3
    assert all(float(perplexity) < 20 for perplexity, _ in perplexities)


def test_the_chapter_refuses_with_a_sentence(tmp_path):
    for path, words in [(tmp_path / "nowhere", "No such file"), (tmp_path / "few", "too few")]:
        (tmp_path / "few").write_text("too few words", "utf-8")
        result = run(path, script="rnn_from_scratch.py")
        assert result.returncode == 2
        assert words in result.stderr
        assert "Traceback" not in result.stderr


def test_the_preprocessing_of_the_chapter():
    text = "The Time\nMachine, by H. G. Wells [1898]\n\n  I'm 3!\n"
    assert scratch.preprocess(text) == "the timemachine by h g wellsi m"
    corpus, vocab = scratch.load_corpus(text, 10)
    assert vocab.decode(corpus) == "the timema"
    assert vocab.tokens[0] == "<unk>"
