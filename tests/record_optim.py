"""Record what PyTorch's optimizers compute, for where it is not installed.

`python tests/record_optim.py` writes `tests/data/torch_optim.npz` anew. It needs PyTorch, and not
this package. As in record_torch.py, whose files these are, every number drawn is one of float32.
"""

from pathlib import Path

import numpy as np
from record_torch import normal, save

PATH = Path(__file__).parent / "data" / "torch_optim.npz"
STEPS = 50
RUNS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.1, "lr_decay": 0.05, "weight_decay": 0.1}),
    ("Adagrad", {"lr": 0.1, "initial_accumulator_value": 0.3, "eps": 1e-3}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.1, "alpha": 0.8, "eps": 1e-2, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.02, "momentum": 0.9}),
    ("RMSprop", {"lr": 0.02, "centered": True}),
    ("RMSprop", {"momentum": 0.5, "centered": True, "weight_decay": 0.05, "eps": 1e-4}),
    ("Adam", {}),
    ("Adam", {"lr": 0.1, "betas": [0.7, 0.9], "eps": 1e-2, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.1, "amsgrad": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.1, "betas": [0.8, 0.95], "weight_decay": 0.3, "eps": 1e-3}),
    ("AdamW", {"lr": 0.1, "betas": [0.5, 0.9], "amsgrad": True}),
]


def draw_problem(rng):
    """Draw start and gradients; one gradient is 0 for ten steps, one always, one has holes."""
    shapes = {"w": (3, 4), "b": (5,), "s": (), "late": (2,), "still": (3,)}
    start = {name: normal(rng, shape) for name, shape in shapes.items()}
    grads = {name: normal(rng, (STEPS, *shape)) for name, shape in shapes.items()}
    grads["late"][:10] = 0
    grads["still"][:] = 0
    grads["b"][rng.random((STEPS, 5)) < 0.3] = 0
    return start, grads


def rates(lr, scheduled):
    """The learning rate of each step: none to be set, or one that rises and falls."""
    return [lr * (0.2 + t % 7) / (1 + t / 10) for t in range(STEPS)] if scheduled else []


def torch_run(name, options, start, grads, lrs=(), precision="float64"):
    """Return the parameters after all steps, and the optimizer's state in the keys of nprnn's."""
    import torch

    dtype = getattr(torch, precision)
    params = {key: torch.tensor(value, dtype=dtype) for key, value in start.items()}
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    optimizer = getattr(torch.optim, name)(params.values(), **options)
    for step in range(STEPS):
        for key, p in params.items():
            p.grad = torch.tensor(grads[key][step], dtype=dtype)
        if len(lrs):
            optimizer.param_groups[0]["lr"] = lrs[step]
        optimizer.step()
    state = {"step": np.array(STEPS)}
    for key, p in params.items():
        for kind, value in optimizer.state[p].items():
            if kind != "step" and value is not None:
                state[f"{kind}.{key}"] = value.numpy()
    return {key: p.numpy() for key, p in params.items()}, state


def record():
    rng = np.random.default_rng(20240301)
    start, grads = draw_problem(rng)
    runs = []
    for name, options in RUNS:
        for scheduled in (False, True):
            lrs = rates(options.get("lr", 0.01), scheduled)
            params, state = torch_run(name, options, start, grads, lrs)
            run = {"name": name, "options": options, "lrs": lrs, "params": params, "state": state}
            runs.append(run)
    return {"start": start, "grads": grads, "runs": runs}


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    save(PATH, record())
    print(f"{PATH}: {PATH.stat().st_size} bytes, PyTorch {torch.__version__}")
