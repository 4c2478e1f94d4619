"""The command: options, the line that says where it listens, an end on SIGTERM, SIGINT or end of input."""

from __future__ import annotations

import argparse
import os
import signal
import ssl
import threading
from pathlib import Path

from . import __doc__ as about
from . import table
from .server import Origin


def main(words: list[str] | None = None) -> None:
    """Serve until told to end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # before the threads, which inherit it
    options = _parser().parse_args(words)
    log = options.log.open("a", encoding="utf-8") if options.log else None
    origin = Origin(options.host, options.port, options.dir, log, _tls(options.tls))
    origin.start()
    print(f"listening on {origin.doors[0].base}", flush=True)
    if options.until_eof:
        threading.Thread(target=_end_with_input, daemon=True).start()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="origin",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=about,
        epilog="behaviours:\n" + table.describe(),
    )
    parser.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="the port to listen on (0: any that is free)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="append a line of JSON for each request that ended")
    parser.add_argument("--tls", type=Path, metavar="PEM", help="speak TLS on the port, with this key and certificate")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input does")
    parser.add_argument("dir", nargs="?", type=Path, metavar="DIR", help="the files to serve")
    return parser


def _tls(pem: Path | None) -> ssl.SSLContext | None:
    if pem is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context


def _end_with_input() -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock the end of the interpreter would wait for
        pass
    os.kill(os.getpid(), signal.SIGTERM)
