"""A NaN or an infinity in training: found before it spoils the weights, named, and taken back."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest

import nprnn
from nprnn import LanguageModel, NonFiniteError, checkpoint, cli, train
from nprnn.training import Position

TOKENS = np.random.default_rng(0).integers(0, 4, 300)  # class 4 comes where a test puts it
T, B = 10, 2
RARE = 4


def model(dtype=np.float32, **options):
    return LanguageModel(5, 6, dtype=dtype, rng=1, **options)


def tokens_with_rare_at(time):
    """Return tokens of one batch of B streams whose first has the rare class at the time."""
    tokens = TOKENS[: T * B + 1].copy()
    tokens[time] = RARE
    return tokens


def failure(one, tokens, **options):
    """Train for a step that must fail and change nothing; return the message."""
    before = {name: value.copy() for name, value in one.params.items()}
    with pytest.raises(NonFiniteError) as caught:
        next(train(one, tokens, batch_size=B, num_steps=T, per="step", **options))
    for name, value in before.items():
        np.testing.assert_array_equal(one.params[name], value)
    return str(caught.value)


@pytest.mark.parametrize("time", [0, 5, T - 1])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_a_weight_that_is_nan_is_named_with_the_time_of_its_first_use(cell, num_layers, time):
    one = model(cell=cell, num_layers=num_layers)
    one.params["rnn.weight_ih_l0"][:, RARE] = np.nan
    said = failure(one, tokens_with_rare_at(time))
    assert "step 1, loss nan: " in said
    assert f"recurrent layer 0 at time {time}, where rnn.weight_ih_l0 counts most" in said


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_layer_above_is_named_where_it_begins_there(dropout):
    one = model(nonlinearity="relu", num_layers=2, dropout=dropout)
    one.params["rnn.weight_ih_l0"][:, RARE] = 1e30
    one.params["rnn.weight_ih_l1"][:] = 1e30  # the product overflows; layer 0 is finite
    one.params["rnn.weight_hh_l0"][:] = 0
    said = failure(one, tokens_with_rare_at(3), rng=2)
    assert "recurrent layer 1 at time 3, where rnn.weight_ih_l1 counts most" in said


def test_a_state_that_grows_without_bound_is_named_with_its_matrix():
    one = model(nonlinearity="relu", dtype=np.float64)
    one.params["rnn.weight_hh_l0"][:] = np.eye(6) * 1e60  # 1e300 after five steps, and then inf
    one.params["rnn.weight_ih_l0"][:] = 1.0
    said = failure(one, TOKENS)
    assert "recurrent layer 0 at time 6, where rnn.weight_hh_l0 counts most" in said


def test_windows_of_a_long_sequence_count_their_times_on(monkeypatch):
    monkeypatch.setattr(nprnn.models, "WINDOW_ROWS", 6)
    one = model()
    one.params["rnn.weight_ih_l0"][:, RARE] = np.nan
    assert "recurrent layer 0 at time 7," in failure(one, tokens_with_rare_at(7))
    assert "recurrent layer 0 at time 7," in failure(
        one, tokens_with_rare_at(7), recompute_every="auto"
    )


def test_the_readout_the_loss_and_the_embedding_have_names():
    one = model()
    one.params["readout.bias"][2] = np.inf
    assert "in the read-out at time 0, where readout.bias counts most" in failure(one, TOKENS)
    one = model()
    one.params["readout.bias"][:2] = 3e38, -3e38  # finite, and further apart than float32 reaches
    assert "loss inf: " in (said := failure(one, tokens_with_rare_at(3)))
    assert "in the loss at time " in said
    assert "where readout.bias counts most" in said
    for options in ({}, {"tie_weights": True}):
        one = model(embedding_size=6, **options)
        one.params["embedding.weight"][RARE] = np.nan
        said = failure(one, tokens_with_rare_at(4))
        name = "the read-out at time 0" if options else "the embedding at time 4"
        assert f"in {name}, where embedding.weight counts most" in said


def test_gradients_that_overflow_where_nothing_did_before():
    # States stay near 0, while the gradient grows by 1e60 a step on its way back.
    one = model(nonlinearity="relu", dtype=np.float64)
    for name, value in one.params.items():
        value[...] = 1e60 * np.eye(6) if name == "rnn.weight_hh_l0" else 0
    one.params["readout.weight"][:] = np.random.default_rng(0).normal(size=(5, 6))
    one.params["rnn.bias_ih_l0"][:] = 1e-320
    one.params["rnn.bias_hh_l0"][:] = 0
    said = failure(one, TOKENS, order="random", rng=0)
    assert "is finite; on the way back through time" in said
    assert "in recurrent layer 0 at time " in said
    assert "in the gradient of rnn.weight_" in said


def test_a_carried_state_that_is_not_finite_stops_training():
    one = model(cell="lstm")
    position = Position(
        batch=1, step=1, state=(np.zeros((1, B, 6), np.float32), np.full((1, B, 6), np.inf, "f")),
        epoch_rng=np.random.default_rng(0).bit_generator.state,
        rng=np.random.default_rng(1).bit_generator.state,
    )  # fmt: skip
    said = failure(one, TOKENS, position=position)
    assert said.startswith("step 2, loss 1.81")  # tanh(inf) is 1: nothing else tells
    assert "the carried state is not finite to begin with, at time 0" in said


def test_a_state_that_would_be_carried_on_is_looked_at_too(monkeypatch):
    one = model(cell="lstm")
    honest = one.loss_and_grads

    def spoilt(*arguments, **options):
        loss, grads, (h, c) = honest(*arguments, **options)
        c[0, 1, 2] = np.inf  # as of a cell that only the next window reads
        return loss, grads, (h, c)

    monkeypatch.setattr(one, "loss_and_grads", spoilt)
    assert "only in the sum over all times, in the carried state" in failure(one, TOKENS)


def test_an_update_that_overflows_is_refused():
    one = model()
    with pytest.raises(NonFiniteError, match=r"step 1, .* update .* learning rate of 1e\+300"):
        next(train(one, TOKENS, batch_size=B, num_steps=T, per="step", lr=1e300))
    assert all(np.isfinite(value).all() for value in one.params.values())


# Taking a step back


def fragile(loss_and_grads):
    """Return a method that gives NaN as soon as a weight is larger than 2, whatever it reads."""

    def spoilt(self, *arguments, **options):
        loss, grads, state = loss_and_grads(self, *arguments, **options)
        if max(np.abs(value).max() for value in self.params.values()) > 2:
            grads["rnn.weight_hh_l0"][0, 0] = np.nan
        return loss, grads, state

    return spoilt


class Fragile(LanguageModel):
    loss_and_grads = fragile(LanguageModel.loss_and_grads)


def diverging(optimizer="SGD", **options):
    """Return a network, its optimizer, and arguments with which weights soon are too large."""
    one = Fragile(5, 6, rng=1, num_layers=2, dropout=0.2)
    made = getattr(nprnn, optimizer)(one.params, **options)
    return one, made, {"batch_size": B, "num_steps": T, "epochs": 20, "per": "step"}


LONG = np.random.default_rng(3).integers(0, 5, 150)
SETTINGS = {"SGD": {"lr": 8.0}, "Adam": {"lr": 1.0}}


def test_a_network_that_overflows_is_rescued():
    options = {"batch_size": B, "num_steps": 60, "epochs": 20, "rng": 0, "lr": 60.0}
    tokens = np.random.default_rng(3).integers(0, 5, 500)
    for on_nonfinite in ("raise", "rollback"):
        one = LanguageModel(5, 6, nonlinearity="relu", rng=1, num_layers=2)
        for name in ("rnn.weight_hh_l0", "rnn.weight_hh_l1"):
            one.params[name] *= 4
        records = train(one, tokens, on_nonfinite=on_nonfinite, **options)
        if on_nonfinite == "raise":
            with pytest.raises(NonFiniteError):
                list(records)
        else:
            assert sum(record.rollbacks for record in records) >= 1
            assert nprnn.evaluate(one, tokens) < 5


@pytest.mark.parametrize("optimizer", SETTINGS)
def test_a_bad_step_is_taken_back_and_taken_again_with_half_the_rate(optimizer):
    one, made, options = diverging(optimizer, **SETTINGS[optimizer])
    with pytest.raises(NonFiniteError):
        list(train(one, LONG, optimizer=made, rng=0, **options))
    one, made, options = diverging(optimizer, **SETTINGS[optimizer])
    records = list(
        train(one, LONG, optimizer=made, rng=0, on_nonfinite="rollback", max_rollbacks=200,
              **options)
    )  # fmt: skip
    rollbacks = sum(record.rollbacks for record in records)
    assert rollbacks >= 1
    assert made.lr == SETTINGS[optimizer]["lr"] / 2**rollbacks
    assert [record.step for record in records] == list(range(1, len(records) + 1))
    assert all(np.isfinite(record.loss) for record in records)
    assert all(np.isfinite(value).all() for value in one.params.values())


@pytest.mark.parametrize("order", ["sequential", "random"])
@pytest.mark.parametrize("scheduled", [False, True])
@pytest.mark.parametrize("optimizer", SETTINGS)
def test_taking_back_goes_on_bit_for_bit_from_every_position(optimizer, scheduled, order):
    peak = SETTINGS[optimizer]["lr"]
    lr = (lambda step: peak / (1 + step / 10)) if scheduled else None

    def go(one, made, options, position, rng=0):
        return train(
            one, LONG, optimizer=made, lr=lr, rng=rng, on_nonfinite="rollback", max_rollbacks=200,
            order=order, position=position, max_steps=30, **options,
        )  # fmt: skip

    one, made, options = diverging(optimizer, **SETTINGS[optimizer])
    position = Position()
    kept = [
        (record, *copy.deepcopy((one, made.state_dict(), made.lr, position)))
        for record in go(one, made, options, position)
    ]
    assert sum(record.rollbacks for record, *_ in kept) >= 1
    assert kept[-1][0].step == 30
    for _, part, state, rate, place in kept[:-1]:
        again = getattr(nprnn, optimizer)(part.params, rate)
        again.load_state_dict(state)
        for _ in go(part, again, options, place, rng=99):
            pass
        assert (place.step, place.rollbacks) == (position.step, position.rollbacks)
        assert again.lr == made.lr
        for name, value in one.params.items():
            np.testing.assert_array_equal(part.params[name], value)
        for name, value in made.state_dict().items():
            np.testing.assert_array_equal(again.state_dict()[name], value)


def test_without_a_bad_step_taking_back_changes_nothing():
    runs = []
    for on_nonfinite in ("raise", "rollback"):
        one, position = model(num_layers=2, dropout=0.3), Position()
        records = train(one, TOKENS, batch_size=B, num_steps=T, epochs=3, rng=5, per="step",
                        on_nonfinite=on_nonfinite, position=position)  # fmt: skip
        runs.append(([r._replace(seconds=0) for r in records], one.params, position))
    (records, params, position), (again, same, place) = runs
    assert records == again
    assert (position.step, position.epoch, position.rng) == (place.step, place.epoch, place.rng)
    for name, value in params.items():
        np.testing.assert_array_equal(same[name], value)


def test_after_the_last_rollback_it_is_an_error_with_the_last_good_weights():
    one = model()
    one.params["rnn.weight_ih_l0"][:, RARE] = np.nan
    tokens = TOKENS.copy()
    tokens[30] = RARE  # a later window meets it, whatever the rate
    made = nprnn.SGD(one.params, 0.5, momentum=0.9)
    records = train(
        one, tokens, batch_size=B, num_steps=T, optimizer=made, per="step",
        on_nonfinite="rollback", max_rollbacks=3, rng=3,
    )  # fmt: skip
    good = []
    with pytest.raises(NonFiniteError, match=r"all 3 rollbacks .* rate is 0\.0625 and"):
        good.extend(copy.deepcopy((one.params, made.state_dict())) for _ in records)
    params, state = good[-1]
    for name, value in params.items():
        np.testing.assert_array_equal(one.params[name], value)
    for name, value in state.items():
        np.testing.assert_array_equal(made.state_dict()[name], value)


def test_the_first_step_has_none_before_it_to_take_back():
    one = model()
    one.params["readout.bias"][0] = np.nan
    said = failure(one, TOKENS, on_nonfinite="rollback")
    assert said.startswith("step 1, loss nan")
    assert said.endswith("there is no step before it in this run that could be taken back")


def test_records_of_epochs_add_the_rollbacks_up():
    one, made, options = diverging("SGD", **SETTINGS["SGD"])
    options |= {"per": "epoch", "on_nonfinite": "rollback", "max_rollbacks": 200, "rng": 0}
    position = Position()
    records = list(train(one, LONG, optimizer=made, position=position, **options))
    assert sum(record.rollbacks for record in records) == position.rollbacks >= 1


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"on_nonfinite": "ignore"}, ValueError, "on_nonfinite must be one of 'raise', 'rollback'"),
        ({"max_rollbacks": 0}, ValueError, "max_rollbacks must be at least 1"),
        ({"max_rollbacks": 1.5}, TypeError, "max_rollbacks must be an integer"),
    ],
)
def test_wrong_arguments(options, error, words):
    with pytest.raises(error, match=words):
        train(model(), TOKENS, batch_size=B, num_steps=T, **options)


def test_taking_back_needs_an_optimizer_that_can_be_set_back():
    class Plain:
        lr = 1.0

        def step(self, grads):
            pass

    with pytest.raises(TypeError, match="optimizer with state_dict and load_state_dict"):
        train(model(), TOKENS, batch_size=B, num_steps=T, optimizer=Plain(),
              on_nonfinite="rollback")  # fmt: skip


@pytest.mark.parametrize("steps", [3, 9, 17, 30])
def test_on_the_command_line_too_it_goes_on_bit_for_bit(tmp_path, monkeypatch, capsys, steps):
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 60, "utf-8")
    monkeypatch.setattr(LanguageModel, "loss_and_grads", fragile(LanguageModel.loss_and_grads))
    same = ["train", "book.txt", "--hidden-size", "8", "--lr", "0.6", "--checkpoint-every", "40"]
    rescue = ["--on-nonfinite", "rollback", "--max-rollbacks", "200"]
    assert cli.run([*same, "--steps", "40", "--checkpoint", "raised"]) == 2
    assert "training diverged, try a lower --lr than 0.6, or --on-nonfinite rollback: step " in (
        capsys.readouterr().err
    )
    assert cli.run([*same, *rescue, "--steps", "40", "--checkpoint", "whole", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["step"] == 40
    assert "warning: step " in captured.err
    assert "was taken back" in " ".join(captured.err.split())
    assert cli.run([*same, *rescue, "--steps", str(steps), "--checkpoint", "parts"]) == 0
    assert cli.run([*same, "--steps", "40", "--checkpoint", "parts", "--resume"]) == 0
    whole, parts = (checkpoint.latest(name) for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    assert checkpoint.load(whole).position.rollbacks >= 1
    capsys.readouterr()


def test_the_command_line_can_rescue_what_it_began_without(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 60, "utf-8")
    monkeypatch.setattr(LanguageModel, "loss_and_grads", fragile(LanguageModel.loss_and_grads))
    same = ["train", "book.txt", "--hidden-size", "8", "--lr", "0.6", "--quiet"]
    assert cli.run([*same, "--checkpoint-every", "1", "--steps", "40"]) == 2
    rescue = ["train", "book.txt", "--resume", "--on-nonfinite", "rollback", "--steps", "40"]
    assert cli.run(rescue) == 2  # the weights of the newest checkpoint are the bad ones
    said = " ".join(capsys.readouterr().err.split())
    assert "no step before it in this run that could be taken back" in said
    checkpoint.latest("book").unlink()
    assert cli.run([*rescue, "--max-rollbacks", "1"]) == 2
    assert "; all 1 rollbacks are used up" in capsys.readouterr().err
    assert cli.run([*rescue, "--max-rollbacks", "200"]) == 0
