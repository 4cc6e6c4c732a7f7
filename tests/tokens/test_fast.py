"""The fast encoder: the ids of tokenizers, whatever the text, and the slow library with a reason where it cannot."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from danlu.ledger.counts import Counts
from danlu.text.records import Document
from danlu.text.settings import SourceSettings
from danlu.text.source import read_records
from danlu.tokens import pack_tasks
from danlu.tokens.characters import byte_alphabet
from danlu.tokens.fast import UNPROVEN, FastEncoder, plain_encoder
from danlu.tokens.pack import pack
from danlu.tokens.settings import DataSettings, TokenizerTrainSettings
from danlu.tokens.tokenizer import FEW_CHARACTERS, LITTLE, Tokenizer
from danlu.tokens.train import train_tokenizer

PIECES = ["<|im_end|>", "<tool_call>", "，", "😀", "e\u0301", "绿豆糕", "  \n", "'S", "\r\n", "𠀀", "\ufeff", "12"]


LINES = [f"今天天气{number}很好，我们去公园。 The weather is fine on day {number}!\n" for number in range(200)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    out = tmp_path_factory.mktemp("small") / "tokenizer"
    return train_tokenizer(TokenizerTrainSettings(vocab_size=320), iter(LINES), out)


def proven(tokenizer: Tokenizer) -> FastEncoder:
    assert tokenizer.fast.name.startswith("gigatoken")
    return tokenizer.fast


def shared_texts(shared_data: Path, each: int) -> Iterator[str]:
    for file in sorted((shared_data / "pretrain").glob("[ez]*/*.zst")):
        records = read_records(SourceSettings(path=str(file)), "document", Counts())
        yield from (record.text for record in islice(records, each) if isinstance(record, Document))


def assert_same(tokenizer: Tokenizer, text: str) -> None:
    assert np.array_equal(proven(tokenizer).encode(text), plain_encoder(tokenizer.backend)(text)), text[:200]


def test_real_text_has_the_same_tokens(qwen: Tokenizer, shared_data: Path) -> None:
    for text in shared_texts(shared_data, 6):
        assert_same(qwen, text[:8000])


@pytest.mark.prove
def test_all_of_the_shared_text_has_the_same_tokens(qwen: Tokenizer, shared_data: Path) -> None:
    for text in shared_texts(shared_data, 1 << 30):
        assert_same(qwen, text)


@settings(deadline=None, max_examples=300)
@given(parts=st.lists(st.one_of(st.text(), st.sampled_from(PIECES))))
def test_any_text_has_the_same_tokens(qwen: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts).encode(errors="replace").decode()
    assert_same(qwen, text)
    markup = qwen._fast_markup
    assert np.array_equal(markup.encode(text), plain_encoder(qwen._markup)(text))


@pytest.mark.parametrize(
    "context", ["{0}<s", "a{0}b,{0}<s 1{0} x", "x {0}y  {0}\n", "e{0}\u0301{0}\u0323", "\u1100{0}a"]
)
def test_every_character_that_the_fast_encoder_takes_is_proven(qwen: Tokenizer, context: str) -> None:
    """Letters, digits, blanks and marks as neighbours of what they join with, or do not."""
    characters = [chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000]
    # Most of these are Han characters and Hangul syllables, which are all alike: every 8th.
    taken = [one for one in characters if not UNPROVEN.search(one) and (not one.isalpha() or ord(one) % 8 == 0)]
    texts = [context.format(one) for one in taken]
    for start in range(0, len(texts), 1000):
        some = texts[start : start + 1000]
        slow = qwen.backend.encode_batch_fast(some, add_special_tokens=False)
        assert [
            one for one, found in zip(some, slow, strict=True) if proven(qwen).encode(one).tolist() != found.ids
        ] == []


def test_a_letter_newer_than_one_of_the_libraries_goes_the_slow_way(qwen: Tokenizer) -> None:
    for text in ("\U000323b0<s", "\ua7ce'Sa", "e\u1ac1\u0301"):
        assert UNPROVEN.search(text)
        assert_same(qwen, text)


def test_long_runs_without_a_blank_take_no_quadratic_time(qwen: Tokenizer) -> None:
    for unit in ("a", " ", "的", "-", "\n", "1"):
        assert_same(qwen, unit * 50_000)


def test_trained_tokenizers_are_proven_too(small: Tokenizer) -> None:
    for text in LINES:
        assert_same(small, text)


def test_much_text_is_encoded_fast_and_little_is_not(qwen_tokenizer: Path) -> None:
    tokenizer, line = Tokenizer.load(qwen_tokenizer), "绿豆糕 <|im_end|> and tea 🍵. \ud800"
    first = tokenizer.encode(line)
    assert tokenizer.encoder_name == LITTLE
    much = tokenizer.encode("a b " * (FEW_CHARACTERS // 4))
    assert tokenizer.encoder_name.startswith("gigatoken")
    assert tokenizer.encode(line) == first
    assert len(much) == 2 * (FEW_CHARACTERS // 4) + 1


def byte_level(pattern: str) -> Backend:
    backend = Backend(models.BPE(byte_alphabet(), []))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def test_what_it_cannot_read_is_encoded_by_tokenizers_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]"))
    odd, plain = FastEncoder.of(backend), FastEncoder.of(byte_level(r"[aeiou]+|."))
    for found, text, ids in ((odd, "a", [0]), (plain, "ab", [97, 98])):
        assert found.name.startswith(("tokenizers (gigatoken cannot read", "tokenizers (gigatoken gives other", "gig"))
        assert found.encode(text).tolist() == ids
    assert odd.name.startswith("tokenizers (gigatoken cannot read")
    monkeypatch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
    assert FastEncoder.of(backend).name == "tokenizers (gigatoken is not installed)"


def test_wrong_ids_are_found_out(qwen: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    import gigatoken.gigatoken_rs as native

    state = json.loads(qwen.backend.to_str())
    state["model"]["merges"] = state["model"]["merges"][:1000]
    other = native.load_hf_json(json.dumps(state))
    monkeypatch.setattr(native, "load_hf_json", lambda text: other)
    assert FastEncoder.of(qwen.backend).name.startswith("tokenizers (gigatoken gives other ids for ")


def test_packing_says_who_encoded(small: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in LINES))
    settings = DataSettings(sources=[SourceSettings(path=str(tmp_path / "a.jsonl"))], workers=1)
    assert pack(settings, Path(small.origin), "pretrain", tmp_path / "little")["encoders"] == [LITTLE]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("danlu.tokens.tokenizer.FEW_CHARACTERS", 100)
        fast = pack(settings, Path(small.origin), "pretrain", tmp_path / "much", store=tmp_path / "much sets")
        patch.setitem(sys.modules, "gigatoken.gigatoken_rs", None)
        pack_tasks._encoder.cache_clear()
        slow = pack(settings, Path(small.origin), "pretrain", tmp_path / "slow", store=tmp_path / "slow sets")
    assert fast["encoders"][0].startswith("gigatoken")
    assert slow["encoders"] == ["tokenizers (gigatoken is not installed)"]
    assert "pack: encoded by tokenizers (gigatoken is not installed)" in capsys.readouterr().err
    assert fast["tokens"] == slow["tokens"]
