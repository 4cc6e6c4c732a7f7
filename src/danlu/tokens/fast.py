"""The same ids faster: gigatoken in the place of tokenizers, where it is proven to give the same."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import tokenizers
from numpy.typing import NDArray

Encode = Callable[[str], NDArray[np.uint32]]

# Outside these blocks the two libraries hold letters and combining marks of different Unicode versions, so they may
# split or normalise a text differently: such a text is left to tokenizers. Tested for every character inside.
UNPROVEN = re.compile(
    "[^\0-\u07fa\u0e00-\u0e7f\u1e00-\ua4cf\uac00-\ud7a3\ue000-\uffff\U0001f000-\U0001faff\U00020000-\U0002a6d6]"
)
_POOLS = (
    "abc xyz Don't I'LL we'VE 'S",
    " \t\n\r\u3000\u00a0\x0b\x00\u200b\u200d\ufeff",
    "0123456789２①〇一½",
    "，。！？、；：“”（）《》.,!?;:'\"()[]{}<>|@#$%^&*-_=+/\\~`",
    "的一是在不了有和人这中大为上个国我以要他吗绿豆糕",
    "e\u0301\u0323A\u030aÅéﬁ가각\u1100\u1161\u11a8豈\u212b",
    "👨‍👩‍👧🇨🇳👍🏽😀𠀀𪛖▁",
    "тест عربي ไทย あア",
)


@dataclass(frozen=True)
class FastEncoder:
    """`encode` gives the ids that `backend.encode` gives; `name` says by which library.

    That is gigatoken for the common blocks of Unicode and tokenizers for the rest; where gigatoken cannot stand in,
    tokenizers alone, with the reason in `name`.
    """

    encode: Encode
    name: str

    @classmethod
    def of(cls, backend: tokenizers.Tokenizer) -> FastEncoder:
        """The fastest encoder that is proven on probe texts."""
        slow = plain_encoder(backend)
        try:
            from gigatoken.gigatoken_rs import load_hf_json
        except ImportError:
            return cls(slow, "tokenizers (gigatoken is not installed)")
        try:
            quick: Encode = load_hf_json(_without_frame(backend)).encode
            other = next((text for text in probe_texts(backend) if not np.array_equal(quick(text), slow(text))), None)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in Rust is no Exception
            return cls(slow, f"tokenizers (gigatoken cannot read this tokenizer: {_brief(error)})")
        if other is not None:
            return cls(slow, f"tokenizers (gigatoken gives other ids for {other[:40]!r})")

        def fast(text: str) -> NDArray[np.uint32]:
            return slow(text) if UNPROVEN.search(text) else quick(text)

        return cls(fast, f"gigatoken {version('gigatoken')}")


def plain_encoder(backend: tokenizers.Tokenizer) -> Encode:
    """The ids that tokenizers gives."""

    def encode(text: str) -> NDArray[np.uint32]:
        (found,) = backend.encode_batch_fast([text], add_special_tokens=False)
        return np.array(found.ids, np.uint32)

    return encode


def probe_texts(backend: tokenizers.Tokenizer, count: int = 100) -> Iterator[str]:
    """Texts that mix scripts, signs, blanks, normal forms and tokens of the vocabulary; the same every time."""
    draw, size = random.Random(0), backend.get_vocab_size(with_added_tokens=True)
    added = [token.content for token in backend.get_added_tokens_decoder().values()]
    yield ""
    for _ in range(count):
        parts = []
        for _ in range(draw.randint(1, 24)):
            pool = draw.choice(_POOLS)
            parts += [draw.choice(pool) for _ in range(draw.randint(1, 6))]
            parts += [backend.decode([draw.randrange(size)], skip_special_tokens=False)]
            parts += [draw.choice(added)] if added and draw.random() < 0.1 else []
        yield UNPROVEN.sub("", "".join(parts))


def _without_frame(backend: tokenizers.Tokenizer) -> str:
    """tokenizer.json without what is put around a text; without special tokens where text may not hold them."""
    state = json.loads(backend.to_str())
    state |= {"post_processor": None, "truncation": None, "padding": None}
    if backend.encode_special_tokens:
        state["added_tokens"] = [token for token in state["added_tokens"] if not token["special"]]
    return json.dumps(state, ensure_ascii=False)


def _brief(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
