"""``ui``: a page that answers, the model beside its base."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lora_s2s.commands._options import Base, Model, Port, Sets
from lora_s2s.errors import UsageError, extra


def ui(
    model: Model,
    baseline: Annotated[
        bool, typer.Option("--baseline", help="Show the base's answer beside the adapter's.")
    ] = False,
    port: Port = 7860,
    feedback: Annotated[
        str,
        typer.Option(
            metavar="DIR",
            help="Folder of ui-feedback.jsonl: answers with a thumb up, as training data.",
        ),
    ] = ".",
    space: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Write the folder of a Hugging Face Space instead."),
    ] = None,
    base: Base = None,
    sets: Sets = None,
) -> None:
    """Answer in a browser, an adapter beside its base.

    The page is reachable from this machine only. Answers can be judged;
    good ones are kept in ui-feedback.jsonl, which prepare reads.
    """
    from lora_s2s.console import say
    from lora_s2s.pipeline.names import located_model

    name = located_model(model)
    if space is not None:
        from lora_s2s.pipeline.space import write_space

        write_space(name, Path(space), baseline=baseline, base=base)
        say(f"{space}: a Space; upload it: hf upload USER/NAME {space} --repo-type space")
        return
    if not Path(feedback).is_dir():
        raise UsageError(f"no such folder: {feedback}", hint="--feedback with an existing folder")
    with extra("ui"):
        from lora_s2s.serving.ui import serve_page
    from lora_s2s.pipeline.side_by_side import open_side_by_side

    models = open_side_by_side(name, baseline=baseline, base=base, overrides=sets or ())
    serve_page(models, port=port, feedback=Path(feedback))
