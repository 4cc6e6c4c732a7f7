"""A model folder that answers: the decoder with its tokenizer, template and engine."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args, overload

import torch

from danlu.config import check
from danlu.infer.engine import Engine, Event, Finish, Request
from danlu.infer.settings import Quantize, SamplingSettings
from danlu.infer.text import TextStream
from danlu.infer.voices import Voices, told_apart, words_of
from danlu.ledger.checkpoints import resolve_checkpoint
from danlu.ledger.errors import UserError
from danlu.ledger.manifest import read_manifest
from danlu.model.decoder import Decoder
from danlu.model.families.config import require_tokenizer
from danlu.model.open import Quantisation
from danlu.model.settings import require_rows
from danlu.text.records import Message
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer

OnText = Callable[[str, Event, Finish | None], object]
"""(new text, the token's event, why the answer ends if it does)"""

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class Score:
    """How well a text is predicted. `nats` is the sum over `tokens`; `bytes` are the UTF-8 bytes of the whole text."""

    nats: float
    tokens: int
    bytes: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan


class Model:
    """Chats, continues and scores; `template` is None where the tokenizer brings none.

    Sampling is given by keyword, by the names of `SamplingSettings`: `model.chat(messages, temperature=0.7, seed=1)`.
    `adapter` names one of `voices`: one of the adapters that were loaded, or the base.
    May be used from several threads, whose requests then run together.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        template: Template | None,
        name: str,
        others: Mapping[str, int] | None = None,
        quantised: Quantisation | None = None,
    ) -> None:
        require_rows(engine.decoder.settings, tokenizer.vocab_size)
        self.engine, self.tokenizer, self.template, self.name = engine, tokenizer, template, name
        self.quantised = quantised
        """The form of the weights in fewer bits; None where they are whole."""
        self.voices = {name: engine.first, **(others or {})}
        """The engine's number of each adapter by name, and of the base; the first answers where none is named."""
        ends = (tokenizer.eos_id, *tokenizer.generation_stops, *(template.stop_ids if template else ()))
        self.stop_ids = frozenset(token for token in ends if token is not None)

    @property
    def decoder(self) -> Decoder:
        return self.engine.decoder

    def chat(self, messages: Sequence[Message], adapter: str | None = None, **sampling: Any) -> str:
        """The assistant's next message. Raises UserError where there is no chat template."""
        return self._texts([self.chat_prompt(messages)], _sampling(sampling), adapter)[0]

    def stream_chat(self, messages: Sequence[Message], adapter: str | None = None, **sampling: Any) -> Generator[str]:
        """The assistant's next message, piece by piece; closing the generator stops the answer."""
        return self.stream_tokens(self.chat_prompt(messages), _sampling(sampling), adapter)

    @overload
    def generate(self, prompt: str, adapter: str | None = None, **sampling: Any) -> str: ...
    @overload
    def generate(self, prompt: Sequence[str], adapter: str | None = None, **sampling: Any) -> list[str]: ...
    def generate(self, prompt: str | Sequence[str], adapter: str | None = None, **sampling: Any) -> str | list[str]:
        """How a text, or each of many, goes on, without a template; markup in it counts as such."""
        prompts = [prompt] if isinstance(prompt, str) else prompt
        texts = self._texts([self.raw_prompt(text) for text in prompts], _sampling(sampling), adapter)
        return texts[0] if isinstance(prompt, str) else texts

    def stream(self, prompt: str, adapter: str | None = None, **sampling: Any) -> Generator[str]:
        """How a text goes on, piece by piece; closing the generator stops the answer."""
        return self.stream_tokens(self.raw_prompt(prompt), _sampling(sampling), adapter)

    def score(self, text: str) -> Score:
        """Negative log-likelihood of a text as a document: after the tokenizer's first token, or else its end token.

        A text longer than the window is read in windows that overlap by half.
        """
        return self.scores([text])[0]

    def scores(self, texts: Sequence[str], window: int | None = None) -> list[Score]:
        """As `score`, of many texts at once; `window` is the most tokens that the model sees at once, by default all
        that it can."""
        most = min(window or self.engine.window, self.engine.window)
        pairs = [list(self._windows(text, most)) for text in texts]
        logps = iter([part.logp for part in self.engine.score([pair for own in pairs for pair in own])])
        return [
            Score(
                -math.fsum(islice(logps, len(own))),
                sum(len(continuation) for _, continuation in own),
                len(text.encode("utf-8", "surrogatepass")),
            )
            for text, own in zip(texts, pairs, strict=True)
        ]

    def _windows(self, text: str, window: int) -> Iterator[tuple[list[int], list[int]]]:
        """(context, continuation): all tokens of a text are continuations once."""
        end = self.tokenizer.eos_id
        ids = [*(self.tokenizer.begins or ([] if end is None else [end])), *self.tokenizer.encode(text)]
        first = 1
        while first < len(ids):
            start = 0 if len(ids) <= window else max(0, first - window // 2)
            yield ids[start:first], ids[first : start + window]
            first = start + window

    def reward(self, messages: Sequence[Message]) -> float:
        """How good a reward model finds the answer that a conversation ends with; see `danlu.infer.reward`."""
        from danlu.infer.reward import reward_conversations

        return float(reward_conversations(self, [messages])[0])

    def chat_prompt(self, messages: Sequence[Message]) -> list[int]:
        """The token ids that ask for the assistant's next message."""
        if self.template is None:
            raise UserError(
                "this model has no chat template, so it cannot be asked in turns",
                where=self.tokenizer.origin,
                do="let it continue a text instead (raw mode, /v1/completions, generate)",
            )
        return self.template.prompt(messages)

    def raw_prompt(self, text: str) -> list[int]:
        """The token ids of a text to be continued, after the token that the tokenizer puts first."""
        ids, prefix = self.tokenizer.encode_markup(text), self.tokenizer.begins
        return ids if ids[: len(prefix)] == prefix else [*prefix, *ids]

    def submit(
        self, prompt_ids: Sequence[int], sampling: SamplingSettings, on_text: OnText, adapter: str | None = None
    ) -> Request:
        """Starts an answer; `on_text` gets its text as it comes, in the thread that steps the engine."""
        text = TextStream(self.tokenizer, sampling.stop)

        def watch(event: Event) -> bool:
            piece = text.push(event.token) if event.token not in self.stop_ids else ""
            if event.finish is not None:
                piece += text.flush()
            on_text(piece, event, "stop" if text.stopped else event.finish)
            return text.stopped

        return self.engine.submit(prompt_ids, sampling, self.stop_ids, watch, self._number(adapter))

    def _number(self, adapter: str | None) -> int | None:
        if adapter is not None and adapter not in self.voices:
            raise UserError(f"there is no adapter {adapter!r} here", do=f"name one of {', '.join(self.voices)}")
        return None if adapter is None else self.voices[adapter]

    def stream_tokens(
        self, prompt_ids: Sequence[int], sampling: SamplingSettings, adapter: str | None = None
    ) -> Generator[str]:
        """The answer to a prompt of token ids, piece by piece; closing it stops the answer."""
        pieces: deque[str] = deque()
        request = self.submit(prompt_ids, sampling, _gather(pieces), adapter)
        try:
            while pieces or request.finish is None:
                if not pieces:
                    self.engine.step()
                while pieces:
                    if piece := pieces.popleft():
                        yield piece
        finally:
            self.engine.cancel(request)

    def _texts(self, prompts: Sequence[Sequence[int]], sampling: SamplingSettings, adapter: str | None) -> list[str]:
        pieces: list[list[str]] = [[] for _ in prompts]
        longest_first = sorted(
            range(len(prompts)), key=lambda i: -len(prompts[i])
        )  # like lengths together: less padding
        self.engine.finish([self.submit(prompts[i], sampling, _gather(pieces[i]), adapter) for i in longest_first])
        return ["".join(own) for own in pieces]


def load(
    path: Path | str,
    device: str | None = None,
    dtype: str | None = None,
    *,
    quantize: Quantize | None = None,
    adapters: Mapping[str, Path | str] | Sequence[Path | str] = (),
    template: str | None = None,
    max_batch: int = 64,
    max_tokens_in_cache: int = 65_536,
) -> Model:
    """A model from a Hugging Face folder, a checkpoint, or a stage or run that has trained.

    An adapter's folder is opened over its base. `adapters` are further ones over the same base, by a name or by that of
    their folder; a request may name any of them, or the base. Folders of one name are told apart by those above them:
    `a/sft` and `b/sft`.
    By default on a GPU in bf16 where there is one, else on the CPU in float32; dtype is float32, bf16 or fp16.
    `quantize`: weights in int8 (half of bf16's memory), int4 (a third) or nf4; large ones are faster so on a CPU. None:
    whole, but a base whose adapters were all trained over nf4 is opened as it was then; full: whole there too.
    `template` names a chat template (chatml, baichuan2, ...) for a folder that brings none, or another than its own.
    `max_batch` and `max_tokens_in_cache` are the engine's.
    """
    folder = resolve_checkpoint(Path(path))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = dtype or ("float32" if device == "cpu" else "bf16")
    if dtype not in DTYPES:
        raise UserError(f"there is no dtype {dtype!r}", do="choose one of " + ", ".join(DTYPES))
    if quantize not in (None, *get_args(Quantize)):
        raise UserError(f"there is no form {quantize!r}", do="choose one of " + ", ".join(get_args(Quantize)))
    tokenizer = Tokenizer.load(words_of(folder))
    if (folder / "config.json").is_file():
        require_tokenizer(folder, tokenizer.vocab_size, tokenizer.origin)
    chosen = Template(tokenizer, choice=template) if template or tokenizer.chat_template else None
    _require_trained_with(folder, tokenizer, chosen)
    name, named = _named(Path(path), adapters)
    voices = Voices.of(folder, name, named)
    for one in voices.adapters:
        _require_trained_with(one.folder, tokenizer, chosen)
    form = voices.over if quantize is None else None if quantize == "full" else quantize
    decoder = voices.open(DTYPES[dtype], torch.device(device), form)
    engine = Engine(
        decoder,
        max_batch=max_batch,
        max_tokens_in_cache=max_tokens_in_cache,
        adapters=len(voices.adapters),
        first=voices.first,
    )
    return Model(engine, tokenizer, chosen, voices.name, voices.others, form)


def _named(path: Path, adapters: Mapping[str, Path | str] | Sequence[Path | str]) -> tuple[str, dict[str, Path]]:
    """What the model is called, and the adapters by their names."""
    if isinstance(adapters, Mapping):
        return told_apart([path], adapters.keys())[0], {name: Path(one) for name, one in adapters.items()}
    folders = [path, *map(Path, adapters)]
    name, *names = told_apart(folders)
    twice = [one for one in names if [name, *names].count(one) > 1]
    if twice:
        raise UserError(f"{twice[0]} is named twice", where="adapters", do="name each folder once")
    return name, dict(zip(names, folders[1:], strict=True))


def _require_trained_with(folder: Path, tokenizer: Tokenizer, template: Template | None) -> None:
    """Raises UserError when a checkpoint says that it was trained with another tokenizer or chat template."""
    trained = (read_manifest(folder) or {}).get("fingerprints", {})
    found = {"tokenizer": tokenizer.fingerprint, "template": template.fingerprint if template else ""}
    for name, own in found.items():
        if trained.get(name) and trained[name] != own:
            raise UserError(
                f"the {name} in this folder is not the one that the model was trained with",
                where=str(folder),
                do=f"put the {name} back, or export the model (danlu export) to serve it with another on purpose",
            )


def _gather(pieces: list[str] | deque[str]) -> OnText:
    return lambda piece, event, finish: pieces.append(piece)


def _sampling(given: dict[str, Any]) -> SamplingSettings:
    return check(SamplingSettings, given)
