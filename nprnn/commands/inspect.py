"""``nprnn inspect``: what a checkpoint holds."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from textwrap import wrap
from typing import Any

from ..checkpoint import Checkpoint
from ..training import perplexity
from .console import one_line, write, write_json
from .sample import add_checkpoint, opened


def define(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.usage = "nprnn inspect [CHECKPOINT] [options]"
    add_checkpoint(parser)
    parser.add_argument("--json", action="store_true", help="write it as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Show it; return the exit status."""
    path, checkpoint = opened(options.checkpoint)
    if options.json:
        write_json(_report(path, checkpoint))
    else:
        _write(path, checkpoint)
    return 0


def _report(path: Path, checkpoint: Checkpoint) -> dict[str, Any]:
    params = checkpoint.model.params
    return {
        "checkpoint": str(path),
        "bytes": path.stat().st_size,
        "model": repr(checkpoint.model),
        "optimizer": repr(checkpoint.optimizer),
        "parameters": {name: list(value.shape) for name, value in params.items()},
        "epoch": checkpoint.position.epoch,
        "step": checkpoint.position.step,
        "best_validation_loss": checkpoint.best_loss,
        "vocabulary": checkpoint.vocabulary.tokens,
        "text": checkpoint.text,
        "run": checkpoint.run,
        "versions": checkpoint.versions,
        "history": [point._asdict() for point in checkpoint.history],
    }


def _write(path: Path, checkpoint: Checkpoint) -> None:
    params, position, best = checkpoint.model.params, checkpoint.position, checkpoint.best_loss
    total = checkpoint.run.get("total_steps")
    rows = {
        "file": f"{path}, {path.stat().st_size:,} bytes",
        "text": f"{checkpoint.text['name']}, {checkpoint.text['characters']:,} characters",
        "sha256": checkpoint.text["sha256"],
        "step": f"{position.step}" + (f" of {total}" if total else "")
        + f", epoch {position.epoch}, batch {position.batch}",
        "best": "not validated yet" if best is None else
        f"loss {best:.4f}, perplexity {perplexity(best):.4g}, {best / math.log(2):.3f} bits"
        " per character",
        "optimizer": repr(checkpoint.optimizer),
        "written by": ", ".join(f"{name} {v}" for name, v in checkpoint.versions.items()),
    }  # fmt: skip
    for name, value in rows.items():
        write("\n".join(wrap(f"{name:10}  {one_line(value)}", 80, subsequent_indent=" " * 12)))
    size = len(checkpoint.vocabulary)
    shown = one_line("".join(checkpoint.vocabulary.tokens[:200]))
    write(f"{'vocabulary':10}  {size} tokens: {shown[:50]}{'…' if len(shown) > 50 else ''}")
    write("\nsettings")
    for name, setting in checkpoint.run.items():
        write(one_line(f"  {name:20}  {'default' if setting is None else setting}"))
    write(f"\nparameters, {sum(value.size for value in params.values()):,}")
    for name, array in params.items():
        write(f"  {name:20}  {'x'.join(map(str, array.shape)):12}  {array.dtype}")
