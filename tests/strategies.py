"""What the tests draw: shapes and settings from Hypothesis, numbers from a Generator.

Biases, upstream gradients and initial states are random and never 0 or 1: such values hide terms
that are missing.
"""

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from nprnn import RNN

seeds = st.integers(0, 2**32 - 1)


@dataclass
class Case:
    """A layer in float64, with everything that goes into its passes."""

    layer: RNN
    x: np.ndarray
    state: np.ndarray
    lengths: np.ndarray | None
    d_output: np.ndarray
    d_state: np.ndarray
    dropout_seed: int | None

    def forward(self, layer=None, x=None, state=None):
        return (layer or self.layer).forward(
            self.x if x is None else x,
            self.state if state is None else state,
            lengths=self.lengths,
            rng=self.dropout_seed,
        )

    def loss(self, params):
        """Σ output * d_output + Σ state * d_state: a scalar with these upstream gradients."""
        layer = self.layer.with_params({k: params[k] for k in self.layer.params})
        output, state, _ = self.forward(layer, params.get("x", self.x), params["state"])
        return (output * self.d_output).sum() + (state * self.d_state).sum()

    def variables(self):
        """Everything that has a gradient: parameters, state, and x unless it is integers."""
        x = {} if self.x.dtype.kind in "iu" else {"x": self.x}
        return {**self.layer.params, **x, "state": self.state}

    def gradients(self):
        _, _, cache = self.forward()
        d_x, d_state_0, grads = self.layer.backward(self.d_output, self.d_state, cache)
        x = {} if d_x is None else {"x": d_x}
        return {**grads, **x, "state": d_state_0}


@st.composite
def layer_options(draw, max_layers=3):
    num_layers = draw(st.integers(1, max_layers))
    return {
        "input_size": draw(st.integers(1, 4)),
        "hidden_size": draw(st.integers(1, 4)),
        "num_layers": num_layers,
        "nonlinearity": draw(st.sampled_from(["tanh", "relu"])),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0.0, 0.3])) if num_layers > 1 else 0.0,
        "bidirectional": draw(st.booleans()),
    }


@st.composite
def cases(draw, max_layers=3, integers=None, with_lengths=None, nonlinearity=None):
    options = draw(layer_options(max_layers))
    if nonlinearity:
        options["nonlinearity"] = nonlinearity
    T, B = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(seeds))
    lengths = None
    if draw(st.booleans()) if with_lengths is None else with_lengths:
        lengths = rng.integers(0, T + 1, B)
    use_integers = draw(st.booleans()) if integers is None else integers
    dropout_seed = draw(seeds) if options["dropout"] else None
    return make_case(rng, T, B, lengths, use_integers, dropout_seed, **options)


def make_case(rng, T, B, lengths, use_integers, dropout_seed, **options):
    layer = RNN(**options, dtype=np.float64, rng=rng)
    # Far from the initialisation, so that the non-linearity bends and relu units switch.
    layer.params = {k: rng.normal(0, 0.8, v.shape) for k, v in layer.params.items()}
    L, D, H = layer.num_layers, layer.num_directions, layer.hidden_size
    swap = (lambda a: np.ascontiguousarray(a.swapaxes(0, 1))) if layer.batch_first else np.array
    if use_integers:
        x = swap(rng.integers(0, layer.input_size, (T, B)))
    else:
        x = swap(rng.normal(size=(T, B, layer.input_size)))
    return Case(
        layer,
        x,
        rng.normal(size=(L * D, B, H)),
        lengths,
        swap(rng.normal(size=(T, B, D * H))),
        rng.normal(size=(L * D, B, H)),
        dropout_seed,
    )
