"""``serve``: an HTTP server in OpenAI's shape."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands import _complete
from lora_s2s.commands._options import Port, Sets
from lora_s2s.errors import extra


def serve(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL [ADAPTER …]",
            help="Models and adapters, each chosen by a request's model. NAME=MODEL names one.",
            autocompletion=_complete.models,
        ),
    ],
    host: Annotated[
        str,
        typer.Option(metavar="ADDRESS", help="Address; other than loopback needs an API key."),
    ] = "127.0.0.1",
    port: Port = 8000,
    key_file: Annotated[
        str | None,
        typer.Option(
            "--api-key-file",
            metavar="FILE",
            help="File with the API key that requests must send. Default: LORA_S2S_API_KEY.",
        ),
    ] = None,
    queue: Annotated[
        int, typer.Option(metavar="N", help="Rows that may wait; more get status 429.")
    ] = 256,
    timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", help="Longest wait for an answer; then status 504."),
    ] = 60.0,
    log_text: Annotated[
        bool, typer.Option("--log-text", help="Log prompts and answers; never done otherwise.")
    ] = False,
    sets: Sets = None,
) -> None:
    """Serve models over HTTP as OpenAI's API does.

    POST /v1/completions and /v1/chat/completions, /v1/models, /health,
    /metrics; /docs describes them. Ctrl-C answers what was taken and ends.
    """
    from lora_s2s.pipeline.names import named_models

    named = named_models(models)
    with extra("serve"):
        from lora_s2s.serving.run import Place, serve
        from lora_s2s.serving.service import Limits
    place = Place(host, port, None if key_file is None else Path(key_file).expanduser())
    serve(named, place, Limits(queue, timeout, log_text), sets or ())
