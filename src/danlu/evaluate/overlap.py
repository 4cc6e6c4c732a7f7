"""BLEU and ROUGE of generated texts against references, on units that fit the language."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

ROUGES = ("rouge1", "rouge2", "rougeL")
_UNITS = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]|[^\W_]+")
_HAN = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")


class CharacterTokens:
    """ROUGE's tokens for Chinese: each Chinese character, and each word or number of other scripts, in lower case."""

    def tokenize(self, text: str) -> list[str]:
        units: list[str] = []
        for run in _UNITS.findall(text.lower()):
            # A run of letters may hold Chinese characters in its middle, as in "用python写".
            units += [part for part in _HAN.sub(lambda found: f" {found.group()} ", run).split() if part]
        return units


def overlap(answers: Sequence[str], references: Sequence[Sequence[str]], language: str) -> dict[str, Any]:
    """Corpus BLEU and mean ROUGE-1, -2 and -L F-measures, from 0 to 100, with `n` and a `signature` of how.

    `references` holds one or more accepted texts for each answer. Chinese ("zh") is cut by sacrebleu's `zh` tokenizer
    and for ROUGE into characters; all else by `13a` and rouge-score's own words, without stemming.
    """
    from rouge_score.rouge_scorer import RougeScorer  # a second of imports that only references are worth
    from sacrebleu.metrics import BLEU

    if len(answers) != len(references) or not answers:
        raise ValueError(f"{len(answers)} answers and {len(references)} references: give as many of each, at least one")
    bleu = BLEU(tokenize="zh" if language == "zh" else "13a")
    most = max(map(len, references))
    columns: list[list[Any]] = [[texts[at] if at < len(texts) else None for texts in references] for at in range(most)]
    score = bleu.corpus_score(list(answers), columns)
    scorer = RougeScorer(ROUGES, tokenizer=CharacterTokens()) if language == "zh" else RougeScorer(ROUGES)
    best = [scorer.score_multi(list(texts), answer) for answer, texts in zip(answers, references, strict=True)]
    rouges = {name: 100 * sum(found[name].fmeasure for found in best) / len(best) for name in ROUGES}
    units = "characters" if language == "zh" else "words"
    signature = f"BLEU|{bleu.get_signature()} ROUGE|f1|tok:{units}|stem:no|version:{version('rouge-score')}"
    return {"bleu": score.score, **rouges, "n": len(answers), "signature": signature}
