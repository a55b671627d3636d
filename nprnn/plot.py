"""Pictures of a training and of what a network has learnt: each function returns a Figure.

They need Matplotlib, ``pip install 'nprnn[plot]'``, and leave its global state alone: save a Figure
with its `savefig`. What they show is computed by `nprnn.insight`. The colours can be told apart
with any kind of colour vision.
"""

from __future__ import annotations

import html
import math
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

from . import insight

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import ArrayLike

    from ._validation import Array
    from .encoding import Vocabulary
    from .insight import Unit
    from .models import LanguageModel
    from .stack import State

WIDTH, DPI = 8.0, 100  # inches, and pixels an inch: 800 pixels, or a multiple
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito (2008)
HEAT, SIGNED = "cividis", "PuOr_r"  # for amounts, and for numbers of either sign
SHADES = 12  # of a coloured text, on either side of the middle
COLUMNS = 40  # characters beside each other in a picture


def training_curves(records: Iterable[Any]) -> Any:
    """Draw the losses of a training, and the norm of the gradients, against the steps.

    Parameters
    ----------
    records : iterable of Record, Point or dict
        As for `insight.curves`: what `nprnn.train` yields, or the history of a checkpoint.

    Returns
    -------
    matplotlib.figure.Figure
    """
    found = insight.curves(records)
    figure = _figure(5.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    above.plot(found.steps, found.loss, color=LINES[0], label="training")
    if len(found.validation_loss):
        above.plot(
            *(found.validation_steps, found.validation_loss),
            *("o--",),
            color=LINES[1],
            markersize=4,
            label=f"validation, lowest {found.validation_loss.min():.3f}",
        )
    above.set_ylabel("loss, nats a character")
    bits = above.secondary_yaxis("right", functions=(_to_bits, _to_nats))
    bits.set_ylabel("bits a character")
    above.legend(frameon=False)
    below.plot(found.grad_norm_steps, found.grad_norm, color=LINES[2])
    below.set(ylabel="gradient norm,\nbefore clipping", xlabel="steps")
    if len(found.grad_norm) and found.grad_norm.max() > 30 * found.grad_norm.min() > 0:
        below.set_yscale("log")
    else:
        below.set_ylim(bottom=0)
    return figure


def gradient_flow(
    model: LanguageModel, tokens: ArrayLike, state: State = None, *, loss: str = "last"
) -> Any:
    """Draw how far the gradient of a loss reaches back, layer by layer.

    Parameters
    ----------
    model, tokens, state, loss
        As for `insight.gradient_flow`.

    Returns
    -------
    matplotlib.figure.Figure
        Above, ‖dL/dh_t‖ as a heat map, with the slope written on each row; below, the same as
        curves with the fitted lines.
    """
    flow = insight.gradient_flow(model, tokens, state, loss=loss)
    rows, T = len(flow.rows), flow.norms.shape[1]
    back = np.arange(T)[::-1]
    figure = _figure(3.6 + 0.45 * rows)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[0.3 + 0.45 * rows, 2.2])
    # No logarithm of 0: where nothing reads a state, as the last c, the row stays white.
    norms = np.ma.masked_less_equal(flow.norms, 0)
    if norms.count():
        from matplotlib.colors import LogNorm

        image = above.imshow(
            norms,
            aspect="auto",
            cmap=HEAT,
            norm=LogNorm(),
            extent=(T - 0.5, -0.5, rows - 0.5, -0.5),
        )
        figure.colorbar(image, ax=above, label="norm", pad=0.01)
        below.set_yscale("log")
    names = [f"layer {layer}, d{name}" for layer, name in flow.rows]
    above.set_yticks(range(rows), names)
    predicted = "last prediction" if loss == "last" else "mean of all predictions"
    above.set_title(f"gradient of the {predicted}, by state", loc="left")
    for row, name in enumerate(names):
        slope, start = flow.slopes[row], flow.intercepts[row]
        colour = LINES[row % len(LINES)]
        below.plot(back, norms[row], color=colour, label=name)
        if math.isfinite(slope):
            below.plot(back, 10 ** (start + slope * back), ":", color=colour)
        above.text(
            *(T - 1, row, _told(slope)),
            va="center",
            bbox={"facecolor": "white", "alpha": 0.85, "edgecolor": "none", "pad": 1.5},
        )
    below.set(xlabel="steps before the last prediction", ylabel="norm", xlim=(T - 0.5, -0.5))
    below.legend(frameon=False, ncols=2)
    return figure


def spectra(model: LanguageModel) -> Any:
    """Draw the singular values and the eigenvalues of each recurrent matrix W_hh.

    Parameters
    ----------
    model : LanguageModel

    Returns
    -------
    matplotlib.figure.Figure
        A column for each layer; the legend tells the spectral radius, the largest magnitude of an
        eigenvalue.
    """
    found = insight.recurrent_spectra(model)
    L = 1 + max(spectrum.layer for spectrum in found)
    figure = _figure(WIDTH * 0.9 if L == 1 else 2 * WIDTH / L + 0.8)
    axes = figure.subplots(2, L, squeeze=False)
    angle = np.linspace(0, 2 * np.pi, 200)
    for k in range(L):
        above, below = axes[:, k]
        own = [spectrum for spectrum in found if spectrum.layer == k]
        for spectrum, colour in zip(own, LINES, strict=False):
            values, points = spectrum.singular_values, spectrum.eigenvalues
            label = f"gate {spectrum.gate}, " if spectrum.gate else ""
            label += f"spectral radius {spectrum.spectral_radius:.2f}"
            above.plot(1 + np.arange(len(values)), values, color=colour, label=label)
            below.plot(points.real, points.imag, ".", color=colour, markersize=4)
        above.axhline(1, color="0.6", linewidth=0.8, zorder=0)
        above.set(title=f"layer {k}: singular values of W_hh", xlabel="number", yscale="log")
        above.legend(frameon=False, fontsize=9, loc="lower left")
        below.plot(np.cos(angle), np.sin(angle), color="black", linewidth=1)
        below.set(title="eigenvalues, and the unit circle", xlabel="real part", aspect="equal")
        below.set_adjustable("datalim")
    axes[0, 0].set_ylabel("singular value")
    axes[1, 0].set_ylabel("imaginary part")
    return figure


def activations(
    model: LanguageModel,
    tokens: ArrayLike,
    vocabulary: Vocabulary | None = None,
    state: State = None,
) -> Any:
    """Draw what every unit holds after each token of a passage, and how many are saturated.

    Parameters
    ----------
    model : LanguageModel
    tokens : array_like of int, shape (T,)
        Some forty can be read; all of them count for the saturation.
    vocabulary : Vocabulary, optional
        Writes the passage below.
    state : ndarray of shape (L, H), optional
        As for `insight.activations`.

    Returns
    -------
    matplotlib.figure.Figure
        Above, h of each layer as a heat map. Below, the share of units and steps that are within a
        tenth of an end of their range (`insight.saturation`).
    """
    ids = np.asarray(tokens)
    layers = insight.activations(model, ids[:COLUMNS], state, gates=False)
    shares = insight.saturation(model, ids, state)
    L, T = len(layers), len(layers[0]["h"])
    # h beside more than 1 in magnitude: a ReLU's.
    limit = max(1.0, *(float(np.abs(own["h"]).max()) for own in layers))
    bars = 0.6 + 0.22 * len(shares)
    figure = _figure(1.6 * L + bars + 1.2)
    *maps, below = figure.subplots(L + 1, 1, height_ratios=[1.6] * L + [bars])
    for k, (axes, own) in enumerate(zip(maps, layers, strict=True)):
        image = axes.imshow(
            *(own["h"].T,), aspect="auto", cmap=SIGNED, vmin=-limit, vmax=limit, origin="lower"
        )
        axes.set(ylabel=f"layer {k}, unit")
        axes.set_xticks([])
    maps[0].set_title("h after each character", loc="left")
    figure.colorbar(image, ax=maps, label="h", pad=0.01, aspect=30)
    if vocabulary is not None:
        read = insight.token_strings(vocabulary, ids[:T])
        maps[-1].set_xticks(range(T), [visible(token) for token in read], fontsize=9)
        maps[-1].tick_params(axis="x", length=0)
        _short(maps[-1].get_xticklabels())
    names = [f"layer {each.layer}, {each.name}" for each in shares]
    low = np.array([each.low.mean() for each in shares])
    high = np.array([each.high.mean() for each in shares])
    places = np.arange(len(shares))
    below.barh(places, 100 * low, color=LINES[0], label="at the lower end")
    below.barh(places, 100 * high, left=100 * low, color=LINES[1], label="at the upper end")
    for place, share in zip(places, 100 * (low + high), strict=True):
        below.text(share + 0.7, place, f"{share:.0f} %", va="center", fontsize=8)
    below.set_yticks(places, names, fontsize=8)
    below.invert_yaxis()
    below.set(xlabel="saturated, % of units and steps", xlim=(0, 108))
    below.set_xticks(range(0, 101, 20))
    below.legend(frameon=False, fontsize=9, ncols=2, loc="lower left", bbox_to_anchor=(-0.01, 0.98))
    return figure


def predictions(
    model: LanguageModel,
    tokens: ArrayLike,
    vocabulary: Vocabulary,
    state: State = None,
    *,
    k: int = 5,
) -> Any:
    """Draw what the network expected, character by character, beside the text.

    Parameters
    ----------
    model : LanguageModel
    tokens : array_like of int, shape (N,)
        Forty are drawn in a row.
    vocabulary : Vocabulary
    state : ndarray of shape (L, H), optional
        What the first token is read in.
    k : int, default 5
        How many of the likeliest characters are shown.

    Returns
    -------
    matplotlib.figure.Figure
        For each row of text: the bits that each character took, the text, and below it the
        likeliest characters, the likeliest first, shaded by their probability.
    """
    found = insight.predictions(model, tokens, k=k, state=state)
    k = found.top.shape[1]
    rows = -(-len(found.tokens) // COLUMNS)
    figure = _figure(rows * (1.1 + 0.22 * k) + 0.5)
    grid = figure.subplots(2 * rows, 1, height_ratios=[0.7, 0.4 + 0.22 * k] * rows)
    surprise = -np.log2(np.maximum(found.probability, 1e-300))
    highest = max(8.0, float(surprise.max()))
    for row in range(rows):
        here = slice(row * COLUMNS, (row + 1) * COLUMNS)
        bars, cells = grid[2 * row], grid[2 * row + 1]
        columns = np.arange(len(surprise[here]))
        bars.bar(columns, surprise[here], color=LINES[1])
        bars.set(ylabel="bits", xlim=(-0.5, COLUMNS - 0.5), ylim=(0, highest))
        bars.set_xticks([])
        bars.spines[["top", "right"]].set_visible(False)
        shares = found.top_probability[here]
        image = cells.imshow(shares.T, aspect="auto", cmap="Blues", vmin=0, vmax=1)
        cells.set_xlim(-0.5, COLUMNS - 0.5)
        came = insight.token_strings(vocabulary, found.tokens[here])
        cells.set_xticks(columns, [visible(token) for token in came], fontweight="bold")
        cells.xaxis.tick_top()
        cells.tick_params(axis="both", length=0)
        _short(cells.get_xticklabels())
        cells.set_yticks(range(k), [f"{place}." for place in range(1, k + 1)])
        for column, (tops, chances) in enumerate(zip(found.top[here], shares, strict=True)):
            expected = insight.token_strings(vocabulary, tops)
            for place, (token, chance) in enumerate(zip(expected, chances, strict=True)):
                colour = "white" if chance > 0.6 else "black" if chance > 0.02 else "0.6"
                weight = "bold" if token == came[column] else "normal"
                text = cells.text(column, place, visible(token), color=colour, weight=weight)
                text.set(ha="center", va="center")
                _short([text])
    grid[0].set_title("what came, the bits it took, and what was expected", loc="left")
    figure.colorbar(image, ax=grid, label="probability", pad=0.01, aspect=30)
    return figure


def coloured_text(
    model: LanguageModel,
    tokens: ArrayLike,
    vocabulary: Vocabulary,
    units: Sequence[tuple[int, str, int] | Unit] | None = None,
    state: State = None,
    *,
    number: int = 6,
) -> str:
    """Return a text coloured by single units, as a page of its own.

    Parameters
    ----------
    model : LanguageModel
    tokens : array_like of int, shape (N,)
        Some thousands of tokens.
    vocabulary : Vocabulary
    units : sequence of (layer, kind, index) or Unit, optional
        Kind is "h", or for an LSTM also "c". By default the most interpretable ones, found by
        `insight.interpretable_units`, each with the property of the text that it follows.
    state : ndarray of shape (L, H), optional
        As for `insight.activations`.
    number : int, default 6
        How many units are shown if they are not given.

    Returns
    -------
    str
        HTML, with its style and without a script, that refers to nothing outside.
    """
    ids = np.asarray(tokens)
    if units is None:
        units = insight.interpretable_units(model, ids, vocabulary, state)[:number]
    layers = insight.activations(model, ids, state, gates=False)
    characters = insight.token_strings(vocabulary, ids)
    sections = []
    for unit in units:
        layer, kind, index = unit[:3]
        if not (0 <= layer < len(layers) and kind in layers[layer]):
            kinds = " or ".join(layers[0])
            raise ValueError(
                f"units must name a layer in 0 .. {len(layers) - 1} and {kinds}; got {tuple(unit)}"
            )
        if not 0 <= index < layers[layer][kind].shape[1]:
            raise ValueError(
                f"units must have an index in 0 .. H-1 = {layers[layer][kind].shape[1] - 1}, "
                f"got {index}"
            )
        values = layers[layer][kind][:, index]
        title = f"layer {layer}, {kind}[{index}]"
        if isinstance(unit, insight.Unit):
            title += f" {_relation(unit)} ({unit.measure} {unit.score:.2f})"
        body = _spans(characters, values)
        sections.append(f'<h2>{html.escape(title)}</h2>\n<pre dir="auto">{body}</pre>')
    return _PAGE.format(style=_style(), body="\n".join(sections))


def _relation(unit: Unit) -> str:
    """Return in words how a unit goes with a property of the text."""
    if unit.measure == "AUC":
        return f"is {'high' if unit.score > 0.5 else 'low'} at: {unit.feature}"
    return f"{'rises' if unit.score > 0 else 'falls'} with: {unit.feature}"


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Text coloured by single units</title>
<style>
{style}
</style>
<h1>Text coloured by single units</h1>
<p>Each character has the colour of the unit's value after it has been read, from
<span class="n{last}">its lowest</span> to <span class="p{last}">its highest</span>; a newline is
shown as ↵.</p>
{body}
</html>
""".replace("{last}", str(SHADES - 1))


def _style() -> str:
    """Return the style of the page: purple for low values, white halfway, orange for high ones."""
    rules = [
        "body{font:16px/1.5 sans-serif;max-width:52em;margin:2em auto;padding:0 1em;color:#111;"
        "background:#fff}",
        "h2{font-size:1.1em;margin:2em 0 .5em}",
        "pre{font:14px/1.5 monospace;white-space:pre-wrap;overflow-wrap:anywhere;"
        "border:1px solid #ccc;padding:1em;max-height:30em;overflow:auto}",
        "span{padding:.1em 0}",
    ]
    for sign, colour in (("n", (94, 60, 153)), ("p", (230, 97, 1))):
        for shade in range(SHADES):
            part = (shade + 0.5) / SHADES
            mixed = ",".join(f"{round(255 + (c - 255) * part)}" for c in colour)
            ink = ";color:#fff" if sign == "n" and part > 0.7 else ""
            rules.append(f".{sign}{shade}{{background:rgb({mixed}){ink}}}")
    return "\n".join(rules)


def _spans(characters: Sequence[str], values: Array) -> str:
    """Return the text as HTML, neighbours of one shade in one element."""
    middle = (values.max() + values.min()) / 2
    reach = (values.max() - values.min()) / 2 or 1.0
    height = (values - middle) / reach  # from -1 to 1
    shades = np.minimum((np.abs(height) * SHADES).astype(int), SHADES - 1)
    classes = [f"{'n' if h < 0 else 'p'}{shade}" for h, shade in zip(height, shades, strict=True)]
    parts, start = [], 0
    for end in range(1, len(classes) + 1):
        if end == len(classes) or classes[end] != classes[start]:
            text = html.escape("".join(characters[start:end])).replace("\n", "↵\n")
            parts.append(f'<span class="{classes[start]}">{text}</span>')
            start = end
    return "".join(parts)


def visible(token: str) -> str:
    """Return a token as it can be read in a picture: white space by its sign, others by number.

    A character that the font of the pictures lacks is written as its code point.
    """
    signs = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
    return "".join(signs.get(char) or _drawn(char) for char in token)


def _drawn(char: str) -> str:
    if unicodedata.category(char)[0] not in "CZM" and ord(char) in _glyphs():
        return "\\$" if char == "$" else char  # between two of them Matplotlib reads a formula
    return f"{ord(char):X}"


def _glyphs() -> Any:
    """Return the characters that the fonts of the pictures have."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return font.get_charmap()


def _short(texts: Iterable[Any]) -> None:
    """Make what is longer than a character small enough to stand beside others."""
    for text in texts:
        length = len(text.get_text().replace("\\", ""))
        if length > 1:
            text.set_fontsize(10 * 1.3 / length)


def _told(slope: float) -> str:
    """Return a slope in words: by what the gradient is multiplied with each step back."""
    if not math.isfinite(slope):
        return "no gradient"
    factor = 10**slope
    verb = "vanishes" if factor < 0.995 else "explodes" if factor > 1.005 else "stays"
    return f"{verb}, × {factor:.3g} a step back"


def _to_bits(nats: Array) -> Array:
    return nats / math.log(2)


def _to_nats(bits: Array) -> Array:
    return bits * math.log(2)


def need_matplotlib() -> None:
    """Raise an ImportError that says what to install if Matplotlib is not there."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("pictures need Matplotlib: pip install 'nprnn[plot]'") from None


def _figure(height: float) -> Any:
    """Return an empty Figure, WIDTH inches wide."""
    need_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
