"""Recipes of data-juicer: published names and parameters become steps, and what is not known is named, all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.recipe.data_juicer import as_yaml, run_data_juicer
from danlu.text.data_juicer import OPERATORS, translate
from danlu.text.settings import CleanSettings

# As in data-juicer's own config_all.yaml, with the values that it gives there.
PUBLISHED: dict[str, dict[str, Any]] = {
    "clean_email_mapper": {},
    "clean_html_mapper": {},
    "clean_ip_mapper": {},
    "clean_links_mapper": {},
    "fix_unicode_mapper": {},
    "punctuation_normalization_mapper": {},
    "whitespace_normalization_mapper": {},
    "chinese_convert_mapper": {"mode": "t2s"},
    "clean_copyright_mapper": {},
    "remove_long_words_mapper": {"min_len": 1, "max_len": 128},
    "remove_repeat_sentences_mapper": {
        "lowercase": False, "ignore_special_character": True, "min_repeat_sentence_length": 2,
    },
    "alphanumeric_filter": {"tokenization": False, "min_ratio": 0.0, "max_ratio": 0.9},
    "average_line_length_filter": {"min_len": 10, "max_len": 10000},
    "character_repetition_filter": {"rep_len": 10, "min_ratio": 0.0, "max_ratio": 0.5},
    "language_id_score_filter": {"lang": "en", "min_score": 0.8},
    "maximum_line_length_filter": {"min_len": 10, "max_len": 10000},
    "special_characters_filter": {"min_ratio": 0.0, "max_ratio": 0.25},
    "stopwords_filter": {
        "lang": "en", "tokenization": False, "min_ratio": 0.3, "stopwords_dir": "./assets", "use_words_aug": False,
        "words_aug_group_sizes": [2], "words_aug_join_char": "",
    },
    "text_length_filter": {"min_len": 10, "max_len": 10000},
    "token_num_filter": {"hf_tokenizer": "EleutherAI/pythia-6.9b-deduped", "min_num": 10, "max_num": 10000},
    "words_num_filter": {"lang": "en", "tokenization": False, "min_num": 10, "max_num": 10000},
    "word_repetition_filter": {
        "lang": "en", "tokenization": False, "rep_len": 10, "min_ratio": 0.0, "max_ratio": 0.5,
    },
    "document_deduplicator": {"lowercase": False, "ignore_non_character": False},
    "document_minhash_deduplicator": {
        "tokenization": "space", "window_size": 5, "num_permutations": 256, "jaccard_threshold": 0.7,
        "num_bands": None, "num_rows_per_band": None, "lowercase": True, "ignore_pattern": None,
    },
}  # fmt: skip


def recipe(folder: Path, process: list[Any], **other: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**other, "process": process}, sort_keys=False, allow_unicode=True), "utf-8")
    return path


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_operator_becomes_a_step(tmp_path: Path, name: str) -> None:
    found = translate(recipe(tmp_path, [{name: PUBLISHED[name]}], dataset_path="raw"))
    check(CleanSettings, {"sources": [{"path": "raw"}], "steps": found.steps})
    assert len(found.steps) == 1


def test_all_of_them_together_are_one_list_of_steps(tmp_path: Path) -> None:
    found = translate(recipe(tmp_path, [{name: given} for name, given in PUBLISHED.items()], dataset_path="raw", np=4))
    section = yaml.safe_load(as_yaml(found))["clean"]
    settings = check(CleanSettings, section)
    assert settings.workers == 4
    steps = {step.op: step for step in settings.steps}
    assert steps["characters"].bounds()["special"].max == 0.25
    assert steps["characters"].bounds()["alphanumeric"].max == 0.9
    assert steps["repetition"].bounds()["words"].max == steps["repetition"].bounds()["characters"].max == 0.5
    assert section["steps"][[step["op"] for step in section["steps"]].index("privacy")]["find"] == ["email", "ip"]
    assert "special_characters_filter: digits and blanks are not special here" in as_yaml(found)


def test_what_is_not_known_is_named_all_at_once_with_what_is_nearest(tmp_path: Path) -> None:
    process = [
        {"alphanumric_filter": {"min_ratio": 0.5}},
        {"text_length_filter": {"min_length": 10}},
        {"perplexity_filter": {"max_ppl": 1500}},
        {"words_num_filter": {"tokenization": True}},
        {"flagged_words_filter": {"max_ratio": 0.0045}},
        {"image_blur_mapper": None},
        {"chinese_convert_mapper": {"mode": "s2t"}},
    ]
    with pytest.raises(UserError) as error:
        translate(recipe(tmp_path, process))
    told = str(error.value)
    for line, words in {
        2: "alphanumric_filter is not known; did you mean alphanumeric_filter?",
        4: "text_length_filter: min_length is not a parameter; did you mean min_len?",
        6: "danlu has no perplexity_filter",
        8: "words_num_filter: tokenization: True cannot be followed",
        10: "flagged_words_filter: danlu brings no list",
        12: "image_blur_mapper is not known",
        13: "chinese_convert_mapper: only traditional to simplified",
    }.items():
        assert f"recipe.yaml:{line}: {words}" in told


def test_operators_that_danlu_does_not_have_can_be_left_out_and_are_told(tmp_path: Path) -> None:
    path = recipe(tmp_path, [{"perplexity_filter": {"lang": "en"}}, {"clean_html_mapper": None}])
    found = translate(path, leave_out=True)
    assert [step["op"] for step in found.steps] == ["html"]
    assert any("perplexity_filter" in note for note in found.notes)


def test_how_an_operator_is_run_there_changes_nothing_here(tmp_path: Path) -> None:
    found = translate(recipe(tmp_path, [{"text_length_filter": {"min_len": 5, "num_proc": 8, "text_key": "text"}}]))
    assert found.steps == [{"op": "length", "min": 5}]


def test_weights_before_paths_are_no_paths(tmp_path: Path) -> None:
    path = recipe(tmp_path, ["clean_html_mapper"], dataset_path="0.5 a.jsonl 0.5 b.jsonl")
    assert translate(path).sources == ["a.jsonl", "b.jsonl"]


def test_a_recipe_is_run_on_chinese_and_english(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flagged = tmp_path / "flagged.txt"
    flagged.write_text("casino\n赌场\n", "utf-8")
    texts = [
        "<p>一段很好的文字，讲的是春天。</p>",
        "去赌场，赌场，赌场，赌场最好。",
        "短",
        "A good line about the spring &amp; rain.",
    ]
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    process = [
        {"clean_html_mapper": None},
        {"text_length_filter": {"min_len": 5}},
        {"flagged_words_filter": {"lang": "zh", "max_ratio": 0.045, "flagged_words_dir": str(flagged)}},
    ]
    run_data_juicer(recipe(tmp_path, process, dataset_path=str(raw), np=1), tmp_path / "out", leave_out=False)
    kept = json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"]["documents/raw"]["kept"]
    assert kept == 2
    assert "flagged_words_filter: hits in 1,000 characters" in capsys.readouterr().out


def test_tokens_are_counted_by_a_tokenizer_on_disk(tmp_path: Path, qwen_tokenizer: Path) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps({"text": text}) + "\n" for text in ("一二三四五六七八九十" * 9, "短")), "utf-8")
    process = [{"token_num_filter": {"hf_tokenizer": str(qwen_tokenizer), "min_num": 10}}]
    run_data_juicer(recipe(tmp_path, process, dataset_path=str(raw), np=1), tmp_path / "out", leave_out=False)
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["sources"]["documents/raw"]["kept"] == 1
    missing = recipe(tmp_path, [{"token_num_filter": {"hf_tokenizer": "some/name"}}], dataset_path=str(raw))
    with pytest.raises(UserError, match="does not use the network"):
        run_data_juicer(missing, tmp_path / "other", leave_out=False)


def test_the_table_names_only_parameters_that_it_uses() -> None:
    for name, operator in OPERATORS.items():
        assert set(operator.only) <= set(operator.parameters), name
