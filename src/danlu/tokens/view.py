"""Single rows for the eye: every token, coloured by whose it is and whether it is in the loss."""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from html import escape

import numpy as np
from rich.text import Text

from danlu.tokens.encode import Encoded, Role
from danlu.tokens.tokenizer import Tokenizer

_STYLES = {Role.NONE: "dim", Role.SYSTEM: "magenta", Role.USER: "blue", Role.ASSISTANT: "yellow", Role.TOOL: "cyan"}
_PAGE = """<!doctype html>
<html><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 15px/2 system-ui, sans-serif; max-width: 62em; margin: 2em auto; padding: 0 1em; color: #222 }}
div {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: 1em 0; padding: 1em; border: 1px solid #ddd }}
span {{ border-radius: 3px; box-shadow: inset -1px 0 #0002 }}
.none {{ color: #888 }} .system {{ background: #f0e4fa }} .user {{ background: #e2ecfb }}
.assistant {{ background: #fdf3d0 }} .tool {{ background: #dff5f2 }} .loss {{ background: #bfe8bf; font-weight: 600 }}
</style></head><body><h1>{title}</h1>
<p><span class="none">markup</span> <span class="system">system</span> <span class="user">user</span>
<span class="assistant">assistant</span> <span class="tool">tool</span> <span class="loss">in the loss</span></p>
{rows}</body></html>
"""


def view(encoded: Encoded, tokenizer: Tokenizer) -> Text:
    """The row for a terminal: green on its own ground is in the loss, other colours are roles, dim is markup."""
    text = Text()
    for number, (shown, role, weight) in enumerate(_tokens(encoded, tokenizer)):
        style = "black on green" if weight else _STYLES[role]
        text.append(shown, style + (" underline" if number % 2 and not weight else " bold" if number % 2 else ""))
    return text


def view_html(rows: Sequence[tuple[str, Encoded]], tokenizer: Tokenizer, title: str) -> str:
    """A page that needs nothing else: each row under its name; a token's id and weight show under the pointer."""
    parts = []
    for name, encoded in rows:
        spans = []
        for token, (shown, role, weight) in zip(encoded.tokens, _tokens(encoded, tokenizer), strict=True):
            style = "loss" if weight else role.name.lower()
            spans.append(f'<span class="{style}" title="{token} · {weight:g}">{escape(shown)}</span>')
        trained = int((encoded.weights != 0).sum())
        head = f"{escape(name)}: {len(encoded)} tokens, {trained} in the loss"
        parts.append(f"<h3>{head}</h3><div>{''.join(spans)}</div>\n")
    return _PAGE.format(title=escape(title), rows="".join(parts))


def _tokens(encoded: Encoded, tokenizer: Tokenizer) -> Iterator[tuple[str, Role, float]]:
    """(text to show, role, weight) of each token; a character of several tokens shows with its last one."""
    sizes = encoded.piece_ends - encoded.piece_starts
    roles = np.repeat(encoded.piece_roles, sizes) if len(sizes) else np.zeros(len(encoded), np.uint8)
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token, role, weight in zip(encoded.tokens.tolist(), roles.tolist(), encoded.weights.tolist(), strict=True):
        shown = decoder.decode(tokenizer.token_bytes[token]) or "·"
        yield shown.replace("\n", "↵\n"), Role(role), weight
