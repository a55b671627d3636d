"""What the pictures show, against other ways to the same numbers."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

import nprnn
from nprnn import insight
from nprnn.cells import GRUCell, LSTMCell, VanillaCell

V, H, T = 7, 5, 6
CELLS = ["rnn", "gru", "lstm"]
TEXT = 'He said: "A (dry) day, 12 C."\n\n  Off "he went\n\nOn and on; I saw.\n' * 12


def model_of(cell, layers=2, seed=0, **options):
    model = nprnn.LanguageModel(
        V, H, cell=cell, num_layers=layers, rng=seed, dtype="float64", **options
    )
    rng = np.random.default_rng(seed + 1)
    for value in model.params.values():
        value[...] = rng.normal(0, 0.6, value.shape)
    return model


def state_of(model, B, seed=5):
    rng = np.random.default_rng(seed)
    parts = [
        rng.normal(0, 0.5, (model.rnn.num_layers, B, H)) for _ in range(model.rnn.cell.num_states)
    ]
    return parts[0] if len(parts) == 1 else tuple(parts)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def plain_step(cell, W, x, h, c):
    """One step of one sequence, from the equations of the cell; returns h, c and the gates."""
    a, u = W["ih"] @ x + W["bih"], W["hh"] @ h
    if cell == "rnn":
        return np.tanh(a + u + W["bhh"]), c, {}
    if cell == "gru":
        u = u + W["bhh"]
        r, z = sigmoid(a[:H] + u[:H]), sigmoid(a[H : 2 * H] + u[H : 2 * H])
        n = np.tanh(a[2 * H :] + r * u[2 * H :])
        return (1 - z) * n + z * h, c, {"r": r, "z": z, "n": n}
    i, f, g, o = np.split(a + u + W["bhh"], 4)
    i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
    c = f * c + i * g
    return o * np.tanh(c), c, {"i": i, "f": f, "g": g, "o": o}


def plain_losses(model, cell, ids, state, nudge=None):
    """The loss of each prediction; `nudge`, (step, layer, part, vector), is added to a state."""
    p, L = model.params, model.rnn.num_layers
    parts = state if isinstance(state, tuple) else (state, np.zeros_like(state))
    h, c = parts[0][:, 0].copy(), parts[1][:, 0].copy()
    losses, seen = [], []
    for t, (token, target) in enumerate(itertools.pairwise(ids)):
        x = np.eye(V)[token]
        seen.append([])
        for k in range(L):
            W = {
                short: p[f"rnn.{name}_l{k}"]
                for short, name in (
                    ("ih", "weight_ih"),
                    ("hh", "weight_hh"),
                    ("bih", "bias_ih"),
                    ("bhh", "bias_hh"),
                )
            }
            h[k], c[k], gates = plain_step(cell, W, x, h[k], c[k])
            if nudge is not None and nudge[:2] == (t, k):
                (h if nudge[2] == "h" else c)[k] += nudge[3]
            x = h[k].copy()
            seen[-1].append({"h": x, "c": c[k].copy(), **gates})
        logits = p["readout.weight"] @ x + p["readout.bias"]
        losses.append(np.log(np.exp(logits).sum()) - logits[target])
    return np.array(losses), seen


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("loss", ["last", "all"])
def test_gradient_flow_against_differences(cell, loss):
    model = model_of(cell)
    ids = np.random.default_rng(3).integers(0, V, T + 1)
    state = state_of(model, 1)
    flat = tuple(part[:, 0] for part in state) if isinstance(state, tuple) else state[:, 0]
    flow = insight.gradient_flow(model, ids, flat, loss=loss)
    kinds = ["h", "c"] if cell == "lstm" else ["h"]
    assert flow.rows == [(k, kind) for k in range(2) for kind in kinds]
    assert flow.norms.shape == (len(flow.rows), T)
    pick = (lambda losses: losses[-1]) if loss == "last" else np.mean
    eps = 1e-5
    for row, (k, kind) in enumerate(flow.rows):
        for t in range(T):
            gradient = [
                (
                    pick(plain_losses(model, cell, ids, state, (t, k, kind, eps * unit))[0])
                    - pick(plain_losses(model, cell, ids, state, (t, k, kind, -eps * unit))[0])
                )
                / (2 * eps)
                for unit in np.eye(H)
            ]
            if kind == "c":
                # The nudge above comes after h_t was made of c_t, as the next step reads c_t.
                assert t < T - 1 or np.linalg.norm(gradient) == 0
            assert flow.norms[row, t] == pytest.approx(np.linalg.norm(gradient), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("cell", CELLS)
def test_gradient_flow_is_the_mean_over_sequences_and_needs_no_state(cell):
    model = model_of(cell)
    ids = np.random.default_rng(3).integers(0, V, (T + 1, 3))
    together = insight.gradient_flow(model, ids)
    alone = [insight.gradient_flow(model, ids[:, b]).norms for b in range(3)]
    np.testing.assert_allclose(together.norms, np.mean(alone, axis=0), rtol=1e-12)
    zeros = insight.gradient_flow(model, ids, nprnn_zeros(model, 3))
    np.testing.assert_allclose(together.norms, zeros.norms, rtol=1e-12)


def nprnn_zeros(model, B):
    parts = [np.zeros((model.rnn.num_layers, B, H)) for _ in range(model.rnn.cell.num_states)]
    return parts[0] if len(parts) == 1 else tuple(parts)


@pytest.mark.parametrize("size", [0.5, 1.3])
def test_the_slope_is_the_size_of_the_recurrent_matrix(size):
    # A linear network that turns and stretches: each step back multiplies the norm by `size`.
    model = nprnn.LanguageModel(V, 4, nonlinearity="relu", rng=0, dtype="float64")
    for name, value in model.params.items():
        value[...] = 0 if "bias" in name or "weight_ih" in name else np.abs(value) + 0.1
    model.params["rnn.weight_hh_l0"][...] = size * np.eye(4)[[1, 2, 3, 0]]
    flow = insight.gradient_flow(model, np.arange(40) % V, np.ones((1, 4)))
    assert flow.slopes[0] == pytest.approx(math.log10(size), rel=1e-9)
    assert 10 ** flow.intercepts[0] == pytest.approx(flow.norms[0, -1], rel=1e-9)


def test_a_gradient_that_is_nowhere_has_no_slope():
    model = model_of("rnn", layers=1)
    model.params["readout.weight"][...] = 0
    flow = insight.gradient_flow(model, np.arange(T + 1) % V)
    assert (flow.norms == 0).all()
    assert math.isnan(flow.slopes[0])


@pytest.mark.parametrize("cell", CELLS)
def test_activations_against_the_equations(cell, monkeypatch):
    monkeypatch.setattr(insight, "_WINDOW", 4)  # in windows that the state is carried through
    model = model_of(cell)
    ids = np.random.default_rng(3).integers(0, V, T + 1)
    state = state_of(model, 1)
    flat = tuple(part[:, 0] for part in state) if isinstance(state, tuple) else state[:, 0]
    found = insight.activations(model, ids[:-1], flat)
    _, seen = plain_losses(model, cell, ids, state)
    names = {"rnn": "h", "gru": "hrzn", "lstm": "hcifgo"}[cell]
    for k in range(2):
        assert list(found[k]) == list(names)
        for name in names:
            expected = np.array([step[k][name] for step in seen])
            np.testing.assert_allclose(found[k][name], expected, rtol=1e-12, atol=1e-14)
    batch = insight.activations(model, np.stack([ids[:-1]] * 2, axis=1), gates=False)
    assert batch[0]["h"].shape == (T, 2, H)
    assert set(batch[0]) == {"h"} | ({"c"} if cell == "lstm" else set())


def test_saturation_counts_what_is_near_an_end():
    model = model_of("lstm", layers=1)
    ids = np.random.default_rng(0).integers(0, V, 200)
    own = insight.activations(model, ids)[0]
    found = {each.name: each for each in insight.saturation(model, ids, margin=0.2)}
    assert list(found) == ["h", "i", "f", "g", "o", "tanh c"]
    for name, values in (own | {"tanh c": np.tanh(own["c"])}).items():
        if name == "c":
            continue
        low = 0 if name in "ifo" else -1
        np.testing.assert_array_equal(found[name].low, np.mean(values < low + 0.2, axis=0))
        np.testing.assert_array_equal(found[name].high, np.mean(values > 0.8, axis=0))
        share = np.mean((values < low + 0.2) | (values > 0.8))
        assert found[name].share == pytest.approx(share)
        assert found[name].ends == (low, 1)
    assert 0 < found["f"].share < 1


def test_a_relu_is_saturated_where_it_is_zero():
    model = model_of("rnn", layers=1, nonlinearity="relu")
    ids = np.random.default_rng(0).integers(0, V, 50)
    (found,) = insight.saturation(model, ids)
    h = insight.activations(model, ids)[0]["h"]
    np.testing.assert_array_equal(found.low, np.mean(h == 0, axis=0))
    assert found.ends == (0, math.inf)
    assert not found.high.any()
    assert 0 < found.share < 1


@pytest.mark.parametrize(("cell", "gates"), [("rnn", [""]), ("gru", "rzn"), ("lstm", "ifgo")])
def test_spectra(cell, gates):
    model = model_of(cell)
    found = insight.recurrent_spectra(model)
    assert [(s.layer, s.gate) for s in found] == [(k, gate) for k in range(2) for gate in gates]
    for spectrum in found:
        place = list(gates).index(spectrum.gate) * H
        W = model.params[f"rnn.weight_hh_l{spectrum.layer}"][place : place + H]
        assert spectrum.singular_values[0] == pytest.approx(np.linalg.norm(W, 2))
        assert np.prod(spectrum.singular_values) == pytest.approx(abs(np.linalg.det(W)))
        assert spectrum.eigenvalues.sum() == pytest.approx(np.trace(W))
        power = np.linalg.norm(np.linalg.matrix_power(W, 400)) ** (1 / 400)
        assert spectrum.spectral_radius == pytest.approx(power, rel=0.02)


def test_every_cell_names_its_gates():
    assert {cell: len(names) or 1 for cell, names in insight.GATES.items()} == {
        cell: cell.num_gates for cell in (VanillaCell, GRUCell, LSTMCell)
    }


def test_scores_against_scipy():
    rng = np.random.default_rng(0)
    units = np.round(rng.normal(size=(300, 4)), 1)  # with equal values
    mask = units[:, 1] + rng.normal(size=300) > 0.5
    number = np.round(units[:, 2] ** 3 + rng.normal(size=300), 0)
    scores = insight.unit_scores(units, {"mask": mask, "number": number})
    for unit in range(4):
        u = stats.mannwhitneyu(units[mask, unit], units[~mask, unit]).statistic
        assert scores["mask"][unit] == pytest.approx(u / (mask.sum() * (~mask).sum()), rel=1e-12)
        rho = stats.spearmanr(units[:, unit], number).statistic
        assert scores["number"][unit] == pytest.approx(rho, rel=1e-12)


def test_scores_without_enough_positions_are_left_out():
    rng = np.random.default_rng(0)
    few, enough = np.arange(100) < 9, np.arange(100) < 10
    units = rng.normal(size=(100, 2))
    features = {"few": few, "all but few": ~few, "enough": enough, "one": np.zeros(100)}
    assert list(insight.unit_scores(units, features)) == ["enough"]
    constant = insight.unit_scores(np.zeros((100, 1)), {"number": np.arange(100)})
    assert constant["number"] == [0]


def test_text_features():
    text = 'A "b (c\n d" 1\n\n"e\n\nf ” g'
    features = insight.text_features(text)
    marked = {
        name: "".join("x" if flag else "." for flag in values)
        for name, values in features.items()
        if values.dtype == bool
    }
    shown = text.replace("\n", "/")
    assert shown == 'A "b (c/ d" 1//"e//f ” g'
    assert marked == {
        "newline": ".......x.....xx..xx.....",
        "space": ".x..x...x..x........x.x.",
        "upper case": "x.......................",
        "digit": "............x...........",
        "punctuation": "..x..x....x....x.....x..",
        "indentation": "........x...............",
        "inside quotes": "..xxxxxxxx.....xxx......",
        "inside brackets": ".....xxxxxxxxx..........",
    }
    assert features["position in line"].tolist() == [
        1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 0, 0, 1, 2, 0, 0, 1, 2, 3, 4, 5,
    ]  # fmt: skip
    assert features["position in word"].tolist() == [
        1, 0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 0, 1, 0, 0, 1, 2, 0, 0, 1, 0, 1, 0, 1,
    ]  # fmt: skip


def test_a_unit_that_was_planted_is_found():
    vocabulary = nprnn.Vocabulary(TEXT)
    ids = vocabulary.encode(TEXT)
    model = nprnn.LanguageModel(len(vocabulary), 6, rng=0, dtype="float64")
    # Unit 4 hears of nothing but upper case, negatively.
    model.params["rnn.weight_hh_l0"][4] = 0
    model.params["rnn.weight_ih_l0"][4] = [-2.0 if t.isupper() else 2.0 for t in vocabulary.tokens]
    units = insight.interpretable_units(model, ids, vocabulary)
    (found,) = [unit for unit in units if unit.feature == "upper case"]
    assert found == insight.Unit(0, "h", 4, "upper case", "AUC", 0.0)
    assert found.strength == 1
    assert [unit.strength for unit in units] == sorted((u.strength for u in units), reverse=True)
    assert len({unit.feature for unit in units}) == len(units)


def test_units_are_scored_on_the_half_they_were_not_chosen_by():
    vocabulary = nprnn.Vocabulary("ab\n")
    rng = np.random.default_rng(0)
    text = "".join(rng.choice(["a", "b", "\n"], 600))
    half = len(text) // 2
    model = nprnn.LanguageModel(len(vocabulary), 8, rng=0, dtype="float64")
    ids = vocabulary.encode(text)
    units = {unit.feature: unit for unit in insight.interpretable_units(model, ids, vocabulary)}
    h = insight.activations(model, ids)[0]["h"]
    features = insight.text_features(text)
    first, second = (
        insight.unit_scores(h[part], {name: values[part] for name, values in features.items()})
        for part in (slice(half), slice(half, None))
    )
    unit = units["position in line"]
    assert unit.number == np.abs(first["position in line"]).argmax()
    assert unit.score == pytest.approx(second["position in line"][unit.number], rel=1e-12)


@pytest.mark.parametrize("cell", CELLS)
def test_predictions(cell, monkeypatch):
    monkeypatch.setattr(insight, "_WINDOW", 4)
    model = model_of(cell)
    ids = np.random.default_rng(3).integers(0, V, 12)
    state = state_of(model, 1)
    flat = tuple(part[:, 0] for part in state) if isinstance(state, tuple) else state[:, 0]
    found = insight.predictions(model, ids, k=3, state=flat)
    losses, _ = plain_losses(model, cell, ids, state)
    np.testing.assert_allclose(-np.log(found.probability), losses, rtol=1e-10)
    np.testing.assert_array_equal(found.tokens, ids[1:])
    assert found.top.shape == found.top_probability.shape == (11, 3)
    assert (np.diff(found.top_probability, axis=1) <= 0).all()
    everything = insight.predictions(model, ids, k=100, state=flat)
    np.testing.assert_allclose(everything.top_probability.sum(axis=1), 1)
    for row, token in enumerate(ids[1:]):
        (place,) = np.flatnonzero(everything.top[row] == token)
        assert everything.top_probability[row, place] == found.probability[row]


def test_curves():
    records = [
        {"step": 1, "loss": 3.0, "grad_norm": 0.5},
        {"step": 2, "loss": math.nan, "grad_norm": math.inf, "validation_loss": None},
        {"step": 3, "loss": 2.0, "grad_norm": 0.25, "validation_loss": 2.5},
    ]
    found = insight.curves(records)
    assert [part.tolist() for part in found] == [
        [1, 3], [3.0, 2.0], [3], [2.5], [1, 3], [0.5, 0.25],
    ]  # fmt: skip
    record = nprnn.Record(1, 4, 1.5, 0.125, 10, 0.1, 1.75)
    assert [part.tolist() for part in insight.curves([record])] == [
        [4], [1.5], [4], [1.75], [4], [0.125],
    ]  # fmt: skip


def test_windows_are_spread_over_the_text():
    tokens = np.arange(100)
    found = insight.windows(tokens, 9, 4)
    assert found.shape == (10, 4)
    assert found[0].tolist() == [0, 30, 60, 90]
    assert (np.diff(found, axis=0) == 1).all()
    assert insight.windows(tokens, 49, 4).shape == (50, 2)
    assert insight.windows(tokens, 500, 4).shape == (100, 1)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m: insight.gradient_flow(m, [1]), ValueError, "tokens"),
        (lambda m: insight.gradient_flow(m, [1, V]), ValueError, "vocab_size"),
        (lambda m: insight.gradient_flow(m, [1, 2], loss="first"), ValueError, "loss"),
        (lambda m: insight.gradient_flow("m", [1, 2]), TypeError, "LanguageModel"),
        (lambda m: insight.activations(m, []), ValueError, "tokens"),
        (lambda m: insight.activations(m, [[[1]]]), ValueError, "tokens"),
        (lambda m: insight.saturation(m, [1], margin=0.5), ValueError, "margin"),
        (lambda m: insight.predictions(m, [1, 2], k=0), ValueError, "k must"),
        (lambda m: insight.predictions(m, [[1, 2]]), ValueError, "tokens"),
        (lambda m: insight.curves([]), ValueError, "at least one finite loss"),
    ],
)
def test_wrong_use_is_named(call, error, words):
    with pytest.raises(error, match=words):
        call(model_of("rnn"))
