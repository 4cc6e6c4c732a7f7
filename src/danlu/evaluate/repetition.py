"""Degenerate repetition (复读机): loops at the end of an answer, repeated n-grams, and answers that end by themselves.

A unit is whatever a sequence holds: tokens (what the model repeats) or characters (what a reader sees, whatever the
tokenizer; a Python string is a sequence of characters). Both are measured: three times a phrase of more than 66
characters does not fit into the last 200, though its tokens do, and splitting on spaces says nothing about Chinese.

Sources: Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration" (1904.09751): the looping ending;
Welleck et al. 2020, "Neural Text Generation with Unlikelihood Training" (1908.04319): seq-rep-n.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

TAIL = 200
"""Units at the end of a sequence in which a loop is looked for."""
SHORTEST_PHRASE = 2
"""Units; "haha" on characters is one phrase twice, a single unit is never a phrase."""
REPEATS = 3
"""How often the phrase must stand at the end, without a gap."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One generated continuation: its tokens without prompt and stop token, its text, and whether it stopped itself."""

    tokens: Sequence[int]
    text: str
    ended: bool


def loop_period(units: Sequence[Hashable]) -> int | None:
    """Length in units of the phrase with which a sequence ends in a loop, or None.

    A sequence loops when its last 200 units end in a phrase of at least 2 units that stands at least 3 times in
    a row, up to the very last unit (Holtzman et al. 2020). The phrase may begin anywhere: `abcabcabca`, cut
    by the length limit, ends in `bca` three times. The shortest such period is given; a run of one unit has period 2.
    A loop that was left again (`好的好的好的，再见`) is none, and so is one whose third phrase lacks its separator
    (`ha ha ha`).
    """
    tail = list(units[-TAIL:])
    for period in range(SHORTEST_PHRASE, len(tail) // REPEATS + 1):
        kept = period * (REPEATS - 1)
        if tail[-kept:] == tail[-kept - period : -period]:
            return period
    return None


def is_loop(units: Sequence[Hashable]) -> bool:
    """Whether a sequence ends in a loop, as `loop_period` defines it."""
    return loop_period(units) is not None


def seq_rep(units: Sequence[Hashable], n: int = 4) -> float:
    """seq-rep-n of one continuation: 1 - distinct n-grams / n-grams, 0 (none twice) towards 1 (Welleck et al. 2020).

    It grows with length, so compare answers of similar length. A sequence shorter than n units has no n-gram
    and gives 0.
    """
    grams = [tuple(units[start : start + n]) for start in range(len(units) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def repetition(answers: Sequence[Answer]) -> dict[str, float]:
    """Repetition over a set of answers, on tokens and on characters.

    Gives `n`; `loop_rate` and `loop_rate_characters`, the shares of answers that end in a loop; `seq_rep_4` and
    `seq_rep_4_characters`, means over answers; `ends`, the share that stopped by itself; the binomial standard errors
    of the shares (`..._stderr`) and `mean_tokens`. Trailing white space does not count as characters. Raises ValueError
    for no answers.
    """
    if not answers:
        raise ValueError("repetition is measured on at least one answer")
    n = len(answers)
    texts = [answer.text.rstrip() for answer in answers]
    shares = {
        "loop_rate": sum(is_loop(answer.tokens) for answer in answers) / n,
        "loop_rate_characters": sum(is_loop(text) for text in texts) / n,
        "ends": sum(answer.ended for answer in answers) / n,
    }
    return {
        "n": n,
        **shares,
        **{f"{name}_stderr": math.sqrt(share * (1 - share) / n) for name, share in shares.items()},
        "seq_rep_4": sum(seq_rep(answer.tokens) for answer in answers) / n,
        "seq_rep_4_characters": sum(seq_rep(text) for text in texts) / n,
        "mean_tokens": sum(len(answer.tokens) for answer in answers) / n,
    }
