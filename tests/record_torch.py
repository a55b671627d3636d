"""Record what PyTorch computes, so that the tests can compare with it where it is not installed.

`python tests/record_torch.py` writes `tests/data/torch_reference.npz` anew. It needs PyTorch, and
not this package. Importing this module needs neither: torch is imported by the functions that run
it, and `load` reads the file with NumPy alone.

Every number that is drawn is one of float32, so that the same file asks the same question in both
precisions: a cast on the way in loses nothing.
"""

import itertools
import json
import math
from pathlib import Path

import naive
import numpy as np

PATH = Path(__file__).parent / "data" / "torch_reference.npz"
KINDS = ("float32", "float64", "int64")
IGNORED = -100  # the target that torch's cross_entropy leaves out


def save(path, tree):
    """Write dicts and lists with arrays as leaves.

    An npz spends 300 bytes on each member, more than most of these arrays hold. So there is one
    vector for each dtype, and an index in JSON: the tree, with dtype and shape where an array was.
    """
    vectors = {kind: [] for kind in KINDS}

    def put(array):
        vectors[array.dtype.name].append(array.ravel())
        return {"dtype": array.dtype.name, "shape": array.shape}

    index = json.dumps(tree, default=put)
    np.savez_compressed(path, index=index, **{k: np.concatenate(v) for k, v in vectors.items()})


def load(path=PATH):
    """Return the tree that `save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        index, vectors = str(file["index"]), {kind: file[kind] for kind in KINDS}
    used = dict.fromkeys(KINDS, 0)

    def take(node):
        if "shape" not in node:
            return node
        kind, start = node["dtype"], used[node["dtype"]]
        used[kind] += math.prod(node["shape"])
        return vectors[kind][start : used[kind]].reshape(node["shape"])

    return json.loads(index, object_hook=take)


def normal(rng, shape, scale=1.0):
    return rng.normal(0, scale, shape).astype(np.float32)


def draw_problem(
    rng, T, B, lengths=None, *, cell="RNN", batched=True, ids=False, with_state=True, **options
):
    """Draw everything that goes into the passes of one layer with these options.

    A state is a list: of h, for an LSTM of h and c.

    A tight bound on rounding holds only where rounding stays small. So weights are of the size
    1/√(D*H), with which gradients neither grow nor cancel much on their way down. And relu has a
    kink at 0, where the last bit of a pre-activation decides whether a gradient passes: numbers
    that come near it are drawn again.
    """
    import torch

    width, H = options["input_size"], options["hidden_size"]
    D = 1 + options["bidirectional"]
    grid = ((B, T) if options["batch_first"] else (T, B)) if batched else (T,)
    states = (options["num_layers"] * D, *([B] if batched else []), H)
    parameters = getattr(torch.nn, cell)(**options).state_dict()
    S = 2 if cell == "LSTM" else 1
    scale = min(0.5, 1 / math.sqrt(D * H))
    while True:
        problem = {
            "cell": cell,
            "options": options,
            "lengths": None if lengths is None else [int(n) for n in lengths],
            "params": {name: normal(rng, p.shape, scale) for name, p in parameters.items()},
            "x": rng.integers(0, width, grid) if ids else normal(rng, (*grid, width)),
            "state": [normal(rng, states) for _ in range(S)] if with_state else None,
            "d_output": normal(rng, (*grid, D * H)),
            "d_state": [normal(rng, states) for _ in range(S)],
        }
        if options.get("nonlinearity") != "relu" or not touches_a_kink(problem):
            return problem


def touches_a_kink(problem):
    """Whether float32 could put a pre-activation on the other side of 0.

    An exact 0 is none: it comes of inputs that are all 0, and is 0 in any precision.
    """
    options, D = problem["options"], 1 + problem["options"]["bidirectional"]
    params = {name: value.astype(np.float64) for name, value in problem["params"].items()}
    x = input_vectors(problem).astype(np.float64)
    if x.ndim == 2:
        x = x[:, None]
    elif options["batch_first"]:
        x = x.swapaxes(0, 1)
    T, B, _ = x.shape
    states = np.zeros((1, options["num_layers"] * D, B, options["hidden_size"]))
    if problem["state"] is not None:
        states += problem["state"][0].reshape(states.shape)
    for b, length in enumerate(problem["lengths"] or [T] * B):
        below = x[:length, b]
        for k in range(options["num_layers"]):
            sides = []
            for d in range(D):
                initial = states[:, k * D + d, b]
                path, tape = naive.one_direction(params, k, d, below, initial, "relu")
                size = np.abs([a + b for a, b in tape])
                if ((size > 0) & (size < 1e-4 * max(1.0, size.max()))).any():
                    return True
                sides.append(naive.outputs(path, d))
            below = np.concatenate(sides, axis=1)
    return False


def input_vectors(problem):
    x = problem["x"]
    if x.dtype.kind != "i":
        return x
    return np.eye(problem["options"]["input_size"], dtype=np.float32)[x]


def torch_passes(problem, precision):
    """Run PyTorch's layer forward and backward on a problem; None in it stands for zeros."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    def tensor(array, **kwargs):
        return torch.tensor(array, dtype=getattr(torch, precision), **kwargs)

    options, lengths = problem["options"], problem["lengths"]
    module = getattr(torch.nn, problem["cell"])(**options, dtype=getattr(torch, precision))
    module.load_state_dict({name: tensor(value) for name, value in problem["params"].items()})
    x = tensor(input_vectors(problem), requires_grad=True)
    initial = None
    if problem["state"] is not None:
        initial = [tensor(part, requires_grad=True) for part in problem["state"]]
    state = tuple(initial) if initial and len(initial) == 2 else initial and initial[0]
    if lengths is None:
        output, final = module(x, state)
    else:
        batch_first = options["batch_first"]
        packed = pack_padded_sequence(x, lengths, batch_first, enforce_sorted=False)
        packed_output, final = module(packed, state)
        T = x.shape[1 if batch_first else 0]
        output, _ = pad_packed_sequence(packed_output, batch_first, total_length=T)
    finals = list(final) if isinstance(final, tuple) else [final]
    d_state = problem["d_state"] or [None] * len(finals)
    upstream = [
        torch.zeros_like(value) if gradient is None else tensor(gradient)
        for value, gradient in zip([output, *finals], [problem["d_output"], *d_state], strict=True)
    ]
    torch.autograd.backward([output, *finals], upstream)
    results = {
        "output": output.detach().numpy(),
        "state": [part.detach().numpy() for part in finals],
        "grads": {name: p.grad.numpy() for name, p in module.named_parameters()},
    }
    if problem["x"].dtype.kind == "f":
        results["d_x"] = x.grad.numpy()
    if initial is not None:
        results["d_state_0"] = [part.grad.numpy() for part in initial]
    return results


def record_layers(rng, cell, **choices):
    """Layers, directions and choices in full, each with three of the eight other settings."""
    stacks = itertools.product([1, 2, 3], [False, True], *choices.values())
    others = itertools.cycle(itertools.product([True, False], repeat=3))
    records = []
    for num_layers, bidirectional, *chosen in stacks:
        for bias, batch_first, padded in itertools.islice(others, 3):
            T, B = rng.integers(2, 7), rng.integers(2, 5)
            problem = draw_problem(
                rng,
                T,
                B,
                lengths=rng.integers(1, T + 1, B) if padded else None,
                input_size=int(rng.integers(1, 6)),
                hidden_size=int(rng.integers(2, 6)),
                cell=cell,
                num_layers=num_layers,
                **dict(zip(choices, chosen, strict=True)),
                bias=bias,
                batch_first=batch_first,
                bidirectional=bidirectional,
            )
            records.append(problem | {"torch": torch_passes(problem, "float64")})
    return records


def record_sgd(rng):
    import torch

    shapes = {"w": (3, 4), "b": (5,)}
    start = {name: normal(rng, shape) for name, shape in shapes.items()}
    grads = {name: normal(rng, (20, *shape)) for name, shape in shapes.items()}
    runs = []
    for options in [
        {},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True},
        {"weight_decay": 0.01},
        {"momentum": 0.8, "weight_decay": 0.05, "dampening": 0.5},
    ]:
        params = {name: torch.tensor(value, dtype=torch.float64) for name, value in start.items()}
        optimizer = torch.optim.SGD(params.values(), lr=0.1, **options)
        for step in range(20):
            for name, p in params.items():
                p.grad = torch.tensor(grads[name][step], dtype=torch.float64)
            optimizer.step()
        buffers = {name: optimizer.state[p].get("momentum_buffer") for name, p in params.items()}
        runs.append(
            {
                "options": {"lr": 0.1, **options},
                "params": {name: p.numpy() for name, p in params.items()},
                "momentum_buffers": {n: b.numpy() for n, b in buffers.items() if b is not None},
            }
        )
    return {"params": start, "grads": grads, "runs": runs}


def record_clipping(rng):
    import torch

    records = []
    for scale, max_norm in [(1.0, 1.0), (1.0, 100.0), (30.0, 0.25), (1e-3, 5.0), (0.0, 1.0)]:
        grads = {name: normal(rng, shape, scale) for name, shape in [("w", (3, 4)), ("b", (5,))]}
        parameters = [torch.zeros(value.shape, dtype=torch.float64) for value in grads.values()]
        for p, value in zip(parameters, grads.values(), strict=True):
            p.grad = torch.tensor(value, dtype=torch.float64)
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm).item()
        clipped = {name: p.grad.numpy() for name, p in zip(grads, parameters, strict=True)}
        records.append({"grads": grads, "max_norm": max_norm, "norm": norm, "clipped": clipped})
    return records


def record_cross_entropy(rng):
    import torch

    records = []
    for shape, V, scale, ignored in [
        ((4, 3), 5, 1.0, 0.0),
        ((4, 3), 5, 3.0, 0.4),
        ((7,), 2, 3.0, 0.5),
        ((2, 3, 2), 4, 500.0, 0.3),  # exp of these overflows
        ((3,), 1, 1.0, 0.0),
    ]:
        scores, targets = normal(rng, (*shape, V), scale), rng.integers(0, V, shape)
        targets[rng.random(shape) < ignored] = IGNORED
        logits = torch.tensor(scores, dtype=torch.float64, requires_grad=True)
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, V), torch.tensor(targets).reshape(-1), ignore_index=IGNORED
        )
        loss.backward()
        results = {"loss": loss.item(), "d_logits": logits.grad.numpy()}
        records.append({"logits": scores, "targets": targets, **results})
    return records


def record_squared_error(rng):
    import torch

    records = []
    for shape in [(4, 3, 2), (5, 1), (6,)]:
        guess, truth = normal(rng, shape), normal(rng, shape)
        prediction = torch.tensor(guess, dtype=torch.float64, requires_grad=True)
        target = torch.tensor(truth, dtype=torch.float64)
        loss = torch.nn.functional.mse_loss(prediction, target)
        loss.backward()
        results = {"loss": loss.item(), "d_prediction": prediction.grad.numpy()}
        records.append({"prediction": guess, "target": truth, **results})
    return records


def record_training(rng):
    """50 steps of a language model over a chain of tokens, the state carried from step to step."""
    import torch

    V, H, L, T, B, steps = 6, 8, 2, 5, 4, 50
    lr, momentum, max_norm = 0.1, 0.9, 0.75
    tokens = rng.integers(0, V, (steps * T + 1, B))
    for t in range(steps * T):
        # Mostly predictable: with nothing to learn, nothing would show that training works.
        follows = rng.random(B) < 0.85
        tokens[t + 1, follows] = (tokens[t, follows] + 1) % V
    model = torch.nn.ModuleDict(
        {"rnn": torch.nn.RNN(V, H, L), "readout": torch.nn.Linear(H, V)}
    ).double()
    start = {name: normal(rng, p.shape, 1 / math.sqrt(H)) for name, p in model.named_parameters()}
    model.load_state_dict({name: torch.tensor(value).double() for name, value in start.items()})
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum)
    losses, norms, state = [], [], None
    for step in range(steps):
        window = torch.tensor(tokens[step * T : (step + 1) * T + 1])
        hidden, state = model["rnn"](torch.nn.functional.one_hot(window[:-1], V).double(), state)
        state = state.detach()
        logits = model["readout"](hidden)
        loss = torch.nn.functional.cross_entropy(logits.reshape(-1, V), window[1:].reshape(-1))
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm).item())
        optimizer.step()
        losses.append(loss.item())
    return {
        "sizes": {"vocab_size": V, "hidden_size": H, "num_layers": L},
        "num_steps": T,
        "tokens": tokens,
        "start": start,
        "lr": lr,
        "momentum": momentum,
        "max_norm": max_norm,
        "losses": np.array(losses),
        "norms": np.array(norms),
        "params": {name: p.detach().numpy() for name, p in model.named_parameters()},
        "state": state.numpy(),
    }


def record():
    import torch

    rng = np.random.default_rng(20240229)
    return {
        "torch": str(torch.__version__),
        "rnn": record_layers(rng, "RNN", nonlinearity=["tanh", "relu"]),
        "sgd": record_sgd(rng),
        "clipping": record_clipping(rng),
        "cross_entropy": record_cross_entropy(rng),
        "squared_error": record_squared_error(rng),
        "training": record_training(rng),
        "gru": record_layers(rng, "GRU"),
        "lstm": record_layers(rng, "LSTM"),
    }


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    PATH.parent.mkdir(exist_ok=True)
    save(PATH, record())
    print(f"{PATH}: {PATH.stat().st_size} bytes, PyTorch {torch.__version__}")
