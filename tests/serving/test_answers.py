"""Answers over HTTP are those of ``predict``, in OpenAI's shape, with true counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

Start = Callable[..., Any]
TEXT, OTHER = "w1 w2 w3", "w9 w8 w7 w6 w5"


def test_a_completion_is_the_answer_of_predict(start: Start) -> None:
    running = start()
    body = running.complete(TEXT, model="m0").json()
    expected = running.expected(TEXT)
    finish = "stop" if expected.stopped else "length"
    choice = {"text": expected.text, "index": 0, "logprobs": None, "finish_reason": finish}
    assert body["choices"] == [choice]
    assert (body["object"], body["model"]) == ("text_completion", "m0")
    read = len(running.served[0].predictor.encode(TEXT))
    total = read + expected.tokens
    counts = {"prompt_tokens": read, "completion_tokens": expected.tokens, "total_tokens": total}
    assert body["usage"] == counts


def test_prompts_of_a_list_have_a_choice_each(start: Start) -> None:
    running = start({"source_column": "q"})
    body = running.complete([TEXT, {"q": OTHER}]).json()
    answers = [running.expected(TEXT), running.expected({"q": OTHER})]
    assert [choice["text"] for choice in body["choices"]] == [answer.text for answer in answers]
    assert [choice["index"] for choice in body["choices"]] == [0, 1]
    assert body["usage"]["completion_tokens"] == sum(answer.tokens for answer in answers)


def test_the_stored_template_is_applied(start: Start) -> None:
    running = start({"template": "w7 {text}"})
    assert running.complete(TEXT).json()["choices"][0]["text"] == running.expected(TEXT).text
    read = running.complete(TEXT).json()["usage"]["prompt_tokens"]
    assert read == len(running.served[0].predictor.encode(f"w7 {TEXT}"))


def test_a_request_chooses_its_model(start: Start) -> None:
    running = start({}, {"template": "w3 {text}"})
    listed = running.client.get("/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["m0", "m1"]
    assert running.client.get("/v1/models/m1").json() == listed[1]
    for number, name in enumerate(["m0", "m1"]):
        text = running.complete(TEXT, model=name).json()["choices"][0]["text"]
        assert text == running.expected(TEXT, number).text
    unknown = running.complete(TEXT, model="m2")
    assert unknown.status_code == running.client.get("/v1/models/m2").status_code == 404
    assert unknown.json()["error"]["message"] == "no model 'm2'; this server has: m0, m1"


def test_a_conversation_is_rendered_as_in_training(start: Start) -> None:
    running = start({"format": "messages"})
    turns = [("system", "w1"), ("user", "w2"), ("assistant", "w3"), ("user", "w4 w5")]
    rows = {"messages": [{"role": role, "content": text} for role, text in turns]}
    response = running.chat(*turns)
    expected = running.expected(rows)
    message = response.json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": expected.text, "refusal": None}
    assert response.json()["object"] == "chat.completion"
    source = running.served[0].predictor.render(rows)
    assert source == "system: w1 user: w2 assistant: w3 user: w4 w5 assistant:"
    read = response.json()["usage"]["prompt_tokens"]
    assert read == len(running.served[0].predictor.encode(source))
    parts = [{"type": "text", "text": "w4"}, {"type": "text", "text": "w5"}]
    again = running.chat(("user", parts)).json()["choices"][0]["message"]["content"]
    assert again == running.expected("w4\nw5").text
    # The system text of all training conversations is that of a request without one.
    running = start({"format": "messages", "system": "w1"})
    for asked, whole in ((turns, turns), (turns[1:], turns)):
        read = running.chat(*asked).json()["usage"]["prompt_tokens"]
        text = " ".join(f"{role}: {text}" for role, text in whole) + " assistant:"
        assert read == len(running.served[0].predictor.encode(text))


def test_a_model_without_conversations_gets_the_last_message(start: Start) -> None:
    running = start()
    response = running.chat(("system", "w1"), ("user", TEXT))
    assert response.json()["choices"][0]["message"]["content"] == running.expected(TEXT).text
    assert response.headers["x-ignored-messages"] == "1"
    assert "x-ignored-messages" not in running.chat(("user", TEXT)).headers
    refused = running.chat(("user", TEXT), ("assistant", "w1"))
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "messages")


def test_limits_and_stop_strings_end_an_answer(start: Start) -> None:
    running = start()
    text = next(
        text
        for text in map("w{}".format, range(1, 200))
        if len(running.expected(text).text.split()) > 4
    )
    whole = running.expected(text)
    short = running.complete(text, max_tokens=3).json()
    assert short["choices"][0]["text"] == running.expected(text, max_new_tokens=3).text
    assert short["choices"][0]["finish_reason"] == "length"
    assert short["usage"]["completion_tokens"] == 3
    assert running.chat(("user", text), max_completion_tokens=3).json()["usage"] == short["usage"]
    # The server's own limit stands.
    assert running.complete(text, max_tokens=10**6).json()["choices"][0]["text"] == whole.text
    word = whole.text.split()[2]
    stopped = running.complete(text, stop=["never", word]).json()["choices"][0]
    assert stopped["text"] == whole.text.partition(word)[0]
    assert stopped["finish_reason"] == "stop"
    assert running.complete(text, stop=word).json()["choices"][0] == stopped


def test_a_truncated_source_is_reported(start: Start) -> None:
    running = start({"max_source_tokens": 4})
    assert "x-truncated-prompts" not in running.complete("w1 w2 w3").headers
    response = running.complete(["w1 w2 w3", "w1 w2 w3 w4", "w5 w4 w3 w2 w1"])
    assert response.headers["x-truncated-prompts"] == "2"
    assert [c["text"] for c in response.json()["choices"]][2] == running.expected("w5 w4 w3").text
    running = start({"max_source_tokens": 8, "format": "messages"})
    long = [("user", "w1 w2 w3 w4"), ("assistant", "w5"), ("user", "w6")]
    assert running.chat(*long).headers["x-truncated-prompts"] == "1"
    assert "x-truncated-prompts" not in running.chat(("user", "w6")).headers


def events(response: Any) -> list[Any]:
    """The parts of a streamed answer, without the end mark."""
    assert response.headers["content-type"].startswith("text/event-stream")
    *parts, end, rest = response.text.split("\n\n")
    assert (end, rest) == ("data: [DONE]", "")
    return [json.loads(part.removeprefix("data: ")) for part in parts]


@pytest.mark.parametrize("usage", [False, True])
def test_a_stream_holds_the_same_answer(start: Start, usage: bool) -> None:
    running = start()
    options = {"stream": True, "stream_options": {"include_usage": usage}}
    prompts = [TEXT, OTHER]
    whole = running.complete(prompts).json()
    parts = events(running.complete(prompts, **options))
    if usage:
        last = parts.pop()
        assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert len({part["id"] for part in parts}) == 1
    choices = [choice for part in parts for choice in part["choices"]]
    for index, expected in enumerate(whole["choices"]):
        own = [choice for choice in choices if choice["index"] == index]
        assert "".join(choice["text"] for choice in own) == expected["text"]
        finishes = [choice["finish_reason"] for choice in own]
        assert finishes == [*[None] * (len(own) - 1), expected["finish_reason"]]
    parts = events(running.chat(("user", TEXT), stream=True))
    assert len(parts) > 3
    deltas = [part["choices"][0]["delta"] for part in parts]
    assert [delta.get("role") for delta in deltas] == ["assistant", *[None] * (len(deltas) - 1)]
    assert "".join(delta["content"] for delta in deltas) == running.expected(TEXT).text
    assert {part["object"] for part in parts} == {"chat.completion.chunk"}
