"""Chat templates as Hugging Face writes them: Jinja, in a sandbox, with its filters and tags."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages and messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- '# Tools\\n\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' + tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools>\\n\\nTo call a tool, write <tool_call>\\n' }}
    {{- '{"name": NAME, "arguments": OBJECT}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (tools and loop.first and message.role == 'system') %}
        {{- '<|im_start|>' + message.role + '\\n' }}
        {%- if message.reasoning_content %}
            {{- '<think>\\n' + message.reasoning_content + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- message.content or '' }}
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function or call %}
            {%- if not loop.first or message.content %}
                {{- '\\n' }}
            {%- endif %}
            {{- '<tool_call>\\n{"name": ' + call.name | tojson + ', "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA3 = """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


class _Generation(Extension):
    """`{% generation %}` marks answers for other trainers; here it only must not be an error."""

    tags = {"generation"}  # noqa: RUF012  # jinja2 reads a plain set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


def compile_template(source: str, now: datetime) -> jinja2.Template:
    """The compiled template; `now` is the time that its `strftime_now` shows.

    Raises jinja2.TemplateError when the source is no template.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = now.strftime
    return environment.from_string(source)


def _literal(text: str) -> str:
    """The text as a string of Jinja's language."""
    return "'" + text.encode("unicode_escape").decode("ascii").replace("'", "\\'") + "'"


def with_system(source: str, text: str) -> str:
    """The template `source` with the system message `text` where a conversation brings none."""
    return _wrapped(source, text)


def without_system(source: str, block: str, kept: str) -> str:
    """The template `source` without its own system prompt, where a conversation brings neither that nor tools.

    `block` is what `source` writes for one empty system message, and begins with `kept` (the start token or
    nothing), which stays. With tools the block has to stay, for the tools stand in it: its system text is empty.
    """
    return _wrapped(source, "", len(kept), len(block))


def _wrapped(source: str, system: str, start: int = 0, end: int = 0) -> str:
    """`source`, given the system message `system` if there is none, and then without its text from start to end."""
    add = "{%- set messages = [{'role': 'system', 'content': " + _literal(system) + "}] + messages -%}"
    cut = "{%- set bare = not tools -%}" if end > start else ""
    # Jinja drops a newline after a block, a newline at the end of a template, and blanks before a block.
    body = "{%- set written %}\n" + source.removesuffix("\n") + "{{ '' }}{% endset -%}"
    write = f"{{{{- written[:{start}] + written[{end}:] if bare else written -}}}}"
    asked = "{%- if not messages or messages[0].role != 'system' -%}" + add + cut + "{%- endif -%}"
    return "{%- set bare = false -%}" + asked + body + write
