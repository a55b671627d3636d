"""What is written to the console: results to standard output, all else to standard error."""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
import sys
import textwrap
import time
import unicodedata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from ..training import Record

JOINERS = "\u200c\u200d"  # join letters, and emoji, into one; they move no cursor
HEADING = "  done  epoch    loss  perplexity   bits  held out  gradient   char/s    left"


def write(text: str, end: str = "\n") -> None:
    """Write a result, or a part of it, at once."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def note(text: str) -> None:
    """Write a line about what is going on."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def warn(text: str) -> None:
    """Write a warning."""
    lines = textwrap.wrap(f"warning: {text}", 79, subsequent_indent="  ", break_on_hyphens=False)
    note("\n".join(lines).replace("warning:", styled("warning:", "33", sys.stderr), 1))


def write_json(value: Mapping[str, Any]) -> None:
    """Write a result as one line of JSON; what JSON has no number for becomes null."""
    write(json.dumps(_finite(value), ensure_ascii=False))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def styled(text: str, code: str, stream: TextIO) -> str:
    """Return the text in a colour, where there are colours and they are wanted."""
    if not has_colours(stream):
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def has_colours(stream: TextIO) -> bool:
    """Whether the stream is a terminal, and nobody has said NO_COLOR."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def one_line(text: str) -> str:
    """Return the text with its line ends, and all that moves the cursor, made visible."""
    shown = text.replace("\n", "⏎")
    return "".join(char if char.isprintable() or char in JOINERS else "�" for char in shown)


def harmless(text: str) -> str:
    """Return the text with what moves the cursor, or changes colours, made visible; lines stay."""
    return "".join(
        "�" if unicodedata.category(char) == "Cc" and char not in "\n\t" else char for char in text
    )


def columns(char: str) -> int:
    """Return how many columns of a console a character takes."""
    if char in JOINERS or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def beginning(text: str, width: int) -> str:
    """Return as much of a line's beginning as fits a number of columns."""
    taken = itertools.accumulate(map(columns, text))
    return text[: sum(column <= width for column in taken)]


def ending(text: str, width: int) -> str:
    """Return as much of a line's end as fits a number of columns, with spaces up to these."""
    shown = beginning(text[::-1], width)[::-1]
    return " " * (width - sum(map(columns, shown))) + shown


def duration(seconds: float) -> str:
    """Return a time in words short enough for a column."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02}"


class Progress:
    """How training goes: rows of a table, and on a terminal with tqdm a bar under them.

    A row is written where the model is validated, and elsewhere one in some seconds; with a bar,
    which moves by itself, only the former.

    Parameters
    ----------
    step, total : int
        Steps taken and to be taken.
    max_seconds : float, optional
        When training stops in any case.
    quiet : bool, default False
        Write nothing.
    """

    def __init__(
        self, step: int, total: int, max_seconds: float = math.inf, quiet: bool = False
    ) -> None:
        self.first, self.total, self.max_seconds = step, total, max_seconds
        self.start = time.perf_counter()
        self.shown = self.validated = -math.inf  # when, in seconds since the start
        self.quiet, self.patience = quiet, 1.0  # seconds between two rows; more as time goes on
        self.records: list[Record] = []  # since the last row
        self.bar: Any = None
        if not quiet:
            note(HEADING)
            self.bar = self._new_bar()

    def _new_bar(self) -> Any:
        if not sys.stderr.isatty():
            return None
        try:
            tqdm = importlib.import_module("tqdm").tqdm
        except ImportError:
            return None
        layout = "{percentage:3.0f}% |{bar}| {n}/{total} steps, {remaining} left{postfix}"
        return tqdm(
            total=self.total, initial=self.first, bar_format=layout, leave=False, file=sys.stderr
        )

    @property
    def seconds(self) -> float:
        """Time since it began."""
        return time.perf_counter() - self.start

    def show(self, record: Record) -> None:
        """Take a step's record, and write a row if it is time to."""
        if self.quiet:
            return
        self.records.append(record)
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {record.loss:.3f}", refresh=False)
            self.bar.update()
        if self._is_due(record):
            self.say(self._row(record))
            self.shown = self.seconds
            if record.validation_loss is not None:
                self.validated = self.seconds
            self.patience = min(10.0, 1 + self.seconds / 20)
            self.records.clear()

    def _is_due(self, record: Record) -> bool:
        """Whether to write a row: of a tiny text, with dozens of epochs a second, not of each."""
        if record.validation_loss is not None:
            return self.seconds - self.validated > 0.3 or record.step == self.total
        return self.bar is None and self.seconds - self.shown > self.patience

    def say(self, text: str) -> None:
        """Write a line above the bar."""
        if self.quiet:
            return
        if self.bar is None:
            note(text)
        else:
            self.bar.write(text, file=sys.stderr)

    def _row(self, record: Record) -> str:
        from ..training import perplexity

        spent = self.seconds
        rest = spent / (record.step - self.first) * (self.total - record.step)
        count = len(self.records)
        loss = sum(each.loss for each in self.records) / count
        norm = sum(each.grad_norm for each in self.records) / count
        speed = sum(each.tokens for each in self.records) / max(
            1e-9, sum(each.seconds for each in self.records)
        )
        held_out = record.validation_perplexity
        shown = "" if held_out is None else f"{held_out:#.4g}"
        left = duration(max(0.0, min(rest, self.max_seconds - spent)))
        return (
            f"{record.step / self.total:6.0%} {record.epoch:6}"
            f" {loss:7.3f} {perplexity(loss):#11.4g} {loss / math.log(2):6.2f} {shown:>9}"
            f" {norm:#9.3g} {speed:8,.0f} {left:>7}"
        )

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
