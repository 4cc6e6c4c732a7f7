"""A published folder of another family on the whole way: opened, fine-tuned, scored, chatted with, served, exported,
grown, and opened again by those who know nothing of us."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient
from transformers import AutoModelForCausalLM, AutoTokenizer

import danlu
from danlu.ledger.errors import UserError
from danlu.model.folder import load_decoder
from danlu.model.stored import Stored
from danlu.recipe.export import export_model
from danlu.recipe.settings import load_recipe
from danlu.recipe.tokenizers import extend_tokenizer
from danlu.serve.app import create_app
from danlu.serve.settings import ServeSettings

from .float64_reference import baichuan_logits, internlm2_logits
from .foreign_folders import BAICHUAN_7B, BAICHUAN_13B, INTERNLM2_7B, as_arrays, random_weights, write_folder
from .foreign_tokenizers import write_baichuan_tokenizer, write_internlm2_tokenizer
from .test_families_of_others import our_logits

TALKS = [
    [("你好，世界！", "hello the model 😀"), ("什么是水？", "水木火土。")],
    [("def f(x)", "return x ** 2"), ("2026 年", "机器学习，Adam。")],
    [("mixed 中文", "全角：ＡＢＣ")],
] * 4
RECIPE = """
name: foreign
out: {out}
seed: 3
model: {{from: {folder}}}
tokenizer: {{path: {folder}, template: {template}}}
sft:
  data: {{sources: [{{path: {rows}}}], length: 96, workers: 1}}
  train: {{steps: 2, batch: 4, learning_rate: 0.01, precision: float32}}
"""
CASES: dict[str, tuple[dict[str, Any], Callable[[Path], Any], str, Callable[..., Any]]] = {
    "baichuan 13b": (BAICHUAN_13B, write_baichuan_tokenizer, "baichuan", baichuan_logits),
    "baichuan 7b": (BAICHUAN_7B, write_baichuan_tokenizer, "baichuan2", baichuan_logits),
    "internlm2": (INTERNLM2_7B | {"num_key_value_heads": 1}, write_internlm2_tokenizer, "null", internlm2_logits),
}


@pytest.mark.parametrize("case", CASES)
def test_a_folder_of_others_goes_the_whole_way(case: str, tmp_path: Path) -> None:
    published, write_tokenizer, template, reference = CASES[case]
    folder = tmp_path / "model"
    spm = write_tokenizer(tmp_path)
    shape = {"hidden_size": 40, "num_attention_heads": 5, "num_hidden_layers": 2, "intermediate_size": 48}
    config = published | shape | {"vocab_size": spm.vocab_size()}
    write_folder(folder, config, random_weights(config, 1, scale=0.1), shards=2)
    for file in ("tokenizer.model", "tokenizer_config.json"):
        (tmp_path / file).rename(folder / file)
    rows = tmp_path / "talks.jsonl"
    roles = ("user", "assistant")
    talks = [
        [{"role": role, "content": text} for turn in talk for role, text in zip(roles, turn, strict=True)]
        for talk in TALKS
    ]
    rows.write_text("\n".join(json.dumps({"messages": talk}, ensure_ascii=False) for talk in talks), "utf-8")
    path, out = tmp_path / "recipe.yaml", tmp_path / "out"
    path.write_text(RECIPE.format(out=out, folder=folder, template=template, rows=rows), "utf-8")
    danlu.run(load_recipe(path))

    trained = danlu.load(out)
    answer = trained.chat(talks[0][:1], max_tokens=6)
    assert trained.score("你好 hello").bits_per_byte > 0
    with TestClient(create_app(trained, ServeSettings()), base_url="http://127.0.0.1:8000") as client:
        asked = {"model": trained.name, "messages": talks[0][:1], "max_tokens": 6, "temperature": 0}
        assert client.post("/v1/chat/completions", json=asked).json()["choices"][0]["message"]["content"] == answer

    export_model(out, tmp_path / "exported", "float32")
    if case == "baichuan 13b":
        with pytest.raises(UserError, match="llama has rotary"):
            export_model(out, tmp_path / "as_llama", "float32", family="llama")
    family = published["model_type"]
    own = tmp_path / "exported" if case == "baichuan 13b" else tmp_path / "own"
    if own.name == "own":
        export_model(out, own, "float32", family=family)
    before, stored = Stored(folder), Stored(own)
    weights = {name: stored.read(name) for name in stored.places}
    assert weights.keys() == before.places.keys()
    assert all(not torch.equal(weight, before.read(name)) for name, weight in weights.items())
    tokens = trained.chat_prompt(talks[1][:3])
    expected = torch.from_numpy(reference(config, as_arrays(weights), tokens))
    assert (our_logits(load_decoder(own), tokens) - expected).abs().max() <= 1e-4
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path / "exported", trust_remote_code=case == "baichuan 13b"
    ).eval()
    with torch.no_grad():
        assert (theirs(torch.tensor([tokens])).logits[0] - expected).abs().max() <= 1e-4
    words = AutoTokenizer.from_pretrained(tmp_path / "exported")
    asked = words.apply_chat_template(talks[1][:3], tokenize=False, add_generation_prompt=True)
    assert words.encode(asked, add_special_tokens=False) == tokens

    (tmp_path / "words.txt").write_text("火水习木\n", "utf-8")
    extend_tokenizer(tmp_path / "exported", tmp_path / "grown", [], tmp_path / "words.txt", 0)
    grown = danlu.load(tmp_path / "grown")
    assert len(grown.tokenizer.encode("火水习木")) <= 2 and grown.decoder.settings.vocab_size % 128 == 0
    grown.chat(talks[0][:1], max_tokens=3)
