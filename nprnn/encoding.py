"""From text to integers and back: vocabularies and one-hot vectors."""

from __future__ import annotations

import codecs
import io
import os
import stat
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _validation as check

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, DTypeLike

    from ._validation import Array

_BLOCK = 1 << 20  # characters converted at a time, so that a large text needs no large copies
_NUM_CODE_POINTS = 0x110000


def one_hot(indices: ArrayLike, num_classes: int, dtype: DTypeLike = np.float32) -> Array:
    """Return vectors that are 1 at the given index and 0 elsewhere.

    The layers of this package take the integers themselves for one-hot input; this function is for
    everything else, and for checking that claim.

    Parameters
    ----------
    indices : array_like of int
        Integers in 0 .. num_classes-1, of any shape.
    num_classes : int
        Length of the vectors.
    dtype : dtype, default float32
        Type of the result.

    Returns
    -------
    ndarray of shape (*indices.shape, num_classes)

    Raises
    ------
    TypeError
        If `indices` are not integers.
    ValueError
        If an index is negative or not below `num_classes`.

    Examples
    --------
    >>> one_hot([0, 2], 3)
    array([[1., 0., 0.],
           [0., 0., 1.]], dtype=float32)
    """
    num_classes = check.integer("num_classes", num_classes)
    places = check.index_array("indices", indices, num_classes, "num_classes")
    try:
        vectors = np.zeros((*places.shape, num_classes), dtype)
    except TypeError as error:
        raise TypeError(f"dtype must be one of NumPy's, got {dtype!r}: {error}") from None
    np.put_along_axis(vectors, places[..., None].astype(np.intp, copy=False), 1, axis=-1)
    return vectors


class Vocabulary:
    """A numbering of tokens: characters, words, or anything hashable.

    Identifiers run from 0: the unknown token if there is one, the reserved tokens in the order
    given, then the tokens of the text, sorted (characters by code point), so that two runs over the
    same text agree. Tokens that cannot be compared with each other keep their order of appearance.

    Parameters
    ----------
    tokens : str or iterable of hashable
        The text to take the tokens from. A `str` gives its characters; every Unicode code point is
        one. For words pass ``text.split()``. A `Counter` gives tokens with their frequencies.
    min_freq : int, default 1
        Tokens seen less often are left out.
    unknown : hashable, optional
        A token that stands for everything outside the vocabulary. Without it, encoding such a token
        is an error.
    reserved : iterable of hashable, default ()
        Tokens that are always in, such as a padding or an end mark.

    Attributes
    ----------
    tokens : list
        The token of each identifier.
    frequencies : collections.Counter
        How often each token occurs in the text, the rare ones that were left out included.
    unknown_id : int or None
        The identifier of the unknown token.

    Examples
    --------
    >>> vocabulary = Vocabulary("hello")
    >>> vocabulary.tokens
    ['e', 'h', 'l', 'o']
    >>> vocabulary.encode("hole")
    array([1, 3, 2, 0], dtype=int32)
    >>> vocabulary.decode([1, 3, 2, 0])
    'hole'
    >>> words = Vocabulary("to be or not to be".split(), unknown="<unk>")
    >>> words.decode(words.encode("to be is to do"))
    'to be <unk> to <unk>'
    """

    def __init__(
        self,
        tokens: str | Iterable[Hashable],
        *,
        min_freq: int = 1,
        unknown: Hashable | None = None,
        reserved: Iterable[Hashable] = (),
    ) -> None:
        min_freq = check.integer("min_freq", min_freq)
        self.frequencies = _count(tokens)
        kept = [token for token, count in self.frequencies.items() if count >= min_freq]
        special = [] if unknown is None else [unknown]
        if isinstance(reserved, str) or not isinstance(reserved, Iterable):
            raise TypeError(f"reserved must be a sequence of tokens, got {reserved!r}")
        special += reserved
        if not all(isinstance(token, Hashable) for token in special):
            raise TypeError(f"unknown and reserved must be hashable tokens, got {special!r}")
        if len(set(special)) < len(special):
            raise ValueError(f"unknown and reserved must be distinct tokens, got {special!r}")
        regular = _in_order(token for token in kept if token not in set(special))
        self.tokens: list[Any] = special + regular
        self.unknown = unknown
        self.unknown_id = None if unknown is None else 0
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        # How tokens join to a text: characters directly, words with a space, others not at all.
        self._are_strings = all(isinstance(token, str) for token in self.tokens)
        self._are_characters = isinstance(tokens, str) or (
            self._are_strings and bool(regular) and all(len(token) == 1 for token in regular)
        )
        self._table = self._code_point_table() if self._are_characters else None

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def __repr__(self) -> str:
        kind = "characters" if self._are_characters else "tokens"
        shown = ", ".join(map(repr, self.tokens[:8])) + (", …" if len(self) > 8 else "")
        return f"<Vocabulary of {len(self)} {kind}: {shown}>"

    def encode(self, text: str | Iterable[Hashable]) -> Array:
        """Return the identifiers of the tokens of `text`.

        Parameters
        ----------
        text : str or iterable of hashable
            A `str` is taken by characters; by words, split at white space, if the vocabulary is one
            of words.

        Returns
        -------
        ndarray of shape (number of tokens,), int32

        Raises
        ------
        ValueError
            If a token is not in the vocabulary and there is no unknown token; the message names it
            and its position.
        """
        if isinstance(text, str) and self._table is not None:
            return self._encode_characters(text, self._table)
        if not isinstance(text, Iterable):
            raise TypeError(f"text must be a str or an iterable of tokens, got {text!r}")
        sequence = text.split() if isinstance(text, str) else list(text)
        missing = -1 if self.unknown_id is None else self.unknown_id
        ids = np.array([self._ids.get(token, missing) for token in sequence], np.int32)
        if (ids < 0).any():
            self._refuse(sequence, int(np.argmax(ids < 0)))
        return ids

    def decode(self, ids: ArrayLike) -> Any:
        """Return the text of the identifiers.

        Parameters
        ----------
        ids : array_like of int, shape (number of tokens,)

        Returns
        -------
        str or list
            Characters joined to a `str`, words joined by spaces; a list of tokens if these are not
            strings.
        """
        places = check.index_array("ids", ids, len(self), "len(vocabulary)")
        check.shape("ids", places, "(number of tokens,)", places.ndim == 1)
        tokens = [self.tokens[place] for place in places.tolist()]
        if not self._are_strings:
            return tokens
        return ("" if self._are_characters else " ").join(tokens)

    def _code_point_table(self) -> Array:
        """Map every code point up to the largest one known to its identifier, the others to -1."""
        points = {ord(token): i for token, i in self._ids.items() if len(token) == 1}
        table = np.full(max(points, default=0) + 2, -1, np.int32)
        table[list(points)] = list(points.values())
        return table

    def _encode_characters(self, text: str, table: Array, first: int = 0) -> Array:
        """Encode a text whose first character is at the given position."""
        ids = np.empty(len(text), np.int32)
        for start, points in _code_points(text):
            block = ids[start : start + len(points)]
            np.take(table, points, mode="clip", out=block)  # the last entry of the table is -1
            unknown = block < 0
            if not unknown.any():
                continue
            if self.unknown_id is None:
                self._refuse(text, start + int(np.argmax(unknown)), first)
            else:
                block[unknown] = self.unknown_id
        return ids

    def _refuse(self, sequence: Any, position: int, first: int = 0) -> None:
        token = sequence[position]
        name = f"character {token!r}" if self._are_characters else f"token {token!r}"
        if isinstance(token, str) and len(token) == 1:
            name += f" (U+{ord(token):04X})"
        raise ValueError(
            f"text has the unknown {name} at position {first + position}: it is not among the "
            f"{len(self)} of the vocabulary; build the Vocabulary with unknown=… to let it pass"
        )


def read_text(path: str | PathLike[str] | None = None, *, errors: str = "strict") -> str:
    """Return the text of a UTF-8 file; or, without a path, English that every Python carries.

    A byte order mark is dropped, and every line ends in a single newline character.

    Parameters
    ----------
    path : path, optional
        Without it, the language reference in `pydoc_data.topics` is returned, about 465,000
        characters. A regular file: a pipe is refused, since it can be read only once.
    errors : {"strict", "replace"}
        Whether bytes that are not UTF-8 are refused, or become the character U+FFFD.

    Raises
    ------
    OSError
        If the file cannot be read; the message names it.
    ValueError
        If it is empty, or not text in UTF-8, where the message names the place; or if it changes
        while it is read.
    """
    check.choice("errors", errors, ("strict", "replace"))
    if path is None:
        from pydoc_data.topics import topics  # half a megabyte that few need

        return "\n\n".join(topics[name] for name in sorted(topics))
    return "".join(TextFile(path, errors).blocks())


def encode_file(
    path: str | PathLike[str],
    vocabulary: Vocabulary | None = None,
    *,
    out: str | PathLike[str] | None = None,
    errors: str = "strict",
) -> tuple[Array, Vocabulary]:
    """Encode a UTF-8 file block by block: for texts that are larger than the memory.

    Parameters
    ----------
    path : path
        Read as `read_text` does, once for the vocabulary and once more to encode.
    vocabulary : Vocabulary, optional
        Of characters; by default that of the file.
    out : path, optional
        A file for the identifiers, which is written over. By default a temporary one, which goes
        when the array does.
    errors : {"strict", "replace"}
        As for `read_text`.

    Returns
    -------
    tokens : numpy.memmap of shape (number of characters,)
        Read-only, of the smallest unsigned type for the vocabulary. `train` and the batches read it
        window by window.
    vocabulary : Vocabulary

    Raises
    ------
    OSError, ValueError
        As `read_text`, and `Vocabulary.encode`.
    """
    import tempfile  # takes a third of the time of `import nprnn`

    text = TextFile(path, check.choice("errors", errors, ("strict", "replace")))
    if vocabulary is None:
        vocabulary = Vocabulary(count_characters(text.blocks()))
    table = vocabulary._table
    if table is None:
        raise ValueError("vocabulary must be one of characters, got " + repr(vocabulary))
    dtype = np.min_scalar_type(len(vocabulary) - 1)
    file: Any = tempfile.TemporaryFile() if out is None else open(out, "w+b")  # noqa: SIM115
    with file:  # the array keeps the file open
        length = 0
        for block in text.blocks():
            ids = vocabulary._encode_characters(block, table, length)
            ids.astype(dtype).tofile(file)
            length += len(block)
        file.flush()
        return np.memmap(file, dtype, "r", shape=(length,)), vocabulary


class TextFile:
    """A UTF-8 file that is read in blocks, once or several times, and must not change meanwhile."""

    def __init__(self, path: str | PathLike[str], errors: str) -> None:
        try:
            self.name = fspath(path)
        except TypeError:
            raise TypeError(f"path must be a str or path-like, got {type(path).__name__}") from None
        if "\0" in os.fsdecode(self.name):
            raise ValueError(f"path must not hold a NUL character, got {self.name!r}")
        self.errors = errors
        self.stamp: tuple[int, ...] | None = None  # of the file that was opened first

    def blocks(self) -> Iterator[str]:
        """Yield the text, block by block; see `read_text`."""
        try:
            with open(self.name, "rb", opener=_open_at_once) as file:
                self._check_unchanged(file)
                yield from self._decoded(file)
                self._check_unchanged(file)
        except OSError as error:
            raise type(error)(f"cannot read {self.name!r}: {error.strerror}") from None

    def _check_unchanged(self, file: Any) -> None:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(
                f"{self.name!r} is not a regular file but a pipe or a device: write the text to a "
                "file first"
            )
        stamp = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
        if self.stamp not in (None, stamp):
            raise ValueError(f"{self.name!r} changed while it was read: try again, with a copy")
        self.stamp = stamp

    def _decoded(self, file: Any) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")(self.errors)
        newlines = io.IncrementalNewlineDecoder(None, translate=True)
        position, is_last = 0, False
        while not is_last:
            data = file.read(_BLOCK)
            is_last = not data
            if b"\0" in data:
                raise ValueError(
                    f"{self.name!r} is not a text: it has a NUL byte at position "
                    f"{position + data.index(0)}; if it is UTF-16, save it as UTF-8"
                )
            waiting = len(decoder.getstate()[0])  # bytes of a character that is cut in two
            try:
                text = decoder.decode(data, final=is_last)
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{self.name!r} is not UTF-8: byte 0x{error.object[error.start]:02x} at "
                    f"position {position - waiting + error.start}; save it as UTF-8, or "
                    "let errors='replace' (--errors replace) put U+FFFD in its place"
                ) from None
            position += len(data)
            text = newlines.decode(text, final=is_last)
            if text:
                yield text
        if not position:
            raise ValueError(f"{self.name!r} is empty: there is nothing to learn from")


def _open_at_once(name: str, flags: int) -> int:
    """Open a file; a pipe without a writer too, which otherwise would be waited for."""
    return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))


def _count(tokens: str | Iterable[Hashable]) -> Counter[Any]:
    if isinstance(tokens, Counter):
        return tokens.copy()
    if not isinstance(tokens, str):
        try:
            return Counter(iter(tokens))
        except TypeError as error:
            raise TypeError(
                f"tokens must be a str or an iterable of hashable tokens: {error}"
            ) from None
    return count_characters([tokens])


def count_characters(blocks: Iterable[str]) -> Counter[str]:
    """Return how often each character occurs in the blocks of a text."""
    counts = np.zeros(_NUM_CODE_POINTS, np.int64)
    top = 0
    for text in blocks:
        for _, points in _code_points(text):
            block = np.bincount(points)
            counts[: len(block)] += block
            top = max(top, len(block))
    seen = np.flatnonzero(counts[:top])
    return Counter({chr(point): int(counts[point]) for point in seen})


def _code_points(text: str) -> Iterator[tuple[int, Array]]:
    """Yield (position, code points) for one block of the text after the other."""
    for start in range(0, len(text), _BLOCK):
        block = text[start : start + _BLOCK]
        if block.isascii():
            yield start, np.frombuffer(block.encode("ascii"), np.uint8)
        else:
            yield start, np.frombuffer(block.encode("utf-32-le", "surrogatepass"), "<i4")


def _in_order(tokens: Iterable[Any]) -> list[Any]:
    listed = list(tokens)
    try:
        return sorted(listed)
    except TypeError:
        return listed
