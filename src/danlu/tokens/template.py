"""Conversations to tokens, by the tokenizer's own chat template: one way for training, evaluation and serving."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, cast

import jinja2

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.files import fingerprint
from danlu.text.records import Conversation, Message, Preference
from danlu.tokens.encode import Encoded, Piece, Role, join_pieces
from danlu.tokens.jinja import compile_template, with_system, without_system
from danlu.tokens.named import BEGUN_BY_THE_TOKENIZER, NAMED, markup
from danlu.tokens.pieces import Part, Rendering, prompt_parts, samples
from danlu.tokens.tokenizer import Tokenizer

DIFFERS = "tokens differ from those of the whole text"
MARKUP_TEXT = "special-token text in a message, kept as text"
_PROBE = "\U0010fff0"  # a private-use character: no template gives it a meaning


class Template:
    """Renders conversations with `tokenizer`'s chat template, or with the named one of `choice`.

    `system` says what a conversation without a system message gets: "none", "default" (what the template does by
    itself) or a text. The policy is written into `source`, the template that is saved with the model, so everyone
    who renders with that sees the same text. `stop` is what the template writes to end an answer, `stop_ids` are
    the tokens that end one. Raises UserError when there is no template, when it is no valid one, when the policy
    cannot be followed, or when no special token ends an answer.
    """

    def __init__(self, tokenizer: Tokenizer, system: str = "default", choice: str | None = None) -> None:
        self._texts = tokenizer.named_texts()
        self._now = datetime.now()
        self._origin = tokenizer.origin
        self.source = _chosen(tokenizer, choice)
        self._compiled = self._compile(self.source)
        self._follow(system)
        same = self.source == tokenizer.chat_template
        self.tokenizer = tokenizer if same else tokenizer.with_chat_template(self.source)
        longest_first = sorted(tokenizer.special, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self.stops = self._find_stops()
        ends = [*(tokenizer.special[stop] for stop in self.stops), tokenizer.eos_id, *tokenizer.generation_stops]
        self.stop_ids = tuple(dict.fromkeys(id for id in ends if id is not None))
        self._literal = lru_cache(maxsize=1024)(self.tokenizer.encode_markup)  # the same headers come again and again
        special = dict(sorted(tokenizer.special.items()))
        self.fingerprint = fingerprint({"template": self.source, "special": special, "names": self._texts})

    def render(
        self, messages: Sequence[Any], tools: list[dict[str, Any]] | None = None, generation: bool = False
    ) -> str:
        """The text of the messages; with `generation` up to where the assistant's answer begins.

        Raises UserError with the template's own words when it refuses the messages.
        """
        plain = [{key: value for key, value in message.items() if key != "weight"} for message in messages]
        try:
            return self._compiled.render(messages=plain, tools=tools, add_generation_prompt=generation, **self._texts)
        except (jinja2.TemplateError, TypeError) as error:
            raise UserError(f"the chat template refuses the conversation: {error}", where=self._origin) from None

    def prompt(self, messages: Sequence[Message], tools: list[dict[str, Any]] | None = None) -> list[int]:
        """The tokens that a model is asked with: the messages and the header of the answer."""
        rendering = self._rendering(messages, tools)
        return [token for piece in self._pieces(prompt_parts(rendering), rendering) for token in piece.tokens]

    def encode(
        self,
        conversation: Conversation,
        turns: str = "all",
        counts: Counts | None = None,
        where: str | None = None,
        roles: Sequence[str] = ("assistant",),
    ) -> list[Encoded]:
        """The conversation as sequences in which the content of `roles` carries weight, and the stop tokens of answers.

        One sequence, unless the template writes earlier answers differently once others follow; then a new one
        begins there, so every answer is trained after just the text that serving would show. A sequence ends with
        an answer. `turns` picks the answers: "all", "first" or "last"; a message's `weight` (1 if absent) is that of
        its tokens, and without any weight there is no sequence. With `counts`, sequences whose tokens differ from
        those of their whole text, and content with the text of special tokens, are counted, named by `where`.
        """
        if any(message["role"] == "system" for message in conversation.messages[1:]):
            raise UserError("a system message that is not the first message", where=where)
        rendering = self._rendering(conversation.messages, conversation.tools)
        encoded = []
        for text, parts in samples(rendering, *_weights(rendering, turns, [Role[role.upper()] for role in roles])):
            document = join_pieces(self._pieces(parts, rendering), self.tokenizer.token_bytes.lengths)
            if not document.weights.any():
                continue
            encoded.append(document)
            if (
                counts is not None
                and not rendering.marked
                and self.tokenizer.encode_markup(text) != encoded[-1].tokens.tolist()
            ):
                counts.add(DIFFERS, where)
        if counts is not None and rendering.marked:
            counts.add(MARKUP_TEXT, where)
        return encoded

    def encode_preference(self, preference: Preference) -> tuple[Encoded, Encoded]:
        """The prompt with the chosen and with the rejected answer; only the answer carries weight.

        Raises UserError when one side has no answer, or cannot be written as one sequence.
        """
        if not (preference.chosen and preference.rejected):
            raise UserError("an answer labelled by itself is no pair", do="train on it with the stage kto")
        chosen, rejected = (
            self.encode_answer(preference.messages, side) for side in (preference.chosen, preference.rejected)
        )
        return chosen, rejected

    def concerns(self, terminator: int | None = None) -> list[str]:
        """Sentences about ends that do not agree: the answer's stop token, the generation config's, the documents'."""
        stop, tokenizer = self.stop_ids[0], self.tokenizer
        name, found = tokenizer.token(stop), []
        if tokenizer.generation_stops and stop not in tokenizer.generation_stops:
            others = ", ".join(tokenizer.token(id) for id in tokenizer.generation_stops)
            found.append(f"Answers end in {name}, but generation_config.json stops at {others}: others would not stop.")
        if terminator is not None and terminator != stop:
            end = tokenizer.token(terminator)
            found.append(f"Documents end in {end}, answers in {name}: a base model must be stopped at both.")
        return found

    def _compile(self, source: str) -> jinja2.Template:
        try:
            return compile_template(source, self._now)
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template is no valid Jinja: {error}", where=self._origin) from None

    def _follow(self, system: str) -> None:
        """Write the system policy into the source, unless the template already does as it says."""
        ask = [{"role": "user", "content": _PROBE}]
        if system == "default":
            return
        if system != "none":
            if self.render(ask) != self.render([{"role": "system", "content": system}, *ask]):
                self.source = with_system(self.source, system)
                self._compiled = self._compile(self.source)
            return
        try:
            before, _, after = self.render([{"role": "system", "content": _PROBE}, ask[0]]).partition(_PROBE)
        except UserError:
            return  # a template that knows no system message inserts none
        plain = self.render(ask)
        if plain.startswith(before) and plain.endswith(after):
            self.source = self._bare(ask, plain)
            self._compiled = self._compile(self.source)

    def _bare(self, ask: list[dict[str, str]], plain: str) -> str:
        """The source without the system prompt that it inserts."""
        empty = [{"role": "system", "content": ""}]
        bos = self._texts.get("bos_token", "")
        kept = bos if plain.startswith(bos) else ""
        block, whole = self.render(empty), self.render(empty + ask)
        if not (whole.startswith(block) and block.startswith(kept)):
            raise UserError(
                "the system prompt that this chat template inserts cannot be told from the rest",
                where=self._origin,
                do="set `system: default`, or give the system prompt as a text",
            )
        return self.source if block == kept else without_system(self.source, block, kept)

    def _find_stops(self) -> tuple[str, ...]:
        """The special tokens that end an answer, and one that is a tool call: the first after the last of its words."""
        ask, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": _PROBE}
        call = {"type": "function", "function": {"name": "f", "arguments": {"a": _PROBE}}}
        ends = [self._special.search(self.render([ask, answer]).rpartition(_PROBE)[2])]
        try:
            called = self.render([ask, {**answer, "content": "", "tool_calls": [call]}])
        except UserError:
            called = ""  # a template without tools
        if _PROBE in called:
            ends.append(self._special.search(called.rpartition(_PROBE)[2]))
        if ends[0] is None:
            raise UserError(
                "the chat template ends an answer with no special token, so a model would never learn to stop",
                where=self._origin,
                do="mark the token that ends an answer as special, or choose a template: " + ", ".join(NAMED),
            )
        return tuple(dict.fromkeys(end.group() for end in ends if end))

    def _rendering(self, messages: Sequence[Message], tools: list[dict[str, Any]] | None) -> Rendering:
        return Rendering(self.render, self._special, self.stops, messages, tools)

    def _pieces(self, parts: list[Part], rendering: Rendering) -> list[Piece]:
        """The parts with their tokens; SentencePiece's space comes only before text that begins a run of text."""
        pieces: list[Piece] = []
        inside = False
        for part in parts:
            tokens = self._tokens(part.text, rendering, inside)
            pieces.append(Piece(tokens, part.kind, part.role, part.turn, part.weight))
            if tokens:
                inside = tokens[-1] not in self.tokenizer.special_ids or not self.tokenizer.adds_space_again
        return pieces

    def _tokens(self, text: str, rendering: Rendering, inside: bool) -> Sequence[int]:
        """The tokens of a piece: special tokens are the template's own, text with the mark in it was a message's."""
        if not self._special.search(text):
            return self.tokenizer.encode(text.replace(rendering.mark, ""), inside) if text else []
        if rendering.mark not in text:
            return self._literal(text, inside)
        tokens: list[int] = []
        for run in re.split(f"({self._special.pattern})", text):
            special = self.tokenizer.special.get(run)
            tokens += [special] if special is not None else self._tokens(run, rendering, inside)
        return tokens

    def encode_answer(self, messages: list[Message], answer: list[Message]) -> Encoded:
        """The messages and one answer to them, which alone carries weight.

        Raises UserError when there is no answer, or when it cannot be written as one sequence.
        """
        history = [cast(Message, {**message, "weight": 0.0}) for message in messages]
        encoded = self.encode(Conversation(history + answer))
        if len(encoded) != 1:
            raise UserError(
                "a preference needs an answer that the chat template writes as one sequence; "
                f"this one gives {len(encoded)}",
                do="keep one assistant message on each side",
            )
        return encoded[0]


def _weights(rendering: Rendering, turns: str, roles: Sequence[Role]) -> tuple[dict[int, float], dict[int, float]]:
    """The weights of the answers, of those alone that are trained unless what others say is, and of those others."""
    own = [float(message.get("weight", 1.0)) for message in rendering.messages]
    answers = [index for index, role in enumerate(rendering.roles) if role == Role.ASSISTANT]
    others = [index for index, role in enumerate(rendering.roles) if role in roles and role != Role.ASSISTANT]
    heard = {index: own[index] for index in others if own[index]}
    trained = [index for index in answers if own[index] and Role.ASSISTANT in roles]
    kept = {"all": trained, "first": trained[:1], "last": trained[-1:]}[turns]
    return {index: own[index] if index in kept else 0.0 for index in (answers if heard else kept)}, heard


def _chosen(tokenizer: Tokenizer, choice: str | None) -> str:
    choices = ", ".join(NAMED)
    if choice is None:
        if tokenizer.chat_template is None:
            raise UserError(
                "the tokenizer has no chat template",
                where=tokenizer.origin,
                do=f"choose one of {choices} as `template`",
            )
        return tokenizer.chat_template
    if choice not in NAMED:
        raise UserError(f"there is no template {choice!r}", do=f"choose one of {choices}")
    absent = [text for text in markup(NAMED[choice]) if text not in tokenizer.special]
    if absent:
        raise UserError(
            f"the template {choice} writes {', '.join(absent)}, and the tokenizer has no such special token",
            where=tokenizer.origin,
            do=f"choose another of {choices}, or take the tokenizer that the template was made for",
        )
    begun = choice in BEGUN_BY_THE_TOKENIZER and tokenizer.begins
    return "{{- bos_token }}\n" + NAMED[choice] if begun else NAMED[choice]
