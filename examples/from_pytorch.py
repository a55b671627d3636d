"""Trained in PyTorch, running on NumPy alone.

    python examples/from_pytorch.py [FILE.safetensors]

Without FILE, and where PyTorch is installed, small modules with an RNN, a GRU and an LSTM stand for
yours: each is written to a file, run here without PyTorch, and both results are compared. With
FILE, which anyone who has the module writes with

    safetensors.torch.save_file(model.state_dict(), "model.safetensors")

the recurrent layer in it is found, described and run.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from nprnn import interop, weights

VOCABULARY, EMBEDDING, HIDDEN = 30, 8, 16


def main(arguments=None):
    """Run the example; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE.safetensors")
    file = parser.parse_args(arguments).file
    try:
        return describe(file) if file else compare()
    except (OSError, ValueError, TypeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def describe(file):
    """Show the recurrent layer of a file, and run it once."""
    arrays, _ = weights.load(file)
    layer = interop.from_state_dict(arrays)  # for relu: nonlinearity="relu"
    x = np.ones((5, 1, layer.input_size), layer.params["weight_hh_l0"].dtype)  # (T, B, I)
    output, state = layer(x)
    states = dict(zip("hc", state, strict=True)) if isinstance(state, tuple) else {"state": state}
    shapes = {"output": output} | states
    print(layer, ", ".join(f"{name} {array.shape}" for name, array in shapes.items()), sep="\n")
    return 0


def compare():
    """Save PyTorch modules, run them in NumPy, and compare the logits."""
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: name a .safetensors file instead", file=sys.stderr)
        return 2
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (12, 4))  # (T, B)
    largest = 0.0
    for kind in ("RNN", "GRU", "LSTM"):
        module = torch_module(torch, kind)
        with tempfile.TemporaryDirectory() as folder:
            # What safetensors.torch.save_file does, without that package.
            arrays = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
            weights.save(f"{folder}/model.safetensors", arrays)
            logits = run_without_torch(f"{folder}/model.safetensors", ids)
        with torch.no_grad():
            expected = module(torch.from_numpy(ids)).numpy()
        difference = float(np.abs(logits - expected).max())
        print(f"{kind}: logits {logits.shape}, largest difference from PyTorch {difference:.1e}")
        largest = max(largest, difference)
    return 0 if largest < 1e-5 else 1


def run_without_torch(path, ids):
    """Return the logits of the module in a file: embedding, two recurrent layers, decoder."""
    arrays, _ = weights.load(path)
    embedding = arrays["embedding.weight"]  # (V, I)
    layer = interop.from_state_dict(arrays)
    decoder = interop.linear_from_state_dict(arrays, prefix="decoder.")
    output, _ = layer(embedding[ids])  # (T, B, H)
    return decoder(output)


def torch_module(torch, kind):
    """Return what stands for the module that you have trained, around an RNN, GRU or LSTM."""

    class CharacterModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = torch.nn.Embedding(VOCABULARY, EMBEDDING)
            self.rnn = getattr(torch.nn, kind)(EMBEDDING, HIDDEN, num_layers=2)
            self.decoder = torch.nn.Linear(HIDDEN, VOCABULARY)

        def forward(self, ids):
            return self.decoder(self.rnn(self.embedding(ids))[0])

    return CharacterModel()


if __name__ == "__main__":
    sys.exit(main())
