"""What goes on in a trained model, in numbers: what the pictures of `nprnn.plot` are drawn from.

Layers and units are counted from 0, as in the names of the parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _validation as check
from .cells import GRUCell, LSTMCell, VanillaCell
from .layout import turned
from .losses import summed_cross_entropy
from .stack import Recurrent, as_parts, from_parts

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from ._validation import Array
    from .encoding import Vocabulary
    from .models import LanguageModel
    from .stack import State

_WINDOW = 512  # steps read at a time: what a forward pass keeps beside its states stays small
_FEWEST = 10  # positions with a property, and without it, for its score to mean anything

# The gates of a cell, in the order in which they stand in its parameters.
GATES: dict[type, tuple[str, ...]] = {
    VanillaCell: (),
    GRUCell: ("r", "z", "n"),
    LSTMCell: ("i", "f", "g", "o"),
}
_SIGMOIDS = frozenset("rzifo")


class Curves(NamedTuple):
    """What a list of records says, each quantity beside the steps at which it is known.

    Losses are in nats a token. What is not a finite number is left out.
    """

    steps: Array
    loss: Array
    validation_steps: Array
    validation_loss: Array
    grad_norm_steps: Array
    grad_norm: Array


def curves(records: Iterable[Any]) -> Curves:
    """Return the curves of a training run.

    Parameters
    ----------
    records : iterable of Record, Point or dict
        Each with ``step`` and, as far as known, ``loss``, ``validation_loss`` and ``grad_norm``.

    Raises
    ------
    ValueError
        If there is no record with a step and a finite loss.
    """
    rows = [record if isinstance(record, Mapping) else record._asdict() for record in records]
    found = []
    for name in ("loss", "validation_loss", "grad_norm"):
        pairs = [
            (row["step"], row[name])
            for row in rows
            if row.get(name) is not None and math.isfinite(row[name])
        ]
        found += list(np.array(pairs, float).reshape(-1, 2).T)
    if not len(found[0]) and not len(found[2]):
        raise ValueError(
            "records must hold at least one finite loss; got "
            f"{len(rows)} of them: pass what nprnn.train yields, or dicts with step and loss"
        )
    return Curves(*found)


class GradientFlow(NamedTuple):
    """How far the gradient of a loss reaches back; see `gradient_flow`.

    Attributes
    ----------
    rows : list of (int, str)
        The layer, and "h" or "c", that each row of `norms` belongs to.
    norms : ndarray of shape (rows, T)
        ‖dL/dh_t‖, the mean over the sequences.
    slopes : ndarray of shape (rows,)
        What log10 of the norm changes by with each step back, by least squares: below 0 where the
        gradient vanishes, above 0 where it explodes. NaN where fewer than two norms are above 0.
    intercepts : ndarray of shape (rows,)
        That fit at the last step.
    """

    rows: list[tuple[int, str]]
    norms: Array
    slopes: Array
    intercepts: Array


def gradient_flow(
    model: LanguageModel, tokens: ArrayLike, state: State = None, *, loss: str = "last"
) -> GradientFlow:
    """Return the norm of the gradient of a loss with respect to every state.

    dL/dh_t counts every way from h_t to the loss: through the next step, the layer above, and the
    read-out. dL/dc_t, of an LSTM, is the gradient of the cell as the next step reads it. Each is
    what the layer's own `backward` returns as the gradient of the initial state, for windows of one
    step; in double precision, so that small numbers do not become 0.

    Parameters
    ----------
    model : LanguageModel
    tokens : array_like of int, shape (T+1,) or (T+1, B)
        All but the last are read, all but the first predicted.
    state : ndarray of shape (L, H) or (L, B, H), optional
        Zeros without it. For an LSTM the pair (h, c) of such.
    loss : {"last", "all"}
        The loss of the last prediction alone, whose gradient has to come the whole way; or, as in
        training, the mean of all predictions, in which the near ones hide whether the far are felt.

    Returns
    -------
    GradientFlow
    """
    ids = _sequence(model, tokens, two_axes=True)
    check.choice("loss", loss, ("last", "all"))
    parts = None if state is None else [np.asarray(part, float) for part in as_parts(state)]
    if ids.ndim == 1:
        ids = ids[:, None]
        parts = None if parts is None else [part[:, None] for part in parts]
    double = model.with_params({name: np.asarray(v, float) for name, v in model.params.items()})
    x, targets = double._enter(ids[:-1])[0], ids[1:]
    passes = []  # of each layer: itself, and the cache of each step
    for k in range(double.rnn.num_layers):
        layer = _single_layer(double.rnn, k)
        own = None if parts is None else from_parts([part[k : k + 1] for part in parts])
        x, caches = _step_by_step(layer, x, own)
        passes.append((layer, caches))
    first = len(targets) - 1 if loss == "last" else 0
    logits, cache = double.readout.forward(x[first:])
    # Divided by the number of predictions and not by B: each sequence has its own loss.
    _, d_logits = summed_cross_entropy(logits, targets[first:], None, len(logits))
    d_output = np.zeros_like(x)
    d_output[first:] = double.readout.backward(d_logits, cache)[0]
    rows: list[tuple[int, str]] = []
    norms: list[Array] = []
    for k in reversed(range(len(passes))):
        d_states, d_output = _step_by_step_back(*passes[k], d_output)
        for name, d_state in reversed(list(zip("hc", d_states, strict=False))):
            rows.insert(0, (k, name))
            norms.insert(0, np.linalg.norm(d_state, axis=2).mean(axis=1))
    fits = np.array([_fit(row) for row in norms])
    return GradientFlow(rows, np.array(norms), fits[:, 0], fits[:, 1])


def _single_layer(layers: Recurrent, k: int) -> Recurrent:
    """Return layer k by itself, over the same arrays."""
    params = {
        name.removesuffix(f"_l{k}") + "_l0": value
        for name, value in layers.params.items()
        if name.endswith(f"_l{k}")
    }
    width, dtype = params["weight_ih_l0"].shape[1], params["weight_ih_l0"].dtype
    layer = Recurrent(layers.cell, width, layers.hidden_size, bias=layers.bias, dtype=dtype, rng=0)
    return layer.with_params(params)


def _step_by_step(layer: Recurrent, x: Array, state: State) -> tuple[Array, list[Any]]:
    """Run a layer in windows of one step; return the output, (T, B, H), and the caches."""
    outputs, caches = [], []
    for t in range(len(x)):
        output, state, cache = layer.forward(x[t : t + 1], state)
        outputs.append(output)
        caches.append(cache)
    return np.concatenate(outputs), caches


def _step_by_step_back(
    layer: Recurrent, caches: list[Any], d_output: Array
) -> tuple[list[Array], Array]:
    """Return the gradients of every state, (T, B, H) each, and of the input, (T, B, in)."""
    S = layer.cell.num_states
    d_states = [np.zeros_like(d_output) for _ in range(S)]
    d_inputs: list[Array] = []
    carried: State = None  # what the states after a step receive from the steps after it
    for t in reversed(range(len(caches))):
        if carried is not None:
            for every, part in zip(d_states, as_parts(carried), strict=True):
                every[t] = part[0]
        d_states[0][t] += d_output[t]
        d_x, carried, _ = layer.backward(d_output[t : t + 1], carried, caches[t])
        if d_x is not None:
            d_inputs.insert(0, d_x)
    return d_states, np.concatenate(d_inputs) if d_inputs else d_output


def _fit(norms: Array) -> tuple[float, float]:
    """Return slope and intercept of log10 of the norms against the steps back from the last."""
    back = np.arange(len(norms))[::-1]
    known = np.isfinite(norms) & (norms > 0)
    if np.count_nonzero(known) < 2:
        return math.nan, math.nan
    slope, intercept = np.polyfit(back[known], np.log10(norms[known]), 1)
    return float(slope), float(intercept)


class Spectrum(NamedTuple):
    """One recurrent matrix W_hh, (H, H): of a layer, and of a gate where there are gates.

    Attributes
    ----------
    layer : int
    gate : str
        "" for a layer without gates; a number where the gates of a cell have no names.
    singular_values : ndarray of shape (H,)
        Falling. The largest is the most by which a step can stretch a vector.
    eigenvalues : ndarray of shape (H,), complex
    """

    layer: int
    gate: str
    singular_values: Array
    eigenvalues: Array

    @property
    def spectral_radius(self) -> float:
        """The largest magnitude of an eigenvalue."""
        return float(np.abs(self.eigenvalues).max())


def recurrent_spectra(model: LanguageModel) -> list[Spectrum]:
    """Return the singular values and eigenvalues of every recurrent matrix.

    Parameters
    ----------
    model : LanguageModel

    Returns
    -------
    list of Spectrum
        By layer, then by gate, in the order in which the gates stand in ``weight_hh_l{k}``.
    """
    layers = _model(model).rnn
    names, G = GATES.get(type(layers.cell)), layers.cell.num_gates
    names = names or (("",) if G == 1 else tuple(map(str, range(G))))
    found = []
    for k in range(layers.num_layers):
        whole = np.asarray(layers.weights(k).hh, float)
        for name, W in zip(names, np.split(whole, len(names)), strict=True):
            singular = np.linalg.svd(W, compute_uv=False)
            found.append(Spectrum(k, name, singular, np.linalg.eigvals(W)))
    return found


def activations(
    model: LanguageModel, tokens: ArrayLike, state: State = None, *, gates: bool = True
) -> list[dict[str, Array]]:
    """Return what every unit holds after each token has been read.

    Parameters
    ----------
    model : LanguageModel
    tokens : array_like of int, shape (T,) or (T, B)
    state : ndarray of shape (L, H) or (L, B, H), optional
        Zeros without it. For an LSTM the pair (h, c) of such.
    gates : bool, default True
        Whether the gates are returned too.

    Returns
    -------
    list of dict, one a layer
        Arrays (T, H) or (T, B, H): ``"h"``; of an LSTM also ``"c"``; of a GRU the gates ``"r"``,
        ``"z"`` and the candidate ``"n"``, of an LSTM ``"i"``, ``"f"``, ``"g"`` and ``"o"``.
    """
    ids = _sequence(model, tokens, two_axes=True, fewest=1)
    layers, names = model.rnn, GATES.get(type(model.rnn.cell), ()) if gates else ()
    windows: list[list[dict[str, Array]]] = []
    for start in range(0, len(ids), _WINDOW):
        x, _ = model._enter(ids[start : start + _WINDOW])
        _, state, cache = layers.run(x, state)
        found = []
        for (run,), _ in cache.layers:
            own = dict(zip("hc", map(run.packing.after, run.states), strict=False))
            if names:
                every = run.gates[..., : len(run.weights.hh), :]
                own |= zip(names, np.split(every, len(names), axis=-2), strict=True)
            leave = cache.boundary.leave
            found.append({name: np.array(leave(turned(every))) for name, every in own.items()})
        windows.append(found)
    return [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*windows, strict=True)
    ]


class Saturation(NamedTuple):
    """How often each unit of a layer stands at an end of its range, where little gradient passes.

    Attributes
    ----------
    layer : int
    name : str
        "h", a gate, or "tanh c".
    ends : (float, float)
        The ends of the range: -1 and 1, 0 and 1, or for ReLU 0 and infinity.
    low, high : ndarray of shape (H,)
        Fraction of the steps at which the unit is within the margin of the one end, and the other.
    """

    layer: int
    name: str
    ends: tuple[float, float]
    low: Array
    high: Array

    @property
    def share(self) -> float:
        """The fraction of all units and steps that are saturated."""
        return float(np.mean(self.low + self.high))


def saturation(
    model: LanguageModel, tokens: ArrayLike, state: State = None, *, margin: float = 0.1
) -> list[Saturation]:
    """Return how often each unit is saturated: near an end of what it can be.

    That is `|h|` above 0.9 with the default margin, and so for the candidates n and g, and tanh c;
    gates below 0.1 (closed) or above 0.9 (open); for a ReLU, which saturates at one end only,
    h = 0.

    Parameters
    ----------
    model : LanguageModel
    tokens, state
        As for `activations`.
    margin : float, default 0.1
        Distance from the end, in (0, 0.5).

    Returns
    -------
    list of Saturation
        By layer; h first, then the gates, then tanh c.
    """
    margin = check.real("margin", margin, "(0, 0.5)")
    relu = getattr(model.rnn, "nonlinearity", "tanh") == "relu"
    found = []
    for k, own in enumerate(activations(model, tokens, state)):
        if "c" in own:
            own["tanh c"] = np.tanh(own.pop("c"))
        for name, values in own.items():
            units = values.reshape(-1, values.shape[-1])
            if relu:
                low, high = units <= 0, np.zeros_like(units, bool)
                ends = (0.0, math.inf)
            else:
                ends = (0.0, 1.0) if name in _SIGMOIDS else (-1.0, 1.0)
                low, high = units < ends[0] + margin, units > ends[1] - margin
            found.append(Saturation(k, name, ends, low.mean(axis=0), high.mean(axis=0)))
    return found


class Unit(NamedTuple):
    """A unit, and the property of the text that it follows.

    Attributes
    ----------
    layer : int
    kind : str
        "h", or for an LSTM also "c".
    number : int
    feature : str
        The property; see `text_features`.
    measure : str
        "AUC" for a property that a position has or has not: the probability that the unit is higher
        at a position that has it than at one that has not, 0.5 for a unit that knows nothing of it.
        "rank correlation" (Spearman's) for a number.
    score : float
        By that measure, on the half of the text that the unit was not chosen by.
    """

    layer: int
    kind: str
    number: int
    feature: str
    measure: str
    score: float

    @property
    def strength(self) -> float:
        """0 for no relation, 1 for a perfect one, whichever the sign: `|2 AUC - 1|`, or `|ρ|`."""
        return abs(2 * self.score - 1) if self.measure == "AUC" else abs(self.score)


def interpretable_units(
    model: LanguageModel, tokens: ArrayLike, vocabulary: Vocabulary, state: State = None
) -> list[Unit]:
    """Return, for each property of the text, the unit that follows it most closely.

    Every unit's activation after a token is compared with the properties of that token. The best
    unit is chosen on the first half of the tokens and scored on the second, so that the best of
    many is not flattered by chance.

    Parameters
    ----------
    model : LanguageModel
    tokens : array_like of int, shape (N,)
        Some thousands are enough.
    vocabulary : Vocabulary
    state : ndarray of shape (L, H), optional
        As for `activations`.

    Returns
    -------
    list of Unit
        The strongest first. Properties that fewer than 10 positions have, or lack, in one of the
        halves are left out.
    """
    ids = _sequence(model, tokens)
    features = text_features(token_strings(vocabulary, ids))
    names, columns = [], []
    for k, own in enumerate(activations(model, ids, state, gates=False)):
        for kind, values in own.items():
            names += [(k, kind, index) for index in range(values.shape[1])]
            columns.append(values)
    units, half = np.concatenate(columns, axis=1), len(ids) // 2
    chosen_by = unit_scores(units[:half], {name: v[:half] for name, v in features.items()})
    scored_by = unit_scores(units[half:], {name: v[half:] for name, v in features.items()})
    found = []
    for feature in chosen_by.keys() & scored_by.keys():
        measure = "AUC" if features[feature].dtype == bool else "rank correlation"
        middle = 0.5 if measure == "AUC" else 0.0
        best = int(np.abs(chosen_by[feature] - middle).argmax())
        score = float(scored_by[feature][best])
        found.append(Unit(*names[best], feature, measure, score))
    return sorted(found, key=lambda unit: (-unit.strength, unit.feature))


def unit_scores(units: ArrayLike, features: Mapping[str, Array]) -> dict[str, Array]:
    """Return how closely each unit follows each property.

    Parameters
    ----------
    units : array_like of shape (N, U)
        The activations of U units at N positions.
    features : dict of ndarray of shape (N,)
        Booleans, or numbers.

    Returns
    -------
    dict of ndarray of shape (U,)
        For booleans the AUC, that is the share of pairs, of a position with the property and one
        without, in which the unit is higher at the first; equal ones count half (Mann and Whitney
        1947). For numbers the correlation of the ranks (Spearman 1904), 0 for a unit that is
        constant. A property that fewer than 10 positions have, or lack, is left out.
    """
    ranks = np.stack([_ranks(column) for column in np.asarray(units).T], axis=1)  # (N, U)
    scores = {}
    for name, values in features.items():
        if values.dtype == bool:
            N, n = len(values), int(np.count_nonzero(values))
            if min(n, N - n) >= _FEWEST:
                scores[name] = (values @ ranks - n * (n + 1) / 2) / (n * (N - n))
        elif len(values) - np.unique(values, return_counts=True)[1].max(initial=0) >= _FEWEST:
            scores[name] = _correlations(ranks, _ranks(values))
    return scores


def _ranks(values: Array) -> Array:
    """Return the rank of each number, from 1; equal ones share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(counts) - (counts - 1) / 2)[place]
    return ranks


def _correlations(columns: Array, values: Array) -> Array:
    """Return Pearson's correlation of each column, (N, U), with the values, (N,)."""
    columns, values = columns - columns.mean(axis=0), values - values.mean()
    scale = np.sqrt((columns**2).sum(axis=0) * (values**2).sum())
    found: Array = np.divide(values @ columns, scale, out=np.zeros_like(scale), where=scale > 0)
    return found


def text_features(characters: Sequence[str]) -> dict[str, Array]:
    """Return properties of each position of a text that a unit may have learnt to follow.

    Each depends on what has been read up to and including the position.

    Parameters
    ----------
    characters : sequence of str, length N
        A text, or its tokens.

    Returns
    -------
    dict of ndarray of shape (N,)
        Booleans: ``"newline"``, ``"space"``, ``"indentation"`` (white space at the beginning of a
        line), ``"inside quotes"`` (double ones, straight or curly, from the opening one to before
        the closing one) and ``"inside brackets"``, both ended by an empty line at the latest,
        ``"upper case"``, ``"digit"``, ``"punctuation"``. Numbers: ``"position in line"`` and
        ``"position in word"``, characters since the last newline, or white space.
    """
    kinds: dict[str, list[Any]] = {
        "newline": ["\n" in each for each in characters],
        "space": [each == " " for each in characters],
        "upper case": [each.isupper() for each in characters],
        "digit": [each.isdigit() for each in characters],
        "punctuation": [
            not (each.isalnum() or each.isspace() or each == "_") for each in characters
        ],
    }
    scanned = np.array(list(_scan(characters)), np.int64).reshape(-1, 5)
    features = {name: np.array(values, bool) for name, values in kinds.items()}
    for name, column in zip(
        ("indentation", "inside quotes", "inside brackets"), scanned.T[2:], strict=True
    ):
        features[name] = column > 0
    features["position in line"], features["position in word"] = scanned[:, 0], scanned[:, 1]
    return features


def _scan(characters: Sequence[str]) -> Iterable[tuple[int, int, bool, bool, int]]:
    """Yield position in line and in word, and whether in indentation, in quotes, in brackets."""
    in_line = in_word = depth = 0
    indented, quoted, before = True, False, ""
    for each in characters:
        newline = "\n" in each
        in_line = 0 if newline else in_line + 1
        in_word = 0 if each.isspace() else in_word + 1
        indented = newline or (indented and each.isspace())
        if newline and "\n" in before:
            quoted, depth = False, 0
        elif each == '"':
            quoted = not quoted
        elif each in ("“", "”"):
            quoted = each == "“"
        elif each in ("(", "[", "{"):
            depth += 1
        elif each in (")", "]", "}"):
            depth = max(depth - 1, 0)
        before = each
        yield in_line, in_word, indented and not newline, quoted, depth


class Predictions(NamedTuple):
    """What a model expected of each token but the first; see `predictions`.

    Attributes
    ----------
    tokens : ndarray of shape (N-1,)
        What came.
    probability : ndarray of shape (N-1,)
        Of what came.
    top : ndarray of shape (N-1, k)
        The likeliest tokens, the likeliest first.
    top_probability : ndarray of shape (N-1, k)
    """

    tokens: Array
    probability: Array
    top: Array
    top_probability: Array


def predictions(
    model: LanguageModel, tokens: ArrayLike, *, k: int = 5, state: State = None
) -> Predictions:
    """Return the probability of each token after those before it, and of the likeliest ones.

    Parameters
    ----------
    model : LanguageModel
    tokens : array_like of int, shape (N,)
    k : int, default 5
        How many of the likeliest; at most the size of the vocabulary.
    state : ndarray of shape (L, H), optional
        What the first token is read in; zeros without it. For an LSTM the pair (h, c) of such.
    """
    ids = _sequence(model, tokens)
    k = min(check.integer("k", k), model.vocab_size)
    own, tops, top_ps = [], [], []
    for start in range(0, len(ids) - 1, _WINDOW):
        window = ids[start : start + _WINDOW + 1]
        logits, state = model(window[:-1], state)
        scores = logits.astype(float)
        p = np.exp(scores - scores.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)  # (T, V)
        top = np.argsort(-p, axis=1, kind="stable")[:, :k]
        own.append(np.take_along_axis(p, window[1:, None].astype(np.intp), 1)[:, 0])
        tops.append(top)
        top_ps.append(np.take_along_axis(p, top, 1))
    return Predictions(ids[1:], *map(np.concatenate, (own, tops, top_ps)))


def windows(tokens: ArrayLike, num_steps: int, number: int) -> Array:
    """Return windows of a text, spread over it evenly, side by side: (num_steps+1, B).

    Parameters
    ----------
    tokens : array_like of int, shape (N,)
    num_steps : int
        Steps of a window, T; fewer for a text that is shorter.
    number : int
        The most windows, B; fewer for a text in which they would overlap.
    """
    sequence = np.asarray(tokens)
    length = min(num_steps + 1, len(sequence))
    number = max(1, min(number, len(sequence) // length))
    starts = np.linspace(0, len(sequence) - length, number).astype(int)
    return np.stack([sequence[start : start + length] for start in starts], axis=1)


def token_strings(vocabulary: Vocabulary, tokens: ArrayLike) -> list[str]:
    """Return the tokens of a text as strings."""
    ids = check.index_array("tokens", tokens, len(vocabulary), "len(vocabulary)")
    return [str(vocabulary.tokens[place]) for place in ids.tolist()]


def _model(model: Any) -> LanguageModel:
    if not hasattr(model, "vocab_size") or not hasattr(model, "rnn"):
        raise TypeError(f"model must be a LanguageModel, got {model!r}")
    checked: LanguageModel = model
    return checked


def _sequence(model: Any, tokens: ArrayLike, *, two_axes: bool = False, fewest: int = 2) -> Array:
    """Return the tokens as an array (N,), or where two axes are let in (N, B)."""
    ids = check.index_array("tokens", tokens, _model(model).vocab_size, "vocab_size")
    shapes = "(N,) or (N, B)" if two_axes else "(N,)"
    fits = ids.ndim in ((1, 2) if two_axes else (1,)) and len(ids) >= fewest and ids.size > 0
    check.shape("tokens", ids, f"{shapes}, N at least {fewest}", fits)
    return ids
