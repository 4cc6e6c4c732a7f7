"""The study of tokenizers: its measures against plain counting, and what is odd in a vocabulary made for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend
from typer.testing import CliRunner

from danlu.cli import app
from danlu.report.tokenizers import sections, write_page
from danlu.report.words import WORDS
from danlu.tokens.bpe import SPLIT
from danlu.tokens.characters import byte_alphabet
from danlu.tokens.settings import TokenizerTrainSettings
from danlu.tokens.study import EDGES, ODD, odd_tokens, study, visible
from danlu.tokens.tokenizer import Tokenizer
from danlu.tokens.train import train_tokenizer

TEXTS = [("zh", "a", "绿豆糕怎么做？"), ("en", "a", "How to make it?"), ("zh", "b", "e\u0301 \ud800")]


@pytest.fixture(scope="module")
def odd_one() -> Tokenizer:
    """Byte-level BPE as Qwen's, with one token of each odd kind."""
    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    vocabulary = {letters[byte]: byte for byte in range(256)}
    merges: list[tuple[str, str]] = []

    def add(spelled: bytes) -> None:
        left = letters[spelled[0]]
        for byte in spelled[1:]:
            if left + letters[byte] not in vocabulary:
                merges.append((left, letters[byte]))
                vocabulary[left + letters[byte]] = len(vocabulary)
            left += letters[byte]

    for text in ("豆", "，", "a b", "e\u0301x", "1,"):
        add(text.encode())
    for half in ("-", "--", "----"):
        merges.append((half, half))
        vocabulary[2 * half] = len(vocabulary)
    add("糕x".encode()[1:])
    backend = Backend(models.BPE(vocabulary, merges))
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end|>"])
    return Tokenizer(backend, {"eos_token": "<|end|>"})


def test_density_is_bytes_over_tokens(odd_one: Tokenizer) -> None:
    found = study(odd_one, "odd", TEXTS)
    for language, source, text in TEXTS[:2]:
        density = found.densities[language, source]
        assert (density.bytes, density.characters) == (len(text.encode()), len(text))
        assert density.tokens == len(odd_one.encode(text))
        assert density.bytes_per_token == density.bytes / density.tokens
    assert found.trips == {"same": 2, "nfc": 1}
    assert found.special == {"<|end|>": odd_one.special["<|end|>"]}
    assert found.form == "byte-level BPE"
    assert found.habits["digits"]["2026年"][:4] == ["2", "0", "2", "6"]
    assert found.edges["decomposed"] == "nfc"
    assert {found.edges[case] for case in EDGES if case != "decomposed"} == {"same"}


def test_odd_tokens_are_found(odd_one: Tokenizer) -> None:
    odd = odd_tokens(odd_one)
    unreachable = odd["unreachable"].examples
    assert "<C0>" in unreachable
    spelled = {odd_one.token_bytes[id]: id for id in range(256, odd_one.vocab_size)}
    assert odd["repeated"].examples == ["-×8"]
    assert odd["part"].count >= 3
    assert odd["across"].examples[-1].endswith("x")
    assert {kind: found.count for kind, found in odd.items()}.keys() == set(ODD)
    for token, reachable in {b"a b": False, b"a ": False, "e\u0301".encode(): False, "豆".encode(): True}.items():
        contexts = [f"{left}{token.decode()}{right}" for left in ("", "x", "\n") for right in ("", "x", "，")]
        assert any(spelled[token] in odd_one.encode(text) for text in contexts) == reachable
    assert odd["unreachable"].count == 13 + len({b"a ", b"a b", b"1,", "e\u0301".encode(), "e\u0301x".encode()})


def test_every_reachable_token_of_a_trained_tokenizer_is_found_so(tmp_path: Path) -> None:
    texts = [f"今天天气{number}很好，我们去公园。 The weather is fine on day {number}!\n" for number in range(200)]
    for kind in ("byte_bpe", "sentencepiece"):
        asked = TokenizerTrainSettings.model_validate({"kind": kind, "vocab_size": 305, "reserved": 0})
        made = train_tokenizer(asked, texts, tmp_path / kind)
        seen = {id for text in texts for id in made.encode(text)}
        assert odd_tokens(made)["unreachable"].count <= made.vocab_size - len(seen)
        assert odd_tokens(made)["unreachable"].count >= 13


def test_metaspace_is_named_as_what_does_not_come_back(tmp_path: Path) -> None:
    asked = TokenizerTrainSettings(kind="sentencepiece", vocab_size=300, reserved=0)
    made = train_tokenizer(asked, [f"今天{number} fine weather" for number in range(200)], tmp_path / "t")
    found = study(made, "sp", [("en", "a", "x▁y")])
    assert found.trips == {"changed": 1}
    assert found.first_change == "x▁y → x␣y"
    assert found.edges["metaspace"] == EDGES["metaspace"].replace("▁", " ")
    assert {found.edges[case] for case in EDGES if case != "metaspace"} == {"same"}


def test_visible_shows_every_byte() -> None:
    assert visible("a\u3000 \n\t豆\x00\u200b".encode() + b"\xe7\xb3") == "a［　］␣⏎⇥豆<U+0000><U+200B><E7><B3>"
    assert visible(b" " * 20) == "␣×20"


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_has_every_table_in_its_language_and_no_address(
    odd_one: Tokenizer, tmp_path: Path, language: str
) -> None:
    found = sections([study(odd_one, "<odd>", TEXTS), study(odd_one, "b", TEXTS)], "zh" if language == "zh" else "en")
    write_page(found, "a", "zh" if language == "zh" else "en", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    for key in found:
        assert WORDS[key][language == "zh"] in page
    assert "&lt;odd&gt;" in page
    assert "<odd>" not in page
    assert "http" not in page.replace("http-equiv", "")
    used = {key: words for key, words in WORDS.items() if key.startswith("edge_")}
    assert all(words[language == "zh"][1:] in page for words in used.values())


def test_the_command_compares_folders_and_files(odd_one: Tokenizer, tmp_path: Path) -> None:
    odd_one.save(tmp_path / "one" / "tok")
    odd_one.save(tmp_path / "two" / "tok")
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "绿豆糕怎么做？第一步，先把绿豆泡好。"}))
    folders = [str(tmp_path / "one" / "tok"), str(tmp_path / "two" / "tok" / "tokenizer.json")]
    done = CliRunner().invoke(
        app,
        ["tokenizer", "inspect", *folders, "--text", str(tmp_path / "text.jsonl"), "--html", str(tmp_path / "p.html")],
    )
    assert done.exit_code == 0, done.output
    assert "one/tok" in done.output
    assert "two/tok" in done.output
    assert "zh · text" in done.output
    assert (tmp_path / "p.html").is_file()
    plain = CliRunner().invoke(app, ["tokenizer", "inspect", folders[0], "--language", "zh"])
    assert "中文 · 生成文本" in plain.output
    assert "英文 · 生成文本" in plain.output
    assert "每词元字节数" in plain.output
