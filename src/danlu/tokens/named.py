"""Chat templates that can be chosen by name, for models that bring none: as their makers publish them, in Jinja.

Every answer ends with the tokenizer's end token, so that all answers of a conversation are trained in one pass. Where
a maker's own code leaves it out between turns (Baichuan's), that is the one difference, and Firefly trains so too.
"""

from __future__ import annotations

import re

from danlu.tokens.jinja import CHATML, LLAMA3

_REFUSED = "raise_exception('this template knows a system message first, then user and assistant, and no tools')"
_TURNS = """\
{%- for message in messages %}
    {%- if message.role == 'system' and loop.first %}
        {{- SYSTEM }}
    {%- elif message.role == 'user' %}
        {{- QUESTION }}
    {%- elif message.role == 'assistant' and not message.tool_calls %}
        {{- OPENING + message.content + eos_token }}
    {%- else %}
        {{- REFUSED }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- OPENING }}
{%- endif %}
"""


def _turns(system: str, question: str, opening: str) -> str:
    """A template out of Jinja expressions for a system message, a question, and what stands before an answer."""
    filled = _TURNS.replace("SYSTEM", system).replace("QUESTION", question).replace("OPENING", opening)
    return filled.replace("REFUSED", _REFUSED)


def _baichuan(user: str, assistant: str) -> str:
    return _turns("message.content", f"'{user}' + message.content", f"'{assistant}'")


_ALPACA_SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
)

# Stanford's second prompt, for rows with an `input`, stands under "### Input:" after another sentence. Here a row's
# input is the end of the question: a chat message has no place for it, and a model is to be asked as it was trained.
ALPACA = (
    "{%- if not messages or messages[0].role != 'system' %}\n    {{- '" + _ALPACA_SYSTEM + "' }}\n{%- endif %}\n"
) + _turns("message.content", "'\\n\\n### Instruction:\\n' + message.content + '\\n\\n'", "'### Response:'")

HUMAN = _turns("message.content + '\\n\\n'", "'Human: ' + message.content + '\\n\\n'", "'Assistant: '")

LLAMA2 = """\
{%- for message in messages %}
    {%- if message.role == 'system' and loop.first %}
        {{- bos_token + '[INST] <<SYS>>\\n' + message.content + '\\n<</SYS>>\\n\\n' }}
    {%- elif message.role == 'user' %}
        {%- if not (loop.index0 == 1 and messages[0].role == 'system') %}
            {{- bos_token + '[INST] ' }}
        {%- endif %}
        {{- message.content | trim + ' [/INST]' }}
    {%- elif message.role == 'assistant' and not message.tool_calls %}
        {{- ' ' + message.content | trim + ' ' + eos_token }}
    {%- else %}
        {{- REFUSED }}
    {%- endif %}
{%- endfor %}
""".replace("REFUSED", _REFUSED)

NAMED = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "llama2": LLAMA2,
    "alpaca": ALPACA,
    "human": HUMAN,
    "baichuan": _baichuan("<reserved_102>", "<reserved_103>"),
    "baichuan2": _baichuan("<reserved_106>", "<reserved_107>"),
}
BEGUN_BY_THE_TOKENIZER = {"alpaca", "human"}
"""Templates of plain text: they begin with the start token where the tokenizer begins every text with it."""


def markup(source: str) -> list[str]:
    """The special tokens that a template writes by their text, and that its tokenizer must have."""
    return sorted(set(re.findall(r"<\|\w+\|>|<reserved_\d+>", source)))
