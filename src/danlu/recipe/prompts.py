"""What a model and another form of it are asked when both are compared."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from danlu.config import check
from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.recipe.job import TrainingJob, held_out_streams
from danlu.text.problems import BadRow

if TYPE_CHECKING:
    from danlu.text.records import Conversation
    from danlu.tokens.template import Template
    from danlu.tokens.tokenizer import Tokenizer

PROMPTS, PROMPT_TOKENS = 16, 64


def prompts_for(
    words: Path, tokenizer: Tokenizer, most: int, file: Path | None, *, answers: bool = False
) -> list[list[int]]:
    """What a model is asked: the rows of a file, or `held_out_prompts`; the first `most` tokens of each.

    A row has `prompt` or `text`, which is continued, or is a conversation in any form that training reads: asked up to
    its last answer, or with `answers` taken with that answer. Rows that are neither are counted on standard error.
    Raises UserError for a file without such rows, for one alone where `answers` are to be ranked, and for conversations
    where the tokenizer has no chat template.
    """
    if file is None:
        return [ids[:most] for ids in held_out_prompts(words, tokenizer, answers)]
    from danlu.text.readers import read_rows
    from danlu.tokens.template import Template

    found, skipped, template = list[list[int]](), Counts(), cache(lambda: Template(tokenizer))
    for row in read_rows(file, document="line"):
        try:
            found.append(_asked(row.fields, tokenizer, template, answers)[:most])
        except BadRow as bad:
            skipped.add(bad.reason, row.where)
    for reason, entry in skipped.as_dict().items():
        print(f"{file}: {entry['count']} rows skipped, {reason}: {', '.join(entry['examples'])}", file=sys.stderr)
    if not found:
        do = "give a .txt, or a .jsonl with `prompt`, `text` or `messages`"
        raise UserError("no texts here", where=str(file), do=do)
    if answers and len(found) < 2:
        raise UserError("one text alone cannot be ranked", where=str(file), do="give two or more")
    return found


def _asked(fields: dict[str, Any], tokenizer: Tokenizer, template: Callable[[], Template], answers: bool) -> list[int]:
    from danlu.text.adapters.table import choose

    text = fields.get("prompt", fields.get("text"))
    if isinstance(text, str):
        ids = tokenizer.encode(text)
    else:
        conversations = cast("list[Conversation]", choose(fields, "conversation").read(fields))
        ids = _turns(conversations[0], template(), answers) if conversations else []
    if not ids:
        raise BadRow("empty")
    return ids


def _turns(conversation: Conversation, template: Template, answers: bool) -> list[int]:
    messages = conversation.messages
    last = max((place for place, said in enumerate(messages) if said["role"] == "assistant"), default=len(messages))
    if not messages[:last]:
        raise BadRow("a conversation in which nothing is asked")
    if answers and last == len(messages):
        raise BadRow("a conversation without an answer")
    try:
        if answers:
            return template.encode_answer(messages[:last], messages[last : last + 1]).tokens.tolist()
        return template.prompt(messages[:last], conversation.tools)
    except UserError as error:
        raise BadRow("refused by the chat template", error.what) from None


def held_out_prompts(folder: Path, tokenizer: Tokenizer, answers: bool = False) -> list[list[int]]:
    """Texts that a checkpoint's training held out, as token ids; texts of our own in the place of those that it has too
    few of, or that are not there any more.

    Of a pair the chosen answer alone, or with `answers` both.
    """
    from danlu.evaluate.agreement import prompts_of
    from danlu.train.checkpoint import TRAINER, read_trainer

    if (folder / TRAINER).is_file():
        try:
            job = check(TrainingJob, read_trainer(folder)["config"])
            streams = list(held_out_streams(job).values())
        except (UserError, OSError):  # of a run from Python, or its data are elsewhere now
            streams = []
        taken = [
            one for stream in streams for one in stream.examples(0, min(stream.total, PROMPTS // len(streams) + 1))
        ]
        read = [text for one in taken for text in (one.documents if answers else one.documents[:1])]
        found = [text.encoded.tokens.tolist() for text in read]
        return [*(ids for ids in found if len(ids) > 1), *prompts_of(tokenizer)][:PROMPTS]
    return prompts_of(tokenizer)
