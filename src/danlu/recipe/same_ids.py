"""Whether another reader of a tokenizer gives the ids that the model was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from danlu.evaluate.agreement import TEXTS
from danlu.ledger.errors import UserError
from danlu.tokens.template import Template
from danlu.tokens.tokenizer import Tokenizer

TELLING = (
    *TEXTS,
    "I'll say it's 3.14159, or 2026-01-30; we've HE'S they'RE 100,000,000 x12y345",
    "两个  空格，制表\t符，　全角空格\n\n\n换行 \n 行首\r\n结束  ",
    "全角：ＡＢＣ１２３！？「引号」……—— “curly” ‘quotes’",
    "emoji 👩‍👩‍👧 🇨🇳 ❤️ 罕见字𠮷，ไทย हिन्दी العربية 한국어 かな",
    "snake_case camelCase http://example.com/a?b=c&d=%20 <b>x</b> {'k': [1, 2]} -->",
    "   leading, trailing   ",
    "mixed中文English混排1234567中文",
)
"""Texts on which splittings differ: digits, blanks, line ends, contractions, scripts, signs."""
_TALK = ("你好 hello, it's 12345！\n", "  答案 answer 👋  ", "再说 again")


def require_same_ids(
    tokenizer: Tokenizer,
    encode: Callable[[str], list[int]],
    encode_markup: Callable[[str], list[int]],
    reader: str,
    folder: Path,
    told: bool,
    do: str,
) -> None:
    """Compares the reader's ids with the tokenizer's own, of texts in both languages and of a conversation.

    Raises UserError for the first text with others, unless `told` to go on.
    """
    differing = [text for text in TELLING if encode(text) != tokenizer.encode(text)]
    if tokenizer.chat_template is not None:
        asked = [
            {"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), _TALK, strict=True)
        ]
        talk = Template(tokenizer).render(asked, generation=True)
        if encode_markup(talk) != tokenizer.encode_markup(talk):
            differing.append(talk)
    if differing and not told:
        raise UserError(
            f"{reader} reads {len(differing)} of {len(TELLING) + 1} texts as other tokens than the model was trained "
            f"on, first {differing[0]!r}",
            where=str(folder),
            do=do,
        )


def require_opened_alike(tokenizer: Tokenizer, folder: Path, told: bool) -> None:
    """Opens a written Hugging Face folder's tokenizer as its users do. Raises UserError where its ids are others."""
    from transformers import AutoTokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError, ImportError) as error:
        raise UserError(
            f"transformers cannot open the tokenizer: {error}",
            where=tokenizer.origin,
            do="take the tokenizer's files from their origin again, or write another form (--family)",
        ) from None

    def encode(text: str) -> list[int]:
        ids: list[int] = theirs.encode(text, add_special_tokens=False)
        return ids

    require_same_ids(
        tokenizer,
        encode,
        encode,
        f"transformers' {type(theirs).__name__}",
        folder,
        told,
        "write another form (--family; for a model of type qwen2 transformers splits as Qwen2 does, whatever "
        "tokenizer.json says), or insist (--accept)",
    )
