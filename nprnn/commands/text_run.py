"""A network and a text: a training that can be saved after every step, and gone on with.

`nprnn train` and ``examples/train_text.py`` are made of these functions. None of them writes
anything.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import optim, schedules
from ..alone import Alone
from ..checkpoint import Checkpoint, Point, is_of_characters
from ..encoding import TextFile, Vocabulary, count_characters
from ..models import LanguageModel
from ..training import Position, evaluate, perplexity, train
from .characters import encode
from .options import (
    BUDGET,
    EPOCHS,
    ERRORS,
    LEARNING_RATES,
    MAX_ROLLBACKS,
    ON_NONFINITE,
    SETTINGS,
    THREADS,
    UNKNOWN,
)

if TYPE_CHECKING:
    from .._validation import Array
    from ..training import Record

MOST_EPOCHS = 100  # however small the text is
WARM_UP = 100  # steps over which the learning rate rises to its peak
HELD_OUT = 0.1  # part of the text that is kept for validation, ...
MOST_HELD_OUT = 100_000  # ... and the most of it, in characters
FEW_CHARACTERS = 50_000
MANY_PARAMETERS = 5  # a character
COUNTED = 1 << 20  # characters counted at a time, for the memory's sake
POINTS = 200  # of the history, at least
MOST_POINTS = 20_000  # ... and at most: every second one goes then
VALIDATIONS = 10  # at least, however long an epoch is

# Above and beside what the user decides, what follows from it and from the text.
_READING = (UNKNOWN, ERRORS)
_MANNER = (ON_NONFINITE, MAX_ROLLBACKS, THREADS)
_FITTED = ("fitted_batch_size", "fitted_num_steps", "total_steps")


@dataclass
class Run:
    """A training on a text.

    Attributes
    ----------
    checkpoint : Checkpoint
        Kept up to date, and ready to be saved, between two steps.
    training, validation : ndarray of int
        What is trained on, and what is held out for validation, from the text's end.
    ranks : Alone
        Who trains.
    """

    checkpoint: Checkpoint
    training: Array
    validation: Array
    ranks: Alone = field(default_factory=Alone)

    @property
    def held_out_text(self) -> str:
        """The text that is held out, as the network reads it."""
        text: str = self.checkpoint.vocabulary.decode(self.validation)
        return text

    @property
    def total_steps(self) -> int:
        """The steps that are planned, over which the learning rate falls."""
        return int(self.checkpoint.run["total_steps"] or 0)

    @property
    def steps_an_epoch(self) -> int:
        """The least that an epoch has: the offset is drawn anew for each."""
        run = self.checkpoint.run
        return _steps_an_epoch(
            len(self.training),
            int(run["fitted_batch_size"] or 0),
            int(run["fitted_num_steps"] or 0),
        )

    def records(self) -> Iterator[Record]:
        """Train to the end of the plan; yield a record a step, at times with validation loss."""
        checkpoint, run = self.checkpoint, dict[str, Any](self.checkpoint.run)
        for record in train(
            checkpoint.model,
            self.training,
            batch_size=run["fitted_batch_size"],
            num_steps=run["fitted_num_steps"],
            epochs=self.total_steps,  # each has a step at least: the plan ends first
            max_steps=self.total_steps,
            optimizer=checkpoint.optimizer,
            lr=schedule(run),
            max_norm=run["max_norm"],
            order=run["order"],
            per="step",
            on_nonfinite=run["on_nonfinite"],
            max_rollbacks=run["max_rollbacks"],
            threads=run["threads"],
            position=checkpoint.position,
            ranks=self.ranks,
        ):
            if self._validates():
                record = record._replace(validation_loss=self.evaluate())
            self._remember(record)
            yield record

    def evaluate(self) -> float:
        """Return the mean loss on what is held out."""
        return evaluate(self.checkpoint.model, self.validation)

    def _validates(self) -> bool:
        """Whether to validate now: where an epoch ends, in long epochs more often, at the end."""
        position, total = self.checkpoint.position, self.total_steps
        every = max(1, total // VALIDATIONS)
        within = self.steps_an_epoch > every and position.step % every == 0
        return position.batch == 0 or within or position.step == total

    def _remember(self, record: Record) -> None:
        """Add to the history, and to the sums until its next point."""
        checkpoint = self.checkpoint
        loss, norm, count = checkpoint.unfinished
        loss, norm, count = loss + record.loss, norm + record.grad_norm, count + 1
        held_out = record.validation_loss
        if held_out is not None or record.step % max(1, self.total_steps // POINTS) == 0:
            point = Point(record.epoch, record.step, loss / count, norm / count, held_out)
            checkpoint.history.append(point)
            if len(checkpoint.history) > MOST_POINTS:
                del checkpoint.history[1::2]
            loss, norm, count = 0.0, 0.0, 0
        checkpoint.unfinished = loss, norm, count
        best = checkpoint.best_loss
        if held_out is not None and held_out < (math.inf if best is None else best):
            checkpoint.best_loss = held_out


class Corpus(NamedTuple):
    """A text as a network reads it.

    Attributes
    ----------
    vocabulary : Vocabulary
    tokens : ndarray of int, shape (N,)
    text : dict
        What tells the text from others: its ``name``, ``characters`` and ``sha256``.
    """

    vocabulary: Vocabulary
    tokens: Array
    text: dict[str, Any]


def read(
    text: str, name: str, *, vocabulary: Vocabulary | None = None, unknown: str = UNKNOWN.default
) -> Corpus:
    """Return a text as a network reads it.

    Parameters
    ----------
    text : str
    name : str
        Of the text.
    vocabulary : Vocabulary, optional
        By default that of the text.
    unknown : {"error", "skip", "nearest"}
        As for `characters.encode`.
    """
    vocabulary = Vocabulary(text) if vocabulary is None else vocabulary
    _, ids = encode(vocabulary, text, unknown, name)
    return Corpus(vocabulary, ids.astype(_smallest(vocabulary)), fingerprint([text], name))


def read_file(
    file: str,
    *,
    vocabulary: Vocabulary | None = None,
    unknown: str = UNKNOWN.default,
    errors: str = ERRORS.default,
    expected: Mapping[str, Any] | None = None,
    out: str | None = None,
) -> Corpus:
    """Do the same for a file, block by block: it may be larger than the memory.

    Parameters
    ----------
    file : str
    vocabulary, unknown
        As for `read`.
    errors : {"strict", "replace"}
        As for `nprnn.read_text`.
    expected : mapping, optional
        The fingerprint that it must have.
    out : str, optional
        A file for the tokens; by default one that goes when they do.
    """
    source = TextFile(file, errors)
    told = fingerprint(source.blocks(), file)
    if expected is not None:
        _check_text(told, expected)
    if vocabulary is None:
        vocabulary = Vocabulary(count_characters(source.blocks()))
    # Words may lie across the border of two blocks.
    blocks = source.blocks() if is_of_characters(vocabulary) else ["".join(source.blocks())]
    dtype = _smallest(vocabulary)
    target: Any = tempfile.TemporaryFile() if out is None else open(out, "w+b")  # noqa: SIM115
    with target:  # the array keeps the file open
        for block in blocks:
            encode(vocabulary, block, unknown, file)[1].astype(dtype).tofile(target)
        target.flush()
        return Corpus(vocabulary, _mapped(target, dtype), told)


def fingerprint(blocks: Iterable[str], name: str) -> dict[str, Any]:
    """Return what tells a text from others."""
    digest, characters = hashlib.sha256(), 0
    for block in blocks:
        digest.update(block.encode("utf-8", "surrogatepass"))
        characters += len(block)
    return {"name": name, "characters": characters, "sha256": digest.hexdigest()}


def _check_text(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> None:
    """Refuse a text that is not the one that a checkpoint was trained on."""
    if ours["sha256"] != theirs["sha256"]:
        raise ValueError(
            f"the text has {ours['characters']} characters and is not that of the checkpoint, "
            f"{theirs['name']} with {theirs['characters']}: to train on another, take --init-from"
        )


def _smallest(vocabulary: Vocabulary) -> np.dtype[Any]:
    return np.min_scalar_type(len(vocabulary) - 1)  # an eighth of the memory


def _mapped(file: Any, dtype: np.dtype[Any]) -> Array:
    """Return what a file of tokens holds; a map cannot be empty."""
    file.seek(0, 2)
    return np.memmap(file, dtype, "r") if file.tell() else np.zeros(0, dtype)


def read_together(file: str, out: str, ranks: Alone, **options: Any) -> Corpus:
    """Do the same for several ranks: the first reads the file, and the others map its tokens.

    Parameters
    ----------
    file : str
    out : str
        Where all ranks find the tokens; the file is gone afterwards.
    ranks : Ranks
    **options
        As for `read_file`.
    """
    if ranks.rank == 0:
        corpus = read_file(file, out=out, **options)
        known = corpus.vocabulary
        # Those of a checkpoint all have; new ones are of characters.
        told = {"tokens": None if options.get("vocabulary") else known.tokens, **corpus.text}
        ranks.share(json.dumps(told).encode())
    else:
        told = json.loads(ranks.share(b""))
        tokens = told.pop("tokens")
        known = options.get("vocabulary") or Vocabulary(tokens)
        with open(out, "rb") as source:
            corpus = Corpus(known, _mapped(source, _smallest(known)), told)
    ranks.wait()
    if ranks.rank == 0:
        os.unlink(out)
    return corpus


def begin(
    corpus: Corpus,
    settings: Mapping[str, Any],
    *,
    source: Checkpoint | None = None,
    ranks: Alone | None = None,
) -> Run:
    """Return a training that is to begin.

    Parameters
    ----------
    corpus : Corpus
    settings : mapping
        What the user decided, by the names of `options.SETTINGS`; the others have their defaults.
    source : Checkpoint, optional
        Where to take the weights from, whose vocabulary is that of the corpus. By default they are
        drawn.
    ranks : Alone, optional
        Who trains.
    """
    run = _resolved(settings)
    if source is not None:
        run |= _model_settings(source.model, settings)
    training, validation = _split(corpus.tokens)
    run |= _fit(run, len(training))
    ranks = ranks or Alone()
    ranks.columns(run["fitted_batch_size"])
    model = _new_model(len(corpus.vocabulary), run) if source is None else source.model
    rng = np.random.default_rng(run["seed"])
    checkpoint = Checkpoint(
        model,
        corpus.vocabulary,
        _new_optimizer(run["optimizer"], model.params),
        Position(rng=rng.bit_generator.state),
        corpus.text,
        run,
    )
    return Run(checkpoint, training, validation, ranks)


def resume(
    checkpoint: Checkpoint,
    corpus: Corpus,
    settings: Mapping[str, Any],
    *,
    ranks: Alone | None = None,
) -> Run:
    """Return a training that goes on where it was saved.

    Parameters
    ----------
    checkpoint : Checkpoint
        Made by a `Run`.
    corpus : Corpus
        The text that it was trained on, read with its vocabulary.
    settings : mapping
        What the user said again. Of this only the length of the training may differ, the number of
        threads, and what is done about numbers that are not finite.
    ranks : Alone, optional
        Who trains; they may be more or fewer than before.
    """
    run = dict[str, Any](checkpoint.run)
    check_run(run)
    for option in (*SETTINGS, *_READING):
        given = settings.get(option.name, run[option.name])
        if given != run[option.name]:
            raise ValueError(
                f"{option.flag} {given} does not go with --resume: the checkpoint has "
                f"{run[option.name]}; leave it out, or take the weights alone with --init-from"
            )
    _check_text(corpus.text, checkpoint.text)
    training, validation = _split(corpus.tokens)
    run |= {option.name: settings[option.name] for option in _MANNER if option.name in settings}
    if "epochs" in settings or "steps" in settings:
        run["steps"] = settings.get("steps")
        run["epochs"] = settings.get("epochs", run["epochs"])
        run["total_steps"] = _fit(run, len(training))["total_steps"]
    elif run["steps"] is not None and run["steps"] <= checkpoint.position.step:
        run["steps"] = None  # it was stopped there, and now goes on to the end of the plan
    checkpoint.run, ranks = run, ranks or Alone()
    ranks.columns(int(run["fitted_batch_size"]))
    checkpoint.position.state = ranks.own_state(checkpoint.position.state)
    return Run(checkpoint, training, validation, ranks)


def schedule(run: Mapping[str, Any]) -> schedules.Schedule:
    """Return the learning rate of each step."""
    lr, total = run["lr"], run["total_steps"]
    made = {
        "cosine": lambda: schedules.cosine(lr, total),
        "constant": lambda: schedules.constant(lr),
        "step": lambda: schedules.step_decay(lr, total // 3 + 1),
        "exponential": lambda: schedules.exponential(lr, 0.01 ** (1 / total)),
    }[run["schedule"]]()
    return schedules.warm_up(made, min(WARM_UP, total // 10 + 1))


def guesses(run: Run) -> dict[str, float]:
    """Return the perplexity on the held-out text of guessing without a network.

    Uniformly; by how often a character occurs in the training text; and by how often it occurs
    there after the one before it.
    """
    V, seen, met = len(run.checkpoint.vocabulary), run.training, run.validation
    counts = _occurrences(seen, V) + 1.0  # (V,), no character is impossible
    single = counts / counts.sum()
    found = _times_seen(_pairs(met, V), seen, V)
    before = _occurrences(seen[:-1], V)[met[:-1]]
    # A pair counts as often as it was seen, and once more in all, shared out as single characters.
    double = (found + single[met[1:]]) / (before + 1)
    return {
        "uniform": float(V),
        "unigram": perplexity(float(-np.log(single[met[1:]]).mean())),
        "bigram": perplexity(float(-np.log(double).mean())),
    }


def _occurrences(ids: Array, V: int) -> Array:
    """Return how often each of V identifiers occurs."""
    blocks = range(0, len(ids), COUNTED)
    return sum(
        (np.bincount(ids[start : start + COUNTED], minlength=V) for start in blocks),
        start=np.zeros(V, np.int64),
    )


def _pairs(ids: Array, V: int) -> Array:
    """Return a number for each pair of neighbours."""
    return ids[:-1].astype(np.int64) * V + ids[1:]


def _times_seen(wanted: Array, seen: Array, V: int) -> Array:
    """Return how often each of the wanted pairs of neighbours was seen."""
    found = np.zeros(len(wanted), np.int64)
    for start in range(0, len(seen) - 1, COUNTED):
        pairs, times = np.unique(_pairs(seen[start : start + COUNTED + 1], V), return_counts=True)
        places = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
        found += np.where(pairs[places] == wanted, times[places], 0)
    return found


def introduction(run: Run) -> list[str]:
    """Return lines that say what is going to be trained on what, in 80 columns."""
    checkpoint, settings = run.checkpoint, run.checkpoint.run
    model, size = checkpoint.model, num_parameters(run)
    B, T = settings["fitted_batch_size"], settings["fitted_num_steps"]
    guess = guesses(run)
    layers = f"{model.rnn.num_layers} x {model.rnn.hidden_size} units"
    kind = type(model.rnn).__name__.lower()
    return [
        f"{checkpoint.text['name']}: {len(run.training):,} characters to train on, "
        f"{len(run.validation):,} held out, {len(checkpoint.vocabulary):,} different",
        f"{kind}, {layers}: {size:,} parameters, {size / len(run.training):.2g} a character",
        f"{run.total_steps:,} steps of {B} x {T} characters, some {run.steps_an_epoch:,} an epoch, "
        f"{settings['optimizer']}, rate {settings['lr']:g}",
        f"perplexity of guessing: uniform {guess['uniform']:.0f}, unigram {guess['unigram']:.3g}, "
        f"bigram {guess['bigram']:.3g}",
    ]


def warnings(run: Run) -> list[str]:
    """Return sentences about what can hardly turn out well."""
    settings, count, size = run.checkpoint.run, len(run.training), num_parameters(run)
    B, T = settings["fitted_batch_size"], settings["fitted_num_steps"]
    found = []
    if count < FEW_CHARACTERS:
        found.append(
            f"{count:,} characters to train on are few; what it writes will hardly be words "
            "(some 100,000 make words, a million sentences)"
        )
    if size > MANY_PARAMETERS * count:
        found.append(
            f"{size:,} parameters for {count:,} characters, {size / count:.0f} for each: it will "
            "learn them by heart; try a smaller --hidden-size"
        )
    if (settings["batch_size"], settings["num_steps"]) != (B, T):
        found.append(
            f"too short for --batch-size {settings['batch_size']} times --num-steps "
            f"{settings['num_steps']}; using {B} times {T}"
        )
    return found


def num_parameters(run: Run) -> int:
    """Return how many numbers are trained."""
    return sum(value.size for value in run.checkpoint.model.params.values())


def _resolved(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return all settings: the given ones, and for the others the defaults."""
    options = (*SETTINGS, *_READING)
    own = {option.name: settings.get(option.name, option.default) for option in options}
    if own["lr"] is None:
        own["lr"] = LEARNING_RATES[own["optimizer"]]
    own |= {option.name: settings.get(option.name, option.default) for option in _MANNER}
    return own | {"epochs": settings.get("epochs"), "steps": settings.get("steps")}


def _model_settings(model: LanguageModel, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that a model has already, and refuse others."""
    own = {
        "cell": type(model.rnn).__name__.lower(),
        "hidden_size": model.rnn.hidden_size,
        "num_layers": model.rnn.num_layers,
        "dropout": model.dropout,
    }
    for name, value in own.items():
        if settings.get(name, value) != value:
            raise ValueError(
                f"--{name.replace('_', '-')} {settings[name]} does not go with --init-from: the "
                f"checkpoint has {value}; leave it out"
            )
    return own


def check_run(run: Mapping[str, Any]) -> None:
    """Refuse the settings of a checkpoint that no `Run` can have made."""
    optional = [EPOCHS, EPOCHS._replace(flag="--steps")]
    fitted = [EPOCHS._replace(flag=f"--{name}", default=0) for name in _FITTED]
    options = [*SETTINGS, *_READING, *_MANNER, *optional, *fitted]
    fits = all(option.fits(run.get(option.name, math.nan)) for option in options)
    if not fits or run["lr"] is None or any(run[name] is None for name in _FITTED):
        raise ValueError(
            "the checkpoint was not made by nprnn train: --init-from takes the weights of it"
        )


def _split(tokens: Array) -> tuple[Array, Array]:
    """Return what to train on, and what is held out of it."""
    held_out = min(int(len(tokens) * HELD_OUT), MOST_HELD_OUT)
    if held_out < 2:
        raise ValueError(
            f"the text is too short: {len(tokens)} characters, where at least 20 are needed "
            "(and some 100,000 to learn to write)"
        )
    return tokens[:-held_out], tokens[-held_out:]


def _fit(run: Mapping[str, Any], num_tokens: int) -> dict[str, int]:
    """Return batches that are small enough for the text, and the steps of the plan."""
    num_steps = min(run["num_steps"], max(1, (num_tokens - 1) // 4))
    # At least a few steps an epoch, or the epochs pass without anything being learned.
    batch_size = max(1, min(run["batch_size"], (num_tokens - 1) // (4 * num_steps)))
    an_epoch = _steps_an_epoch(num_tokens, batch_size, num_steps)
    if run["epochs"] is not None:
        total = run["epochs"] * an_epoch
    else:
        total = max(1, min(BUDGET // (batch_size * num_steps), MOST_EPOCHS * an_epoch))
        total = max(total, run["steps"] or 0)
    return dict(zip(_FITTED, (batch_size, num_steps, total), strict=True))


def _steps_an_epoch(num_tokens: int, batch_size: int, num_steps: int) -> int:
    """Return the batches left after the longest random offset; there is always one."""
    return max(1, (num_tokens - num_steps) // (batch_size * num_steps))


def _new_model(vocab_size: int, run: Mapping[str, Any]) -> LanguageModel:
    model = LanguageModel(
        vocab_size,
        run["hidden_size"],
        num_layers=run["num_layers"],
        cell=run["cell"],
        dropout=run["dropout"],
        recurrent_init="orthogonal",
        rng=run["seed"],
    )
    # As a checkpoint gives them back: the order in memory may decide the last bit of a product.
    return model.with_params({key: np.ascontiguousarray(v) for key, v in model.params.items()})


def _new_optimizer(name: str, params: dict[str, Array]) -> optim.Optimizer:
    if name == "sgd":
        return optim.SGD(params, 0.0, momentum=0.9)
    kinds: dict[str, type[optim.Adagrad | optim.RMSprop | optim.Adam]] = {
        "adagrad": optim.Adagrad,
        "rmsprop": optim.RMSprop,
        "adam": optim.Adam,
        "adamw": optim.AdamW,
    }
    return kinds[name](params)
