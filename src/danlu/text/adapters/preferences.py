"""Pairs of a better and a worse answer, in the forms in which they are published."""

from __future__ import annotations

import re
from typing import Any

from danlu.text.adapters.chats import sharegpt_turns
from danlu.text.adapters.instructions import QUESTIONS, alpaca_prompt
from danlu.text.adapters.messages import listed, message, openai_message, text, turn
from danlu.text.problems import BadRow
from danlu.text.records import Message, Preference


def message_pairs(fields: dict[str, Any]) -> list[Preference]:
    """{"chosen": [messages], "rejected": [messages], "prompt"?}: Infinity-Preference, Firefly, UltraFeedback.

    Both lists may hold the prompt as well, or the answers alone.
    """
    chosen, rejected = (
        [openai_message(entry) for entry in listed(fields, name) or []] for name in ("chosen", "rejected")
    )
    shared = _shared(chosen, rejected)
    prompt = chosen[:shared] or _prompt(fields.get("prompt"))
    return [Preference(prompt, chosen[shared:], rejected[shared:])]


def prompt_pairs(fields: dict[str, Any]) -> list[Preference]:
    """{"prompt": [messages] or text, "chosen": text, "rejected": text}; or question, query, input."""
    asked = next(fields[name] for name in ("prompt", "question", "query", "input") if fields.get(name))
    return [Preference([*_system(fields), *_prompt(asked)], *_answers(fields))]


def ranked_turns(fields: dict[str, Any]) -> list[Preference]:
    """{"conversations": [{"from", "value"}], "chosen": {"from", "value"}, "rejected": {"from", "value"}}."""
    turns = sharegpt_turns(listed(fields, "conversations") or [])
    chosen, rejected = (sharegpt_turns([fields[name]]) for name in ("chosen", "rejected"))
    return [Preference([*_system(fields), *turns], chosen, rejected)]


def ranked_alpaca(fields: dict[str, Any]) -> list[Preference]:
    """{"instruction", "input"?, "chosen": text, "rejected": text, "history"?, "system"?}; `output` may be the list."""
    better_and_worse = listed(fields, "output")
    if better_and_worse:
        fields = {**fields, "chosen": better_and_worse[0], "rejected": better_and_worse[-1]}
    return [Preference(alpaca_prompt(fields), *_answers(fields))]


def is_ranked_output(fields: dict[str, Any]) -> bool:
    """Whether `output` is a list of answers, the better first."""
    answers = listed(fields, "output")
    return bool(answers) and len(answers or []) > 1 and all(isinstance(answer, str) for answer in answers or [])


def hh(fields: dict[str, Any]) -> list[Preference]:
    """HH-RLHF: the whole dialogue twice as "\\n\\nHuman: ...\\n\\nAssistant: ..." in `chosen` and `rejected`."""
    chosen, rejected = (_hh_turns(fields[name]) for name in ("chosen", "rejected"))
    shared = _shared(chosen, rejected)
    return [Preference(chosen[:shared], chosen[shared:], rejected[shared:])]


def is_hh(fields: dict[str, Any]) -> bool:
    """Whether both columns hold a dialogue written out."""
    both = [fields.get("chosen"), fields.get("rejected")]
    return all(isinstance(said, str) and _HH_DIALOGUE.match(said) is not None for said in both)


def comparisons(fields: dict[str, Any]) -> list[Preference]:
    """GPT-4-LLM: {"user_input", "responses_and_scores": [{"response", "score"}]}; the best against the worst."""
    scored = [(entry["score"], text(entry, "response")) for entry in fields["responses_and_scores"] if _scored(entry)]
    scored.sort(key=lambda entry: -entry[0])
    if len(scored) < 2 or scored[0][0] == scored[-1][0]:
        raise BadRow("no answer is better than another", f"{len(scored)} scored answers")
    best, worst = ([message("assistant", said)] for _, said in (scored[0], scored[-1]))
    return [Preference([message("user", text(fields, "user_input"))], best, worst)]


def labelled(fields: dict[str, Any]) -> list[Preference]:
    """One answer that was found good or bad: {"prompt", "completion", "label": bool}, or {"messages", "label"}.

    LLaMA-Factory writes `kto_tag`. The answer stands on its side, and the other one is empty.
    """
    turns = next((found for name in ("messages", "conversations") if (found := listed(fields, name))), None)
    if turns is None:
        question, answer = next(pair for pair in QUESTIONS if all(fields.get(name) is not None for name in pair))
        said = listed(fields, answer)
        answers = [openai_message(entry) for entry in said] if said else [message("assistant", text(fields, answer))]
        turns = [*_system(fields), *_prompt(fields[question]), *answers]
    else:
        sharegpt = isinstance(turns[0], dict) and "from" in turns[0]
        turns = sharegpt_turns(turns) if sharegpt else [openai_message(entry) for entry in turns]
        turns = turns if turns[0]["role"] == "system" else [*_system(fields), *turns]
    asked = max((place for place, said in enumerate(turns, 1) if said["role"] == "user"), default=0)
    prompt, answered = turns[:asked], turns[asked:]
    return [Preference(prompt, answered, []) if _label(fields) else Preference(prompt, [], answered)]


def is_labelled(fields: dict[str, Any]) -> bool:
    """Whether a row says of one answer that it is good or bad."""
    return _label(fields) is not None


_HH_DIALOGUE = re.compile(r"\s*Human:.*\n\nAssistant:", re.DOTALL)
_HH_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")


def _hh_turns(dialogue: str) -> list[Message]:
    _, *parts = _HH_TURN.split(dialogue)
    return [
        turn("human" if name == "Human" else "assistant", said.strip())
        for name, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def _label(fields: dict[str, Any]) -> bool | None:
    label = fields.get("label", fields.get("kto_tag"))
    return label if isinstance(label, bool) else None


def _scored(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("score"), int | float)


def _shared(chosen: list[Message], rejected: list[Message]) -> int:
    """How many messages both start with; the last of each is its answer, even where they are equal."""
    most = max(0, min(len(chosen), len(rejected)) - 1)
    return next((i for i in range(most) if chosen[i] != rejected[i]), most)


def _system(fields: dict[str, Any]) -> list[Message]:
    return [message("system", text(fields, "system"))] if fields.get("system") else []


def _prompt(asked: Any) -> list[Message]:
    found = listed({"prompt": asked}, "prompt")
    return [openai_message(entry) for entry in found] if found else [message("user", text({"prompt": asked}, "prompt"))]


def _answers(fields: dict[str, Any]) -> tuple[list[Message], list[Message]]:
    return [message("assistant", text(fields, "chosen"))], [message("assistant", text(fields, "rejected"))]
