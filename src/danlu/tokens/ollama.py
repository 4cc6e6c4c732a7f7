"""A chat template in the words of Ollama: Go's templates, and the stops of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from danlu.ledger.errors import UserError
from danlu.text.records import Message
from danlu.tokens.template import Template

_PROBES = [f"{letter}\U0010fff1{letter}" for letter in "SUAVBW"]  # no template gives a private-use character a meaning
_LONGEST = 8192  # tokens that Ollama keeps room for, unless the model holds less


@dataclass(frozen=True)
class Turns:
    """What stands around the contents of a conversation: questions and answers in turn, perhaps a system message first.

    `before_system` and `after_system` surround the system message, `without_system` is there in place of both;
    `before_answer` follows a question, `before_question` an answer, and `opening` asks for the next answer.
    """

    before_system: str | None
    after_system: str
    without_system: str
    before_answer: str
    before_question: str
    opening: str

    @classmethod
    def of(cls, template: Template) -> Turns | None:
        """Found by rendering and proven on other conversations; None where a template does more than that."""
        system, *said = _PROBES
        try:
            first, before_answer, before_question, opening = _around(template, said[:3])
        except (UserError, ValueError):
            return None
        try:
            before_system, after_system, *_ = _around(template, [system, *said[:3]], system=True)
        except (UserError, ValueError):  # a template that knows no system message
            before_system, after_system = None, ""
        found = cls(before_system, after_system, first, before_answer, before_question, opening)
        for count in (1, 3, 5):
            for leading in ([], [system]) if before_system is not None else ([],):
                messages = _conversation([*leading, *said[:count]], bool(leading))
                if found.say(messages) != template.render(messages, generation=True):
                    return None
        return found

    def say(self, messages: Sequence[Message]) -> str:
        """The text that asks for the next answer, as Ollama writes it by `go`."""
        text, asked = self.without_system, False
        for message in messages:
            content = str(message["content"])
            if message["role"] == "system":
                text = f"{self.before_system}{content}{self.after_system}"
            elif message["role"] == "user":
                text += (self.before_question if asked else "") + content
                asked = True
            else:
                text += self.before_answer + content
        return text + self.opening

    def go(self, begin: str = "") -> str:
        """The same in Go's template language; `begin` is text at its start that Ollama itself writes (as a token)."""
        start = _text(self.without_system.removeprefix(begin))
        if self.before_system is not None:
            before, after = _text(self.before_system.removeprefix(begin)), _text(self.after_system)
            start = "{{ if .System }}" + before + "{{ .System }}" + after + "{{ else }}" + start + "{{ end }}"
        question = "{{ if $asked }}" + _text(self.before_question) + "{{ end }}{{ .Content }}{{ $asked = true }}"
        answer = _text(self.before_answer) + "{{ .Content }}"
        roles = '{{ if eq .Role "user" }}' + question + '{{ else if eq .Role "assistant" }}' + answer + "{{ end }}"
        return (
            '{{ $asked := false }}{{ $role := "" }}' + start
            + "{{ range .Messages }}" + roles + "{{ $role = .Role }}{{ end }}"
            + '{{ if ne $role "assistant" }}' + _text(self.opening) + "{{ end }}"
        )  # fmt: skip


def modelfile(template: Template | None, file: str, context: int) -> str:
    """Ollama's Modelfile for a GGUF file beside it that holds `context` tokens: template, stops, room."""
    lines = [f"FROM ./{file}"]
    if template is not None:
        turns, tokenizer = Turns.of(template), template.tokenizer
        begin = tokenizer.token(tokenizer.begins[0]) if tokenizer.begins else ""
        written = turns and turns.go(begin)
        if not written or '"""' in written:
            lines.append("# The chat template does more than Ollama's can say; the one inside the GGUF file is whole.")
        else:
            lines.append(f'TEMPLATE """{written}"""')
        texts = dict.fromkeys(tokenizer.token(id) for id in template.stop_ids)
        lines += [f'PARAMETER stop "{text}"' for text in texts]
    return "\n".join([*lines, f"PARAMETER num_ctx {min(context, _LONGEST)}"]) + "\n"


def _around(template: Template, contents: list[str], system: bool = False) -> list[str]:
    """The texts before, between and behind the contents. Raises ValueError where one is missing or comes twice."""
    rest = template.render(_conversation(contents, system), generation=True)
    pieces = []
    for content in contents:
        piece, rest = rest.split(content)
        pieces.append(piece)
    return [*pieces, rest]


def _conversation(contents: list[str], system: bool) -> list[Message]:
    roles = [*(["system"] if system else []), *(["user", "assistant"] * len(contents))]
    return [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]


def _text(literal: str) -> str:
    """Text as Go's templates keep it."""
    return literal.replace("{{", '{{ "{{" }}')
