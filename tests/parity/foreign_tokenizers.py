"""Tokenizer folders as Baichuan and InternLM2 were published: a SentencePiece model, and code that must not be run."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import sentencepiece

WORDS = "水木火土 机器学习 the model 你好，世界！ hello 2026 年 Adam 優化器 def f(x): return x ** 2 → 😀 "
TEXTS = [
    "你好，世界！ hello  world 2026",
    "  two blanks, a tab\tand\n\nlines",
    "罕见字𠮷与 emoji 👩‍👩‍👧 ，全角：ＡＢＣ",
    "def f(x):\n    return x ** 2",
    " ",
    "mixed中文English混排 1234567",
]
_CONFIG = {
    "add_bos_token": False,
    "add_eos_token": False,
    "bos_token": {"__type": "AddedToken", "content": "<s>", "normalized": True},
    "eos_token": {"__type": "AddedToken", "content": "</s>", "normalized": True},
    "unk_token": {"__type": "AddedToken", "content": "<unk>", "normalized": True},
    "sp_model_kwargs": {},
}


def write_baichuan_tokenizer(folder: Path, reserved: int = 110, dummy_prefix: bool = False) -> Any:
    """tokenizer.model with `<reserved_0>` … in the folder; gives sentencepiece's own reading of it."""
    config = _CONFIG | {
        "auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaichuanTokenizer", None]},
        "tokenizer_class": "BaichuanTokenizer",
        "pad_token": {"__type": "AddedToken", "content": "<unk>"},
    }
    symbols = [f"<reserved_{number}>" for number in range(reserved)]
    return _write(folder, config, "tokenization_baichuan.py", symbols, 620, dummy_prefix)


def write_internlm2_tokenizer(folder: Path) -> Any:
    """tokenizer.model with free pieces at its end, of which tokenizer_config.json makes ChatML's markup."""
    free = [f"[UNUSED_TOKEN_{number}]" for number in range(4)]
    spm = _write(folder, _CONFIG, "tokenization_internlm2.py", free, 520, dummy_prefix=True)
    named = {"<|im_start|>": free[0], "<|im_end|>": free[1]}
    added = {
        spm.piece_to_id(piece): {"content": text, "special": True, "normalized": False} for text, piece in named.items()
    }
    config = {key: value for key, value in _CONFIG.items() if not key.startswith("add_")} | {
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "tokenizer_class": "InternLM2Tokenizer",
        "added_tokens_decoder": {str(id): token for id, token in added.items()},
        "chat_template": "{{ bos_token }}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
        "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
        "{{ '<|im_start|>assistant\n' }}{% endif %}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return spm


def _write(folder: Path, config: dict[str, Any], code: str, symbols: list[str], size: int, dummy_prefix: bool) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=size,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=dummy_prefix,
        user_defined_symbols=symbols,
        character_coverage=1.0,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / code).write_text("raise SystemExit('code of the folder was run')")
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
