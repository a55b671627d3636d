"""What changes the bits of a result, and by how much: the figures in docs/determinism.md.

    python benchmarks/determinism.py

Every setting of the environment is a process of its own, which trains a network and writes its
weights; what they differ by is the largest difference over all weights, divided by the largest
weight.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy._core import _multiarray_umath  # no public name knows what it was built for

BASE = {"OPENBLAS_NUM_THREADS": "1"}
_FEATURES = _multiarray_umath.__cpu_dispatch__
WIDE = " ".join(name for name in _FEATURES if "AVX512" in name or name == "X86_V4")
SETTINGS = {
    "again": BASE,
    "PYTHONHASHSEED=1": BASE | {"PYTHONHASHSEED": "1"},
    "two BLAS threads": {"OPENBLAS_NUM_THREADS": "2"},
    "BLAS kernel Haswell (AVX2)": BASE | {"OPENBLAS_CORETYPE": "Haswell"},
    "BLAS kernel Nehalem (SSE)": BASE | {"OPENBLAS_CORETYPE": "Nehalem"},
    "NumPy without AVX-512": BASE | {"NPY_DISABLE_CPU_FEATURES": WIDE},
}
CELLS = ("rnn", "gru", "lstm")
STEPS = (1, 100, 500)


def train(path: str, dtype: str) -> None:
    """Train a network of each kind; write the weights after some numbers of steps."""
    import nprnn

    text = nprnn.read_text()[:50_000]
    vocabulary = nprnn.Vocabulary(text)
    ids, made = vocabulary.encode(text), {}
    for cell in CELLS:
        model = nprnn.LanguageModel(len(vocabulary), 128, cell=cell, rng=0, dtype=dtype)
        optimizer = nprnn.Adam(model.params, lr=0.003)
        records = nprnn.train(model, ids, batch_size=16, num_steps=32, epochs=99, rng=0, per="step",
                              optimizer=optimizer, max_steps=STEPS[-1])  # fmt: skip
        for record in records:
            if record.step in STEPS:
                made |= {f"{cell} {record.step} {k}": v.copy() for k, v in model.params.items()}
    np.savez(path, **made)


def child(dtype: str, environment: dict[str, str], path: Path) -> dict[str, np.ndarray] | None:
    """Train in a process of its own; return the weights, or None where the setting is unknown."""
    command = [sys.executable, __file__, "--train", str(path), "--dtype", dtype]
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("OPENBLAS", "NPY_"))}
    inherited |= environment
    ended = subprocess.run(command, env=inherited, check=True, capture_output=True, text=True)
    if "Warning" in ended.stderr:
        return None
    with np.load(path) as arrays:
        return dict(arrays)


def difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], start: str) -> float:
    """Return the largest difference of what begins so, relative to the largest number."""
    names = [name for name in ours if name.startswith(start)]
    largest = max(np.abs(ours[name]).max() for name in names)
    return float(max(np.abs(ours[name] - theirs[name]).max() for name in names) / largest)


def environments(dtype: str) -> None:
    """Show the table of the settings of the environment."""
    print(f"\n{dtype}: weights of {', '.join(CELLS)} after {', '.join(map(str, STEPS))} steps")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "weights.npz")
        base = child(dtype, BASE, path)
        for name, environment in SETTINGS.items():
            other = child(dtype, environment, path)
            if base is None or other is None:
                print(f"{name:28} not known to this NumPy")
                continue
            columns = [max(difference(base, other, f"{cell} {step} ") for cell in CELLS)
                       for step in STEPS]  # fmt: skip
            print(f"{name:28}", *("same bytes" if d == 0 else f"{d:10.1e}" for d in columns))


def batches(dtype: str) -> None:
    """Show by how much a sequence's output differs with what stands beside it."""
    import nprnn

    rng = np.random.default_rng(0)
    x = rng.integers(0, 65, (64, 64))
    print(f"\n{dtype}: the first sequence alone, and in a batch of B; T = 64, H = 128")
    for cell in CELLS:
        model = nprnn.LanguageModel(65, 128, cell=cell, rng=0, dtype=dtype)
        alone = model(x[:, :1])[0][:, 0]
        row = [float(np.abs(model(x[:, :B])[0][:, 0] - alone).max()) for B in (2, 3, 16, 64)]
        whole, state = model(x[:, :16]), None
        parts = []
        for start in range(0, 64, 16):
            part, state = model(x[start : start + 16, :16], state)
            parts.append(part)
        cut = float(np.abs(np.concatenate(parts) - whole[0]).max())
        print(f"{cell:5}", *(f"B={B}: {d:8.1e} " for B, d in zip((2, 3, 16, 64), row, strict=True)),
              f"in four windows: {cut:8.1e}")  # fmt: skip


def main() -> None:
    """Show all tables."""
    parser = argparse.ArgumentParser(description="What changes the bits of a result.")
    parser.add_argument("--train", help=argparse.SUPPRESS)
    parser.add_argument("--dtype", default="float32", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        train(options.train, options.dtype)
        return
    print(f"NumPy {np.__version__}, Python {platform.python_version()}, {platform.machine()}")
    for dtype in ("float32", "float64"):
        environments(dtype)
        batches(dtype)


if __name__ == "__main__":
    main()
