"""Characters that a network has not seen: refused, left out, or replaced by similar ones."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..checkpoint import is_of_characters
from ..encoding import Vocabulary

if TYPE_CHECKING:
    from .._validation import Array

# What stands for a character where neither its letters nor its case are known.
_SIMILAR = {
    **dict.fromkeys("‘’‚‛`´", "'"), **dict.fromkeys("“”„«»", '"'), **dict.fromkeys("‐‑–—―−", "-"),
    "…": ".", "\t": " ", "'": "’", '"': "“", "-": "–",
}  # fmt: skip


def encode(vocabulary: Vocabulary, text: str, unknown: str, name: str) -> tuple[str, Array]:
    """Return a text as the vocabulary can have it, and its identifiers.

    Parameters
    ----------
    vocabulary : Vocabulary
    text : str
    unknown : {"error", "skip", "nearest"}
        Whether to refuse characters that are not in the vocabulary, to leave them out, or to take
        the most similar one for each.
    name : str
        What to call the text in a message.
    """
    if not is_of_characters(vocabulary):
        return text, vocabulary.encode(text)
    known = [token for token in vocabulary.tokens if token != vocabulary.unknown]
    missing = sorted(set(text) - set(known))
    if missing and unknown == "error":
        shown = ", ".join(map(repr, missing[:8])) + (", …" if len(missing) > 8 else "")
        raise ValueError(
            f"{name} has characters that the network has not seen: {shown} "
            "(--unknown skip leaves them out, --unknown nearest takes similar ones)"
        )
    if unknown == "skip":
        table = dict.fromkeys(map(ord, missing), "")
    else:
        table = {ord(char): nearest(char, known) for char in missing}
    text = text.translate(table)
    return text, vocabulary.encode(text)


def nearest(char: str, known: Sequence[str]) -> str:
    """Return the most similar known character.

    The same one without its accent or in its plain form, in the other case, a similar mark; else,
    among those of its category (letters, digits, spaces, …), the one with the nearest code point.
    """
    for candidate in _candidates(char):
        if candidate and candidate in known:
            return candidate
    single = [token for token in known if len(token) == 1]
    if not single:
        return ""
    category = unicodedata.category(char)

    def distance(other: str) -> tuple[bool, bool, int]:
        own = unicodedata.category(other)
        return own[0] != category[0], own != category, abs(ord(other) - ord(char))

    return min(single, key=distance)


def _candidates(char: str) -> Iterable[str]:
    plain = "".join(c for c in unicodedata.normalize("NFKD", char) if not unicodedata.combining(c))
    for form in (char, plain[:1]):
        yield from (form, form.lower(), form.upper(), _SIMILAR.get(form, ""))
