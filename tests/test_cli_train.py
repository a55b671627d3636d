"""``nprnn train``, ``sample``, ``score`` and ``inspect``, as a user meets them."""

import argparse
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nprnn
from nprnn import _threads, checkpoint, cli, parts
from nprnn.commands import console, options, text_run
from nprnn.commands.characters import encode, nearest
from nprnn.commands.sample import continuation, until
from nprnn.commands.score import log_probabilities, surprising

COMMAND = [sys.executable, "-W", "error", "-m", "nprnn"]
PACKAGE = str(Path(nprnn.__file__).parents[1])
ENVIRONMENT = {**os.environ, "PYTHONPATH": PACKAGE, "PYTHONIOENCODING": "utf-8"}
TEXT = "the quick brown fox jumps over the lazy dog.\n" * 60
SMALL = ["--hidden-size", "16", "--batch-size", "4", "--num-steps", "20"]


@pytest.fixture
def book(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(TEXT, "utf-8")
    return "book.txt"


def run(capsys, *arguments):
    """Run the command in this process; nothing it writes may be a traceback."""
    try:
        status = cli.run(list(map(str, arguments)))
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return status, out, err


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def test_train_then_sample_with_no_other_option(book):
    ended = [
        subprocess.run([*COMMAND, *arguments], capture_output=True, encoding="utf-8",
                       env=ENVIRONMENT, timeout=120)
        for arguments in (["train", book, "--epochs", "2"], ["sample"])
    ]  # fmt: skip
    assert [each.returncode for each in ended] == [0, 0], ended
    trained, sampled = ended
    assert re.search(r"^best on held-out text: loss .*perplexity .*bits", trained.stdout)
    assert "checkpoint: book" in trained.stdout
    for words in (
        "2,430 characters",
        "29 different",
        "parameters",
        "an epoch",
        "uniform 29, unigram",
    ):
        assert words in trained.stderr
    assert all(len(line) <= 80 for line in trained.stderr.splitlines()), trained.stderr
    assert console.HEADING in trained.stderr
    assert "\x1b" not in trained.stderr + trained.stdout
    assert "  nprnn sample book" in trained.stderr
    assert len(sampled.stdout) == 500 + 1
    assert set(sampled.stdout) <= set(TEXT)


@pytest.mark.parametrize("order", ["sequential", "random"])
@pytest.mark.parametrize(
    "setting", ["rnn sgd", "rnn adamw", "gru rmsprop", "gru adam", "lstm adagrad", "lstm adam"]
)
def test_resume_is_bit_exact(book, capsys, order, setting):
    cell, optimizer = setting.split()
    same = [
        "train", book, *SMALL, "--order", order, "--cell", cell, "--optimizer", optimizer,
        "--num-layers", "2", "--dropout", "0.2", "--checkpoint-every", "20", "--quiet",
    ]  # fmt: skip
    assert run(capsys, *same, "--steps", "70", "--checkpoint", "whole")[0] == 0
    assert run(capsys, *same, "--steps", "40", "--checkpoint", "parts")[0] == 0
    assert run(capsys, *same, "--steps", "70", "--checkpoint", "parts", "--resume")[0] == 0
    assert content("whole") == content("parts")
    texts = [run(capsys, "sample", name, "--seed", "1")[1] for name in ("whole", "parts")]
    assert texts[0] == texts[1]


@pytest.mark.slow
@pytest.mark.parametrize("order", ["sequential", "random"])
@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rmsprop", "adam", "adamw"])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_200_steps_are_100_and_100_in_another_process(book, cell, optimizer, order):
    """All else than the number of steps comes from the checkpoint."""
    settings = [*SMALL, "--cell", cell, "--optimizer", optimizer, "--order", order]
    settings += ["--num-layers", "2", "--dropout", "0.2", "--checkpoint-every", "50"]
    command = ["train", book, "--checkpoint"]
    commands = [
        [*command, "whole", *settings, "--steps", "200"],
        [*command, "parts", *settings, "--steps", "100"],
        [*command, "parts", "--resume", "--steps", "200"],
        ["sample", "whole", "--seed", "1"],
        ["sample", "parts", "--seed", "1"],
    ]
    ended = [
        subprocess.run([*COMMAND, *each], env=ENVIRONMENT, check=True, capture_output=True)
        for each in commands
    ]
    assert content("whole") == content("parts")
    assert ended[3].stdout == ended[4].stdout
    assert len(ended[3].stdout) > 400


def test_resume_in_another_process_needs_no_options(book, capsys):
    settings = [*SMALL, "--cell", "lstm", "--epochs", "3"]
    run(capsys, "train", book, *settings, "--checkpoint", "whole")
    run(capsys, "train", book, *settings, "--max-seconds", "1e-9")
    assert checkpoint.latest("book").name == "step-00000001.safetensors"
    environment = {**ENVIRONMENT, "PYTHONHASHSEED": "7"}
    ended = subprocess.run([*COMMAND, "train", book, "--resume"], env=environment, check=True,
                           capture_output=True)  # fmt: skip
    assert b"going on with book" in ended.stderr
    last = checkpoint.latest("whole").name
    assert content("whole")[last] == content("book")[last]
    status, _, err = run(capsys, "train", book, "--resume", "--checkpoint", "book")
    assert (status, "nothing is left to do" in err) == (0, True)
    status, out, _ = run(capsys, "train", "--resume", "--epochs", "4", "--json")
    assert status == 0
    assert json.loads(out)["step"] > json.loads(out)["history"][0]["step"]


@pytest.mark.skipif(os.name == "nt", reason="signals are sent the POSIX way")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(book, capsys, number):
    command = [*COMMAND, "train", book, *SMALL, "--epochs", "100000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, encoding="utf-8"
    ) as process:
        line = ""
        while not re.match(r" +\d+%", line):
            line = process.stderr.readline()
            assert line
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    step = int(re.search(rf"stopped after step (\d+) of \d+ \({number.name}\)", err)[1])
    assert "nprnn train book.txt --resume" in err
    assert "Traceback" not in err
    assert checkpoint.load(checkpoint.latest("book")).position.step == step
    assert run(capsys, "train", book, "--resume", "--steps", str(step + 3), "--quiet")[0] == 0
    assert checkpoint.load(checkpoint.latest("book")).position.step == step + 3


def test_a_second_training_has_a_folder_of_its_own(book, capsys):
    for name in ("book", "book-2", "book-3"):
        assert run(capsys, "train", book, *SMALL, "--steps", "2")[0] == 0
        assert checkpoint.latest().parent.name == name
    status, _, err = run(capsys, "train", book, "--checkpoint", "book")
    assert (status, "holds checkpoints already" in err) == (2, True)
    # The clock of a file system turns slower than two of these commands take: one tick is set.
    later = checkpoint.latest("book-3").stat().st_mtime_ns + 1
    os.utime(checkpoint.latest("book-2"), ns=(later, later))
    _, _, err = run(capsys, "train", book, "--resume", "--steps", "3")
    assert "going on with book-2" in err


def test_an_end_between_two_saves_loses_no_best_one(book, capsys, monkeypatch):
    """Whatever is written last before the plug is pulled, the rest comes again after it."""
    settings = ["train", book, *SMALL, "--epochs", "2"]
    run(capsys, *settings, "--checkpoint", "whole")
    save, written = checkpoint.save, []

    def save_once(path, one):
        written.append(Path(path).name)
        if written[-2:-1] == [checkpoint.BEST]:
            raise OSError("the plug is pulled")
        save(path, one)

    monkeypatch.setattr(checkpoint, "save", save_once)
    assert run(capsys, *settings, "--checkpoint", "parts")[0] == 2
    monkeypatch.setattr(checkpoint, "save", save)
    assert written[1] == checkpoint.BEST
    assert run(capsys, *settings, "--checkpoint", "parts", "--resume")[0] == 0
    assert content("whole") == content("parts")


def test_the_command_that_is_named_goes_on(book, capsys):
    """It has no --steps: what was stopped at one goes on to the end, what was not reached stays."""
    settings = ["train", book, *SMALL, "--epochs", "2", "--checkpoint-every", "3", "--quiet"]
    err = run(capsys, *settings, "--steps", "4")[2]
    command = re.search("nprnn (train book.txt --resume.*)", err)[1].split()
    assert run(capsys, *command, "--max-seconds", "1e-9", "--json")[0] == 0
    status, out, err = run(capsys, *command, "--json")
    report = json.loads(out)
    assert (status, report["stopped"]) == (0, None)
    assert report["step"] == report["total_steps"] > 5
    run(capsys, *settings, "--steps", "9", "--max-seconds", "1e-9", "--checkpoint", "other")
    report = json.loads(run(capsys, *command, "--checkpoint", "other", "--json")[1])
    assert (report["stopped"], report["step"]) == ("step 9", 9)


def test_a_long_history_is_thinned(book, capsys, monkeypatch):
    arguments = ["train", book, *SMALL, "--epochs", "2", "--quiet"]
    assert run(capsys, *arguments, "--checkpoint", "whole")[0] == 0
    whole = checkpoint.load(checkpoint.latest("whole"))
    monkeypatch.setattr(text_run, "MOST_POINTS", 6)
    assert run(capsys, *arguments, "--checkpoint", "thin")[0] == 0
    thin = checkpoint.load(checkpoint.latest("thin"))
    assert len(thin.history) <= 6 < len(whole.history)
    assert (thin.history[0], thin.history[-1]) == (whole.history[0], whole.history[-1])
    assert set(thin.history) < set(whole.history)
    assert thin.best_loss == whole.best_loss


def test_threads_share_a_batch_and_stay_until_told_otherwise(book, capsys, monkeypatch):
    monkeypatch.setattr(parts, "_MEANWHILE", 0)
    asked, learn = [], nprnn.LanguageModel.loss_and_grads

    def watched(self, *arguments, threads, **options):
        asked.append(threads)
        return learn(self, *arguments, threads=threads, **options)

    def weights(folder):
        params = checkpoint.load(checkpoint.latest(folder)).model.params
        return [value.tobytes() for value in params.values()]

    monkeypatch.setattr(nprnn.LanguageModel, "loss_and_grads", watched)
    same = ["train", book, *SMALL, "--quiet", "--steps", "30"]
    assert run(capsys, *same, "--threads", "2", "--checkpoint", "whole")[0] == 0
    assert run(capsys, *same[:-1], "20", "--threads", "2", "--checkpoint", "parts")[0] == 0
    on = ["train", "--resume", "--checkpoint", "parts", "--quiet", "--steps"]
    assert run(capsys, *on, "30")[0] == 0
    assert set(asked) == {2}
    assert weights("whole") == weights("parts")
    assert run(capsys, *on, "40", "--threads", "1")[0] == 0
    assert set(asked) == {1, 2}


def test_init_from_takes_the_weights_and_the_vocabulary(book, capsys):
    run(capsys, "train", book, *SMALL, "--cell", "gru", "--steps", "30", "--quiet")
    source = checkpoint.load(checkpoint.latest("book"))
    Path("other.txt").write_text("The Quick! " * 50, "utf-8")
    status, _, err = run(capsys, "train", "other.txt", "--init-from", "book")
    assert status == 2
    assert "other.txt has characters that the network has not seen: '!', 'Q', 'T'" in err
    arguments = ["train", "other.txt", "--init-from", "book", "--unknown", "nearest"]
    assert run(capsys, *arguments, "--lr", "1e-9", "--steps", "3")[0] == 0
    one = checkpoint.load(checkpoint.latest("other"))
    assert one.vocabulary.tokens == source.vocabulary.tokens
    assert one.position.step == 3
    assert one.run["cell"] == "gru"
    for name, value in source.model.params.items():
        np.testing.assert_allclose(one.model.params[name], value, atol=1e-6)
    assert run(capsys, "train", "other.txt", "--resume", "--steps", "5")[0] == 0
    status, _, err = run(capsys, *arguments, "--hidden-size", "8")
    assert (status, "--hidden-size 8 does not go with --init-from" in err) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train"], "which text? nprnn train FILE"),
        (["train", "nowhere"], "cannot read 'nowhere'"),
        (["train", "book.txt", "--resume"], "there is no checkpoint in book"),
        (["train", "book.txt", "--resume", "--init-from", "x"], "--resume takes everything"),
        (["train", "--resume"], "there is no checkpoint here"),
        (["train", "book.txt", "--checkpoint", "book.txt"], "book.txt: File exists"),
        (["train", "book.txt", "--init-from", "book.txt"], "book.txt: "),
        (["train", "book.txt", "--hidden-size", "1000000000"], "allocate"),
        (["train", "book.txt", "--keep", "-1"], "--keep: must be at least 0"),
        (["train", "book.txt", "--order", "sorted"], "--order: invalid choice"),
        (["train", "short.txt"], "too short: 5 characters"),
        (["sample"], "there is no checkpoint here"),
        (["sample", "nowhere"], "nowhere: No such file"),
        (["sample", "--top-p", "2"], "--top-p: must be at most 1"),
        (["sample", "--stop", ""], "--stop: must not be empty"),
        (["score", "book.txt"], "there is no checkpoint here"),
        (["inspect", "book.txt"], "not a checkpoint: book.txt: "),
    ],
)
def test_wrong_use_is_one_sentence(book, capsys, arguments, words):
    Path("short.txt").write_text("short", "utf-8")
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert words in err
    assert err.count("error: ") == 1


def test_wrong_resumes(book, capsys):
    run(capsys, "train", book, *SMALL, "--steps", "2")
    Path("other.txt").write_text("quite another text " * 20, "utf-8")
    for arguments, words in [
        ([book, "--cell", "lstm"], "--cell lstm does not go with --resume: the checkpoint has gru"),
        (["other.txt", "--checkpoint", "book"], "is not that of the checkpoint, book.txt"),
    ]:
        status, _, err = run(capsys, "train", *arguments, "--resume")
        assert (status, words in err) == (2, True), err
    path = checkpoint.latest("book")
    one = checkpoint.load(path)
    for run_settings in (
        {},
        one.run | {"lr": -1.0},
        one.run | {"order": "x"},
        one.run | {"keep": "x"},
    ):
        one.run = run_settings
        checkpoint.save(path, one)
        status, _, err = run(capsys, "train", book, "--resume")
        assert (status, "was not made by nprnn train" in err) == (2, True), err


def test_divergence_is_told(book, capsys):
    one = ["train", book, *SMALL, "--lr", "1e38", "--optimizer", "sgd", "--steps", "50"]
    status, _, err = run(capsys, *one)
    assert status in (0, 2)
    assert re.search("training diverged, try a lower --lr than 1e\\+38|worse than guessing", err)


def test_json_of_a_training(book, capsys):
    status, out, err = run(capsys, "train", book, *SMALL, "--epochs", "2", "--json", "--quiet")
    report = json.loads(out)
    assert status == 0
    assert console.HEADING not in err
    assert report["stopped"] is None
    assert report["step"] == report["total_steps"] == report["history"][-1]["step"]
    lowest = min(p["validation_loss"] for p in report["history"] if p["validation_loss"])
    assert report["best_validation_loss"] == lowest
    assert report["best_perplexity"] == pytest.approx(math.exp(lowest))
    assert report["best_bits_per_character"] == pytest.approx(lowest / math.log(2))
    best = checkpoint.load(report["best_checkpoint"])
    validation = nprnn.Vocabulary(TEXT).encode(TEXT)[-270:]
    assert nprnn.evaluate(best.model, validation) == pytest.approx(lowest)
    assert report["parameters"] == sum(v.size for v in best.model.params.values())


def test_what_guessing_reaches():
    text = "ab" * 400 + "ba" * 200
    run_ = text_run.begin(text_run.read(text, "x"), {})
    guesses = text_run.guesses(run_)
    held_out = run_.validation
    assert guesses["uniform"] == 2
    assert guesses["unigram"] == pytest.approx(2, rel=1e-3)
    # a after b but for the one place where the order turns, and what is not seen is possible
    pairs = {(0, 1): 0, (1, 0): 0, (1, 1): 0, (0, 0): 0}
    for pair in zip(run_.training[:-1].tolist(), run_.training[1:].tolist(), strict=True):
        pairs[pair] += 1
    single = (np.bincount(run_.training) + 1) / (len(run_.training) + 2)
    surprise = [
        -math.log((pairs[a, b] + single[b]) / (pairs[a, 0] + pairs[a, 1] + 1))
        for a, b in zip(held_out[:-1].tolist(), held_out[1:].tolist(), strict=True)
    ]
    assert guesses["bigram"] == pytest.approx(math.exp(np.mean(surprise)))


def test_a_model_too_large_is_warned_of(book, capsys):
    _, _, err = run(capsys, "train", book, "--steps", "1")
    joined = " ".join(err.split())
    assert re.search(r"81,000|[\d,]+ parameters for 2,430 characters, \d+ for each", joined)
    assert "try a smaller --hidden-size" in joined
    _, _, err = run(capsys, "train", book, *SMALL, "--steps", "1")
    assert "smaller --hidden-size" not in err


@pytest.fixture
def trained(book, capsys):
    run(capsys, "train", book, *SMALL, "--epochs", "12", "--lr", "0.01", "--quiet")
    return "book"


def test_sampling_options(trained, capsys):
    def sample(*arguments):
        status, out, err = run(capsys, "sample", trained, *arguments)
        assert status == 0, err
        return out

    assert sample("--seed", "1") == sample("--seed", "1") != sample("--seed", "2")
    assert sample("--prefix", "the ", "--length", "3").startswith("the ")
    assert len(sample("--prefix", "the ", "--length", "3")) == 4 + 3 + 1
    greedy = sample("--temperature", "0", "--length", "50")
    assert greedy == sample("--top-k", "1", "--length", "50")
    assert greedy == sample("--top-p", "1e-9", "--length", "50")
    options = ["--samples", "3", "--length", "30", "--seed", "1", "--temperature", "3"]
    texts = sample(*options).split("-" * 20 + "\n")
    assert len(texts) == len(set(texts)) == 3
    report = json.loads(sample("--json", *options))
    assert [text + "\n" for text in report["texts"]] == texts
    until_dog = sample("--temperature", "0", "--length", "500", "--stop", "o")
    assert greedy.startswith(until_dog.rstrip("\n")) or "o" not in greedy
    assert "o" not in until_dog


def test_unknown_characters_in_a_prefix(trained, capsys):
    status, out, err = run(capsys, "sample", "--prefix", "Thé", "--length", "5")
    assert (status, out) == (2, "")
    assert "--prefix has characters that the network has not seen: 'T', 'é' (--unknown skip" in err
    for how, prefix in (("skip", "h"), ("nearest", "the")):
        _, out, _ = run(capsys, "sample", "--prefix", "Thé", "--unknown", how, "--length", "5")
        assert out[: len(prefix)] == prefix
        assert len(out) == len(prefix) + 6


def test_interactive(trained, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("the \nÉ\nfox"))
    status, out, err = run(capsys, "sample", "--interactive", "--length", "7", "--seed", "1")
    assert status == 0
    assert out.startswith("the ")
    assert "\nfox" in out
    assert len(out) == 4 + 7 + 1 + 3 + 7 + 1
    assert "not seen: 'É'" in err


def test_the_unknown_token_is_never_written():
    vocabulary = nprnn.Vocabulary("ab", unknown="?")
    model = nprnn.LanguageModel(3, 4, rng=0)
    model.params["readout.bias"][0] = 50  # what it would nearly always write
    one = checkpoint.Checkpoint(
        model, vocabulary, nprnn.Adam(model.params), nprnn.training.Position(), {}
    )
    for temperature in (0, 0.7, 50):
        text = "".join(continuation(one, "", rng=0, length=300, temperature=temperature))
        assert set(text) <= set("ab")
    assert model.params["readout.bias"][0] == 50


@pytest.mark.parametrize("stop", ["a", "ab", "aab", "abab", "cc", "zz"])
@pytest.mark.parametrize("text", ["", "a", "aaab", "abaabab", "ccc", "xxaabab"])
def test_a_stop_string_is_found_wherever_it_is(text, stop):
    assert "".join(until(text, stop)) == text.split(stop)[0]


def test_text_streams_as_it_comes():
    written = []

    def source():
        for char in "abcde":
            written.append(char)
            yield char

    characters = until(source(), "zz")
    assert next(characters) == "a"
    assert written == ["a"]


def test_score(trained, capsys):
    Path("new.txt").write_text("the quick brown zebra jumps over the lazy dog.\n" * 3, "utf-8")
    status, out, _ = run(capsys, "score", trained, "new.txt")
    assert status == 0
    assert re.search(r"bits per character, perplexity [\d.]+", out)
    marked = re.findall(r"\[(.*)\]", out)
    assert len(marked) == 5
    assert sum("zebra"[:3] in each or "ebra" in each for each in marked) >= 2
    report = json.loads(run(capsys, "score", trained, "new.txt", "--json")[1])
    one = checkpoint.load(checkpoint.latest(trained))
    ids = one.vocabulary.encode(Path("new.txt").read_text("utf-8"))
    loss = nprnn.evaluate(one.model, ids)
    assert report["characters"] == len(ids) == len(report["log_probabilities"]) + 1
    assert -report["log_probability_per_character"] == pytest.approx(loss, rel=1e-5)
    assert report["perplexity"] == pytest.approx(math.exp(loss), rel=1e-5)
    assert report["bits_per_character"] == pytest.approx(loss / math.log(2), rel=1e-5)
    assert sum(report["log_probabilities"]) == pytest.approx(report["log_probability"], rel=1e-4)


def test_scores_do_not_depend_on_the_window(monkeypatch):
    model = nprnn.LanguageModel(5, 6, rng=0, dtype=np.float64)
    ids = np.random.default_rng(0).integers(0, 5, 40)
    whole = log_probabilities(model, ids)
    monkeypatch.setattr("nprnn.commands.score.WINDOW", 7)
    np.testing.assert_allclose(log_probabilities(model, ids), whole, rtol=1e-12)
    assert -whole.mean() == pytest.approx(nprnn.evaluate(model, ids), rel=1e-12)


def test_surprising_passages():
    scores = np.full(99, -math.log(2))
    scores[40:52] = -5 * math.log(2)  # of the characters 41 to 52
    text = "x" * 30 + "\n" + "y" * 69
    first, second = surprising(text, scores, 2)
    assert (first.position, first.line) == (41, 2)
    assert first.bits == pytest.approx(5)
    assert second.bits == pytest.approx(1)
    assert abs(second.position - first.position) >= 12
    assert len(surprising("abc", np.array([-1.0, -2.0]), 5)) == 1


def test_inspect(trained, capsys):
    status, out, _ = run(capsys, "inspect", trained)
    assert status == 0
    for words in ("sha256", "rnn.weight_hh_l0", "48x16", "Adam(", "hidden_size", "step "):
        assert words in out
    report = json.loads(run(capsys, "inspect", "--json")[1])
    assert report["parameters"]["rnn.weight_hh_l0"] == [48, 16]
    assert report["vocabulary"] == sorted(set(TEXT))


@pytest.mark.parametrize(
    "text",
    ["人之初性本善，性相近习相远。" * 40, "مرحبا بالعالم " * 60, "😀 👩‍👧 🎉\n" * 50, "a" * 400],
)
def test_any_script(tmp_path, monkeypatch, capsys, text):
    monkeypatch.chdir(tmp_path)
    Path("文.txt").write_text(text, "utf-8")
    assert run(capsys, "train", "文.txt", *SMALL, "--steps", "5")[0] == 0
    assert Path("文").is_dir()
    status, out, _ = run(capsys, "sample", "--prefix", text[:2], "--length", "20")
    assert (status, out[:2]) == (0, text[:2])
    assert set(out) <= set(text) | {"\n"}
    assert run(capsys, "score", "文.txt")[0] == 0


def test_similar_characters():
    known = list("abcdexyz ,.'\"-0123\n")
    similar = {"É": "e", "Z": "z", "ｂ": "b", "’": "'", "—": "-", "“": '"', "…": "."}
    similar |= {"\u3000": " ", "9": "3", "\t": " ", "f": "e", "ж": "z", ";": "."}
    assert {char: nearest(char, known) for char in similar} == similar
    assert nearest("a", []) == ""
    text, ids = encode(nprnn.Vocabulary("ab "), "aXb", "skip", "it")
    assert (text, len(ids)) == ("ab", 2)


def test_help_fits_a_screen_and_shows_the_defaults(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in cli.COMMANDS:
        status, out, _ = run(capsys, name, "--help")
        assert status == 0
        assert len(out.splitlines()) <= 40, name
        assert max(map(len, out.splitlines())) <= 80, name
    words = " ".join(run(capsys, "train", "--help")[1].split())
    for option in (*options.SETTINGS, options.EPOCHS):
        assert re.search(rf"{option.flag} [A-Z]+ [^(]*\(default: ", words), option.flag


@pytest.mark.parametrize("option", options.SETTINGS, ids=lambda option: option.flag)
def test_defaults_can_be_given(option):
    parser = argparse.ArgumentParser()
    options.add(parser, option)
    assert parser.parse_args([]) == argparse.Namespace()
    if option.default is not None:
        given = vars(parser.parse_args([option.flag, str(option.default)]))
        assert given == {option.name: option.default}
        assert option.fits(option.default)
    assert not option.fits(math.nan)


def test_one_thread_unless_told_otherwise():
    for arguments, expected in [
        (["python", "-m", "nprnn", "train"], True),
        (["python", "-W", "error", "/usr/bin/nprnn"], True),
        (["python", "C:/Scripts/nprnn.exe"], True),
        (["python", "mine.py", "nprnn"], False),
        (["python", "-m", "pytest", "nprnn"], False),
        (["python"], False),
    ]:
        assert _threads.is_command(arguments) is expected, arguments
    code = "import sys; sys.orig_argv = ['python', '-m', 'nprnn']; import nprnn, os; "
    code += "print(os.environ['OPENBLAS_NUM_THREADS'])"
    for given, expected in ((None, "1"), ("3", "3")):
        environment = {k: v for k, v in ENVIRONMENT.items() if k != "OPENBLAS_NUM_THREADS"}
        if given:
            environment["OPENBLAS_NUM_THREADS"] = given
        ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True,
                               text=True, check=True)  # fmt: skip
        assert ended.stdout.strip() == expected


class Terminal(io.StringIO):
    def isatty(self):
        return True


def record(step, loss=None):
    return nprnn.Record(1, step, 2.0, 0.5, 80, 0.001, loss)


def test_progress_on_a_terminal_and_elsewhere(capsys, monkeypatch):
    progress = console.Progress(0, 3)
    for step in (1, 2, 3):
        progress.show(record(step, 1.5 if step == 3 else None))
    progress.close()
    rows = capsys.readouterr().err.splitlines()
    assert rows[0] == console.HEADING
    assert rows[-1].split() == ["100%", "1", "2.000", "7.389", "2.89", "4.482", "0.500", "80,000",
                                "0", "s"]  # fmt: skip
    assert len(rows[-1]) == len(console.HEADING)
    console.Progress(0, 3, quiet=True).show(record(1))
    assert capsys.readouterr().err == ""
    pytest.importorskip("tqdm")
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    progress = console.Progress(0, 3)
    progress.show(record(1))
    progress.show(record(3, 1.5))
    progress.close()
    assert "steps" in terminal.getvalue()


def test_colours_only_on_a_terminal_and_never_with_no_color(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert console.styled("x", "33", Terminal()) == "\x1b[33mx\x1b[0m"
    assert console.styled("x", "33", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert console.styled("x", "33", Terminal()) == "x"


def test_what_moves_the_cursor_is_not_written_to_a_line():
    assert console.one_line("a\nb\x1b[2J\tc") == "a⏎b�[2J�c"


def test_lines_are_cut_by_columns():
    text = "ab人之é\u0301\u200d☃😀"
    assert [console.columns(char) for char in text] == [1, 1, 2, 2, 1, 0, 0, 1, 2]
    assert console.beginning(text, 5) == "ab人"
    assert console.beginning(text, 100) == text
    assert console.ending("abc人之", 4) == "人之"
    assert console.ending("abc人之", 6) == "bc人之"
    assert console.ending("人之", 5) == " 人之"
    assert console.one_line("👩\u200d👧") == "👩\u200d👧"


def test_passages_stand_below_each_other_in_any_script(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("文.txt").write_text("人之初 good 性本善，性相近习相远。" * 40, "utf-8")
    assert run(capsys, "train", "文.txt", *SMALL, "--steps", "3")[0] == 0
    rows = re.findall(r"^ .*\[.*$", run(capsys, "score", "文.txt")[1], re.MULTILINE)
    assert len(rows) == 5
    assert {sum(map(console.columns, row.split("[")[0])) for row in rows} == {39}
    assert max(sum(map(console.columns, row)) for row in rows) <= 100


def test_a_better_checkpoint_is_named(trained, capsys):
    one = checkpoint.load(checkpoint.latest(trained))
    losses = [p.validation_loss for p in one.history if p.validation_loss is not None]
    assert one.is_past_its_best == (losses[-1] > min(losses))
    one.history.append(checkpoint.Point(99, 999, 1.0, 1.0, one.best_loss + 0.1))
    assert one.is_past_its_best
    checkpoint.save(checkpoint.latest(trained), one)
    Path("new.txt").write_text(TEXT, "utf-8")
    sentence = f"on held-out text {Path(trained, checkpoint.BEST)} was better\n"
    for command in (["sample", trained], ["score", trained, "new.txt"], ["inspect", trained]):
        assert sentence in run(capsys, *command)[2]
    assert sentence not in run(capsys, "sample", Path(trained, checkpoint.BEST))[2]


def test_what_guessing_reaches_does_not_depend_on_the_block(monkeypatch):
    run_ = text_run.begin(text_run.read(TEXT, "x"), {})
    whole = text_run.guesses(run_)
    monkeypatch.setattr(text_run, "COUNTED", 7)
    assert text_run.guesses(run_) == whole


def test_inspect_fits_the_screen(trained, capsys):
    assert max(map(len, run(capsys, "inspect", trained)[1].splitlines())) <= 80
