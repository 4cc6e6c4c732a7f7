"""The API as OpenAI's own client sees it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest

from .conftest import Live

ANSWER = "你好，Hello world👋！"
PIECES = ["你", "好", "，", "Hello", " ", "world", "👋", "！"]
ASK: list[Any] = [{"role": "user", "content": "在吗？ Anyone? 🙂"}]


def frames(server: Live, path: str, **body: Any) -> tuple[list[dict[str, Any]], httpx.Response]:
    """What a stream carries, as it is on the wire."""
    response = httpx.post(f"{server.url}/v1/{path}", json={"stream": True, **body}, timeout=20)
    parts = response.text.split("\n\n")
    assert parts.pop() == "" and parts.pop() == "data: [DONE]"
    return [json.loads(part.removeprefix("data: ")) for part in parts], response


def test_models(server: Live) -> None:
    (model,) = server.client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("recite", "model", "danlu")
    assert server.client.models.retrieve("recite") == model
    with pytest.raises(openai.NotFoundError) as missing:
        server.client.models.retrieve("other/one")
    assert missing.value.code == "model_not_found"


def test_chat(server: Live) -> None:
    answer = server.client.chat.completions.create(model="recite", messages=ASK, temperature=0)
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", ANSWER, "stop")
    assert answer.id.startswith("chatcmpl-") and answer.object == "chat.completion" and answer.usage is not None
    prompt = len(server.model.chat_prompt(ASK))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, 12)
    assert answer.usage.total_tokens == prompt + 12


def test_content_in_parts_and_other_roles(server: Live) -> None:
    messages: list[Any] = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "{}", "tool_call_id": "1"},
        *ASK,
    ]
    answer = server.client.chat.completions.create(model="recite", messages=messages, temperature=0)
    assert answer.choices[0].message.content == ANSWER


def test_chat_stream(server: Live) -> None:
    stream = server.client.chat.completions.create(
        model="recite", messages=ASK, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    *chunks, total = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert [delta.content for delta in deltas[1:-1]] == PIECES and deltas[-1].content is None
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * 9 + ["stop"]
    assert len({(chunk.id, chunk.created, chunk.model, chunk.object) for chunk in [*chunks, total]}) == 1
    assert total.choices == [] and total.usage is not None and total.usage.completion_tokens == 12


def test_stream_on_the_wire(server: Live) -> None:
    chunks, response = frames(server, "chat/completions", messages=ASK, temperature=0, max_tokens=1)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    first = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    assert chunks[0]["choices"] == [first] and chunks[1]["choices"][0]["delta"] == {"content": "你"}
    assert chunks[2]["choices"][0]["delta"] == {} and chunks[2]["choices"][0]["finish_reason"] == "length"
    assert len(chunks) == 3 and all("usage" not in chunk for chunk in chunks)
    with_usage, _ = frames(
        server, "completions", prompt="∞", temperature=0, max_tokens=2, stream_options={"include_usage": True}
    )
    assert [chunk["usage"] for chunk in with_usage[:-1]] == [None] * 3 and with_usage[-1]["choices"] == []


@pytest.mark.parametrize("stop", ["world", ["zzz", "o w"]])
def test_stop_strings(server: Live, stop: str | list[str]) -> None:
    expected = ANSWER[: ANSWER.index(stop if isinstance(stop, str) else "o w")]
    whole = server.client.chat.completions.create(model="recite", messages=ASK, temperature=0, stop=stop).choices[0]
    assert (whole.message.content, whole.finish_reason) == (expected, "stop")
    chunks, _ = frames(server, "chat/completions", messages=ASK, temperature=0, stop=stop)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == expected
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"


def test_limits(server: Live) -> None:
    create = server.client.chat.completions.create
    for limit in ({"max_tokens": 2}, {"max_completion_tokens": 2}):
        choice = create(model="recite", messages=ASK, temperature=0, **limit).choices[0]  # type: ignore[call-overload]
        assert (choice.message.content, choice.finish_reason) == ("你好", "length")
    endless = server.client.completions.create(model="recite", prompt="∞", temperature=0)
    assert endless.choices[0].finish_reason == "length" and len(endless.choices[0].text) == 255


def test_choices_and_seeds(server: Live) -> None:
    def ask(seed: int) -> list[str]:
        answer = server.client.completions.create(
            model="recite", prompt="x", temperature=2, n=3, seed=seed, max_tokens=60, extra_body={"top_k": 200}
        )
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        assert answer.usage is not None and answer.usage.prompt_tokens == 1
        return [choice.text for choice in answer.choices]

    assert ask(5) == ask(5) != ask(50)
    assert len(set(ask(5))) == 3
    chunks, _ = frames(server, "completions", prompt="x", temperature=2, n=3, seed=5, max_tokens=60, top_k=200)
    texts = ["", "", ""]
    for chunk in chunks:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == ask(5)


def test_prompts_as_texts_and_tokens(server: Live) -> None:
    create = server.client.completions.create
    many = create(model="recite", prompt=["∞", "Hello"], temperature=0, max_tokens=2)
    assert [choice.text for choice in many.choices] == ["∞∞", " world"]
    ids = server.model.tokenizer.encode("Hello")
    assert create(model="recite", prompt=ids, temperature=0, max_tokens=2).choices[0].text == " world"
    assert len(create(model="recite", prompt=[ids, ids], temperature=0, max_tokens=2).choices) == 2


def test_extra_sampling_fields(server: Live) -> None:
    def ask(**extra: Any) -> str:
        answer = server.client.completions.create(
            model="recite", prompt="∞", max_tokens=6, seed=1, temperature=1, extra_body=extra
        )
        return answer.choices[0].text

    assert ask() == "∞" * 6
    assert ask(no_repeat_ngram=2).count("∞") < 6
    assert ask(repetition_penalty=100) != "∞" * 6
    assert ask(top_k=-1, min_p=0.5) == "∞" * 6


def test_chat_logprobs(server: Live) -> None:
    def entries(stream: bool) -> list[Any]:
        body = {"messages": ASK, "temperature": 0, "logprobs": True, "top_logprobs": 2}
        if stream:
            chunks, _ = frames(server, "chat/completions", **body)
            found = [chunk["choices"][0]["logprobs"] for chunk in chunks]
            return [entry for logprobs in found if logprobs for entry in logprobs["content"]]
        response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=20).json()
        return response["choices"][0]["logprobs"]["content"]

    whole = entries(stream=False)
    assert b"".join(bytes(entry["bytes"]) for entry in whole).decode() == ANSWER
    assert all(-1e-2 < entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2 for entry in whole)
    assert whole[0]["top_logprobs"][0] == {key: whole[0][key] for key in ("token", "logprob", "bytes")}
    assert [entry["bytes"] for entry in entries(stream=True)] == [entry["bytes"] for entry in whole]
    typed = server.client.chat.completions.create(
        model="recite", messages=ASK, temperature=0, logprobs=True, top_logprobs=2
    )
    assert typed.choices[0].logprobs is not None and typed.choices[0].logprobs.content is not None
    assert typed.choices[0].logprobs.content[3].token == "Hello"


def test_completion_logprobs(server: Live) -> None:
    choice = server.client.completions.create(model="recite", prompt="world", temperature=0, logprobs=1).choices[0]
    assert choice.text == "👋！" and choice.logprobs is not None and choice.logprobs.tokens is not None
    assert choice.logprobs.text_offset == [0, 0, 0, 0, 1] and choice.logprobs.tokens[-1] == "！"
    assert choice.logprobs.token_logprobs is not None and len(choice.logprobs.token_logprobs) == 5


def test_offsets_are_places_in_the_text(server: Live) -> None:
    """Bytes that are no character stand in the text as replacement characters, and count there, in streams too."""
    body = {"prompt": "x", "temperature": 2, "top_k": 0, "seed": 5, "max_tokens": 100, "logprobs": 0}
    choice = httpx.post(f"{server.url}/v1/completions", json=body, timeout=20).json()["choices"][0]
    text, logged = choice["text"], choice["logprobs"]
    assert "�" in text
    for token, at in zip(logged["tokens"], logged["text_offset"], strict=True):
        assert "�" in token or token.startswith("<|") or text[at:].lstrip("�").startswith(token)
    chunks, _ = frames(server, "completions", **body)
    found = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert [at for one in found for at in one["text_offset"]] == logged["text_offset"]
