"""Prompts out of held-out conversations: the chat that was cut off is asked, and the data's answer stands beside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from danlu.evaluate.evaluate import evaluate
from danlu.evaluate.held_out_prompts import held_out_prompts
from danlu.evaluate.settings import EvaluateSettings
from danlu.infer.model import Model, load
from danlu.ledger.errors import UserError
from danlu.text.records import Conversation, Document, Message
from danlu.tokens.encode import encode_document
from danlu.tokens.shards import Example, TokenSet, TokenSetWriter
from danlu.tokens.spelling import Spelling


def chat(*turns: tuple[str, str]) -> list[Message]:
    return [{"role": role, "content": text} for role, text in turns]


ZH = [
    chat(
        ("system", "你是诗人。"),
        ("user", "李白是谁？🍵"),
        ("assistant", "唐代诗人。"),
        ("user", "谢谢"),
        ("assistant", "不客气"),
    ),
    chat(("assistant", "欢迎光临"), ("user", "什么是绿豆糕？"), ("assistant", "一种糕点。")),
    chat(("user", "下列哪一项是正确的？\nＡ，Ｂ"), ("assistant", "答案：A")),
]
EN = [chat(("user", "What does the fox do?"), ("assistant", "It jumps."))]


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Model:
    return load(tiny_folder, "cpu")


def written(folder: Path, model: Model, chats: list[list[Message]]) -> Path:
    assert model.template
    with TokenSetWriter(
        folder, "conversation", Spelling.of(model.tokenizer), tokenizer=model.tokenizer.fingerprint
    ) as writer:
        for number, messages in enumerate(chats):
            writer.add(Example(model.template.encode(Conversation(messages)), "rows", number))
    return folder


@pytest.fixture
def held_out(tmp_path: Path, model: Model) -> Path:
    written(tmp_path / "held_out" / "zh", model, ZH)
    return written(tmp_path / "held_out" / "en", model, EN).parent


def test_an_opening_is_the_chat_up_to_its_first_answer(held_out: Path, model: Model) -> None:
    assert model.template
    en, zh = TokenSet.open(held_out / "en"), TokenSet.open(held_out / "zh")
    found = held_out_prompts([en, zh], 4, model.tokenizer)
    assert [(one.prompt, one.reference, one.source) for one in found] == [
        ("What does the fox do?", "It jumps.", "en"),
        ("李白是谁？🍵", "唐代诗人。", "zh"),
        ("下列哪一项是正确的？\nＡ，Ｂ", "答案：A", "zh"),
    ], "a chat that begins with an answer asks nothing"
    for one, messages in zip(found, [EN[0], ZH[0], ZH[2]], strict=True):
        tokens = model.template.encode(Conversation(messages))[0].tokens.tolist()
        asked = model.chat_prompt(one.messages)
        assert asked == tokens[: len(asked)]
        assert model.tokenizer.decode(tokens[len(asked) :]).startswith(one.reference or "?")
    assert [one.source for one in held_out_prompts([en, zh], 2, model.tokenizer)] == ["en", "zh"]


def test_answers_stand_beside_those_of_the_data(
    tiny_folder: Path, held_out: Path, model: Model, tmp_path: Path
) -> None:
    settings = EvaluateSettings(
        held_out={"answers": held_out}, prompts=["绿豆糕"], held_out_prompts=2, prompt_tokens=8, raw=[]
    )
    out = tmp_path / "out"
    results = evaluate(settings, {"base": tiny_folder, "sft": tiny_folder}, out)
    answers = results["sft"]["side_by_side"]["answers"]
    assert [item.get("reference") for item in answers] == [None, "It jumps.", "唐代诗人。"]
    assert results["base"]["side_by_side"]["answers"] == answers
    rows = [json.loads(line) for line in (out / "samples/sft/side_by_side.jsonl").read_text("utf-8").splitlines()]
    assert rows[2]["tokens"] == _greedy(tiny_folder, ZH[0][:2], 8)
    table = (out / "side_by_side.md").read_text("utf-8").splitlines()
    assert table[0] == "|  | data | base (chat) | sft (chat) |"
    assert table[2].startswith("| 绿豆糕 |  | ")
    assert table[4].startswith("| 李白是谁？🍵 | 唐代诗人。 | ")
    more = settings.model_copy(update={"held_out_prompts": 4})
    assert len(evaluate(more, {"sft": tiny_folder}, out)["sft"]["side_by_side"]["answers"]) == 4


def test_documents_alone_have_no_prompts(tiny_folder: Path, model: Model, tmp_path: Path) -> None:
    with TokenSetWriter(
        tmp_path / "books", "document", Spelling.of(model.tokenizer), tokenizer=model.tokenizer.fingerprint
    ) as writer:
        writer.add(Example([encode_document(model.tokenizer, Document("李白"), 2)], "rows", 0))
    settings = EvaluateSettings(held_out={"books": tmp_path / "books"}, prompts=[], held_out_prompts=2)
    with pytest.raises(UserError, match="nothing held out here is a conversation"):
        evaluate(settings, {"sft": tiny_folder}, tmp_path / "out")


def _greedy(folder: Path, messages: list[Message], most: int) -> list[int]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    network = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = network.generate(**ids, do_sample=False, max_new_tokens=most, eos_token_id=tokenizer.eos_token_id)
    new: list[int] = out[0, ids["input_ids"].shape[1] :].tolist()
    return new[: new.index(tokenizer.eos_token_id)] if tokenizer.eos_token_id in new else new
