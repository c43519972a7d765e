"""The page of ``ui``: a text, the answers of the model and its base, and thumbs.

Texts and answers appear in text boxes only, which render no HTML and no Markdown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio

from lora_s2s.console import plain, say, stop_waiting
from lora_s2s.errors import Error, UsageError
from lora_s2s.pipeline.side_by_side import (
    LONGEST_TEXT,
    MOST_BEAMS,
    MOST_TOKENS,
    Answered,
    SideBySide,
    keep,
)

_HOST = "127.0.0.1"
_WAITING = 32
_TITLE = "lora-s2s"


def page(models: SideBySide, feedback: Path | None) -> gradio.Blocks:
    """Builds the page.

    Args:
        feedback: the folder that judged answers are kept in; None shows no thumbs.
    """
    beams, tokens = models.settings
    with gradio.Blocks(title=_TITLE, analytics_enabled=False) as blocks:
        last = gradio.State(None)  # on the server: only answers that it gave are kept
        text = gradio.Textbox(label="Text", lines=4, max_length=LONGEST_TEXT, elem_id="text")
        with gradio.Row():
            num_beams = gradio.Slider(1, MOST_BEAMS, beams, step=1, label="Beams")
            most = gradio.Slider(1, MOST_TOKENS, tokens, step=1, label="Longest answer, tokens")
        ask = gradio.Button("Answer", variant="primary", elem_id="ask")
        with gradio.Row():
            base = _answer_box("Base", "base", visible=models.base is not None)
            answer = _answer_box(plain(models.model.name)[-80:], "answer")
        status = gradio.Textbox(label="Status", interactive=False, elem_id="status")

        def answer_both(
            given: str, beams: float, most: float
        ) -> tuple[str, str, str, Answered | None]:
            try:
                answered = models.answers(given, int(beams), int(most))
            except Error as error:
                return "", "", plain(error.message), None
            return answered.baseline or "", answered.answer, "", answered

        asked, shown = [text, num_beams, most], [base, answer, status, last]
        ask.click(answer_both, asked, shown, api_name="answer")
        if feedback is not None:
            _add_thumbs(feedback, last, status)
        if models.examples:
            gradio.Examples([[one] for one in models.examples], [text], cache_examples=False)
    blocks.queue(max_size=_WAITING, default_concurrency_limit=1)
    return blocks


def _answer_box(label: str, name: str, *, visible: bool = True) -> Any:
    return gradio.Textbox(label=label, lines=4, interactive=False, visible=visible, elem_id=name)


def _add_thumbs(folder: Path, last: gradio.State, status: gradio.Textbox) -> None:
    def judge(answered: Answered | None, good: bool) -> tuple[str, Answered | None]:
        if answered is None:
            return "nothing to judge: get an answer first", None
        try:
            path = keep(answered, folder, good=good)
        except OSError as error:
            return plain(f"not kept: {error.strerror}"), answered
        return plain(f"kept in {path.name}"), None  # once

    with gradio.Row():
        for label, name, good in (
            ("👍 Good answer", "good", True),
            ("👎 Bad answer", "bad", False),
        ):
            button = gradio.Button(label, elem_id=name)
            choice = gradio.State(good)
            button.click(judge, [last, choice], [status, last], api_name=name)


def serve_page(models: SideBySide, *, port: int, feedback: Path) -> None:
    """Serves the page on this machine until it is stopped.

    Raises:
        UsageError: the port is in use.
    """
    blocks = page(models, feedback)
    theme = gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])
    try:
        _, address, _ = blocks.launch(
            server_name=_HOST,
            server_port=port or None,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            ssr_mode=False,
            footer_links=[],
            theme=theme,
        )
    except OSError as error:
        raise UsageError(
            f"port {port} is in use", hint="--port with another number, or 0 for any"
        ) from error
    say(f"open {address}; Ctrl-C ends it")
    stop_waiting()
    blocks.block_thread()
