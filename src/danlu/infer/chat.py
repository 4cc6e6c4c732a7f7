"""Talking with a model in the terminal."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

from danlu.config import settings_from
from danlu.infer.chat_words import WORDS
from danlu.infer.model import Model
from danlu.infer.score import require_tokens
from danlu.infer.settings import ChatSettings, SamplingSettings
from danlu.ledger.errors import UserError
from danlu.ledger.signals import caught
from danlu.text.records import Message

PROMPT, CONTINUED = "> ", "… "


def chat(
    model: Model,
    settings: ChatSettings,
    read: Callable[[str], str] = input,
    write: Callable[[str], object] | None = None,
) -> None:
    """Talks until /exit or the end of the input; `read` shows a prompt and gives a line, `write` shows text.

    Raises UserError for a reward model.
    """
    require_tokens(model.decoder)
    with suppress(ImportError):  # where there is no readline, lines are typed without history
        import readline  # noqa: F401  # importing it gives `input` history and editing
    talk = Chat(model, settings, write or _show)
    for line in _lines(read, lambda: talk.say(talk.words.leave)):
        if not talk.take(line):
            return


class Chat:
    """One conversation: takes what is typed, shows what is answered, and remembers both."""

    def __init__(self, model: Model, settings: ChatSettings, write: Callable[[str], object]) -> None:
        self.model, self.write = model, write
        self.sampling: SamplingSettings = settings.sampling
        self.adapter = str(settings.adapter) if settings.adapter else None
        self.system, self.raw = settings.system, settings.raw
        self.words = WORDS[settings.language]
        self.history: list[Message] = []
        self.say(self.words.welcome.format(name=self.adapter or model.name))
        if model.template is None and not self.raw:
            self.raw = True
            self.say(self.words.no_template)

    def take(self, line: str) -> bool:
        """Answers a message or does what a command says; false after /exit."""
        command, _, rest = line.strip().partition(" ")
        if not command:
            return True
        if not command.startswith("/"):
            self._answer(line)
        elif command == "/exit":
            return False
        elif command == "/help":
            self.say(self.words.help)
        elif command == "/clear":
            self.history.clear()
            self.say(self.words.cleared)
        elif command == "/system":
            self.system = rest.strip() or None
            self.say(self.words.system_set if self.system else self.words.system_unset)
        elif command == "/set":
            self._set(rest.split())
        elif command == "/raw":
            self._switch()
        else:
            self.say(self.words.unknown.format(command=command))
        return True

    def say(self, text: str) -> None:
        """Shows a line of the chat's own."""
        self.write(text + "\n")

    def _set(self, given: list[str]) -> None:
        try:
            changed = settings_from(SamplingSettings, given)
        except UserError as error:
            self.say(str(error))
            return
        self.sampling = self.sampling.model_copy(update=changed.model_dump(exclude_unset=True))
        self.say(" ".join(f"{name}={value}" for name, value in self.sampling.model_dump().items()))

    def _switch(self) -> None:
        if self.raw and self.model.template is None:
            self.say(self.words.no_template)
            return
        self.raw = not self.raw
        self.say(self.words.raw_on if self.raw else self.words.raw_off)

    def _answer(self, line: str) -> None:
        try:
            if self.raw:
                if "\\n" in line:
                    self.say(self.words.backslash_n)
                prompt = self.model.raw_prompt(line)
            else:
                self.history.append({"role": "user", "content": line})
                prompt = self._prompt_that_fits()
            if self._fits(prompt):
                answer = self._show_answer(prompt)
                if not self.raw:
                    self.history.append({"role": "assistant", "content": answer})
                return
            self.say(self.words.too_long.format(tokens=len(prompt), window=self.model.engine.window))
        except UserError as error:
            self.say(str(error))
        if not self.raw:
            self.history.pop()

    def _show_answer(self, prompt: list[int]) -> str:
        """Streams the answer until it ends or Ctrl-C is pressed, and gives what was shown."""
        shown = []
        answer = closing(self.model.stream_tokens(prompt, self.sampling, self.adapter))
        with caught([signal.SIGINT]) as stop, answer as stream:
            for piece in stream:
                self.write(piece)
                shown.append(piece)
                if stop.requested:
                    self.write(" " + self.words.stopped)
                    break
        self.write("\n")
        return "".join(shown)

    def _prompt_that_fits(self) -> list[int]:
        """The prompt of the conversation after its oldest turns were dropped, if need be and if that suffices."""
        starts = [place for place, message in enumerate(self.history) if message["role"] == "user"]
        for count, start in enumerate(starts):
            prompt = self._prompt(self.history[start:])
            if self._fits(prompt):
                if count:
                    del self.history[:start]
                    self.say(self.words.dropped.format(count=count, window=self.model.engine.window))
                break
        return prompt

    def _prompt(self, messages: list[Message]) -> list[int]:
        system: list[Message] = [{"role": "system", "content": self.system}] if self.system else []
        return self.model.chat_prompt([*system, *messages])

    def _fits(self, prompt: list[int]) -> bool:
        """Whether an answer as long as is asked for, or at least a quarter of the window, has room."""
        window = self.model.engine.window
        return len(prompt) + min(self.sampling.max_tokens, window // 4) <= window


def _lines(read: Callable[[str], str], on_interrupt: Callable[[], None]) -> Iterator[str]:
    """Typed lines, those that end in a backslash joined with the next, until the input ends."""
    parts: list[str] = []
    while True:
        try:
            line = read(CONTINUED if parts else PROMPT)
        except EOFError:
            return
        except KeyboardInterrupt:
            parts.clear()
            on_interrupt()
            continue
        parts.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            yield "\n".join(parts)
            parts.clear()


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
