"""A rendered conversation in pieces. Where a piece stands follows from how it was rendered, never from a search for
markup in text: contents are found by rendering again with one of them replaced, answers by rendering up to them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from danlu.ledger.errors import UserError
from danlu.tokens.encode import Kind, Role

_ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}
_PRIVATE_USE = range(0x10FFF0, 0x100000, -1)


class Part(NamedTuple):
    """A piece before it is tokens."""

    text: str
    kind: Kind
    role: Role
    turn: int
    weight: float


class Span(NamedTuple):
    """Where the content of a message, counted from 0, stands in a rendered text."""

    start: int
    end: int
    message: int
    weight: float


class Rendering:
    """Renders the beginnings of one conversation.

    Special-token text in the input gets a private-use character, `mark`, after its first letter, so every special
    token in a rendered text is the template's own.
    """

    def __init__(
        self,
        render: Callable[..., str],
        special: re.Pattern[str],
        stops: Sequence[str],
        messages: Sequence[Any],
        tools: list[dict[str, Any]] | None,
    ) -> None:
        said = "\0".join(_strings([messages, tools]))
        self.mark, self._slot = _unused(said)
        self.marked = special.search(said) is not None
        if self.marked:
            messages, tools = _mapped([messages, tools], lambda text: special.sub(self._marked, text))
        self.messages, self._tools = messages, tools
        self.roles = [_ROLES.get(message["role"], Role.TOOL) for message in messages]
        self._render, self._special, self._stops = render, special, stops
        self._texts: dict[tuple[int, bool], str] = {}

    def text(self, count: int, generation: bool = False) -> str:
        """The first `count` messages, with `generation` also the header of an answer."""
        key = count, generation
        if key not in self._texts:
            self._texts[key] = self._render(self.messages[:count], self._tools, generation)
        return self._texts[key]

    def answer(self, index: int) -> tuple[str, str, str]:
        """What stands before the answer, the answer, and the stop token with what follows it."""
        full, prompt = self.text(index + 1), self.text(index, generation=True)
        said = full[len(prompt) :] if full.startswith(prompt) else self._continued(prompt, index)
        at = max(said.rfind(stop) for stop in self._stops)
        if at < 0:
            raise UserError(f"the chat template ends the answer in message {index + 1} with no stop token")
        return prompt, said[:at], said[at:]

    def contents(self, count: int, skip: Iterable[int], weights: Mapping[int, float]) -> Iterator[Span]:
        """The contents of the messages before the answer `count`, as far as the template shows them, in order.

        `weights` are those of messages; 0 of others.
        """
        text, end = self.text(count, generation=True), 0
        for index in range(count):
            span = None if index in skip else self._find(index, count, text)
            if span is not None and span.start >= end:
                end = span.end
                yield span._replace(weight=weights.get(index, 0.0))

    def parts(self, text: str, spans: Iterable[Span]) -> Iterator[Part]:
        """All of the text in pieces: the contents at the spans, markup between them."""
        role, turn, weight, end, last = Role.NONE, 0, 0.0, 0, -1
        for span in spans:
            yield from self._markup(text[end : span.start], role, turn, weight)
            role, end = self.roles[span.message], span.end
            weight = span.weight if role == Role.ASSISTANT else 0.0  # others are heard, and do not stop
            turn += role == Role.USER and (last < 0 or self.roles[last] != Role.USER)
            last = span.message
            yield Part(text[span.start : end], Kind.CONTENT, role, turn, span.weight)
        yield from self._markup(text[end:], role, turn, weight)

    def _markup(self, text: str, role: Role, turn: int, weight: float) -> Iterator[Part]:
        """The stop token of the content before, what follows it up to the next special token, and headers."""
        stop = next((stop for stop in self._stops if role and text.startswith(stop)), "")
        if stop:
            following = self._special.search(text, len(stop))
            end = following.start() if following else len(text)
            yield Part(stop, Kind.STOP, role, turn, weight)
            yield Part(text[len(stop) : end], Kind.BETWEEN, role, turn, 0.0)
            text = text[end:]
        yield Part(text, Kind.HEADER, Role.NONE, turn, 0.0)

    def _find(self, index: int, count: int, text: str) -> Span | None:
        """The content is what stands in `text` where a stand-in for it stands when that is rendered instead."""
        if not self.messages[index].get("content"):
            return None
        replaced = [*self.messages[:count]]
        replaced[index] = {**replaced[index], "content": self._slot}
        before, slot, after = self._render(replaced, self._tools, True).partition(self._slot)
        fits = text.startswith(before) and text.endswith(after) and len(before) + len(after) <= len(text)
        if not slot or not fits or self._slot in after:
            return None
        return Span(len(before), len(text) - len(after), index, 0.0)

    def _continued(self, prompt: str, index: int) -> str:
        """The answer after a header that the template writes only when it asks (one that opens the thinking)."""
        message = self.messages[index]
        if message.get("tool_calls") or message.get("reasoning_content"):
            raise UserError(
                f"the chat template asks for the answer in message {index + 1} in another way than it writes it",
                do="give the answer as plain content",
            )
        replaced = [*self.messages[:index], {**message, "content": self._slot}]
        header = self._render(replaced, self._tools, False).partition(self._slot)[0]
        opened = prompt[len(header) :] if prompt.startswith(header) else ""
        return message["content"].removeprefix(opened) + self._stops[0]

    def _marked(self, match: re.Match[str]) -> str:
        return match.group()[0] + self.mark + match.group()[1:]


def samples(
    rendering: Rendering, answered: Mapping[int, float], heard: Mapping[int, float]
) -> Iterator[tuple[str, list[Part]]]:
    """Each text to train on with its pieces: one, unless the template rewrites what was said before.

    Args:
        answered: of messages that are answers, the weights of what they say and of the stop token; a text ends with
            the last of them.
        heard: of other messages, the weights of what they say. Each is trained in the first text that it is in.
    """
    text, answers, heard = "", list[Span](), dict(heard)
    for index, weight in answered.items():
        prompt, said, rest = rendering.answer(index)
        if answers and not prompt.startswith(text):
            yield text, _sample(rendering, text, answers, heard)
            heard = {other: weight for other, weight in heard.items() if other > answers[-1].message}
            answers = []
        answers.append(Span(len(prompt), len(prompt) + len(said), index, weight))
        text = prompt + said + rest
    if answers:
        yield text, _sample(rendering, text, answers, heard)


def prompt_parts(rendering: Rendering) -> list[Part]:
    """The pieces of the whole conversation and the header of an answer to it."""
    count = len(rendering.messages)
    return list(rendering.parts(rendering.text(count, generation=True), rendering.contents(count, (), {})))


def _sample(rendering: Rendering, text: str, answers: list[Span], heard: Mapping[int, float]) -> list[Part]:
    contents = rendering.contents(answers[-1].message, {answer.message for answer in answers}, heard)
    return list(rendering.parts(text, sorted([*contents, *answers])))


def _unused(said: str) -> tuple[str, str]:
    free = (letter for code in _PRIVATE_USE if (letter := chr(code)) not in said)
    return next(free), next(free)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _strings([*value, *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)


def _mapped(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_mapped(key, change): _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value
