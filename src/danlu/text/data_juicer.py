"""Recipes of data-juicer as cleaning steps: its text operators by their published names and parameters.

https://github.com/datajuicer/data-juicer. Where a step measures something else than the operator, a note says what.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.config import read_yaml
from danlu.ledger.errors import UserError

Parameters = dict[str, Any]
Step = dict[str, Any]
# How an operator is run, not what it does: danlu decides that for itself.
HOW_IT_RUNS = frozenset(
    {"text_key", "num_proc", "np", "cpu_required", "mem_required", "gpu_required", "memory", "num_cpus", "num_gpus"}
    | {"batch_size", "batch_mode", "accelerator", "turbo", "skip_op_error", "work_dir", "history_key"}
    | {"auto_op_parallelism", "ray_execution_mode", "runtime_env"}
)
TAKEN_OVER = frozenset({"dataset_path", "export_path", "np", "process", "project_name"})


@dataclass(frozen=True, slots=True)
class Operator:
    """An operator's parameters with their defaults there, what they become here, and in what the two differ."""

    parameters: Parameters
    step: Callable[[Parameters], Step]
    differs: str = ""
    only: Parameters = field(default_factory=dict)
    """Parameters that cannot be followed, by the values at which they do nothing."""


@dataclass(frozen=True, slots=True)
class Translation:
    """What a recipe says, in danlu's words."""

    sources: list[str]
    export: str | None
    workers: int
    steps: list[Step]
    notes: list[str]


def _range(least: str, most: str) -> Callable[[Parameters], dict[str, float]]:
    return lambda given: {name: given[key] for name, key in (("min", least), ("max", most)) if given.get(key)}


_ratio, _length, _number = _range("min_ratio", "max_ratio"), _range("min_len", "max_len"), _range("min_num", "max_num")
_WORDS: Parameters = {"lang": "en", "tokenization": False}
_AUGMENTED: Parameters = {"use_words_aug": False, "words_aug_group_sizes": None, "words_aug_join_char": None}
_PLAIN_WORDS: Parameters = {"tokenization": False, "use_words_aug": False}
_CHARACTERS_OF_A_WORD = {"en": 6.0, "zh": 1.5}  # with the blank behind it


def _flagged(given: Parameters) -> Step:
    path = given["flagged_words_dir"]
    if not path or not Path(path).is_file():
        raise ValueError("danlu brings no list: name a text file, one word a line, as `flagged_words_dir`")
    words = 1000 / _CHARACTERS_OF_A_WORD[given["lang"]]
    bounds = {name: round(words * share, 4) for name, share in _ratio(given).items()}
    return {"op": "keywords", "lists": [path], "density": bounds}


def _language(given: Parameters) -> Step:
    wanted = given["lang"] if isinstance(given["lang"], list) else [given["lang"]]
    if not wanted or not set(wanted) <= {"zh", "en"}:
        raise ValueError("danlu tells zh and en from all others: `lang` can be zh, en or [zh, en]")
    return {"op": "language", "keep": [*wanted, "mixed"] if len(wanted) > 1 else wanted}


def _simplified(given: Parameters) -> Step:
    if given["mode"] not in ("t2s", "tw2s", "hk2s"):
        raise ValueError("only traditional to simplified is known: mode t2s, tw2s or hk2s")
    return {"op": "simplified"}


def _removed(datum: str) -> Callable[[Parameters], Step]:
    return lambda given: {"op": "privacy", "find": [datum], "action": "mask" if given["repl"] else "remove"}


_SIMHASH: Parameters = {
    "tokenization": "space", "window_size": 6, "num_blocks": 6, "hamming_distance": 4, "lowercase": True,
    "ignore_pattern": None,
}  # fmt: skip
_MINHASH: Parameters = {
    "tokenization": "space", "window_size": 5, "num_permutations": 256, "jaccard_threshold": 0.7, "num_bands": None,
    "num_rows_per_band": None, "lowercase": True, "ignore_pattern": None, "tokenizer_model": None,
}  # fmt: skip
OPERATORS = {
    "alphanumeric_filter": Operator(
        {"tokenization": False, "min_ratio": 0.25, "max_ratio": None},
        lambda given: {"op": "characters", "alphanumeric": _ratio(given)},
        "accents that stand alone count as part of their letter",
        {"tokenization": False},
    ),
    "special_characters_filter": Operator(
        {"min_ratio": 0.0, "max_ratio": 0.25},
        lambda given: {"op": "characters", "special": _ratio(given)},
        "digits and blanks are not special here, so the same maximum drops less",
    ),
    "average_line_length_filter": Operator(
        {"min_len": 10, "max_len": None},
        lambda given: {"op": "lines", "average": _length(given)},
        "blank lines do not count",
    ),
    "maximum_line_length_filter": Operator(
        {"min_len": 10, "max_len": None}, lambda given: {"op": "lines", "longest": _length(given)}
    ),
    "character_repetition_filter": Operator(
        {"rep_len": 10, "min_ratio": 0.0, "max_ratio": 0.5},
        lambda given: {"op": "repetition", "character_n": given["rep_len"], "characters": _ratio(given)},
        "the share of characters in n-grams that stood earlier, blanks left out; there: the share of the most frequent "
        "n-grams. It grows with the length of a text: books have up to 0.6",
    ),
    "word_repetition_filter": Operator(
        {**_WORDS, "rep_len": 10, "min_ratio": 0.0, "max_ratio": 0.5},
        lambda given: {"op": "repetition", "word_n": given["rep_len"], "words": _ratio(given)},
        "the share of characters in word n-grams that stood earlier; a Chinese character is a word",
        {"tokenization": False},
    ),
    "words_num_filter": Operator(
        {**_WORDS, "min_num": 10, "max_num": None},
        lambda given: {"op": "words", "count": _number(given)},
        "a Chinese character is a word",
        {"tokenization": False},
    ),
    "stopwords_filter": Operator(
        {**_WORDS, **_AUGMENTED, "min_ratio": 0.3, "max_ratio": None, "stopwords_dir": None},
        lambda given: {"op": "words", "function_words": _ratio(given)},
        "by danlu's own function words, of Chinese single characters: Tang poems have 0.04, Chinese prose 0.1 and more",
        _PLAIN_WORDS,
    ),
    "flagged_words_filter": Operator(
        {**_WORDS, **_AUGMENTED, "min_ratio": None, "max_ratio": 0.045, "flagged_words_dir": None},
        _flagged,
        "hits in 1,000 characters instead of a share of the words: a word is taken as 6 characters in English, 1.5 in "
        "Chinese",
        _PLAIN_WORDS,
    ),
    "text_length_filter": Operator(
        {"min_len": 10, "max_len": None}, lambda given: {"op": "length", **_length(given)}
    ),
    "token_num_filter": Operator(
        {"hf_tokenizer": None, "min_num": 10, "max_num": None},
        lambda given: {"op": "tokens", "count": _number(given), "tokenizer": given["hf_tokenizer"]},
    ),
    "language_id_score_filter": Operator(
        {"lang": "", "min_score": 0.8},
        _language,
        "the share of Han characters decides first, a detector where they are few; `min_score` has no effect",
    ),
    "clean_html_mapper": Operator({}, lambda given: {"op": "html"}, "code in Markdown keeps its tags"),
    "clean_links_mapper": Operator(
        {"pattern": None, "repl": ""},
        lambda given: {"op": "links", "replacement": given["repl"]},
        "of Markdown links the text stays; code is left alone",
        {"pattern": None},
    ),
    "clean_email_mapper": Operator(
        {"pattern": None, "repl": ""}, _removed("email"), "`repl` becomes [EMAIL]", {"pattern": None}
    ),
    "clean_ip_mapper": Operator(
        {"pattern": None, "repl": ""}, _removed("ip"), "public addresses only; `repl` becomes [IP]", {"pattern": None}
    ),
    "fix_unicode_mapper": Operator(
        {"normalization": None},
        lambda given: {"op": "normalise", "nfc": True},
        "one way to write accents, blanks and line ends; broken encodings are not mended, `neighbours` finds them",
        {"normalization": (None, "NFC")},
    ),
    "whitespace_normalization_mapper": Operator({}, lambda given: {"op": "normalise"}, "U+3000 stays"),
    "punctuation_normalization_mapper": Operator(
        {}, lambda given: {"op": "width", "punctuation": True}, "full-width letters and digits become narrow too"
    ),
    "chinese_convert_mapper": Operator({"mode": "s2t"}, _simplified),
    "clean_copyright_mapper": Operator(
        {}, lambda given: {"op": "copyright"}, "comments that are no notice stay, there all at the top go"
    ),
    "remove_repeat_sentences_mapper": Operator(
        {"lowercase": False, "ignore_special_character": True, "min_repeat_sentence_length": 2},
        lambda given: {"op": "repeated_sentences", "shortest": max(1, given["min_repeat_sentence_length"])},
        "the length of a sentence is that of its letters and digits in bytes; code is left alone",
        {"lowercase": False, "ignore_special_character": True},
    ),
    "remove_long_words_mapper": Operator(
        {"min_len": 1, "max_len": sys.maxsize},
        lambda given: {"op": "long_words", "longest": given["max_len"]},
        "scripts without blanks have no long words; code in Markdown is left alone",
        {"min_len": (0, 1)},
    ),
    "document_deduplicator": Operator(
        {"lowercase": False, "ignore_non_character": False},
        lambda given: {"op": "exact_dedup"},
        only={"lowercase": False, "ignore_non_character": False},
    ),
    "document_minhash_deduplicator": Operator(
        _MINHASH,
        lambda given: {
            "op": "near_dedup", "threshold": given["jaccard_threshold"], "ngram": given["window_size"],
            "permutations": given["num_permutations"],
        },
        "words, of Chinese characters, without case; the similarity is computed before anything is dropped",
        {"lowercase": True, "ignore_pattern": None},
    ),
    "document_simhash_deduplicator": Operator(
        _SIMHASH,
        lambda given: {"op": "near_dedup", "ngram": given["window_size"]},
        "by Jaccard similarity ≥ 0.8 instead of Hamming distance",
        {"lowercase": True, "ignore_pattern": None},
    ),
}  # fmt: skip
_NEAREST = {
    "perplexity_filter": "{op: perplexity, model: FOLDER} measures bits per byte by a model of yours",
    "specified_field_filter": "`where` of a source chooses by fields",
    "specified_numeric_field_filter": "`where` of a source chooses by fields",
    "suffix_filter": "`include` of a source chooses by file names",
    "document_line_deduplicator": "{op: line_dedup}",
}


def translate(path: Path, *, leave_out: bool = False) -> Translation:
    """The recipe as cleaning steps. `leave_out` goes on without the operators that danlu does not have.

    Raises UserError with all operators and parameters that are not known, each with its line and what is nearest.
    """
    content, places = read_yaml(path)
    entries = content.get("process")
    if not isinstance(entries, list) or not entries:
        raise UserError("the recipe has no operators", where=str(path), do="write them below `process:`")
    steps: dict[str, Step] = {}
    notes: list[str] = []
    wrong: list[str] = []
    for number, entry in enumerate(entries):
        name, given = next(iter(entry.items())) if isinstance(entry, dict) else (str(entry), None)
        where = places[("process", number)]
        if name not in OPERATORS:
            (notes if leave_out else wrong).append(f"{where}: {_unknown(name)}")
            continue
        operator = OPERATORS[name]
        faults = _faults(operator, given or {})
        try:
            step = {} if faults else operator.step(operator.parameters | (given or {}))
        except ValueError as error:
            faults = [str(error)]
        wrong += [f"{where}: {name}: {fault}" for fault in faults]
        if faults:
            continue
        _join(steps, step)
        if operator.differs:
            notes.append(f"{name}: {operator.differs}")
    if wrong:
        raise UserError("\n".join(wrong), do="change these, or leave out operators that are not known: --leave-out")
    notes += [f"`{key}` has no effect here" for key in content if key not in TAKEN_OVER]
    sources = [part for part in str(content.get("dataset_path") or "").split() if not _is_weight(part)]
    return Translation(sources, content.get("export_path"), int(content.get("np") or 0), list(steps.values()), notes)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, OPERATORS, n=1, cutoff=0.75)
    if name in _NEAREST:
        return f"danlu has no {name}; nearest: {_NEAREST[name]}"
    return f"{name} is not known" + (f"; did you mean {near[0]}?" if near else "")


def _faults(operator: Operator, given: Parameters) -> list[str]:
    faults = []
    for key, value in given.items():
        if key in HOW_IT_RUNS:
            continue
        if key not in operator.parameters:
            near = difflib.get_close_matches(key, operator.parameters, n=1, cutoff=0.5)
            known = f"did you mean {near[0]}?" if near else f"known: {', '.join(operator.parameters) or 'none'}"
            faults.append(f"{key} is not a parameter; {known}")
        elif key in operator.only:
            only = operator.only[key] if isinstance(operator.only[key], tuple) else (operator.only[key],)
            if value not in only:
                faults.append(f"{key}: {value} cannot be followed; only {' or '.join(map(str, only))} can")
    return faults


def _join(steps: dict[str, Step], step: Step) -> None:
    """Adds a step; filters that danlu's one step decides together become that one, where the first of them stands."""
    old = steps.setdefault(step["op"], step)
    if old is not step:
        found = {"find": [*old["find"], *step["find"]]} if "find" in step else {}
        steps[step["op"]] = old | step | found


def _is_weight(text: str) -> bool:
    try:
        return 0 <= float(text) <= 1
    except ValueError:
        return False
