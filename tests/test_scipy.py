"""SciPy differentiates the loss of a whole model: an oracle that owes nothing to the package."""

import numpy as np
from scipy.optimize import approx_fprime

from nprnn import LanguageModel, SequenceRegressor


def flat_loss(model, *arguments):
    """Return the loss as a function of one vector, and the vector's split into parameters."""
    names, shapes = zip(*((k, v.shape) for k, v in model.params.items()), strict=True)
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]

    def loss(vector):
        pieces = np.split(vector, ends)
        params = {
            name: piece.reshape(shape)
            for name, piece, shape in zip(names, pieces, shapes, strict=True)
        }
        return float(model.with_params(params).loss(*arguments)[0])

    return loss, np.concatenate([value.ravel() for value in model.params.values()])


def assert_gradient(model, *arguments):
    loss, point = flat_loss(model, *arguments)
    _, grads, _ = model.loss_and_grads(*arguments)
    gradient = np.concatenate([grads[name].ravel() for name in model.params])
    # Two one-sided differences make a central one: SciPy offers the first.
    numeric = (approx_fprime(point, loss, 1e-5) + approx_fprime(point, loss, -1e-5)) / 2
    np.testing.assert_allclose(gradient, numeric, rtol=0, atol=1e-8 * np.abs(gradient).max() + 1e-9)


def test_language_model():
    rng = np.random.default_rng(0)
    model = LanguageModel(4, 3, num_layers=2, dtype=np.float64, rng=rng)
    model = model.with_params({k: rng.normal(0, 0.7, v.shape) for k, v in model.params.items()})
    inputs, targets = rng.integers(0, 4, (2, 5, 3))
    assert_gradient(model, inputs, targets, rng.normal(size=(2, 3, 3)))


def test_regressor():
    rng = np.random.default_rng(0)
    model = SequenceRegressor(2, 3, 2, bidirectional=True, dtype=np.float64, rng=rng)
    model = model.with_params({k: rng.normal(0, 0.7, v.shape) for k, v in model.params.items()})
    x, y = rng.normal(size=(2, 5, 3, 2))
    assert_gradient(model, x, y, rng.normal(size=(2, 3, 3)))
