"""The server's life: a port, requests, a graceful end."""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from lora_s2s.console import say, stop_waiting
from lora_s2s.errors import UsageError
from lora_s2s.files import naming
from lora_s2s.recipe.layers import Overrides
from lora_s2s.serving.app import create_app
from lora_s2s.serving.models import load_models
from lora_s2s.serving.service import Limits, Service

KEY_VARIABLE = "LORA_S2S_API_KEY"
_SHORTEST_KEY, _LONGEST_KEY = 16, 4096
_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """Where a server listens, and the file of the key that it asks for."""

    host: str = _LOOPBACK
    port: int = 8000
    key_file: Path | None = None


def serve(
    named: Sequence[tuple[str, str]], place: Place, allowed: Limits, sets: Overrides = ()
) -> None:
    """Loads models and answers until a signal comes.

    On SIGTERM or SIGINT everything taken is answered, and new requests get 503; a second signal
    ends at once.

    Raises:
        UsageError: the port is in use, or another machine could reach the server without a key.
        Error: a model cannot be loaded.
    """
    key = _key(place)
    with listening(place) as listener:
        service = Service(load_models(named, sets), allowed)
        # Its tracebacks could quote a request's text.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        config = uvicorn.Config(
            create_app(service, key),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            lifespan="on",
        )
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        api = f"http://{shown}:{port}/v1"
        say(f"serving {', '.join(service.models)} on {api}; try /docs")
        asked = f"curl {api}/completions -H 'Content-Type: application/json'"
        asked += " -H 'Authorization: Bearer KEY'" if key else ""
        say(f'try: {asked} -d \'{{"prompt": "your text"}}\'')
        stop_waiting()
        server = _Server(config, service)
        server.run(sockets=[listener])
    say("stopped: everything that was taken is answered")
    sys.exit(server.exit_code)


class _Server(uvicorn.Server):
    """Answers what it took before it ends."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self.exit_code = 0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Takes no more requests; at the second signal, ends."""
        self.exit_code = 128 + (sig if sig == signal.SIGINT else signal.SIGTERM)
        if self._service.batcher.stopping:
            os._exit(self.exit_code)
        self._service.batcher.stopping = True

    async def on_tick(self, counter: int) -> bool:
        """Ends once nothing is left to be answered."""
        ended = await super().on_tick(counter)
        batcher = self._service.batcher
        return ended or (batcher.stopping and not batcher.busy)


def listening(place: Place) -> socket.socket:
    """Opens the port, before minutes go into loading.

    Raises:
        UsageError: it is in use, or the host is not this machine's.
    """
    if not 0 <= place.port < 65_536:
        raise UsageError(f"--port is {place.port}; expected 0 to 65535 (0: any free port)")
    family = socket.AF_INET6 if ":" in place.host else socket.AF_INET
    # Named as TCP, or asyncio leaves Nagle's algorithm on: 40 ms for every answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((place.host, place.port))
        listener.listen()  # only this keeps the port from others
    except OSError as error:
        listener.close()
        where = f"{place.host}:{place.port}"
        if error.errno == errno.EADDRINUSE:
            hint = f"stop the other program, or --port {place.port % 65_535 + 1}"
            raise UsageError(f"the port is in use: {where}", hint=hint) from error
        message = f"cannot listen on {where}: {error.strerror or error}"
        raise UsageError(message, hint="--host 127.0.0.1 --port 8000") from error
    return listener


def _key(place: Place) -> str | None:
    """Returns the API key, from the file or the environment.

    Raises:
        UsageError: it is too short, or there is none and other machines could connect.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if place.key_file is not None:
        with naming(place.key_file), place.key_file.open("rb") as stream:
            content = stream.read(_LONGEST_KEY + 1)
        key = content.decode("utf-8", "replace").strip()
    if not key and place.key_file is None:
        if not _is_loopback(place.host):
            hint = f"--api-key-file FILE, or {KEY_VARIABLE} in the environment"
            raise UsageError(f"--host {place.host} lets other machines in without a key", hint=hint)
        return None
    fits = _SHORTEST_KEY <= len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()
    if not fits or " " in key:
        hint = "python -c 'import secrets; print(secrets.token_urlsafe())'"
        span = f"{_SHORTEST_KEY} to {_LONGEST_KEY} ASCII characters without spaces"
        raise UsageError(f"the API key does not have {span}", hint=hint)
    return key


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
