"""The classic chapter in NumPy: a recurrent network from scratch, then the concise way.

    python examples/rnn_from_scratch.py [FILE]

The order is that of the textbook chapter (Zhang et al., "Dive into Deep Learning", the chapter on
recurrent neural networks): parameters, the network, prediction, gradient clipping, training; and
then the same with the ready-made layer. Where the chapter leaves gradients to a framework, they are
derived here, in `rnn_backward`.

FILE is The Time Machine in the chapter; without one, English that comes with Python is read.
"""

import argparse
import math
import re
import sys
import time

import numpy as np

import nprnn

# 1. The data: characters of the first 10,000, letters and spaces only.


def preprocess(text):
    """Keep letters, in lower case; everything else becomes one space. Lines are joined."""
    return "".join(re.sub("[^A-Za-z]+", " ", line).strip().lower() for line in text.split("\n"))


def load_corpus(text, max_tokens):
    """Return the token ids of the first characters, and the vocabulary of the whole text."""
    text = preprocess(text)
    vocab = nprnn.Vocabulary(text, unknown="<unk>")
    return vocab.encode(text[:max_tokens]), vocab


# 2. The parameters.


def get_params(vocab_size, num_hiddens, rng, dtype=np.float32):
    """Draw W_xh, W_hh, b_h of the hidden layer and W_hq, b_q of the output layer."""

    def normal(*shape):
        return (0.01 * rng.standard_normal(shape)).astype(dtype)

    return {
        "W_xh": normal(vocab_size, num_hiddens),  # (V, H)
        "W_hh": normal(num_hiddens, num_hiddens),  # (H, H)
        "b_h": np.zeros(num_hiddens, dtype),  # (H,)
        "W_hq": normal(num_hiddens, vocab_size),  # (H, V)
        "b_q": np.zeros(vocab_size, dtype),  # (V,)
    }


# 3. The network. A state is a tuple, as an LSTM would need two arrays.


def init_rnn_state(batch_size, num_hiddens, dtype=np.float32):
    """Return the state before the first step."""
    return (np.zeros((batch_size, num_hiddens), dtype),)  # (B, H)


def rnn(inputs, state, params, cache=None):
    """Run over the steps of `inputs` (T, B, V); return outputs (T*B, V) and the new state.

    If `cache` is a list, what the backward pass needs is appended to it.
    """
    W_xh, W_hh, b_h, W_hq, b_q = params.values()
    (H,) = state
    states = [H]
    for X in inputs:  # (B, V)
        H = np.tanh(X @ W_xh + H @ W_hh + b_h)  # (B, H)
        states.append(H)
    hidden = np.concatenate(states[1:])  # (T*B, H)
    if cache is not None:
        cache += [inputs, states, hidden]
    return hidden @ W_hq + b_q, (H,)


def rnn_backward(d_outputs, params, cache):
    """Return the gradients of the parameters, given those of the outputs (T*B, V).

    What reaches H_t comes from its own output, and through H_(t+1) from all later ones:
    dL/dH_t = dL/dO_t W_hqᵀ + dL/dA_(t+1) W_hhᵀ with A_t = X_t W_xh + H_(t-1) W_hh + b_h, and
    dL/dA_t = (1 - H_t²) dL/dH_t.
    """
    _, W_hh, _, W_hq, _ = params.values()
    inputs, states, hidden = cache
    T, B, _ = inputs.shape
    d_hidden = (d_outputs @ W_hq.T).reshape(T, B, -1)
    d_pre = np.empty_like(d_hidden)  # (T, B, H)
    d_later = np.zeros_like(d_hidden[0])  # (B, H)
    for t in reversed(range(T)):
        d_pre[t] = (1 - states[t + 1] ** 2) * (d_hidden[t] + d_later)
        d_later = d_pre[t] @ W_hh.T
    d_pre = d_pre.reshape(T * B, -1)
    return {
        "W_xh": inputs.reshape(T * B, -1).T @ d_pre,
        "W_hh": np.concatenate(states[:-1]).T @ d_pre,
        "b_h": d_pre.sum(axis=0),
        "W_hq": hidden.T @ d_outputs,
        "b_q": d_outputs.sum(axis=0),
    }


class RNNModelScratch:
    """A language model over functions that make its parameters and its state, and run it."""

    def __init__(
        self,
        vocab_size,
        num_hiddens,
        get_params,
        init_state,
        forward_fn,
        backward_fn=rnn_backward,
        rng=None,
    ):
        self.vocab_size, self.num_hiddens = vocab_size, num_hiddens
        self.params = get_params(vocab_size, num_hiddens, np.random.default_rng(rng))
        self.init_state, self.forward_fn, self.backward_fn = init_state, forward_fn, backward_fn

    def __call__(self, X, state, cache=None):
        """Return the outputs for token ids X (B, T), row t*B + b for step t, and the new state."""
        inputs = nprnn.one_hot(X.T, self.vocab_size)  # (T, B, V)
        return self.forward_fn(inputs, state, self.params, cache)

    def begin_state(self, batch_size):
        """Return a fresh state, for a batch of any size."""
        return self.init_state(batch_size, self.num_hiddens)

    def loss_and_grads(self, X, Y, state):
        """Return the mean loss against the next tokens Y (B, T), its gradients, the new state."""
        cache = []
        outputs, state = self(X, state, cache)
        loss, d_outputs = nprnn.softmax_cross_entropy(outputs, Y.T.reshape(-1))
        return loss, self.backward_fn(d_outputs, self.params, cache), state


# 4. Prediction: read the prefix to warm the state up, then go on with the likeliest character.


def predict(prefix, num_preds, net, vocab):
    """Return the prefix and the characters that the network expects after it."""
    state = net.begin_state(batch_size=1)
    ids = vocab.encode(prefix).tolist()
    for token in ids[:-1]:
        _, state = net(np.array([[token]]), state)
    for _ in range(num_preds):
        outputs, state = net(np.array([[ids[-1]]]), state)
        ids.append(int(outputs.argmax()))
    return vocab.decode(ids)


# 5. Gradient clipping: one norm over all parameters together.


def grad_clipping(grads, theta):
    """Scale the gradients, in place, so that their norm is at most theta."""
    norm = math.sqrt(sum((gradient**2).sum() for gradient in grads.values()))
    if norm > theta:
        for gradient in grads.values():
            gradient *= theta / norm


# 6. Training.


def train_epoch(net, batches, lr, use_random_iter):
    """Train for one epoch; return the perplexity and the tokens per second."""
    state, total, num_tokens, start = None, 0.0, 0, time.perf_counter()
    for X, Y in batches:  # (T, B) each; the chapter has (B, T)
        if state is None or use_random_iter:
            state = net.begin_state(X.shape[1])
        # The state goes on, its history does not: the gradient stops at the window's edge.
        loss, grads, state = net.loss_and_grads(X.T, Y.T, state)
        grad_clipping(grads, 1)
        for name, param in net.params.items():
            param -= lr * grads[name]
        total += float(loss) * X.size
        num_tokens += X.size
    return math.exp(total / num_tokens), num_tokens / (time.perf_counter() - start)


def train(net, corpus, vocab, lr, num_epochs, use_random_iter=False, rng=None):
    """Train, and say ten times how it goes."""
    rng = np.random.default_rng(rng)
    cut = nprnn.random_batches if use_random_iter else nprnn.sequential_batches
    for epoch in range(1, num_epochs + 1):
        batches = cut(corpus, batch_size=32, num_steps=35, rng=rng)
        perplexity, speed = train_epoch(net, batches, lr, use_random_iter)
        if epoch % max(1, num_epochs // 10) == 0 or epoch == num_epochs:
            text = predict("time traveller", 30, net, vocab)
            print(f"  epoch {epoch:3}  perplexity {perplexity:6.2f}  {text}", flush=True)
    print(f"perplexity {perplexity:.1f}, {speed:.1f} tokens/sec")
    return perplexity


# 7. The concise form: the ready-made layer and a read-out, behind the same three methods.


class RNNModel:
    """The same model around `nprnn.RNN`."""

    def __init__(self, rnn_layer, vocab_size, rng=None):
        self.rnn = rnn_layer
        self.linear = nprnn.Linear(rnn_layer.hidden_size, vocab_size, rng=rng)
        self.params = {**self.rnn.params, **self.linear.params}

    def __call__(self, X, state):
        """Return the outputs for token ids X (B, T), row t*B + b for step t, and the new state."""
        hidden, state = self.rnn(X.T, state)  # ids (T, B) stand for one-hot vectors
        return self.linear(hidden).reshape(-1, self.linear.out_features), state

    def begin_state(self, batch_size):
        """Return a fresh state."""
        return np.zeros((1, batch_size, self.rnn.hidden_size), np.float32)

    def loss_and_grads(self, X, Y, state):
        """Return the mean loss against the next tokens Y (B, T), its gradients, the new state."""
        hidden, state, rnn_cache = self.rnn.forward(X.T, state)
        outputs, linear_cache = self.linear.forward(hidden)
        loss, d_outputs = nprnn.softmax_cross_entropy(outputs, Y.T)
        d_hidden, linear_grads = self.linear.backward(d_outputs, linear_cache)
        _, _, rnn_grads = self.rnn.backward(d_hidden, None, rnn_cache)
        return loss, {**rnn_grads, **linear_grads}, state


def concise_from(net):
    """Return an RNNModel with the weights of a model from scratch.

    The layer keeps weights as (out, in), and has two biases of which only the sum matters.
    """
    W_xh, W_hh, b_h, W_hq, b_q = net.params.values()
    model = RNNModel(nprnn.RNN(net.vocab_size, net.num_hiddens), net.vocab_size)
    weights = {
        "weight_ih_l0": W_xh.T,
        "weight_hh_l0": W_hh.T,
        "bias_ih_l0": b_h,
        "bias_hh_l0": np.zeros_like(b_h),
        "weight": W_hq.T,
        "bias": b_q,
    }
    for name, value in weights.items():
        model.params[name][...] = value
    return model


def largest_difference(net, corpus, rng):
    """Return how far both forms are apart, over outputs, state and gradients of one batch."""
    (X, Y) = (array.T for array in next(nprnn.random_batches(corpus, 32, 35, rng=rng)))
    start = rng.standard_normal((32, net.num_hiddens)).astype(np.float32)
    concise = concise_from(net)
    outputs, (H,) = net(X, (start,))
    other_outputs, other_state = concise(X, start[None])
    _, grads, _ = net.loss_and_grads(X, Y, (start,))
    _, other_grads, _ = concise.loss_and_grads(X, Y, start[None])
    pairs = [
        (outputs, other_outputs),
        (H, other_state[0]),
        (grads["W_xh"].T, other_grads["weight_ih_l0"]),
        (grads["W_hh"].T, other_grads["weight_hh_l0"]),
        (grads["b_h"], other_grads["bias_ih_l0"]),
        (grads["b_h"], other_grads["bias_hh_l0"]),
        (grads["W_hq"].T, other_grads["weight"]),
        (grads["b_q"], other_grads["bias"]),
    ]
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def main(arguments=None):
    """Go through the chapter."""
    parser = argparse.ArgumentParser(
        description="The textbook chapter: a recurrent network from scratch, then concise.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("file", metavar="FILE", nargs="?", help="text; by default Python's topics")
    parser.add_argument("--num-hiddens", type=int, default=512, help="units, from scratch")
    parser.add_argument("--concise-hiddens", type=int, default=256, help="units, concise")
    parser.add_argument("--epochs", type=int, default=500, help="passes over 10,000 characters")
    parser.add_argument("--lr", type=float, default=1.0, help="learning rate")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    options = parser.parse_args(arguments)
    for name in ("num_hiddens", "concise_hiddens", "epochs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    try:
        corpus, vocab = load_corpus(nprnn.read_text(options.file), max_tokens=10_000)
        if len(corpus) < 2000:
            raise ValueError(
                f"too few letters, {len(corpus)}: the chapter keeps A to Z and needs 2000"
            )
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")

    def scratch(seed):
        return RNNModelScratch(
            len(vocab), options.num_hiddens, get_params, init_rnn_state, rnn, rng=seed
        )

    net = scratch(options.seed)
    rng = np.random.default_rng(options.seed)
    print(f"{len(corpus)} characters, vocabulary {len(vocab)}")
    print(f"untrained: {predict('time traveller ', 10, net, vocab)!r}")
    difference = largest_difference(net, corpus, rng)
    print(f"from scratch and concise differ by at most {difference:.1e} of the largest entry")
    training = {"lr": options.lr, "num_epochs": options.epochs, "rng": options.seed}
    print(f"\nfrom scratch, {options.num_hiddens} units, windows that follow each other")
    train(net, corpus, vocab, **training)
    difference = largest_difference(net, corpus, rng)
    print(f"trained, the two forms differ by at most {difference:.1e} of the largest entry")
    print(f"\nfrom scratch, {options.num_hiddens} units, random windows")
    train(scratch(options.seed), corpus, vocab, use_random_iter=True, **training)
    print(f"\nconcise, {options.concise_hiddens} units, windows that follow each other")
    layer = nprnn.RNN(len(vocab), options.concise_hiddens, rng=options.seed)
    train(RNNModel(layer, len(vocab), rng=options.seed), corpus, vocab, **training)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nstopped")
