"""A step of stochastic gradient descent.

The gradient points where the loss grows fastest. A step of learning goes the
other way, by a small part of it, the learning rate:

    W ← W - lr · dL/dW

Hint: return the new parameters, or change the arrays in place; both are right.

Check it with: nprnn exercise check sgd.py
"""


def sgd_step(params, grads, lr):
    """Move the parameters against their gradients.

    Parameters
    ----------
    params : dict of ndarray
    grads : dict of ndarray
        With the keys and shapes of `params`.
    lr : float
        Learning rate.

    Returns
    -------
    params : dict of ndarray
    """
    return {name: value - lr * grads[name] for name, value in params.items()}
