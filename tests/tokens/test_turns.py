"""System prompts by category and share, roles in the loss, longest turns, weights of messages: in both languages."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from danlu.ledger.errors import UserError
from danlu.text.holdout import is_held_out
from danlu.text.records import Conversation, Preference, content_hash
from danlu.tokens.cut import cut
from danlu.tokens.encode import Encoded
from danlu.tokens.pack import open_stream, pack
from danlu.tokens.settings import DataSettings
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer
from danlu.tokens.turns import limited, prompted

TALKS = {
    "zh": [("天空为什么是蓝的？🌌", "因为瑞利散射，蓝光散射得更多。"), ("谢谢！", "不客气，随时问我。")],
    "en": [("Why is the sky blue? 🌌", "Rayleigh scattering: blue is scattered more."), ("Thanks!", "Any time.")],
}
CODE, PLAIN = "你是编程助手。", "You are a helpful assistant."


def talk(language: str, weights: tuple[float, ...] = ()) -> Conversation:
    messages: list[Any] = []
    for number, (asked, said) in enumerate(TALKS[language]):
        answer: Any = {"role": "assistant", "content": said}
        messages += [{"role": "user", "content": asked}, answer | ({"weight": weights[number]} if weights else {})]
    return Conversation(messages)


@pytest.fixture(scope="module")
def template(qwen: Tokenizer) -> Template:
    return Template(qwen, "none")


@pytest.mark.parametrize("language", TALKS)
def test_a_message_s_weight_is_that_of_its_tokens(template: Template, qwen: Tokenizer, language: str) -> None:
    (document,) = template.encode(talk(language, (0.25, 2.0)))
    first, second = (said for _, said in TALKS[language])
    assert set(np.unique(document.weights).tolist()) == {0.0, 0.25, 2.0}
    assert text_of(qwen, document, 0.25) == first + "<|im_end|>"
    assert text_of(qwen, document, 2.0) == second + "<|im_end|>"
    (only,) = template.encode(talk(language, (0.0, 1.0)))
    assert text_of(qwen, only) == second + "<|im_end|>"


def text_of(tokenizer: Tokenizer, document: Encoded, weight: float | None = None) -> str:
    chosen = document.weights != 0 if weight is None else document.weights == np.float32(weight)
    return str(tokenizer.backend.decode(document.tokens[chosen].tolist(), skip_special_tokens=False))


@pytest.mark.parametrize("language", TALKS)
def test_roles_in_the_loss(template: Template, qwen: Tokenizer, language: str) -> None:
    """baichuan_sft_lora's way, which trains the questions too; headers stay out."""
    (both,) = template.encode(talk(language), roles=["assistant", "user"])
    questions, answers = ([turn[side] for turn in TALKS[language]] for side in (0, 1))
    assert text_of(qwen, both) == "".join(
        f"{asked}{said}<|im_end|>" for asked, said in zip(questions, answers, strict=True)
    )
    assert both.text_bytes == sum(len(text.encode()) for text in [*questions, *answers])
    (asked,) = template.encode(talk(language), roles=["user"])
    assert text_of(qwen, asked) == "".join(questions)


@pytest.mark.parametrize("language", TALKS)
def test_a_question_has_a_weight_of_its_own(template: Template, qwen: Tokenizer, language: str) -> None:
    told = talk(language, (1.0, 0.0))
    told.messages[0]["weight"] = 0.0
    told.messages[2]["weight"] = 0.5
    (document,) = template.encode(told, roles=["assistant", "user"])
    (_, answer), (question, _) = TALKS[language]
    assert text_of(qwen, document, 1.0) == answer + "<|im_end|>"
    assert text_of(qwen, document, 0.5) == question, "though nothing after it is in the loss"
    assert text_of(qwen, document) == f"{answer}<|im_end|>{question}"
    told.messages[2]["weight"] = 0.0
    assert template.encode(told, roles=["user"]) == []


def test_a_question_is_trained_once_where_the_template_writes_earlier_answers_anew(qwen: Tokenizer) -> None:
    """One that drops the thinking of earlier answers, so that each answer is a sequence of its own."""
    forgets = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ m.content if loop.last or m.role == 'user' else m.content.split('。')[-1] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    said = ["一加一？", "想想。二", "二加 2？🙂", "再想。four"]
    messages: Any = [
        {"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, said, strict=True)
    ]
    found = Template(qwen.with_chat_template(forgets)).encode(Conversation(messages), roles=["assistant", "user"])
    assert [text_of(qwen, document) for document in found] == [
        f"{asked}{answer}<|im_end|>" for asked, answer in zip(said[::2], said[1::2], strict=True)
    ]


@pytest.mark.parametrize("language", TALKS)
def test_the_longest_turns(template: Template, qwen: Tokenizer, language: str) -> None:
    (document,) = template.encode(talk(language))
    kept, done = limited(document, 4, 5, qwen.token_bytes)
    text = qwen.backend.decode(kept.tokens.tolist(), skip_special_tokens=False)
    turns = [part.split("\n", 1)[1] for part in text.split("<|im_start|>")[1:]]
    assert text.count("<|im_end|>") == 4, "markup stays"
    for turn, (asked, said) in zip(zip(turns[::2], turns[1::2], strict=True), TALKS[language], strict=True):
        question, answer = (part.removesuffix("\n").removesuffix("<|im_end|>") for part in turn)
        assert asked.startswith(question) and said.startswith(answer)
        assert len(qwen.encode(question)) <= 4 and len(qwen.encode(answer)) <= 5
    assert done == [
        "a question cut to max_source_length",
        "an answer cut to max_target_length, its stop token not trained",
    ]
    trained = text_of(qwen, kept)
    short = [said for _, said in TALKS[language] if len(qwen.encode(said)) <= 5]
    assert trained.count("<|im_end|>") == len(short), "a cut answer must not teach to stop"
    same, nothing = limited(document, 4096, None, qwen.token_bytes)
    assert same is document and nothing == []


@settings(max_examples=30, deadline=None)
@given(
    texts=st.lists(st.text(st.sampled_from("中文字ab 🙂👨‍👩‍👧\n，"), min_size=1, max_size=40), min_size=2, max_size=2),
    source=st.integers(1, 20),
    target=st.integers(1, 20),
)
def test_limits_hold_whatever_is_said(
    template: Template, qwen: Tokenizer, texts: Any, source: int, target: int
) -> None:
    messages: Any = [{"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)]
    for document in template.encode(Conversation(messages)):
        kept, _ = limited(document, source, target, qwen.token_bytes)
        sizes = (kept.piece_ends - kept.piece_starts)[kept.piece_kinds == 1]
        roles = kept.piece_roles[kept.piece_kinds == 1]
        assert (sizes[roles == 2] <= source).all() and (sizes[roles == 3] <= target).all()
        text = qwen.backend.decode(kept.tokens.tolist(), skip_special_tokens=False)
        assert "\ufffd" not in text, "no half character"


def test_system_prompts_by_category_and_share() -> None:
    mix = [
        {"text": CODE, "share": 0.75, "where": ["category == code"]},
        {"text": PLAIN, "share": 0.5, "where": []},
    ]
    found: dict[str, Counter[str]] = {"code": Counter(), "聊天": Counter()}
    for number in range(2000):
        for category in found:
            record = Conversation([{"role": "user", "content": f"{number}"}], meta={"category": category})
            first = prompted(record, mix).messages[0]
            assert prompted(record, mix) == prompted(record, mix)
            found[category][first["content"] if first["role"] == "system" else ""] += 1
    assert found["code"][CODE] == pytest.approx(1500, abs=80)
    assert found["code"][PLAIN] == pytest.approx(500, abs=80), "it goes on from 0.75 and ends at 1"
    assert found["聊天"][PLAIN] == pytest.approx(1000, abs=100) and found["聊天"][CODE] == 0
    own = Conversation([{"role": "system", "content": "own"}, {"role": "user", "content": "?"}])
    assert prompted(own, mix) is own
    pair = Preference([{"role": "user", "content": "?"}], [], [])
    assert prompted(pair, [{"text": PLAIN, "share": 1.0, "where": []}]).messages[0]["content"] == PLAIN


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_system_prompts_have_their_shares_in_what_is_held_out_and_in_the_rest(share: float) -> None:
    mix = [{"text": CODE, "share": 0.5, "where": []}, {"text": PLAIN, "share": 0.3, "where": []}]
    found: dict[bool, Counter[str]] = {True: Counter(), False: Counter()}
    for number in range(6000):
        record = Conversation([{"role": "user", "content": f"第 {number} 问？"}])
        first = prompted(record, mix).messages[0]
        found[is_held_out(content_hash(record), share)][first["content"] if first["role"] == "system" else ""] += 1
    for counted in found.values():
        assert counted[CODE] / counted.total() == pytest.approx(0.5, abs=0.08)
        assert counted[PLAIN] / counted.total() == pytest.approx(0.3, abs=0.08)


def test_all_of_it_by_settings(tmp_path: Path, byte_tokenizer: Path) -> None:
    path = tmp_path / "talks.jsonl"
    rows = [{**talk(language).to_row(), "lang": language} for language in TALKS]
    path.write_text("".join(json.dumps({"messages": row["messages"], "lang": row["lang"]}) + "\n" for row in rows))
    data = DataSettings.model_validate(
        {
            "sources": [{"path": str(path)}],
            "length": 512,
            "held_out": 0.0,
            "workers": 1,
            "loss_on": ["assistant", "user"],
            "max_target_length": 6,
            "system": [{"text": CODE, "where": ["lang == zh"]}],
        }
    )
    manifest = pack(data, byte_tokenizer, "sft", tmp_path / "out")
    tokenizer = Tokenizer.load(byte_tokenizer)
    counts = manifest["sources"]["talks"]["counts"]
    assert any("max_target_length" in reason for reason in counts)
    stream = open_stream(tmp_path / "out", data, "sft")
    shown = [
        tokenizer.backend.decode(one.documents[0].encoded.tokens.tolist(), skip_special_tokens=False)
        for one in stream.examples(0, 2)
    ]
    assert sorted(CODE in text for text in shown) == [False, True]
    roles = manifest["train"]["tokens_in_loss_by_role"]
    assert roles["user"] > 0 and "system" not in roles


@pytest.mark.parametrize(
    ("stage", "more"),
    [("dpo", {"loss_on": ["user"]}), ("pretrain", {"max_source_length": 5}), ("pretrain", {"system": [{"text": "x"}]})],
)
def test_what_would_have_no_effect_is_refused(stage: Any, more: dict[str, Any]) -> None:
    data = DataSettings.model_validate({"sources": [{"path": "x"}], **more})
    with pytest.raises(UserError, match="no effect"):
        data.unit(stage)


def test_shares_above_one_are_refused() -> None:
    prompts = [{"text": "a", "share": 0.7, "where": ["x == 1"]}, {"text": "b", "share": 0.4, "where": ["x == 1"]}]
    with pytest.raises(ValidationError, match=r"sum to 1\.1"):
        DataSettings.model_validate({"sources": [{"path": "x"}], "system": prompts})


@pytest.mark.parametrize("language", TALKS)
def test_every_answer_is_in_one_window(template: Template, qwen: Tokenizer, language: str) -> None:
    """Each with as much of what was said before it as fits, and the system prompt in all of them."""
    turns = [(f"{number}. {asked}", f"{number}: {said}") for number in range(6) for asked, said in TALKS[language]]
    messages: list[Any] = [{"role": "system", "content": CODE}]
    for asked, said in turns:
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
    (document,) = template.encode(Conversation(messages))
    found = cut([document], 120, "drop", 60, qwen.token_bytes, "windows")
    assert len(found.documents) > 2 and found.reason == "turns in several windows"
    texts = [qwen.backend.decode(one.tokens.tolist(), skip_special_tokens=False) for one in found.documents]
    assert all(
        len(one) <= 120 and text.startswith(f"<|im_start|>system\n{CODE}")
        for one, text in zip(found.documents, texts, strict=True)
    )
    trained = "".join(text_of(qwen, one) for one in found.documents)
    assert trained == "".join(f"{said}<|im_end|>" for _, said in turns), "each once, in order"
    last = cut([document], 120, "drop", 60, qwen.token_bytes).documents[0]
    assert last.tokens.tolist() == found.documents[-1].tokens.tolist(), "the newest window is what it was"


def test_windows_in_the_stream(tmp_path: Path, byte_tokenizer: Path) -> None:
    path = tmp_path / "talks.jsonl"
    messages = [{"role": role, "content": f"{n} {'x' * 30}"} for n in range(8) for role in ("user", "assistant")]
    path.write_text("".join(json.dumps({"messages": [*messages, *messages[:2]][: 2 * k]}) + "\n" for k in (1, 8)))
    data = {"sources": [{"path": str(path)}], "length": 256, "held_out": 0.0, "workers": 1}
    seen = {}
    for way in ("leave_out", "windows"):
        chosen = DataSettings.model_validate({**data, "oldest_turns": way})
        pack(chosen, byte_tokenizer, "sft", tmp_path / way, store=tmp_path / "store")
        stream = open_stream(tmp_path / way, chosen, "sft")
        step = stream.step(0, 2, rows=2)
        assert step.examples == 2
        seen[way] = sum(micro.target_count for micro in step.micro), stream.fingerprint
    assert seen["windows"][0] == 9 * 33, "nine answers of two characters, 30 x and a stop token"
    assert seen["leave_out"][0] < seen["windows"][0]
    assert seen["leave_out"][1] != seen["windows"][1]


@pytest.mark.parametrize("language", TALKS)
def test_a_system_prompt_of_its_own_can_be_dropped(language: str) -> None:
    plain = talk(language)
    brings = Conversation([{"role": "system", "content": "你是 MOSS。"}, *plain.messages])
    assert prompted(brings, []) == brings
    assert prompted(brings, [], "drop") == plain == prompted(plain, [], "drop")
    other = prompted(brings, [{"text": PLAIN, "share": 1.0, "where": []}], "drop")
    assert other.messages == [{"role": "system", "content": PLAIN}, *plain.messages]
