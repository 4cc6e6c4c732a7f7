"""Classifiers in cleaning: the hashed one against plain Python, its step in a whole run, damaged folders."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from danlu.config import check
from danlu.ledger.errors import UserError
from danlu.text.classifiers.features import bags
from danlu.text.classifiers.hashed import HashedClassifier, Shape
from danlu.text.classifiers.load import scorer
from danlu.text.clean import clean
from danlu.text.settings import CleanSettings
from danlu.text.steps.classifier import SETTINGS, WEIGHTS

BITS = 16
TEXT = st.text(st.sampled_from("aB1９，,。!！-\n \t中文𠀀的é'😀ｱあ"), max_size=30)


def random_classifier(labels: list[str], seed: int = 0) -> HashedClassifier:
    random = np.random.default_rng(seed)
    shape = Shape(labels=labels, bits=BITS)
    several = len(labels) - 1
    return HashedClassifier(
        shape,
        random.normal(0, 5, (several, 1 << BITS)).astype(np.float32),
        random.normal(size=several).astype(np.float32),
    )


def saved(folder: Path, classifier: HashedClassifier) -> Path:
    folder.mkdir()
    classifier.save(folder)
    return folder


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("Don't stop!!! 第3条，ＯＫ……", ["don't", "stop", "!", "第", "0", "条", "，", "ok", "…"]),
        ("𠀀𠀁 2024 → 12ab", ["𠀀", "𠀁", "0000", "→", "00ab"]),
        ("a|b||c", ["a", "|", "b", "|", "c"]),
    ],
)
def test_a_text_has_the_n_grams_of_its_words_characters_and_marks(text: str, units: list[str]) -> None:
    """The same places as texts of the units alone, set apart by blanks."""
    found = bags([text], 3, BITS)
    single = {unit: bags([unit], 1, BITS)[0][0][0] for unit in units}
    assert found[0][0].tolist() == [single[unit] for unit in units]
    for n in (2, 3):
        again = [bags([" ".join(units[at : at + n])], n, BITS)[n - 1][0][0] for at in range(len(units) - n + 1)]
        assert found[n - 1][0].tolist() == again


def test_what_counts_as_the_same() -> None:
    def same(one: str, other: str) -> bool:
        return all(
            np.array_equal(a, b) for (a, _), (b, _) in zip(bags([one], 3, 20), bags([other], 3, 20), strict=True)
        )

    assert same("ABC 2023年", "abc  1999年")
    assert same("全角ＡＢＣ１", "全角abc0")
    assert same("-----", "-")
    assert not same("ab", "a b")
    assert not same("中文", "文中")
    assert not same("2023", "202")


@settings(max_examples=60, deadline=None)
@given(st.lists(TEXT, max_size=5))
def test_probabilities_are_the_softmax_of_mean_weights(texts: list[str]) -> None:
    classifier = random_classifier(["a", "b", "c"])
    found = classifier.probabilities(texts)
    for text, row in zip(texts, found, strict=True):
        places = [place for gram, _ in bags([text], 3, BITS) for place in gram.tolist()]
        scores = [0.0]
        for weights, bias in zip(classifier.weights, classifier.bias, strict=True):
            scores.append(math.fsum(float(weights[p]) for p in places) / max(1, len(places)) + float(bias))
        powers = [math.exp(score) for score in scores]
        np.testing.assert_allclose(row, [power / sum(powers) for power in powers], rtol=1e-4)
    alone = [classifier.probabilities([text])[0] for text in texts]
    assert found.tolist() == [row.tolist() for row in alone], "a text's score depends on its neighbours"


def test_saved_and_loaded_it_says_the_same(tmp_path: Path) -> None:
    classifier = random_classifier(["好", "bad"])
    folder = saved(tmp_path / "c", classifier)
    texts = ["今天天气很好。", "The weather is fine.", ""]
    expected = classifier.probabilities(texts)
    assert HashedClassifier.load(folder).probabilities(texts).tolist() == expected.tolist()
    assert scorer(str(folder), ["bad"])(texts).tolist() == expected[:, 1].tolist()
    assert scorer(str(folder), ["bad", "好"])(texts).tolist() == expected[:, ::-1].tolist()
    with pytest.raises(UserError, match=r"knows no label spam(.|\n)*好, bad"):
        scorer(str(folder), ["spam"])


@pytest.mark.parametrize(
    "damage", ["no folder", "no weights", "cut", "other shape", "other labels", "no settings", "nan"]
)
def test_a_damaged_folder_is_named(tmp_path: Path, damage: str) -> None:
    folder = saved(tmp_path / "c", random_classifier(["a", "b"]))
    weights, shape = folder / WEIGHTS, folder / SETTINGS
    if damage == "no folder":
        folder = tmp_path / "missing"
    elif damage == "no weights":
        weights.unlink()
    elif damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "other shape":
        shape.write_text(shape.read_text().replace(f'"bits": {BITS}', '"bits": 12'))
    elif damage == "other labels":
        shape.write_text(shape.read_text().replace('"a"', '"a","c"'))
    elif damage == "no settings":
        shape.write_bytes(b"\xff{")
    else:
        broken = random_classifier(["a", "b"])
        broken.weights[0, 7] = np.nan
        broken.save(folder)
    with pytest.raises(UserError) as raised:
        HashedClassifier.load(folder)
    assert str(folder) in str(raised.value) and raised.value.do


def run(tmp_path: Path, step: dict[str, object], texts: list[str], **more: object) -> dict[str, list[str]]:
    raw = tmp_path / "raw.jsonl"
    raw.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), "utf-8")
    section = {"sources": [{"path": str(raw), "name": "web"}], "steps": [step], "workers": 1}
    clean(check(CleanSettings, section), tmp_path / "out")
    return {"columns": sorted(str(path.name) for path in (tmp_path / "out").glob("columns/**/*classifier-*.parquet"))}


def test_the_step_judges_by_a_column_that_the_models_content_names(tmp_path: Path) -> None:
    texts = ["今天天气很好。", "The weather is fine.", "买一送一！！！", "12345"]
    folder = saved(tmp_path / "c", random_classifier(["good", "bad"]))
    step = {"op": "classifier", "path": str(folder), "label": "bad"}
    expected = HashedClassifier.load(folder).probabilities(texts)[:, 1]
    cut = float(np.median(expected))

    first = run(tmp_path, {**step, "score": {"max": cut}}, texts)["columns"]
    assert len(first) == 1
    file = next((tmp_path / "out").glob("columns/**/classifier-*.parquet"))
    assert parquet.read_table(file)["score"].to_pylist() == expected.tolist()
    dropped = json.loads((tmp_path / "out" / "statistics.json").read_text("utf-8"))
    assert "score too high" in json.dumps(dropped)

    stamp = file.stat().st_mtime_ns
    assert run(tmp_path, {**step, "score": {"min": cut}}, texts)["columns"] == first, "a threshold made a new column"
    assert file.stat().st_mtime_ns == stamp
    moved = folder.rename(tmp_path / "elsewhere")
    assert run(tmp_path, {**step, "path": str(moved)}, texts)["columns"] == first, "what counts is content, not place"
    random_classifier(["good", "bad"], seed=1).save(moved)
    both = run(tmp_path, {**step, "path": str(moved)}, texts)["columns"]
    assert len(both) == 2 and set(first) < set(both), "another model needs another column"


def test_a_missing_classifier_is_told_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a file of the step classifier is missing"):
        run(tmp_path, {"op": "classifier", "path": str(tmp_path / "none"), "label": "bad"}, ["a"])
    with pytest.raises(UserError, match="split_han"):
        check(
            CleanSettings,
            {"sources": [], "steps": [{"op": "classifier", "path": "c", "label": "b", "split_han": True}]},
        )


def test_sentences_are_masked_by_a_classifier(tmp_path: Path) -> None:
    sentences = ["今天天气很好。", "加我微信领红包！", "明天去公园。"]
    classifier = random_classifier(["ordinary", "advert"])
    for place in {place for gram, _ in bags([sentences[1]], 3, BITS) for place in gram.tolist()}:
        classifier.weights[0, place] = 50
    for text in (sentences[0], sentences[2]):
        for place in {p for gram, _ in bags([text], 3, BITS) for p in gram.tolist()}:
            classifier.weights[0, place] = -50
    folder = saved(tmp_path / "c", classifier)
    step = {"op": "unsuitable_scored", "classifier": str(folder), "label": "advert", "action": "mask"}
    run(tmp_path, step, ["".join(sentences)])
    from danlu.text.readers import read_rows

    kept = [row.fields["text"] for file in (tmp_path / "out" / "documents").rglob("*.zst") for row in read_rows(file)]
    assert kept == [sentences[0] + "***" + sentences[2]]
    with pytest.raises(UserError, match="belong together"):
        check(CleanSettings, {"sources": [], "steps": [{"op": "unsuitable_scored", "classifier": "c"}]})


def test_scoring_loads_no_torch(tmp_path: Path) -> None:
    folder = saved(tmp_path / "c", random_classifier(["a", "b"]))
    code = (
        "import sys; from danlu.text.classifiers.load import scorer; "
        f"scorer({str(folder)!r}, ['a'])(['文字 text']); "
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
