"""The terminal chat, typed to by a script."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.config import settings_from
from danlu.infer.chat import chat
from danlu.infer.chat_words import WORDS
from danlu.infer.model import Model, load
from danlu.infer.settings import ChatSampling, ChatSettings

ANSWER = "你好，Hello world👋！"
QUIET = ChatSampling(max_tokens=40)


@pytest.fixture
def model(reciting_model: Path) -> Model:
    return load(reciting_model)


def talk(model: Model, *lines: str | type[BaseException], settings: ChatSettings | None = None) -> list[str]:
    """What is shown, line by line, after the welcome."""
    typed: Iterator[str | type[BaseException]] = iter(lines)
    shown: list[str] = []

    def read(prompt: str) -> str:
        line = next(typed, EOFError)
        if isinstance(line, str):
            return line
        raise line

    chat(model, settings or ChatSettings(sampling=QUIET), read, shown.append)
    return "".join(shown).splitlines()[1:]


def test_messages_and_commands(model: Model) -> None:
    shown = talk(model, "在吗？", "", "/help", "/clear", "/nonsense", "Hi! 🙂", KeyboardInterrupt, "/exit", "unheard")
    words = WORDS["en"]
    assert shown == [
        ANSWER, *words.help.splitlines(), words.cleared, "There is no command /nonsense; /help lists them.", ANSWER,
        words.leave,
    ]  # fmt: skip


def test_the_conversation_and_the_system_prompt_are_sent(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    whole = model.chat_prompt
    monkeypatch.setattr(model, "chat_prompt", lambda messages: sent.append(list(messages)) or whole(messages))
    talk(model, "一", "/system 简短", "two \\", "lines", "/system", "/clear", "3")
    answer = {"role": "assistant", "content": ANSWER}
    one, two = {"role": "user", "content": "一"}, {"role": "user", "content": "two \nlines"}
    assert sent == [
        [one], [{"role": "system", "content": "简短"}, one, answer, two], [{"role": "user", "content": "3"}]
    ]  # fmt: skip


def test_settings_can_be_changed_and_mistakes_are_said(model: Model) -> None:
    shown = talk(
        model, "/set max_tokens=2 temperature=0.5", "在吗", "/set temprature=1", "/set", "/set max_tokens=1", "x"
    )
    assert "temperature=0.5" in shown[0] and "max_tokens=2" in shown[0] and shown[1] == "你好"
    assert "did you mean `temperature`" in " ".join(shown[2:4])
    assert shown[-3] == shown[0] and shown[-1] == "你"


def test_raw_mode(model: Model) -> None:
    shown = talk(
        model, "/raw", "Hello", r"你\n", "/raw", "Hello", settings=ChatSettings(sampling=ChatSampling(max_tokens=2))
    )
    words = WORDS["en"]
    assert shown == [words.raw_on, " world", words.backslash_n, "..", words.raw_off, "你好"]


def test_a_model_without_a_template_talks_raw(model: Model) -> None:
    model.template = None
    shown = talk(model, "Hello", "/raw", settings=ChatSettings(language="zh", sampling=ChatSampling(max_tokens=2)))
    assert shown == [WORDS["zh"].no_template, " world", WORDS["zh"].no_template]


def test_the_oldest_turns_go_first_and_a_message_that_never_fits_is_not_sent(model: Model) -> None:
    shown = talk(model, "a" * 60, "b" * 60, "c" * 60, "d" * 230, "e" * 120)
    dropped = "[the {} oldest turns no longer fit in the window of 256 tokens and were dropped]"
    assert shown[:3] == [ANSWER, ANSWER, dropped.format(1)] and shown[3] == ANSWER
    assert re.fullmatch(r"That has \d+ tokens and the window 256: it was not sent\. Shorten it\.", shown[4])
    assert shown[5:] == [dropped.format(2), ANSWER]


def test_ctrl_c_stops_the_answer_and_not_the_program(model: Model) -> None:
    shown: list[str] = []

    def write(text: str) -> None:
        shown.append(text)
        if shown.count("∞") == 3 and text == "∞":
            os.kill(os.getpid(), signal.SIGINT)

    lines = iter(["/raw", "∞", "Hello", "/exit"])
    settings = ChatSettings(sampling=ChatSampling(max_tokens=200))
    chat(model, settings, lambda prompt: next(lines), write)
    assert shown.count("∞") == 3 and "[stopped]" in "".join(shown) and "".join(shown).count("world") == 1
    assert model.engine.running == 0


def test_sigterm_ends_the_program_and_not_the_answer_alone(model: Model) -> None:
    class Ended(Exception):
        pass

    def end(number: int, frame: object) -> None:
        raise Ended

    def write(text: str) -> None:
        if text == "∞":
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)  # as the program does
    try:
        lines = iter(["/raw", "∞", "Hello", "/exit"])
        with pytest.raises(Ended):
            chat(model, ChatSettings(sampling=ChatSampling(max_tokens=200)), lambda prompt: next(lines), write)
        assert next(lines) == "Hello"
    finally:
        signal.signal(signal.SIGTERM, before)
    assert model.engine.running == 0


def test_a_changed_setting_leaves_the_defaults_of_a_conversation() -> None:
    sampling = settings_from(ChatSettings, ["sampling.max_tokens=9"]).sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.7, 0.9, 9)


def test_both_languages_say_the_same() -> None:
    for field in dataclasses.fields(WORDS["en"]):
        texts = [getattr(words, field.name) for words in WORDS.values()]
        assert len({tuple(sorted(re.findall(r"\{\w+\}|/\w+", text))) for text in texts}) == 1, field.name
