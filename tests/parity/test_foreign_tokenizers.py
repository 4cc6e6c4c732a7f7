"""Tokenizers that ship as code and a SentencePiece model, against sentencepiece; templates against published texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from danlu.infer.model import load
from danlu.ledger.errors import UserError
from danlu.text.records import Conversation, Message
from danlu.tokens.named import NAMED
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer

from .foreign_tokenizers import TEXTS, write_baichuan_tokenizer, write_internlm2_tokenizer

ASK: list[Message] = [{"role": "user", "content": "什么是水？"}]
TWO: list[Message] = [
    {"role": "user", "content": "什么是水？"},
    {"role": "assistant", "content": "H₂O, a model."},
    {"role": "user", "content": "Why?\n再说一遍"},
    {"role": "assistant", "content": "好的。"},
]


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "dummy prefix"])
def baichuan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("baichuan")
    return folder, write_baichuan_tokenizer(folder, dummy_prefix=request.param)


@pytest.mark.parametrize("text", TEXTS)
def test_baichuan_ids_are_sentencepieces(baichuan: tuple[Path, Any], text: str) -> None:
    folder, spm = baichuan
    tokenizer = Tokenizer.load(folder)
    assert tokenizer.encode(text) == spm.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == spm.decode(spm.encode(text))


@pytest.fixture(scope="module")
def any_text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Any]:
    folder = tmp_path_factory.mktemp("any")
    spm = write_baichuan_tokenizer(folder)
    return Tokenizer.load(folder), spm


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.text(st.sampled_from("水木 火the model你好，12\n\t😀𠮷▁<s>_reserved6"), max_size=30))
def test_any_text_has_sentencepieces_ids(text: str, any_text: tuple[Tokenizer, Any]) -> None:
    tokenizer, spm = any_text
    if not any(special in text for special in tokenizer.special):
        assert tokenizer.encode(text) == spm.encode(text)


def test_markup_is_special_and_its_text_in_a_message_is_not(baichuan: tuple[Path, Any]) -> None:
    folder, spm = baichuan
    tokenizer = Tokenizer.load(folder)
    id = spm.piece_to_id("<reserved_106>")
    assert tokenizer.special["<reserved_106>"] == id
    assert tokenizer.encode_markup("<reserved_106>") == [id]
    assert id not in tokenizer.encode("say <reserved_106>")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)
    assert tokenizer.begins == []


def test_what_is_saved_opens_in_transformers_without_code(baichuan: tuple[Path, Any], tmp_path: Path) -> None:
    folder, spm = baichuan
    template = Template(Tokenizer.load(folder), choice="baichuan2")
    template.tokenizer.save(tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    for text in TEXTS:
        assert theirs.encode(text, add_special_tokens=False) == spm.encode(text)
    assert theirs.apply_chat_template(TWO, tokenize=False) == template.render(TWO)
    again = Tokenizer.load(tmp_path / "saved")
    assert again.fingerprint == template.tokenizer.fingerprint and again.chat_template == template.source


def test_internlm2_names_its_free_pieces(tmp_path: Path) -> None:
    spm = write_internlm2_tokenizer(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    start = tokenizer.special["<|im_start|>"]
    assert spm.id_to_piece(start) == "[UNUSED_TOKEN_0]"
    assert tokenizer.begins == [1] and tokenizer.vocab_size == spm.vocab_size()
    for text in TEXTS:
        assert tokenizer.encode(text) == spm.encode(text)
    prompt = Template(tokenizer).prompt(ASK)
    assert prompt[:2] == [1, start] and prompt.count(start) == 2


def test_added_tokens_that_leave_ids_out_are_refused(tmp_path: Path) -> None:
    write_internlm2_tokenizer(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for added, complaint in (
        ({"9999": {"content": "<far>"}}, "cannot have id 9999"),
        ({"x": {"content": "<far>"}}, "cannot be read"),
        ({"7": {"text": "<far>"}}, "cannot be read"),
    ):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"added_tokens_decoder": added}))
        with pytest.raises(UserError, match=complaint):
            Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.model").write_bytes(b"\x80\x04pickle")
    with pytest.raises(UserError, match="not a SentencePiece model"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "prompt", "whole"),
    [
        (  # Baichuan-13B-Chat's generation: token 195, question, token 196; answers end with the end token
            "baichuan",
            "<reserved_102>什么是水？<reserved_103>",
            "<reserved_102>什么是水？<reserved_103>H₂O, a model.</s>"
            "<reserved_102>Why?\n再说一遍<reserved_103>好的。</s>",
        ),
        (  # Baichuan2's fine-tune.py
            "baichuan2",
            "<reserved_106>什么是水？<reserved_107>",
            "<reserved_106>什么是水？<reserved_107>H₂O, a model.</s>"
            "<reserved_106>Why?\n再说一遍<reserved_107>好的。</s>",
        ),
        (  # Meta's llama repository, `chat_completion`
            "llama2",
            "<s>[INST] 什么是水？ [/INST]",
            "<s>[INST] 什么是水？ [/INST] H₂O, a model. </s><s>[INST] Why?\n再说一遍 [/INST] 好的。 </s>",
        ),
        (  # stanford_alpaca's PROMPT_DICT["prompt_no_input"]
            "alpaca",
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\n什么是水？\n\n### Response:",
            "Below is an instruction that describes a task. Write a response that appropriately completes the request."
            "\n\n### Instruction:\n什么是水？\n\n### Response:H₂O, a model.</s>"
            "\n\n### Instruction:\nWhy?\n再说一遍\n\n### Response:好的。</s>",
        ),
        (  # baichuan_sft_lora's prompt, BELLE's form
            "human",
            "Human: 什么是水？\n\nAssistant: ",
            "Human: 什么是水？\n\nAssistant: H₂O, a model.</s>Human: Why?\n再说一遍\n\nAssistant: 好的。</s>",
        ),
    ],
)
def test_named_templates_are_the_published_texts(
    baichuan: tuple[Path, Any], name: str, prompt: str, whole: str
) -> None:
    tokenizer = Tokenizer.load(baichuan[0])
    template = Template(tokenizer, choice=name)
    assert template.render(ASK, generation=True) == prompt
    assert template.render(TWO) == whole
    (encoded,) = template.encode(Conversation(TWO))
    trained = [token for token, weight in zip(encoded.tokens.tolist(), encoded.weights, strict=True) if weight]
    answer = " {} </s>" if name == "llama2" else "{}</s>"
    expected = "".join(answer.format(message["content"]) for message in TWO[1::2])
    shown = tokenizer.decode(trained, skip_special=False).strip()
    # With a dummy prefix every text of a message begins with a blank, as it does where its maker encodes it by itself.
    assert shown.replace("</s> ", "</s>") == expected.strip().replace("</s> ", "</s>")
    assert trained.count(2) == 2 and template.stop_ids[0] == 2
    served = template.prompt(TWO[:3])
    assert encoded.tokens[: len(served)].tolist() == served


@pytest.mark.parametrize(
    ("name", "begin"),
    [
        ("llama2", "<s>[INST] <<SYS>>\n只说中文。\n<</SYS>>\n\n什么是水？ [/INST]"),
        ("baichuan2", "只说中文。<reserved_106>什么是水？<reserved_107>"),
        ("human", "只说中文。\n\nHuman: 什么是水？\n\nAssistant: "),
        ("alpaca", "只说中文。\n\n### Instruction:\n什么是水？\n\n### Response:"),
    ],
)
def test_named_templates_show_the_system_message(baichuan: tuple[Path, Any], name: str, begin: str) -> None:
    template = Template(Tokenizer.load(baichuan[0]), choice=name)
    assert template.render([{"role": "system", "content": "只说中文。"}, *ASK], generation=True) == begin
    with pytest.raises(UserError, match="no tools"):
        template.render([*ASK, {"role": "tool", "content": "1"}])


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pages_row_is_stanfords_prompt_for_an_input(baichuan: tuple[Path, Any], language: str) -> None:
    published = (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    )
    page = (Path(__file__).parents[2] / "docs" / language / "families.md").read_text("utf-8")
    row = json.loads(page.partition("```json\n")[2].partition("```")[0])
    template = Template(Tokenizer.load(baichuan[0]), choice="alpaca")
    shown = published.format(instruction="Translate to English.", input="你好")
    assert template.render(row["messages"][:-1], generation=True) == shown
    (encoded,) = template.encode(Conversation(row["messages"]))
    assert template.tokenizer.decode(encoded.tokens.tolist()).strip() == shown + "Hello"
    joined: list[Message] = [{"role": "user", "content": "Translate to English.\n你好"}]
    asked = template.render(joined, generation=True)
    assert asked.endswith("### Instruction:\nTranslate to English.\n你好\n\n### Response:"), "as the page says"


def test_plain_text_templates_begin_as_the_tokenizer_does(tmp_path: Path) -> None:
    write_internlm2_tokenizer(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    for name in ("human", "alpaca"):
        assert Template(tokenizer, choice=name).prompt(ASK)[0] == tokenizer.bos_id
    assert Template(tokenizer, choice="chatml").prompt(ASK)[0] == tokenizer.special["<|im_start|>"]


def test_a_template_of_another_tokenizer_and_no_template_are_refused(tmp_path: Path) -> None:
    write_baichuan_tokenizer(tmp_path, reserved=104)
    tokenizer = Tokenizer.load(tmp_path)
    Template(tokenizer, choice="baichuan")
    with pytest.raises(UserError, match="writes <reserved_106>, <reserved_107>"):
        Template(tokenizer, choice="baichuan2")
    with pytest.raises(UserError) as refused:
        Template(tokenizer)
    assert all(name in str(refused.value) for name in NAMED)


def test_a_tokenizer_of_another_model_is_refused_before_weights_are_read(tmp_path: Path) -> None:
    spm = write_baichuan_tokenizer(tmp_path)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = {"model_type": "llama", "vocab_size": 2 * spm.vocab_size()} | shape
    for changes, complaint in (
        ({"vocab_size": spm.vocab_size() - 1}, f"the embedding {spm.vocab_size() - 1} rows"),
        ({"eos_token_id": [2, spm.vocab_size()]}, f"eos_token_id of the model is {spm.vocab_size()}"),
        ({"bos_token_id": spm.vocab_size() + 5}, "it is another model's"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(UserError) as refused:
            load(tmp_path)
        assert complaint in str(refused.value)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"no model\.safetensors here"):
        load(tmp_path)
