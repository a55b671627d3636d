"""A page to play with: a server for one's own machine that lets a network write.

It has three addresses: ``/`` is the page, ``/model`` what the network is, and ``/generate`` takes a
JSON object and answers with lines of JSON: what was read of the prefix, then a line for each token
(with the hidden state and the probabilities it was drawn from), then why the text ends. Everything
else is refused with a sentence. It listens on 127.0.0.1, and answers only pages that it served.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import itertools
import json
import os
import re
import socket
import socketserver
import threading
import time
from collections import deque
from importlib import resources
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import _validation as check
from .generation import Sampler, sampler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ._validation import Array
    from .encoding import Vocabulary
    from .models import LanguageModel
    from .stack import State

HOST = "127.0.0.1"
LONGEST_PREFIX = 4_000  # characters that are read of a prefix, the last ones
LONGEST_TEXT = 5_000  # tokens
LARGEST_SEED = 2**53 - 1  # beyond it JavaScript rounds
LARGEST_BODY = 64 << 20  # bytes: a prefix of 10 million characters, whichever way they are written
LARGE_BODY = 1 << 20  # larger ones are read one at a time, for the memory's sake
GENERATIONS = 4  # at a time; more would only wait for each other
CONNECTIONS = 256  # at a time; further ones wait in the system's queue
PATIENCE = 10.0  # seconds in which a client must send, or take, what is due
LONGEST_WAIT = 120.0  # seconds for which a request stands in line
SHOWN = 10  # likeliest tokens that are shown
METHODS = {"/": ("GET", "HEAD"), "/model": ("GET", "HEAD"), "/generate": ("POST",)}
HEADERS = {
    "Cache-Control": "no-store",
    "Connection": "close",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def make_server(
    model: LanguageModel, vocabulary: Vocabulary, port: int = 0, *, name: str = ""
) -> PageServer:
    """Return a server of the page; call its `serve_forever`, and at the end its `server_close`.

    Parameters
    ----------
    model : LanguageModel
    vocabulary : Vocabulary
        Of strings, as many as the model has classes.
    port : int, default 0
        Of 127.0.0.1; 0 takes one that is free.
    name : str, optional
        What the page calls the network, such as the name of its file.

    Returns
    -------
    PageServer
        A `http.server.ThreadingHTTPServer`; its `url` is where the page is.

    Raises
    ------
    ValueError
        If model and vocabulary do not fit together.
    OSError
        If the port is taken.

    Examples
    --------
    >>> import threading, urllib.request, nprnn
    >>> vocabulary = nprnn.Vocabulary("hello")
    >>> with make_server(nprnn.LanguageModel(4, 8, rng=0), vocabulary) as server:
    ...     threading.Thread(target=server.serve_forever).start()
    ...     with urllib.request.urlopen(server.url) as page:
    ...         title = page.readline().strip()
    ...     server.shutdown()
    >>> title
    b'<!doctype html>'
    """
    if check.integer("port", port, minimum=0) > 65535:
        raise ValueError(f"port must be in 0 .. 65535, got {port}")
    network = Network(model, vocabulary, name)
    try:
        return PageServer(network, port)
    except OSError as error:
        reason = f"cannot listen on port {port}: {error.strerror}; 0 takes one that is free"
        raise OSError(error.errno, reason) from None


def serve_forever(
    model: LanguageModel,
    vocabulary: Vocabulary,
    port: int = 0,
    *,
    name: str = "",
    on_ready: Callable[[str], object] | None = None,
) -> None:
    """Serve the page until the process is interrupted, and close the server then.

    Parameters
    ----------
    model, vocabulary, port, name
        As for `make_server`.
    on_ready : callable, optional
        Called with the address of the page as soon as it can be opened.

    Raises
    ------
    KeyboardInterrupt
        When that ends it.
    """
    with make_server(model, vocabulary, port, name=name) as server:
        if on_ready is not None:
            on_ready(server.url)
        server.serve_forever()


# What the network does


class Step(NamedTuple):
    """A token, and what it was drawn from."""

    token: int
    ranked: Array  # (V,), the tokens from the likeliest on
    given: Array  # (V,), the probabilities that the network gives to these
    drawn: Array  # (V,), and those they are drawn with
    hidden: Array  # (L, H), the state that was read out


class Network:
    """A model and its vocabulary, as the page sees them.

    Parameters
    ----------
    model : LanguageModel
    vocabulary : Vocabulary
    name : str
    """

    def __init__(self, model: LanguageModel, vocabulary: Vocabulary, name: str = "") -> None:
        if len(vocabulary) != model.vocab_size:
            raise ValueError(
                f"vocabulary must have vocab_size={model.vocab_size} tokens, got {len(vocabulary)}"
            )
        if not all(isinstance(token, str) for token in vocabulary.tokens):
            raise ValueError("vocabulary must have tokens that are all of type str, to be shown")
        self.name, self.vocabulary = name, vocabulary
        self.model, self.rnn, self.readout = model, model.rnn, model.readout
        self.known = set(vocabulary.tokens) - {vocabulary.unknown}
        self.is_of_characters = vocabulary.decode([0, 0]) == 2 * vocabulary.tokens[0]

    def facts(self) -> dict[str, Any]:
        """Return what the page says about the network, and the limits of its fields."""
        return {
            "name": self.name,
            "cell": type(self.rnn).__name__,
            "layers": self.rnn.num_layers,
            "hidden_size": self.rnn.hidden_size,
            "parameters": sum(array.size for array in self.model.params.values()),
            "vocabulary": len(self.vocabulary),
            "characters": self.is_of_characters,
            "limits": {"prefix": LONGEST_PREFIX, "length": LONGEST_TEXT, "seed": LARGEST_SEED},
        }

    def encode(self, text: str) -> tuple[Array, dict[str, Any]]:
        """Return the identifiers of a text's end, and what was left out of it."""
        end = text[-LONGEST_PREFIX:]
        tokens = list(end) if self.is_of_characters else end.split()
        if not self.is_of_characters and len(end) < len(text):
            del tokens[:1]  # the word that is cut
        known = [token for token in tokens if token in self.known]
        unknown = dict.fromkeys(token for token in tokens if token not in self.known)
        return self.vocabulary.encode(known), {
            "given": len(text),
            "read": len(end),
            "skipped": len(tokens) - len(known),
            "unknown": list(itertools.islice(unknown, 20)),
        }

    def write(self, prefix: Array, draw: Sampler, rng: np.random.Generator) -> Iterator[Step]:
        """Yield the tokens that follow a prefix, without end: those of `LanguageModel.generate`.

        The unknown token is never drawn.
        """
        state: State = None
        hidden = np.zeros(
            (self.rnn.num_layers, self.rnn.hidden_size), self.readout.params["bias"].dtype
        )
        if len(prefix):
            hidden, state = self.read(prefix, state)
        while True:
            logits = self.readout(hidden[-1])
            if self.vocabulary.unknown_id is not None:
                logits[self.vocabulary.unknown_id] = -np.inf
            token = draw(logits, rng)
            yield Step(token, *probabilities(logits, draw), hidden)
            hidden, state = self.read(np.array([token]), state)

    def read(self, tokens: Array, state: State) -> tuple[Array, State]:
        """Read tokens; return h of every layer after the last, (L, H), and the state."""
        vectors = self.model.params.get("embedding.weight")
        _, state = self.rnn(tokens if vectors is None else vectors[tokens], state)
        return state[0] if isinstance(state, tuple) else state, state

    def line(self, step: Step) -> dict[str, Any]:
        """Return what the page shows of a step; the hidden state as scaled bytes, in base64."""
        tokens, rank = self.vocabulary.tokens, int(np.flatnonzero(step.ranked == step.token)[0])
        scale = max(1.0, float(np.abs(step.hidden).max()))  # above 1 in networks of ReLU only
        levels = np.rint(step.hidden * (127 / scale)).astype(np.int8)

        def shown(place: int) -> list[Any]:
            given, drawn = float(step.given[place]), float(step.drawn[place])
            return [tokens[step.ranked[place]], round(given, 6), round(drawn, 6)]

        return {
            "token": shown(rank),
            "rank": rank + 1,
            "top": [shown(place) for place in range(min(SHOWN, len(tokens)))],
            "scale": scale,
            "state": base64.b64encode(levels.tobytes()).decode("ascii"),
        }


def probabilities(logits: Array, draw: Sampler) -> tuple[Array, Array, Array]:
    """Return the tokens by their probability, that probability, and the one they are drawn with.

    Parameters
    ----------
    logits : ndarray of shape (V,)
    draw : Sampler
        Its temperature and its `top_k` count.

    Returns
    -------
    ranked, given, drawn : ndarray of shape (V,)
        The likeliest token first.
    """
    ranked = np.argsort(-logits, kind="stable")
    scores = logits[ranked].astype(np.float64)
    scores -= scores[0]
    given = np.exp(scores)
    drawn = np.zeros_like(given)
    if draw.temperature == 0:
        drawn[0] = 1
    else:
        with np.errstate(over="ignore"):  # -inf is what a tiny temperature means
            drawn[: draw.top_k] = np.exp(scores[: draw.top_k] / draw.temperature)
    return ranked, given / given.sum(), drawn / drawn.sum()


# What a client asks for


class Order(NamedTuple):
    """A request to write, checked."""

    prefix: str
    length: int
    seed: int
    draw: Sampler


class RefusalError(Exception):
    """A request that is answered with a status of its own and a sentence."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None):
        super().__init__(sentence)
        self.status, self.headers = status, headers or {}


def read_order(body: bytearray) -> Order:
    """Return what a request's body asks for, or refuse it with a sentence."""
    try:
        fields = _read_object(body)
        prefix = fields.get("prefix", "")
        if not isinstance(prefix, str):
            raise TypeError(f"prefix must be a string, got {prefix!r}")
        length = _at_most("length", fields.get("length", 500), 1, LONGEST_TEXT)
        seed = fields.get("seed")
        if seed is None:
            seed = int(np.random.default_rng().integers(2**32))
        seed = _at_most("seed", seed, 0, LARGEST_SEED)
        draw = sampler(fields.get("temperature", 1.0), fields.get("top_k"))
    except (TypeError, ValueError, OverflowError) as error:
        raise RefusalError(400, str(error)) from None
    return Order(prefix, length, seed, draw)


def _read_object(body: bytearray) -> dict[str, Any]:
    """Read strict JSON: UTF-8, no NaN, no key twice, and none that means nothing."""
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number
        )
    except RecursionError:
        raise ValueError("the body is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"the body must be JSON in UTF-8: {error}") from None
    names = [name for name in Order._fields if name != "draw"] + ["temperature", "top_k"]
    if not isinstance(value, dict):
        raise TypeError(f"the body must be a JSON object, got {value!r}")
    for key in value:
        if key not in names:
            raise ValueError(f"{key!r} means nothing here; there are {', '.join(names)}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return fields


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _at_most(name: str, value: Any, minimum: int, maximum: int) -> int:
    number = check.integer(name, value, minimum=minimum)
    if number > maximum:
        raise ValueError(f"{name} must be at most {maximum}, got {number}")
    return number


# The server


class Line:
    """A few places, and a line in front of them: first come, first served.

    Parameters
    ----------
    places : int
    """

    def __init__(self, places: int) -> None:
        self._lock, self._free = threading.Lock(), places
        self._waiting: deque[threading.Event] = deque()  # empty as long as a place is free

    def enter(self, patience: float) -> bool:
        """Wait for a place; return whether there was one in so many seconds."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(patience):
            return True
        with self._lock:
            if turn.is_set():  # in the last moment
                return True
            self._waiting.remove(turn)
            return False

    def leave(self) -> None:
        """Give the place to the next in line."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._free += 1


class PageServer(http.server.ThreadingHTTPServer):
    """A thread for each connection, at most 256 of them; four generations at a time.

    Parameters
    ----------
    network : Network
    port : int

    Attributes
    ----------
    url : str
        Where the page is.
    """

    daemon_threads = False  # so that `server_close` waits for them
    request_queue_size = 2048
    allow_reuse_address = os.name == "posix"  # elsewhere it lets two servers have one port

    def __init__(self, network: Network, port: int) -> None:
        self.network, self.line = network, Line(GENERATIONS)
        self.large_body = threading.Lock()
        self.closing = False
        self._places = threading.Semaphore(CONNECTIONS)
        self._lock, self._connections = threading.Lock(), set[socket.socket]()
        self.page = resources.files(__package__).joinpath("page.html").read_text("utf-8")
        self.headers = HEADERS | {"Content-Security-Policy": _policy(self.page)}
        super().__init__((HOST, port), Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    @property
    def hosts(self) -> tuple[str, ...]:
        """What a request may call this server: not a name that someone else made to lead here."""
        names = (HOST, "localhost")
        with_port = tuple(f"{name}:{self.server_port}" for name in names)
        return with_port + names if self.server_port == 80 else with_port

    def server_bind(self) -> None:
        """Bind the address, without asking the network for its name as the base class does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection when there is a place for it."""
        while not self._places.acquire(timeout=0.1):
            if self.closing:
                raise OSError("the server is closing")
        try:
            connection, address = super().get_request()
        except OSError:
            self._places.release()
            raise
        with self._lock:
            self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """Close a connection: every one that was accepted comes here once."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)
        self._places.release()

    def shutdown(self) -> None:
        """End `serve_forever`; what is being written goes on until `server_close`."""
        self.closing = True
        super().shutdown()

    def server_close(self) -> None:
        """End all connections, wait for their threads, and give the port back."""
        self.closing = True
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away is no error."""


def _policy(page: str) -> str:
    """Return a Content-Security-Policy: the page's own style and script, and no others."""

    def hashes(tag: str) -> str:
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = [hashlib.sha256(text.encode("utf-8")).digest() for text in texts]
        return " ".join(
            f"'sha256-{base64.b64encode(digest).decode('ascii')}'" for digest in digests
        )

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


class Handler(http.server.BaseHTTPRequestHandler):
    """One request, one answer, and the connection is closed."""

    server: PageServer
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.0"  # an answer to what is no HTTP has a status line too
    server_version, sys_version = "nprnn", ""
    timeout = PATIENCE
    disable_nagle_algorithm = True

    def parse_request(self) -> bool:
        """Read the head of a request; return whether there is something to answer."""
        if not super().parse_request():
            return False
        self.close_connection = True
        try:
            self._check_source()
        except RefusalError as refusal:
            self._refuse(refusal)
            return False
        return True

    def do_GET(self) -> None:
        """Answer any request; what is wrong with it is said in a sentence."""
        self.begun = False
        try:
            self._answer()
        except RefusalError as refusal:
            self._refuse(refusal)
        except Exception:  # to a client that has gone nothing can be said
            if not self.begun:
                self._refuse(RefusalError(500, "something went wrong in the server"))

    do_HEAD = do_POST = do_GET

    def _answer(self) -> None:
        path = self._path()
        if path not in METHODS:
            raise RefusalError(404, f"there is no {path} here; there are {', '.join(METHODS)}")
        if self.command not in METHODS[path]:
            raise self._wrong_method()
        if path == "/":
            self._send(200, "text/html; charset=utf-8", self.server.page)
        elif path == "/model":
            self._send(200, "application/json", json.dumps(self.server.network.facts()))
        else:
            self._generate()

    def _generate(self) -> None:
        if self.headers.get_content_type() != "application/json":
            raise RefusalError(415, "Content-Type must be application/json")
        length = self._length()
        with self.server.large_body if length > LARGE_BODY else contextlib.nullcontext():
            order = read_order(self._body(length))
            prefix, report = self.server.network.encode(order.prefix)
            order = order._replace(prefix="")
        if not self.server.line.enter(LONGEST_WAIT):
            raise RefusalError(503, "too many requests at a time: try again", {"Retry-After": "60"})
        try:
            self._begin(200, "application/x-ndjson")
            self._line({"prefix": report, "seed": order.seed})
            self._write(prefix, order)
        finally:
            self.server.line.leave()

    def _write(self, prefix: Array, order: Order) -> None:
        """Send a line for each token, and one that says why it is the last."""
        network = self.server.network
        steps = network.write(prefix, order.draw, np.random.default_rng(order.seed))
        for step in itertools.islice(steps, order.length):
            if not (np.isfinite(step.given).all() and np.isfinite(step.hidden).all()):
                self._line({"error": "the network's numbers are no longer finite"})
                return
            self._line(network.line(step))
        self._line({"end": "length"})

    # What comes in

    def _path(self) -> str:
        return self.path.partition("?")[0]

    def _check_source(self) -> None:
        """Refuse what a page from elsewhere sends, be it under a name that leads here."""
        hosts = [host.lower() for host in self.headers.get_all("Host", [])]
        if len(hosts) != 1 or hosts[0] not in self.server.hosts:
            raise RefusalError(403, f"Host must be {' or '.join(self.server.hosts)}")
        origin = self.headers.get("Origin", f"http://{hosts[0]}")
        site = self.headers.get("Sec-Fetch-Site", "same-origin")
        is_ours = origin == f"http://{hosts[0]}" and site in ("same-origin", "none")
        if self._path() != "/" and not is_ours:  # a link from elsewhere may lead to the page itself
            raise RefusalError(403, "only the page that this server sends may ask it")

    def _length(self) -> int:
        """Return the length of the body."""
        given = self.headers.get_all("Content-Length", [])
        if "Transfer-Encoding" in self.headers or len(given) != 1:
            raise RefusalError(400, "the body must come in one piece, with one Content-Length")
        if not re.fullmatch(r"[0-9]{1,18}", given[0]):
            raise RefusalError(400, "Content-Length must be a number of bytes")
        if int(given[0]) > LARGEST_BODY:
            raise RefusalError(
                413, f"the body must be at most {LARGEST_BODY} bytes, got {given[0]}"
            )
        return int(given[0])

    def _body(self, length: int) -> bytearray:
        body, deadline = bytearray(), time.monotonic() + PATIENCE
        while len(body) < length:
            try:
                part = self.rfile.read1(min(length - len(body), 1 << 20))
            except TimeoutError:
                part = b""
            if not part or time.monotonic() > deadline:
                raise RefusalError(408, f"{length} bytes were announced, {len(body)} came in time")
            body += part
        return body

    # What goes out

    def _wrong_method(self) -> RefusalError:
        allowed = ", ".join(METHODS.get(self._path(), ("GET", "HEAD", "POST")))
        return RefusalError(405, f"the method must be one of {allowed}", {"Allow": allowed})

    def _refuse(self, refusal: RefusalError) -> None:
        sentence = str(refusal)
        if len(sentence) > 400:  # it quotes what came, which may be anything
            sentence = f"{sentence[:300]} … {sentence[-80:]}"
        text = json.dumps({"error": sentence})
        self._send(refusal.status, "application/json", text, refusal.headers)

    def _send(
        self, status: int, kind: str, text: str, headers: Mapping[str, str] | None = None
    ) -> None:
        data = text.encode("utf-8")
        self._begin(status, kind, {"Content-Length": str(len(data)), **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(data)

    def _begin(self, status: int, kind: str, headers: Mapping[str, str] | None = None) -> None:
        self.begun = True
        self.send_response(status)
        for name, value in {"Content-Type": kind, **self.server.headers, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()

    def _line(self, value: Mapping[str, Any]) -> None:
        self.wfile.write(json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n")

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Say as we say it what the base class refuses: a head that is no HTTP, or is too long."""
        if code == 501:
            self._refuse(self._wrong_method())
        else:
            self._refuse(RefusalError(code, message or self.responses[code][0]))

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""

    def finish(self) -> None:
        """Let the client read the answer, and close.

        To close while it still sends would take the answer away from it: that is read and dropped.
        """
        super().finish()
        deadline = time.monotonic() + 2
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1)
            while time.monotonic() < deadline and self.connection.recv(1 << 16):
                pass
