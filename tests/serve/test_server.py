"""What the server refuses, what it survives, and its page."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from danlu.infer.model import load
from danlu.ledger.errors import UserError
from danlu.serve.app import create_app, serve
from danlu.serve.settings import ServeSettings

from .conftest import Live

ASK: list[Any] = [{"role": "user", "content": "在吗？"}]
ENDLESS = {"prompt": "∞", "temperature": 0, "stream": True}


def post(server: Live, path: str = "chat/completions", **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/{path}", json=body, timeout=20)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("chat/completions", {}, "messages"),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": "hi"}, "messages"),
        ("chat/completions", {"messages": [{"role": "king", "content": "x"}]}, "messages.0.role"),
        ("chat/completions", {"messages": [{"role": "user", "content": 3}]}, "messages.0.content"),
        ("chat/completions", {"messages": ASK, "temperature": "hot"}, "temperature"),
        ("chat/completions", {"messages": ASK, "temperature": 2.5}, "temperature"),
        ("chat/completions", {"messages": ASK, "n": 17}, "n"),
        ("chat/completions", {"messages": ASK, "n": True}, "n"),
        ("chat/completions", {"messages": ASK, "stream": "yes"}, "stream"),
        ("chat/completions", {"messages": ASK, "stop": ["a"] * 5}, "stop"),
        ("chat/completions", {"messages": ASK, "stop": ""}, "stop"),
        ("chat/completions", {"messages": ASK, "max_tokens": 0}, "max_tokens"),
        ("chat/completions", {"messages": ASK, "top_logprobs": 21}, "top_logprobs"),
        ("completions", {"prompt": 5}, "prompt"),
        ("completions", {"prompt": []}, "prompt"),
        ("completions", {"prompt": [-1]}, "prompt"),
        ("completions", {"prompt": [100_000]}, "prompt"),
        ("completions", {"prompt": ""}, "prompt"),
        ("completions", {"prompt": "x", "seed": 10**400, "stop": 5}, "stop"),
    ],
)
def test_wrong_requests_are_400_and_name_the_field(server: Live, path: str, body: dict[str, Any], param: str) -> None:
    response = post(server, path, **body)
    error = response.json()["error"]
    assert response.status_code == 400 and error["type"] == "invalid_request_error"
    assert error["param"] == param and error["message"]


@pytest.mark.parametrize(
    ("prompt", "told"),
    [
        ([], "prompt: is an empty list: give text or token ids"),
        ([-1], "prompt: token ids are whole numbers from 0 on, but one is -1"),
        ([1, 1.5], "prompt: token ids are whole numbers from 0 on, but one is 1.5"),
        (["问"] * 17, "prompt: 17 prompts; a request may have 16"),
        (["问", 1], "prompt: prompt 1 of the list should be text or token ids, but is 1"),
        ([[1], []], "prompt: prompt 1 of the list should be text or token ids, but is []"),
        (None, "prompt: should be text, token ids, or a list of either, but is null"),
    ],
)
def test_what_is_wrong_with_a_prompt_is_said(server: Live, prompt: object, told: str) -> None:
    response = post(server, "completions", prompt=prompt)
    assert response.status_code == 400
    assert (response.json()["error"]["message"], response.json()["error"]["param"]) == (told, "prompt")


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ({"stop": ["a"] * 5}, "stop: List should have at most 4 items after validation, not 5"),
        ({"stop": 5}, "stop: Input should be a valid string"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "图"}}]}]},
            "messages.0.content.0.type: Input should be 'text'",
        ),
    ],
)
def test_a_wrong_list_is_not_told_to_be_text(server: Live, field: dict[str, Any], told: str) -> None:
    assert post(server, **{"messages": ASK, **field}).json()["error"]["message"] == told


def test_what_is_no_json(server: Live) -> None:
    for content in (b"", b"{", b"[]", b"\xff\xfe", b'{"messages": [{"role": "user", "content": "\\ud800"}]}'):
        response = httpx.post(f"{server.url}/v1/chat/completions", content=content)
        assert response.status_code == 400 and response.json()["error"]["type"] == "invalid_request_error"


def test_a_body_in_another_encoding_is_told_so(server: Live) -> None:
    body = '{"messages": [{"role": "user", "content": "你好"}]}'.encode("gbk")
    response = httpx.post(f"{server.url}/v1/chat/completions", content=body)
    place = body.index("你".encode("gbk"))
    assert response.status_code == 400
    told = f"the body is not UTF-8 (byte {place} is 0xc4): encode it as UTF-8"
    assert response.json()["error"]["message"] == told


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from([
        "model", "stream_options", "n", "stop", "seed", "temperature", "top_p", "top_k", "logprobs", "top_logprobs",
        "messages", "logit_bias", "max_completion_tokens", "repetition_penalty",
    ]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=4,
    ),
)  # fmt: skip
def test_no_value_of_a_field_breaks_the_server(server: Live, name: str, value: Any) -> None:
    content = json.dumps({"messages": ASK, "max_tokens": 2, name: value})
    response = httpx.post(f"{server.url}/v1/chat/completions", content=content, timeout=20)
    assert response.status_code in (200, 400, 404)


def test_context_length(server: Live) -> None:
    with pytest.raises(openai.BadRequestError) as long:
        server.client.chat.completions.create(model="recite", messages=[{"role": "user", "content": "长" * 300}])
    assert long.value.code == "context_length_exceeded" and long.value.param == "messages"


def test_unknown_model_and_paths(server: Live) -> None:
    with pytest.raises(openai.NotFoundError) as other:
        server.client.chat.completions.create(model="gpt-4", messages=ASK)
    assert other.value.code == "model_not_found"
    assert httpx.get(f"{server.url}/v1/embeddings").json()["error"]["type"] == "invalid_request_error"
    assert httpx.get(f"{server.url}/v1/completions").status_code == 405
    for path in ("/page/../app.py", "/page/%2e%2e/app.py", "/page//etc/passwd", "/docs", "/openapi.json"):
        assert httpx.get(server.url + path).status_code == 404


def test_unknown_fields_are_named(server: Live) -> None:
    response = post(server, messages=ASK, temperature=0, user="me", logit_bias={"5": 1}, 字=1)
    assert response.status_code == 200 and response.headers["x-ignored-params"] == "logit_bias, user"
    assert "x-ignored-params" not in post(server, messages=ASK, temperature=0).headers


def test_large_bodies(server: Live) -> None:
    assert post(server, messages=[{"role": "user", "content": "x" * 1_000_000}]).status_code == 413


def test_a_client_that_leaves_in_the_middle_of_its_request_is_no_fault_of_the_server(
    server: Live, caplog: pytest.LogCaptureFixture
) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port)) as client:
        head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Length: 100\r\n\r\n"
        client.sendall(head.encode() + b'{"prompt": "')
        time.sleep(0.3)  # until the server waits for the rest
    time.sleep(0.3)
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert not caplog.records


def test_a_client_that_leaves_frees_its_rows(server: Live) -> None:
    with httpx.stream("POST", f"{server.url}/v1/completions", json={**ENDLESS, "n": 4}, timeout=20) as response:
        lines = response.iter_lines()
        assert [next(lines) for _ in range(3)] and server.model.engine.running
    assert server.idle()


def test_a_client_that_leaves_before_the_whole_answer_frees_its_rows(start: Callable[..., Live]) -> None:
    server = start()
    slow = threading.Event()
    step = server.model.engine.step
    server.model.engine.step = lambda: (slow.wait(0.05), step())[1]  # type: ignore[method-assign]  # a slow machine
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json={**ENDLESS, "stream": False}, timeout=0.5)
    assert server.idle(3)  # the whole answer would take 12 seconds


def test_a_full_queue_is_429(start: Callable[..., Live]) -> None:
    server = start(queue=1)  # two rows and one place to wait
    hold = threading.Event()
    step = server.model.engine.step
    server.model.engine.step = lambda: (hold.wait(10), step())[1]  # type: ignore[method-assign]  # nothing gets done
    try:
        with httpx.stream("POST", f"{server.url}/v1/completions", json={**ENDLESS, "n": 3}, timeout=20):
            refused = post(server, "completions", prompt="x")
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["type"] == "rate_limit_error"
    finally:
        hold.set()
    assert server.idle()
    assert post(server, "completions", prompt="x", max_tokens=1).status_code == 200


def test_a_broken_model_is_told_and_the_server_lives_on(start: Callable[..., Live]) -> None:
    server = start()
    step = server.model.engine.step

    def broken() -> Any:
        server.model.engine.step = step  # type: ignore[method-assign]
        raise RuntimeError("out of memory")

    server.model.engine.step = broken  # type: ignore[method-assign]
    response = post(server, messages=ASK)
    assert response.status_code == 500 and "out of memory" in response.json()["error"]["message"]
    server.model.engine.step = broken  # type: ignore[method-assign]
    *_, error, done = post(server, "completions", **ENDLESS).text.strip().split("\n\n")
    assert json.loads(error.removeprefix("data: "))["error"]["type"] == "server_error" and done == "data: [DONE]"
    assert post(server, messages=ASK, temperature=0).status_code == 200


def test_the_key_guards_every_path_but_page_and_health(start: Callable[..., Live]) -> None:
    server = start(api_key="a secret key")
    assert server.client.chat.completions.create(model="reciting", messages=ASK, max_tokens=1).choices
    for path in ("/v1/models", "/v1/models/x", "/v1/chat/completions", "/v1/completions", "/v1", "/anything", "/docs"):
        for headers in ({}, {"Authorization": "Bearer a secret"}, {"Authorization": "a secret key"}):
            response = httpx.post(server.url + path, headers=headers, json={"messages": ASK})
            assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
    for path in ("/", "/health", "/page/chat.js", "/page/chat.css"):
        assert httpx.get(server.url + path).status_code == 200


def test_foreign_pages_cannot_ask_a_server_without_a_key(server: Live) -> None:
    own = server.url.removeprefix("http://")
    for headers, status in (
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:80"}, 403),
        ({"Host": "[::"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": server.url}, 200),
        ({"Host": own.replace("127.0.0.1", "localhost")}, 200),
    ):
        assert httpx.get(f"{server.url}/v1/models", headers=headers).status_code == status, headers


def test_other_machines_need_a_key() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(ValidationError, match="set api_key"):
            ServeSettings(host=host)
        assert not ServeSettings(host=host, api_key="long enough").loopback
    assert ServeSettings(host="localhost").loopback and ServeSettings(host="::1").loopback


def test_a_port_in_use(reciting_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="cannot listen on 127"):
        serve(load(reciting_model), ServeSettings(port=taken.getsockname()[1]))


def test_every_route_is_known_here(reciting_model: Path) -> None:
    paths = {getattr(route, "path", "") for route in create_app(load(reciting_model), ServeSettings()).routes}
    assert paths == {
        "/", "/page", "/health", "/v1/models", "/v1/models/{model_id:path}", "/v1/chat/completions", "/v1/completions"
    }  # fmt: skip


def test_the_page_is_whole_and_closed(server: Live) -> None:
    page = httpx.get(server.url + "/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and page.headers["x-content-type-options"]
    linked = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert linked and all(httpx.get(server.url + path).status_code == 200 for path in linked)
    script = httpx.get(server.url + "/page/chat.js").text
    assert not re.search(r"innerHTML|insertAdjacentHTML|outerHTML|document\.write|eval\(|https?://", script)
    assert "<script>" not in page.text and not re.search(r"\son\w+=", page.text)
    words = re.sub(r'"[^"]*"|`[^`]*`', '""', httpx.get(server.url + "/page/words.js").text)
    english, chinese = (re.findall(r"(\w+):", part) for part in words.partition("en: {")[2].split("zh: {"))
    used = set(re.findall(r'data-word="(\w+)"', page.text)) | set(re.findall(r"\b(?:words\(\)|w)\.(\w+)", script))
    assert english == chinese and used <= set(english) and used


@pytest.mark.parametrize("asked", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_asked_to_end_ends_well(reciting_model: Path, asked: signal.Signals) -> None:
    command = [sys.executable, "-m", "danlu.cli", "serve", str(reciting_model), "port=0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    url = process.stderr.readline().split("page ")[1].split()[0]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/v1/models", timeout=5)
            break
        except httpx.ConnectError:
            time.sleep(0.05)
    process.send_signal(asked)
    _, told = process.communicate(timeout=30)
    assert (process.returncode, told) == (0, "")
