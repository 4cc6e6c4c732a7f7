"""Rendering against transformers, system policies, and templates that must be refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

from danlu.ledger.errors import UserError
from danlu.text.records import Conversation
from danlu.tokens.jinja import CHATML, LLAMA3
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer

from .real_rows import chatml, sft_rows

THINKING = (
    "{%- for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}"
    "{%- set content = message.content %}"
    "{%- if message.role == 'assistant' and not loop.last and '</think>' in content %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
    "{{- content + '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)
TAGGED = (
    "{{ bos_token }}{% for message in messages %}\n"
    "  {% if message.role == 'user' %}[{{ message.content | trim }}]\n"
    "  {% elif message.role == 'system' %}({{ message | tojson }} {{ strftime_now('%Y') }})\n"
    "  {% else %}{% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}\n"
    "  {% endif %}{% if loop.index > 50 %}{% break %}{% endif %}\n"
    "{% endfor %}"
)
STRICT = "{% if messages[0].role != 'user' %}{{ raise_exception('User first, please') }}{% endif %}" + CHATML
LLAMA31 = (
    "{{- bos_token }}{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] | trim %}"
    "{%- set messages = messages[1:] %}{%- else %}{%- set system = '' %}{%- endif %}"
    "{{- '<|im_start|>system\nToday: 26 Jul 2024\n\n' + system + '<|im_end|>' }}"
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content | trim }}"
    "{{- '<|im_end|>' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set told = messages[0]['content'] %}{% set said = messages[1:] %}"
    "{% else %}{% set told = '' %}{% set said = messages %}{% endif %}"
    "{% for message in said %}{% if message.role == 'user' %}<|endoftext|>[INST] "
    "{% if loop.first and told %}<<SYS>>\n{{ told }}\n<</SYS>>\n\n{% endif %}{{ message.content }} [/INST] "
    "{% else %}{{ message.content }}<|im_end|>{% endif %}{% endfor %}"
)
OPENED = (
    "{%- for message in messages %}{%- if message.role == 'user' %}{{ '<|im_start|>user\n' + message.content }}"
    "{%- else %}{{ '<|im_start|>assistant\n' + message.content.split('</think>')[-1] + '<|im_end|>' }}{%- endif %}"
    "{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{%- endif %}"
)
SOURCES = {
    "thinking": THINKING,
    "tagged": TAGGED,
    "llama31": LLAMA31,
    "llama2": LLAMA2,
    "opened": OPENED,
    "chatml": CHATML,
    "llama3": LLAMA3,
}

TOOLS = [{"type": "function", "function": {"name": "查询", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"type": "function", "function": {"name": "查询", "arguments": {"城市": "北京 <b>"}}}
TALKS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "你好！😀"}],
    [
        {"role": "system", "content": "简短。"},
        {"role": "user", "content": " a\n"},
        {"role": "assistant", "content": "b"},
    ],
    [
        {"role": "user", "content": "天气?"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\n1"},
        {"role": "user", "content": "再?"},
        {"role": "assistant", "content": "<think>\nok\n</think>\n\n2"},
    ],
]


def with_template(tokenizer: Tokenizer, source: str) -> Tokenizer:
    return tokenizer.with_chat_template(source)


@pytest.mark.parametrize("name", SOURCES)
@pytest.mark.parametrize("generation", [False, True])
def test_rendering_is_that_of_transformers(qwen_and_llama: Tokenizer, oracle: Any, name: str, generation: bool) -> None:
    template = Template(with_template(qwen_and_llama, SOURCES[name]))
    for messages in TALKS:
        expected = oracle.apply_chat_template(
            messages, chat_template=SOURCES[name], tokenize=False, add_generation_prompt=generation
        )
        assert template.render(messages, generation=generation) == expected


def test_tools_and_calls_are_rendered_as_by_transformers(qwen: Tokenizer, oracle: Any) -> None:
    messages = [
        {"role": "user", "content": "天气?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "晴"},
        {"role": "assistant", "content": "晴天"},
    ]
    for source in (qwen.chat_template, CHATML):
        expected = oracle.apply_chat_template(messages, tools=TOOLS, chat_template=source, tokenize=False)
        assert Template(with_template(qwen, str(source))).render(messages, TOOLS) == expected


def test_no_system_prompt_gives_plain_chatml_on_every_real_row(qwen: Tokenizer, shared_data: Path) -> None:
    template = Template(qwen, system="none")
    rows = sft_rows(shared_data)
    assert len(rows) == 200
    for row in rows:
        assert template.render(row.messages).encode() == (chatml(list(row.messages))[0] + "\n").encode()
    simple = template.render([{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}])
    assert simple == "<|im_start|>user\n问<|im_end|>\n<|im_start|>assistant\n答<|im_end|>\n"


@pytest.mark.parametrize("source", [None, *SOURCES])
def test_no_system_prompt_leaves_what_a_conversation_brings(qwen_and_llama: Tokenizer, source: str | None) -> None:
    tokenizer = with_template(qwen_and_llama, SOURCES[source]) if source else qwen_and_llama
    default, none = Template(tokenizer), Template(tokenizer, system="none")
    assert none.render(TALKS[1]) == default.render(TALKS[1])
    assert none.render(TALKS[0]) in default.render(TALKS[0])
    assert ("system" in none.render(TALKS[0])) is False


def test_no_system_prompt_keeps_the_tools(qwen: Tokenizer) -> None:
    text = Template(qwen, system="none").render(TALKS[0], TOOLS)
    assert "查询" in text
    assert "You are Qwen" not in text


@settings(deadline=None, max_examples=20)
@given(text=st.text(min_size=1).filter(lambda text: text not in ("none", "default")))
def test_a_system_text_stands_as_it_is(qwen: Tokenizer, text: str) -> None:
    template = Template(qwen, system=text)
    expected = Template(qwen).render([{"role": "system", "content": text}, *TALKS[0]])
    assert template.render(TALKS[0]) == expected
    assert template.render(TALKS[1]) == Template(qwen).render(TALKS[1])


@pytest.mark.parametrize("system", ["none", "你是{{丹}}炉 '\"\\n %} 😀"])
@pytest.mark.parametrize("source", ["llama31", "chatml", "qwen"])
def test_the_policy_is_saved_with_the_template(
    qwen: Tokenizer, oracle: Any, system: str, source: str, tmp_path: Path
) -> None:
    template = Template(with_template(qwen, SOURCES[source]) if source != "qwen" else qwen, system=system)
    for messages in TALKS:
        expected = oracle.apply_chat_template(messages, chat_template=template.source, tokenize=False)
        assert template.render(messages) == expected
    again = Template(template.tokenizer, system=system)
    assert again.source == template.source
    assert again.fingerprint == template.fingerprint
    assert Template(template.tokenizer).fingerprint == template.fingerprint


def test_fingerprint_follows_template_policy_and_special_tokens(qwen: Tokenizer) -> None:
    backend = Backend.from_str(qwen.backend.to_str())
    backend.add_special_tokens([AddedToken("<|new|>", special=True)])
    other = Tokenizer(backend, qwen.config, qwen.chat_template)
    prints = [Template(qwen), Template(qwen, "none"), Template(qwen, choice="chatml"), Template(other)]
    assert len({template.fingerprint for template in prints}) == 4
    assert Template(qwen).fingerprint == Template(qwen).fingerprint


def test_a_tokenizer_without_template_is_refused_with_the_choices(qwen: Tokenizer) -> None:
    bare = Tokenizer(qwen.backend, qwen.config)
    with pytest.raises(UserError, match="chatml, llama3"):
        Template(bare)
    with pytest.raises(UserError, match="chatml, llama3"):
        Template(bare, choice="vicuna")
    assert Template(bare, choice="chatml").source == CHATML


@pytest.mark.parametrize("source", ["{% for %}", "{% for m in messages %}{{ m.content }}{% endfor %}", LLAMA3])
def test_templates_that_cannot_train_are_refused(qwen: Tokenizer, source: str) -> None:
    with pytest.raises(UserError, match=r"Jinja|special token|refuses"):
        Template(with_template(qwen, source))


def test_a_refusal_of_the_template_is_told(qwen: Tokenizer) -> None:
    template = Template(with_template(qwen, STRICT))
    with pytest.raises(UserError, match="User first, please"):
        template.encode(Conversation([{"role": "assistant", "content": "x"}]))


def test_a_template_cannot_reach_python(qwen: Tokenizer) -> None:
    source = "{{ ''.__class__.__mro__ }}" + CHATML
    with pytest.raises(UserError, match="unsafe"):
        Template(with_template(qwen, source))


def test_stop_tokens(qwen: Tokenizer) -> None:
    assert Template(qwen).stop_ids == (151645, 151643)
    assert Template(qwen).stops == ("<|im_end|>",)
    assert Template(with_template(qwen, LLAMA2)).stops == ("<|im_end|>",)


def test_ends_that_disagree_are_told(qwen: Tokenizer) -> None:
    assert Template(qwen).concerns(terminator=151645) == []
    told = Template(qwen).concerns(terminator=151643)
    assert len(told) == 1
    assert "<|endoftext|>" in told[0]
    wrong = Tokenizer(qwen.backend, qwen.config, qwen.chat_template, generation_stops=(151643,))
    assert "generation_config" in Template(wrong).concerns()[0]


def test_json_filter_escapes_nothing(qwen: Tokenizer) -> None:
    text = Template(with_template(qwen, TAGGED)).render([{"role": "system", "content": "<你>"}])
    assert json.dumps({"role": "system", "content": "<你>"}, ensure_ascii=False) in text
