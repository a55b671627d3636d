"""The same model in nprnn, PyTorch, JAX and onnxruntime: who is measured beside whom.

Import it after `common.start`. All are one layer with one-hot input, a read-out and a softmax, in
float32, and begin with the same weights. A training step is: a new batch in; loss, gradients,
clipping to norm 1, SGD; the loss out.
"""

import numpy as np

import nprnn

LR, MAX_NORM = 0.1, 1.0


def draw_batches(point):
    """Return a function that draws a batch of inputs and targets, (T, B) each."""
    V, _, T, B = point
    rng = np.random.default_rng(0)
    return lambda: tuple(rng.integers(0, V, (2, T, B)))


def model(cell, point):
    """Return the model that all start from."""
    V, H, _, _ = point
    return nprnn.LanguageModel(V, H, cell=cell, rng=0)


def train_nprnn(cell, point, threads=1):
    """Return a function that takes a training step with nprnn."""
    network = model(cell, point)
    optimizer = nprnn.SGD(network.params, lr=LR)

    def step(inputs, targets):
        loss, grads, _ = network.loss_and_grads(inputs, targets, threads=threads)
        nprnn.clip_grad_norm(grads, MAX_NORM)
        optimizer.step(grads)
        return float(loss)

    return step


def infer_nprnn(cell, point, threads=1):
    """Return a function that computes the logits of whole sequences."""
    network = model(cell, point)
    return lambda inputs, targets: network(inputs, threads=threads)[0]


def generate_nprnn(cell, point, count):
    """Return a function that draws so many tokens, one after the other."""
    ids = model(cell, point).generate([0], rng=0)
    return lambda: [next(ids) for _ in range(count)]


def torch_modules(cell, point):
    """Return the layer and the read-out, with the weights of `model`."""
    import torch

    V, H, _, _ = point
    layer, readout = getattr(torch.nn, cell.upper())(V, H), torch.nn.Linear(H, V)
    both = torch.nn.ModuleDict({"rnn": layer, "readout": readout})
    start = model(cell, point).params
    both.load_state_dict({name: torch.from_numpy(value) for name, value in start.items()})
    return layer, readout


def torch_vectors(inputs, V):
    """Return one-hot vectors."""
    import torch

    return torch.nn.functional.one_hot(torch.from_numpy(inputs), V).float()


def train_torch(cell, point):
    """Return a function that takes the same step with PyTorch."""
    import torch

    V = point[0]
    layer, readout = torch_modules(cell, point)
    params = [*layer.parameters(), *readout.parameters()]
    optimizer = torch.optim.SGD(params, lr=LR)

    def step(inputs, targets):
        optimizer.zero_grad()
        hidden, _ = layer(torch_vectors(inputs, V))
        logits = readout(hidden).reshape(-1, V)
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(targets).reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, MAX_NORM)
        optimizer.step()
        return loss.item()

    return step


def infer_torch(cell, point):
    """Return a function that computes the logits of whole sequences with PyTorch."""
    import torch

    layer, readout = torch_modules(cell, point)

    @torch.inference_mode()
    def infer(inputs, targets):
        return readout(layer(torch_vectors(inputs, point[0]))[0])

    return infer


def generate_torch(cell, point, count):
    """Return a function that draws so many tokens with PyTorch."""
    import torch

    V = point[0]
    layer, readout = torch_modules(cell, point)
    torch.manual_seed(0)
    token, state = torch.zeros(1, dtype=torch.int64), None

    @torch.inference_mode()
    def generate():
        nonlocal token, state
        for _ in range(count):
            hidden, state = layer(torch.nn.functional.one_hot(token, V).float(), state)
            token = torch.multinomial(torch.softmax(readout(hidden)[0], 0), 1)
            token.item()

    return generate


def jax_cell(cell, H):
    """Return a function from (states, input's half), W and b to the next states."""
    import jax
    import jax.numpy as jnp

    def rnn(states, gates, W, b):
        (h,) = states
        return (jnp.tanh(gates + h @ W.T + b),)

    def gru(states, gates, W, b):
        (h,) = states
        hidden = h @ W.T + b
        r = jax.nn.sigmoid(gates[..., :H] + hidden[..., :H])
        z = jax.nn.sigmoid(gates[..., H : 2 * H] + hidden[..., H : 2 * H])
        n = jnp.tanh(gates[..., 2 * H :] + r * hidden[..., 2 * H :])
        return ((1 - z) * n + z * h,)

    def lstm(states, gates, W, b):
        h, c = states
        i, f, g, o = jnp.split(gates + h @ W.T + b, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    return {"rnn": rnn, "gru": gru, "lstm": lstm}[cell]


def jax_logits(cell, point):
    """Return a function from parameters and ids to logits: the input's half outside the scan."""
    import jax
    import jax.numpy as jnp

    V, H, _, B = point
    advance, states = jax_cell(cell, H), (2 if cell == "lstm" else 1)

    def logits(params, ids):
        W_ih, W_hh, b_ih, b_hh = (
            params[f"rnn.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        # For few classes the product with one-hot vectors is the faster one, for many the lookup.
        gates = (jax.nn.one_hot(ids, V) @ W_ih.T if V <= 100 else W_ih.T[ids]) + b_ih

        def body(before, gates_t):
            after = advance(before, gates_t, W_hh, b_hh)
            return after, after[0]

        start = tuple(jnp.zeros((B, H), jnp.float32) for _ in range(states))
        _, hidden = jax.lax.scan(body, start, gates)
        return hidden @ params["readout.weight"].T + params["readout.bias"]

    return logits


def jax_step(cell, point):
    """Return the uncompiled training step, and the parameters."""
    import jax
    import jax.numpy as jnp

    logits = jax_logits(cell, point)

    def loss_of(params, inputs, targets):
        scores = jax.nn.log_softmax(logits(params, inputs))
        return -jnp.take_along_axis(scores, targets[..., None], axis=-1).mean()

    def step(params, inputs, targets):
        loss, grads = jax.value_and_grad(loss_of)(params, inputs, targets)
        norm = jnp.sqrt(sum(jnp.vdot(g, g) for g in grads.values()))
        scale = LR * jnp.minimum(1.0, MAX_NORM / (norm + 1e-6))
        return {name: params[name] - scale * grads[name] for name in params}, loss

    start = {name: jnp.asarray(value) for name, value in model(cell, point).params.items()}
    return step, start


def train_jax(cell, point):
    """Return a function that takes the same step with JAX, all of it compiled together."""
    import jax

    step, params = jax_step(cell, point)
    compiled = jax.jit(step, donate_argnums=0)

    def run(inputs, targets):
        nonlocal params
        params, loss = compiled(params, inputs.astype(np.int32), targets.astype(np.int32))
        return float(loss)

    return run


def train_flax(cell, point):
    """Return a function that takes a step with Flax's layers, compiled; with weights of its own."""
    import optax
    from flax import nnx

    V, H, _, _ = point
    cells = {"rnn": nnx.SimpleCell, "gru": nnx.GRUCell, "lstm": nnx.OptimizedLSTMCell}

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.rnn = nnx.RNN(cells[cell](V, H, rngs=rngs), time_major=True, rngs=rngs)
            self.readout = nnx.Linear(H, V, rngs=rngs)

        def __call__(self, ids):
            return self.readout(self.rnn(nnx.one_hot(ids, V)))

    def loss_of(model, inputs, targets):
        scores = model(inputs)
        return optax.softmax_cross_entropy_with_integer_labels(scores, targets).mean()

    network = Model(nnx.Rngs(0))
    rule = optax.chain(optax.clip_by_global_norm(MAX_NORM), optax.sgd(LR))
    optimizer = nnx.Optimizer(network, rule, wrt=nnx.Param)

    @nnx.jit
    def compiled(network, optimizer, inputs, targets):
        loss, grads = nnx.value_and_grad(loss_of)(network, inputs, targets)
        optimizer.update(network, grads)
        return loss

    bound = nnx.cached_partial(compiled, network, optimizer)
    return lambda inputs, targets: float(bound(inputs.astype(np.int32), targets.astype(np.int32)))


def train_keras(cell, point):
    """Return a function that takes a step with Keras on JAX; with weights of its own."""
    import os

    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras

    V, H, T, B = point
    layers = {"rnn": "SimpleRNN", "gru": "GRU", "lstm": "LSTM"}
    network = keras.Sequential(
        [
            keras.Input((T,), batch_size=B, dtype="int32"),
            keras.layers.Lambda(lambda ids: keras.ops.one_hot(ids, V), output_shape=(T, V)),
            getattr(keras.layers, layers[cell])(H, return_sequences=True),
            keras.layers.Dense(V),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(keras.optimizers.SGD(LR, global_clipnorm=MAX_NORM), loss)
    return lambda inputs, targets: float(network.train_on_batch(inputs.T, targets.T))


def train_numpy_ml(cell, point):
    """Return a function that takes a step with numpy-ml's RNNCell; with weights of its own.

    The layers RNN and LSTM of version 0.1.2 cannot be made, its import asks of `collections` what
    Python 3.10 took out, and `flush_gradients` leaves a list where the cell expects None.
    """
    import collections
    import collections.abc

    collections.Hashable = collections.abc.Hashable
    from numpy_ml.neural_nets import layers, losses

    V, H, T, B = point
    rule = f"SGD(lr={LR}, clip_norm={MAX_NORM})"  # clips each matrix by itself
    recurrent = {"rnn": layers.RNNCell}[cell](H, optimizer=rule)
    readout, softmax = layers.FullyConnected(V, optimizer=rule), layers.Softmax()
    loss, one_hot = losses.CrossEntropy(), np.eye(V, dtype=np.float32)

    def step(inputs, targets):
        hidden = np.stack([recurrent.forward(x) for x in one_hot[inputs]])
        p = softmax.forward(readout.forward(hidden.reshape(T * B, H)))
        truth = one_hot[targets.ravel()]
        d_hidden = readout.backward(loss.grad(truth, p) / (T * B)).reshape(T, B, H)
        for t in reversed(range(T)):
            recurrent.backward(d_hidden[t])
        value = loss.loss(truth, p) / (T * B)
        for part in (recurrent, readout):
            part.update(value)
            part.flush_gradients()
        softmax.flush_gradients()
        recurrent.derived_variables["dLdA_accumulator"] = None
        return value

    return step


def onnx_session(cell, point, threads):
    """Return an onnxruntime session of the model, and its first inputs beside the ids."""
    import tempfile
    from pathlib import Path

    import onnxruntime

    network = model(cell, point)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        nprnn.interop.to_onnx(network, path)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            path.read_bytes(), settings, providers=["CPUExecutionProvider"]
        )
    return session, [entry.name for entry in session.get_inputs()[1:]]


def infer_onnx(cell, point, threads):
    """Return a function that computes the logits of whole sequences with onnxruntime."""
    _, H, _, B = point
    session, names = onnx_session(cell, point, threads)
    states = {name: np.zeros((1, B, H), np.float32) for name in names}
    return lambda inputs, targets: session.run(["logits"], {"ids": inputs, **states})[0]


def generate_onnx(cell, point, count, threads):
    """Return a function that draws so many tokens with onnxruntime."""
    session, names = onnx_session(cell, point, threads)
    states = {name: np.zeros((1, 1, point[1]), np.float32) for name in names}
    draw, rng = nprnn.generation.sampler(), np.random.default_rng(0)
    token = np.zeros((1, 1), np.int64)

    def generate():
        for _ in range(count):
            logits, *after = session.run(None, {"ids": token, **states})
            states.update(zip(names, after, strict=True))
            token[0, 0] = draw(logits[0, 0], rng)

    return generate
