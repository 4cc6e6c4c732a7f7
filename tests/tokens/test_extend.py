"""Extended tokenizers: taken apart again, their ids are the old ones, whatever the text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers import models

from danlu.ledger.errors import UserError
from danlu.tokens.extend import Extension, extend
from danlu.tokens.settings import TokenizerTrainSettings
from danlu.tokens.tokenizer import Tokenizer
from danlu.tokens.train import train_tokenizer

LONG = "绿豆糕的做法很简单" * 4
WORDS = ["绿豆糕的做法", "龘靐", "pharmacokinetics", "GPT-4", "天气", LONG]
LETTERS = st.sampled_from("绿豆糕的做法天气很好龘靐，。pharmacokinetics ▁ 12\n<|>")


def base_texts() -> Iterator[str]:
    for number in range(300):
        yield f"今天天气很好，公园{number}。 The weather is fine on day {number}!\n"
        yield " ".join("绿豆糕的做法很简单沙和糯米饭abcdefghijklmnopqrstuvwxyzPGT-")


def new_texts() -> Iterator[str]:
    for number in range(100):
        yield f"绿豆糕{number}的做法很简单，豆沙和糯米。\ud800\n龘{number}"
        yield f"Pharmacokinetics of lentils and beans {number}."


@pytest.fixture(scope="module", params=["byte_bpe", "sentencepiece"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    size = {"byte_bpe": 300, "sentencepiece": 380}[request.param]
    asked = TokenizerTrainSettings(kind=request.param, vocab_size=size, reserved=1, symbols=["<think>"])
    return train_tokenizer(asked, base_texts(), tmp_path_factory.mktemp("base") / "tokenizer")


@pytest.fixture(scope="module")
def extended(base: Tokenizer) -> Extension:
    return extend(base, new_texts(), 40, WORDS)


def test_words_become_one_token(base: Tokenizer, extended: Extension) -> None:
    tokenizer = extended.tokenizer
    whole = [word for word in WORDS if word not in extended.left_out]
    assert "pharmacokinetics" in whole
    assert {"天气", LONG} <= set(whole)
    for word in whole:
        assert len(tokenizer.encode(word, inside=True)) == 1
    spaced = tokenizer.encode("x pharmacokinetics", inside=True)
    assert [tokenizer.token_bytes[id] for id in spaced][-1] == b" pharmacokinetics"
    assert {"GPT-4", " GPT-4"} <= extended.left_out.keys()


def test_new_tokens_come_after_all_old_ones_and_shorten_the_text(base: Tokenizer, extended: Extension) -> None:
    assert min(extended.pieces) == base.vocab_size
    assert sorted(extended.pieces) == list(range(base.vocab_size, extended.tokenizer.vocab_size))
    assert extended.tokenizer.special == base.special
    assert all(base.token(id) == extended.tokenizer.token(id) for id in range(base.vocab_size))
    old, new = (sum(len(one.encode(text)) for text in new_texts()) for one in (base, extended.tokenizer))
    assert new < 0.6 * old
    for id, pieces in extended.pieces.items():
        spelled = b"".join(base.token_bytes[piece] for piece in pieces)
        assert extended.tokenizer.token_bytes[id] == spelled


@settings(deadline=None, max_examples=200)
@given(text=st.text(st.one_of(st.characters(codec="utf-8"), LETTERS)))
def test_every_text_comes_back_and_has_the_old_ids_when_taken_apart(
    base: Tokenizer, extended: Extension, text: str
) -> None:
    old, new = base.encode(text), extended.tokenizer.encode(text)
    assert extended.taken_apart(new) == old
    assert extended.tokenizer.decode(new) == base.decode(old)
    if not extended.pieces.keys() & set(new):
        assert new == old


def test_transformers_and_the_fast_encoder_give_the_same_ids(extended: Extension, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    extended.tokenizer.save(tmp_path)
    opened, again = AutoTokenizer.from_pretrained(tmp_path), Tokenizer.load(tmp_path)
    assert again.fingerprint == extended.tokenizer.fingerprint
    assert extended.tokenizer.fast.name.startswith("gigatoken")
    for text in [*WORDS, "豆沙和糯米", "<|im_end|><think>x"]:
        assert opened.encode(text, add_special_tokens=False) == extended.tokenizer.encode_markup(text)
        assert extended.tokenizer.fast.encode(text).tolist() == again.encode(text)


def test_learned_tokens_are_whole_characters_or_needed_for_them(base: Tokenizer) -> None:
    texts = [f"{a}{b}龘靐齉" for a in "東西南北" for b in "春夏秋冬"] * 3
    if base.config["tokenizer_class"] == "LlamaTokenizer":
        with pytest.raises(UserError, match="no token to add"):  # SentencePiece never joins bytes
            extend(base, texts, 12)
        return
    found = extend(base, texts, 12)
    halves = [id for id in found.pieces if not _is_text(found.tokenizer.token_bytes[id])]
    merges = json.loads(found.tokenizer.backend.to_str())["model"]["merges"][-len(found.pieces) :]
    used = {part for merge in merges for part in merge}
    assert len(found.pieces) == 12
    assert all(found.tokenizer.token(id) in used for id in halves)


def test_extending_twice_keeps_the_first_ids(base: Tokenizer, extended: Extension) -> None:
    more = extend(extended.tokenizer, ["豆沙和糯米饭 lentils"] * 20, 3)
    for text in new_texts():
        assert more.taken_apart(more.tokenizer.encode(text)) == extended.tokenizer.encode(text)


def test_qwen_keeps_its_ids(qwen: Tokenizer) -> None:
    found = extend(qwen, new_texts(), 30, ["绿豆糕的做法"])
    assert min(found.pieces) == 151665
    assert found.tokenizer.special["<|im_end|>"] == 151645
    text = "<tool_call>绿豆糕的做法</tool_call> 其他 text 12"
    assert found.taken_apart(found.tokenizer.encode(text)) == qwen.encode(text)
    assert found.tokenizer.fast.name.startswith("gigatoken")


@pytest.mark.parametrize(
    ("texts", "size", "words"), [([], 5, []), (["ab cd"], 5, []), ([], 0, ["天"]), ([], 0, ["a b"]), ([""], 1, [""])]
)
def test_nothing_to_add_is_said(base: Tokenizer, texts: list[str], size: int, words: list[str]) -> None:
    with pytest.raises(UserError, match="no token to add"):
        extend(base, texts, size, words)


def test_what_is_no_bpe_is_refused() -> None:
    with pytest.raises(UserError, match="WordLevel"):
        extend(Tokenizer(Backend(models.WordLevel({"a": 0, "[UNK]": 1}, "[UNK]")), {}), ["a"], 1)


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_grows_with_its_tokenizer(base: Tokenizer, tied: bool, tmp_path: Path, capsys: Any) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from danlu.model.decoder import Decoder
    from danlu.model.folder import load_decoder, save_decoder
    from danlu.model.parts import initialise
    from danlu.model.settings import ModelSettings
    from danlu.recipe.tokenizers import extend_tokenizer

    shape = {
        "family": "llama",
        "vocab_size": base.vocab_size,
        "hidden_size": 32,
        "layers": 1,
        "heads": 2,
        "mlp_size": 32,
    }
    decoder = Decoder.empty(ModelSettings.model_validate(shape | {"tie_embeddings": tied}))
    initialise(decoder, 0)
    save_decoder(decoder, tmp_path / "model", base, dtype=torch.bfloat16)
    (tmp_path / "text.jsonl").write_text(
        "\n".join(json.dumps({"text": text.replace("\ud800", "")}) for text in new_texts())
    )
    (tmp_path / "words.txt").write_text("绿豆糕的做法\nGPT-4\n")
    out = tmp_path / "larger"
    found = extend_tokenizer(tmp_path / "model", out, [tmp_path / "text.jsonl"], tmp_path / "words.txt", 20)
    said = capsys.readouterr().out
    assert "left out: 'GPT-4'" in said
    assert f"tokens added: {base.vocab_size:,} → {found.tokenizer.vocab_size:,}" in said

    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert model.get_input_embeddings().weight.shape[0] == -(-found.tokenizer.vocab_size // 128) * 128
    text = "绿豆糕的做法很简单"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ids == found.tokenizer.encode(text)
    assert max(ids) >= base.vocab_size
    new, old = (load_decoder(folder).embed.weight for folder in (out, tmp_path / "model"))
    torch.testing.assert_close(new[max(ids)], old[found.pieces[max(ids)]].mean(0), rtol=1e-2, atol=1e-4)
    with pytest.raises(UserError, match="exists"):
        extend_tokenizer(tmp_path / "model", out, [], None, 0)
    with pytest.raises(UserError, match="belong together"):
        extend_tokenizer(tmp_path / "model", tmp_path / "other", [], None, 5)


def _is_text(spelled: bytes) -> bool:
    try:
        spelled.decode()
    except UnicodeDecodeError:
        return False
    return True
