"""``nprnn serve``: a page to play with a trained network."""

from __future__ import annotations

import argparse
import threading

from .console import note, write
from .options import Option, add, whole
from .sample import add_checkpoint, opened

PORT = Option("--port", 0, whole(0), "of 127.0.0.1, to listen on", "P", shown="one that is free")


def define(parser: argparse.ArgumentParser) -> None:
    """Define the arguments."""
    parser.usage = "nprnn serve [CHECKPOINT] [options]"
    add_checkpoint(parser)
    add(parser, PORT)
    parser.add_argument(
        "--no-browser", action="store_true", help="write the address, and open no browser"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C; return the exit status."""
    from ..serve import serve_forever

    path, checkpoint = opened(options.checkpoint)

    def on_ready(url: str) -> None:
        write(url)
        note("Ctrl-C ends it")
        if not options.no_browser:
            # A browser in the terminal keeps its caller until it is closed, and needs the page.
            threading.Thread(target=_open, args=(url,), daemon=True).start()

    port = getattr(options, "port", PORT.default)
    serve_forever(checkpoint.model, checkpoint.vocabulary, port, name=str(path), on_ready=on_ready)
    return 0


def _open(url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        note("no browser was found: open the address in one")
