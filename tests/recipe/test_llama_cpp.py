"""GGUF files in llama.cpp itself: the same ids, the same next tokens, the same answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from danlu.evaluate.llama_cpp import InLlamaCpp, installed
from danlu.infer.model import load
from danlu.recipe.export import export_model
from danlu.recipe.same_ids import TELLING
from danlu.tokens.tokenizer import Tokenizer

from .exported import SHAPES, told_apart, train_words, write_model

pytestmark = [
    pytest.mark.prove,
    pytest.mark.skipif(installed() is None, reason="needs llama.cpp: pip install 'danlu[llama-cpp]'"),
]
CASES = [(shape, "byte_bpe" if shape.startswith("qwen") else "sentencepiece") for shape in SHAPES] + [
    ("llama", "byte_bpe")
]
ASKED = 12
DEEP = "baichuan 13b"  # llama.cpp takes ALiBi in 40 layers only, and those are slow to teach


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    root = tmp_path_factory.mktemp("words")
    return {kind: train_words(root / kind, kind) for kind in ("byte_bpe", "sentencepiece")}


@pytest.mark.parametrize(("shape", "kind"), CASES)
def test_answers_as_its_source(shape: str, kind: str, words: dict[str, Tokenizer], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", shape, words[kind], steps=0 if shape == DEEP else 250)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("\n".join(json.dumps({"text": text}) for text in told_apart(words[kind])[:ASKED]))
    score = {}
    for form in ("f16", "q8_0"):
        export_model(folder, tmp_path / form, "bf16", gguf=form, prompts=prompts, accept=True)
        score[form] = json.loads((tmp_path / form / "agreement.json").read_text())
        assert score[form]["reader"] == installed()
    if shape == DEEP:
        assert score["f16"]["kl"] < 1e-4 and score["f16"]["top1"] >= 0.98
        return
    assert score["f16"]["greedy"] == 1.0, "32 greedy tokens after every prompt"
    assert score["f16"]["top1"] == 1.0 and score["f16"]["kl"] < 1e-4
    assert score["q8_0"]["top1"] >= 0.99


def test_a_talk_in_the_files_own_template(words: dict[str, Tokenizer], tmp_path: Path) -> None:
    from llama_cpp import Llama

    folder = write_model(tmp_path / "model", "qwen2", words["byte_bpe"])
    export_model(folder, tmp_path / "out", "bf16", gguf="f16")
    ours = load(folder)
    file = str(next((tmp_path / "out").glob("*.gguf")))
    theirs = Llama(file, n_ctx=512, n_threads=1, verbose=False)
    talk = [("system", "规则。Be kind."), ("user", "a"), ("assistant", "b 👋"), ("user", "再见")]
    messages = [{"role": role, "content": text} for role, text in talk]
    for some in (messages[1:2], messages):
        said = theirs.create_chat_completion(some, max_tokens=24, temperature=0.0, repeat_penalty=1.0)
        assert said["usage"]["prompt_tokens"] == len(ours.chat_prompt(some))
        answer = ours.chat(some, max_tokens=24)
        assert said["choices"][0]["message"]["content"] == answer.replace("\ufffd", ""), "it leaves broken bytes out"
    theirs.close()


def test_llama_cpp_reads_text_as_the_tokenizer_does(words: dict[str, Tokenizer], tmp_path: Path) -> None:
    for kind, tokenizer in words.items():
        folder = write_model(tmp_path / kind, "llama", tokenizer)
        export_model(folder, tmp_path / f"{kind}-gguf", "bf16", gguf="f16", accept=True)
        form = InLlamaCpp.open(next((tmp_path / f"{kind}-gguf").glob("*.gguf")), 256)
        for text in TELLING:
            assert form.encode(text) == tokenizer.encode(text), text
            marked = f"<|im_start|>user\n{text}<|im_end|>\n"
            assert form.encode(marked, markup=True) == tokenizer.encode_markup(marked)
            assert form.encode(marked) == tokenizer.encode(marked), "markup in a message stays text"
