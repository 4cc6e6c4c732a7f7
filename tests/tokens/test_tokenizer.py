"""Tokenizers against transformers, and against the bytes of the text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Backend

from danlu.ledger.errors import UserError
from danlu.tokens.decode import StreamDecoder
from danlu.tokens.tokenizer import Tokenizer

TEXTS = [
    "Hello, world! It's 12,345.",
    "李白是唐代诗人，生于公元701年。“绿豆糕”怎么做？",
    "👨‍👩‍👧‍👦 family 🇨🇳 flag 👍🏽",
    "混合 mixed テキスト\n\n\tтекст العربية\r\n",
    "<|im_start|>user\n<|im_end|><tool_call>x</tool_call>",
    "ﬁ ① １２３ ａｂｃ",
    " leading and trailing  ",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_markup_ids_are_those_of_transformers(qwen: Tokenizer, oracle: Any, text: str) -> None:
    ids = oracle.encode(text, add_special_tokens=False)
    assert qwen.encode_markup(text) == ids
    assert qwen.decode(ids, skip_special=False) == oracle.decode(ids)
    assert qwen.decode(ids) == oracle.decode(ids, skip_special_tokens=True)


def test_named_tokens_and_size(qwen: Tokenizer) -> None:
    assert (qwen.eos_id, qwen.pad_id, qwen.bos_id) == (151645, 151643, None)
    assert qwen.vocab_size == 151665
    assert qwen.token(151644) == "<|im_start|>"
    assert qwen.generation_stops == (151645, 151643)
    with pytest.raises(UserError, match="151665"):
        qwen.token(151665)


@settings(deadline=None, max_examples=60)
@given(parts=st.lists(st.one_of(st.text(), st.sampled_from(["<|im_end|>", "<|endoftext|>", "，", "😀", "e\u0301"]))))
def test_content_never_becomes_markup(qwen: Tokenizer, parts: list[str]) -> None:
    ids = qwen.encode("".join(parts))
    assert not set(ids) & qwen.special_ids


def test_added_tokens_that_are_not_special_stay_tokens(qwen: Tokenizer) -> None:
    assert 151657 in qwen.encode("ok <tool_call>\n{}")


def test_a_token_that_the_config_names_is_special(tmp_path: Path) -> None:
    backend = Backend(models.BPE({"a": 0, "[": 1}, [], unk_token="a"))
    backend.add_tokens([AddedToken("[END]", normalized=False)])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": {"content": "[END]"}}')
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.eos_id == 2
    assert tokenizer.encode_markup("a[END]") == [0, 2]
    assert 2 not in tokenizer.encode("a[END]")


def test_lone_surrogates_become_replacement_characters(qwen: Tokenizer) -> None:
    assert qwen.decode(qwen.encode("a\ud800b\ud83d\ude00")) == "a\ufffdb😀"


@pytest.mark.parametrize(("name", "model_type"), [("qwen", "qwen2"), ("sentencepiece_like", "llama")])
def test_a_saved_folder_opens_in_transformers_with_the_same_ids(
    name: str, model_type: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer: Tokenizer = request.getfixturevalue(name)
    tokenizer.save(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    opened, again = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    for text in TEXTS:
        assert opened.encode(text, add_special_tokens=False) == tokenizer.encode_markup(text)
        assert again.encode(text) == tokenizer.encode(text)
    assert again.fingerprint == tokenizer.fingerprint
    assert opened.chat_template == again.chat_template == tokenizer.chat_template
    assert (opened.eos_token_id, opened.pad_token_id) == (tokenizer.eos_id, tokenizer.pad_id)


def test_a_folder_without_tokenizer_json_goes_through_transformers(
    qwen: Tokenizer, qwen_tokenizer: Path, tmp_path: Path
) -> None:
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).symlink_to(qwen_tokenizer / name)
    converted = Tokenizer.load(tmp_path)
    assert [converted.encode_markup(text) for text in TEXTS] == [qwen.encode_markup(text) for text in TEXTS]


def test_fingerprint_follows_what_decides_ids(qwen: Tokenizer, sentencepiece_like: Tokenizer) -> None:
    backend = Backend.from_str(sentencepiece_like.backend.to_str())
    same = Tokenizer(backend, {"eos_token": "<s>"}, "another template")
    assert same.fingerprint == sentencepiece_like.fingerprint
    backend = Backend.from_str(backend.to_str())
    backend.add_tokens(["hello"])
    assert Tokenizer(backend, {}).fingerprint != sentencepiece_like.fingerprint


@pytest.mark.parametrize("content", [None, "", "{", '{"version": "1.0"}'])
def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=str(tmp_path)):
        Tokenizer.load(tmp_path)


def test_a_file_that_is_no_tokenizer_is_no_folder_to_copy_into(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(UserError, match=r"rows.jsonl: not a tokenizer\s+→ name its folder, or a tokenizer.json"):
        Tokenizer.load(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("family", ["qwen2", "llama", "mistral"])
def test_a_model_without_its_tokenizer_is_told_as_such(family: str, tmp_path: Path) -> None:
    """transformers would make an empty one of config.json alone."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": family, "vocab_size": 90}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    with pytest.raises(UserError, match=r"no tokenizer here\s+→ copy tokenizer.json"):
        Tokenizer.load(tmp_path)


def test_bytes_of_tokens_spell_the_text(qwen: Tokenizer, sentencepiece_like: Tokenizer) -> None:
    for text in TEXTS:
        assert b"".join(qwen.token_bytes[id] for id in qwen.encode_markup(text)).decode() == text
        spelled = b"".join(sentencepiece_like.token_bytes[id] for id in sentencepiece_like.encode(text, inside=True))
        assert spelled.decode() == text


def test_text_that_goes_on_gets_no_first_space(sentencepiece_like: Tokenizer) -> None:
    first, inside = (sentencepiece_like.encode("hello", inside) for inside in (False, True))
    assert sentencepiece_like.token_bytes[first[0]].startswith(b" ")
    assert not sentencepiece_like.token_bytes[inside[0]].startswith(b" ")
    assert sentencepiece_like.adds_space_again


@settings(deadline=None, max_examples=60)
@given(text=st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("你好，😀👍🏽é"))))
def test_streamed_text_is_the_whole_text(qwen: Tokenizer, sentencepiece_like: Tokenizer, text: str) -> None:
    for tokenizer in (qwen, sentencepiece_like):
        ids = tokenizer.encode(text)
        decoder = StreamDecoder(tokenizer)
        pieces = [decoder.push(id) for id in ids] + [decoder.flush()]
        assert "".join(pieces) == tokenizer.decode(ids)
        assert "�" not in "".join(pieces) or "�" in text


def test_an_incomplete_character_is_held_back(qwen: Tokenizer) -> None:
    ids = qwen.encode("𓀀")
    assert len(ids) > 1
    decoder = StreamDecoder(qwen)
    assert [decoder.push(id) for id in ids] == [""] * (len(ids) - 1) + ["𓀀"]
    assert decoder.push(ids[0]) == ""
    assert decoder.flush() == "�"
    assert StreamDecoder(qwen).push(151645) == ""
    assert StreamDecoder(qwen, skip_special=False).push(151645) == "<|im_end|>"


def test_boundaries_lie_between_characters_as_read(qwen: Tokenizer) -> None:
    text = "a𓀀你👨‍👩‍👧🇨🇳e\u0301"
    ids = np.array(Tokenizer.encode(qwen, text), dtype=np.uint32)
    allowed = np.flatnonzero(qwen.token_bytes.boundaries(ids))
    heads = [b"".join(qwen.token_bytes[int(id)] for id in ids[:end]).decode() for end in allowed]
    assert set(heads) <= {"", "a", "a𓀀", "a𓀀你", "a𓀀你👨‍👩‍👧", "a𓀀你👨‍👩‍👧🇨🇳", "a𓀀你👨‍👩‍👧🇨🇳é"}
    assert {"", "a", "a𓀀", "a𓀀你👨‍👩‍👧"} <= set(heads)


def test_memory_stays_where_it_is_over_much_text(qwen: Tokenizer) -> None:
    statm = Path("/proc/self/statm")
    if not statm.is_file():
        pytest.skip("no /proc here to read the memory from")
    draw = random.Random(0)
    han = "".join(chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(200_000))
    text = han + " ".join(f"{draw.getrandbits(40):x}" for _ in range(60_000))

    def grown_to() -> int:
        for start in range(0, 30_000, 5000):
            qwen.encode_array(text[start:])
        return int(statm.read_text().split()[1]) * 4096

    _, first, last = grown_to(), grown_to(), grown_to()
    assert last - first < 20e6
