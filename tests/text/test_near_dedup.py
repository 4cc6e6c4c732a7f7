"""Near-duplicates against plain Python: what goes has a twin that stays and reaches the threshold; little is missed."""

from __future__ import annotations

import json
import random
import unicodedata
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from gathered import gather, meta_of
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import PIECES, words_of

from danlu.config import check
from danlu.ledger.counts import Counts
from danlu.text.clean import clean
from danlu.text.kernels import Codes
from danlu.text.ops import near_tasks
from danlu.text.ops.near_dedup import banding
from danlu.text.readers import read_rows
from danlu.text.records import Conversation, Document, Preference, Record
from danlu.text.settings import CleanSettings, SourceSettings
from danlu.text.source import read_records
from danlu.text.steps.duplicates import NearDedupStep

SURE = NearDedupStep(threshold=0.6, ngram=2, recall=0.9999, permutations=256)


@cache
def plain(character: str) -> str:
    found = unicodedata.normalize("NFKC", character).lower()
    return found if len(found) == 1 and unicodedata.category(character)[0] in "LN" else character


def folded(text: str) -> list[str]:
    """Words without case and width, in plain Python."""
    return ["".join(map(plain, word)) for word in words_of(text)]


@cache
def grams(text: str, n: int) -> set[tuple[str, ...]]:
    words = folded(text)
    return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}


def jaccard(left: set[Any], right: set[Any]) -> float:
    return len(left & right) / len(left | right) if left | right else 0.0


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), max_size=6), st.integers(1, 6))
def test_n_grams_have_one_hash_exactly_when_they_are_one(texts: list[str], n: int) -> None:
    codes = Codes(texts)
    words = [word for text in texts for word in folded(text)]
    hashes = codes.folded_word_hashes.tolist()
    assert len(set(zip(words, hashes, strict=True))) == len(set(words)) == len(set(hashes))
    found = near_tasks.shingles(codes, n)
    bounds = found.bounds.tolist()
    own = [found.hashes[start:stop].tolist() for start, stop in pairwise(bounds)]
    plain = [[tuple(words[at : at + n]) for at in range(len(words) - n + 1)] for words in map(folded, texts)]
    assert list(map(len, own)) == list(map(len, plain))
    pairs = {(gram, hash) for g, h in zip(plain, own, strict=True) for gram, hash in zip(g, h, strict=True)}
    assert len(pairs) == len({gram for gram, _ in pairs}) == len({hash for _, hash in pairs})


@pytest.mark.parametrize("other", ["ＨＥＬＬＯ—world：　你，好", "hello\n\nWorld 你 好!!", "Hello（world）「你」好"])
def test_case_width_and_punctuation_do_not_count(other: str) -> None:
    hashes = Codes(["Hello, world! 你好。"]).folded_word_hashes.tolist()
    assert hashes == Codes([other]).folded_word_hashes.tolist()


def test_bands_find_a_pair_at_the_threshold_with_the_probability_asked_for() -> None:
    for threshold in (0.5, 0.7, 0.8, 0.9, 1.0):
        for recall in (0.5, 0.9, 0.99):
            step = NearDedupStep(threshold=threshold, recall=recall)
            bands, rows = banding(step)
            assert bands * rows <= 128 and 1 - (1 - threshold**rows) ** bands >= recall
            assert rows == 128 or 1 - (1 - threshold ** (rows + 1)) ** (128 // (rows + 1)) < recall
    assert banding(NearDedupStep(threshold=0.01, recall=0.999, permutations=16)) == (16, 1)


def check_sound(texts: list[str], found: dict[int, dict[str, Any]], step: NearDedupStep) -> None:
    """Whatever goes has an earlier twin that stays, with the similarity that is stated and reaches the threshold."""
    sets = [grams(text, step.ngram) for text in texts]
    for place, values in found.items():
        twin = int(values["twin"])
        assert twin < place and twin not in found
        assert values["jaccard"] == pytest.approx(jaccard(sets[place], sets[twin]))
        assert values["jaccard"] >= step.threshold


WORDS = st.lists(st.sampled_from([*"abcd你好Ａ天"]), max_size=12).map(" ".join)


@settings(deadline=None, max_examples=20)
@given(st.lists(WORDS, max_size=25), st.integers(8, 30))
def test_small_corpora_equal_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], size: int
) -> None:
    found = gather(texts, SURE, tmp_path_factory.mktemp("near"), size)
    check_sound(texts, found, SURE)
    sets = [grams(text, SURE.ngram) for text in texts]
    stay: list[int] = []
    for place, own in enumerate(sets):
        twins = [other for other in stay if own and jaccard(own, sets[other]) >= SURE.threshold]
        assert bool(twins) == (place in found)
        stay += [] if twins else [place]


def planted(texts: list[str], share: float, seed: int) -> list[tuple[int, str]]:
    """(place of the original, the text with that share of its words replaced by others of its words)."""
    draw = random.Random(seed)
    made = []
    for place, text in enumerate(texts):
        han = sum("一" <= character <= "龥" for character in text) > len(text) / 3
        words = list(text) if han else text.split(" ")
        for at in draw.sample(range(len(words)), max(1, int(share * len(words)))):
            words[at] = draw.choice(words)
        made.append((place, ("" if han else " ").join(words)))
    return made


@pytest.fixture(scope="session")
def real(shared_data: Path) -> list[str]:
    """Texts in Chinese and English, each cut to 2,000 characters."""
    found: list[str] = []
    for file in ("zh/articles-00", "en/textbooks-00", "zh/docs-00", "en/docs-00"):
        source = SourceSettings(path=str(shared_data / "pretrain" / f"{file}.jsonl.zst"), limit=45)
        records = [record for record in read_records(source, "document", Counts()) if isinstance(record, Document)]
        found += [record.text[:2000] for record in records if len(record.text) > 500]
    return found


def test_planted_near_duplicates_are_found_and_nothing_else_goes(real: list[str], tmp_path: Path) -> None:
    copies = [(place, copy) for share in (0.01, 0.03, 0.06) for place, copy in planted(real, share, round(share * 100))]
    texts = [*real, *(copy for _, copy in copies)]
    step = NearDedupStep(threshold=0.75)
    found = gather(texts, step, tmp_path / "near", 300)
    check_sound(texts, found, step)
    sets = [grams(text, step.ngram) for text in texts]
    near = [
        place
        for place, (original, _) in enumerate(copies, len(real))
        if jaccard(sets[place], sets[original]) >= step.threshold and original not in found
    ]
    missed = [place for place in near if place not in found]
    assert len(near) > 100 and len(missed) <= (1 - step.recall) * len(near)


@pytest.mark.parametrize("size", [7, 1000])
def test_the_cut_into_tasks_changes_nothing(
    real: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    texts = real[::6]
    texts = [*texts, *(copy for _, copy in planted(texts, 0.02, 1)), *texts[:9]]
    random.Random(0).shuffle(texts)
    step = NearDedupStep(threshold=0.7)
    whole = gather(texts, step, tmp_path / "whole")
    monkeypatch.setattr("danlu.text.ops.sorted_files.STRETCH", 50)
    monkeypatch.setattr("danlu.text.ops.near_dedup.STRETCH", 300)
    monkeypatch.setattr(near_tasks, "_GROUP", 1)
    cut = gather(texts, step, tmp_path / "cut", size)
    assert len(whole) > 30
    assert {place: (found["twin"], found["jaccard"]) for place, found in cut.items()} == {
        place: (found["twin"], found["jaccard"]) for place, found in whole.items()
    }


def test_what_went_before_is_no_twin(tmp_path: Path) -> None:
    text = "the quick brown fox jumps over the lazy dog and runs away"
    texts = [text, text + " again", text.upper(), "".join(text.split())]
    step = NearDedupStep(threshold=0.8)
    assert {at: f["twin"] for at, f in gather(texts, step, tmp_path / "a").items()} == {1: "0", 2: "0"}
    assert {at: f["twin"] for at, f in gather(texts, step, tmp_path / "b", dead={0}).items()} == {2: "1"}
    assert gather(texts, step, tmp_path / "c", dead={0, 1, 2, 3}) == {}


def test_a_chain_keeps_what_is_like_nothing_that_stays(tmp_path: Path) -> None:
    words = [f"w{number}" for number in range(60)]
    texts = [" ".join(words[start : start + 50]) for start in (0, 4, 8)]
    step = NearDedupStep(threshold=0.8, ngram=1, recall=0.999)
    found = gather(texts, step, tmp_path / "near")
    check_sound(texts, found, step)
    assert set(found) == {1}


def test_thousands_of_one_text_cost_one_comparison_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = count_comparisons(monkeypatch)
    texts = ["版权所有，翻印必究。本站文章均来自网络，如有侵权请联系删除。"] * 5000
    texts.insert(2500, "版权所有，翻印必究。本站文章均来自网络，如有侵权请联系我们删除。")
    found = gather(texts, NearDedupStep(threshold=0.7), tmp_path / "near")
    assert len(found) == 5000 and {values["twin"] for values in found.values()} == {"0"} and len(compared) == 1


def test_boilerplate_is_compared_with_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages that share half their text are all compared with MOST others at most, and that is told."""
    compared = count_comparisons(monkeypatch)
    monkeypatch.setattr(near_tasks, "MOST", 8)
    monkeypatch.setattr(near_tasks, "FULL", 16)
    draw = random.Random(0)
    shell = " ".join(f"menu{number}" for number in range(60))
    texts = [f"{shell} {' '.join(str(draw.random()) for _ in range(20))}" for _ in range(600)]
    step = NearDedupStep(threshold=0.75, recall=0.999)
    assert gather(texts, step, tmp_path / "near") == {}
    sets = [grams(text, 5) for text in texts[:20]]
    assert all(0.3 < jaccard(left, right) < 0.75 for left, right in combinations(sets, 2))
    assert 600 < len(compared) <= 600 * 8
    assert 300 < meta_of(tmp_path / "near")["not compared"] <= 600


def count_comparisons(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    compared: list[int] = []
    jaccard = near_tasks._Sets.jaccard

    def counted(self: Any, one: int, other: int, threshold: float) -> float:
        compared.append(one)
        return jaccard(self, one, other, threshold)

    monkeypatch.setattr(near_tasks._Sets, "jaccard", counted)
    return compared


@pytest.mark.parametrize("texts", [[], [""], ["", "一", "a", "。"] * 40, ["？！…", " ", "\n"]])
def test_texts_without_an_n_gram_are_left_alone(tmp_path: Path, texts: list[str]) -> None:
    assert gather(texts, NearDedupStep(), tmp_path / "near") == {}


def test_every_kind_of_record_and_the_value_in_what_is_dropped(tmp_path: Path) -> None:
    question = "请用不超过一百个字介绍一下杭州西湖的四季风光，以及最适合游览的时间。"
    answer = "西湖四季皆美：春有苏堤春晓，夏有曲院风荷，秋有平湖秋月，冬有断桥残雪，三月到五月最宜游览。"

    def turns(answer: str) -> list[Any]:
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]

    records: list[list[Record]] = [
        [Document(question + answer), Document(question + answer.replace("三月", "四月")), Document(answer[:20])],
        [Conversation(turns(answer)), Conversation(turns(answer[:-5] + "最宜出游。"))],
        [
            Preference(turns(answer)[:1], turns(answer)[1:], turns("不知道。")[1:]),
            Preference(turns(answer)[:1], turns(answer)[1:], turns("不知道啊。")[1:]),
        ],
    ]
    sources = []
    for kind, rows in zip(("document", "conversation", "preference"), records, strict=True):
        file = tmp_path / f"{kind}.jsonl"
        file.write_text("".join(json.dumps(record.to_row(), ensure_ascii=False) + "\n" for record in rows), "utf-8")
        sources.append({"path": str(file), "kind": kind})
    steps = [{"op": "normalise"}, {"op": "near_dedup", "threshold": 0.7}]
    clean(check(CleanSettings, {"sources": sources, "steps": steps, "workers": 1}), tmp_path / "out")
    for kind in ("document", "conversation", "preference"):
        rows = [row.fields for row in read_rows(tmp_path / "out" / "dropped" / f"{kind}s")]
        assert [(row["step"], row["reason"]) for row in rows] == [("near_dedup", "near duplicate")]
        assert rows[0]["value"]["twin"] == f"{kind}.jsonl:1" and 0.7 <= rows[0]["value"]["jaccard"] < 1


def test_parts_and_workers_change_nothing_through_clean(
    real: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All three steps that compare records, on one process and on two with many small parts."""
    monkeypatch.setattr("danlu.text.clean.ALONE_BYTES", 10_000)
    menu = "首页 | 新闻 | 关于我们 | 联系我们 | 网站地图"
    texts = [f"{menu}\n{text}" for text in real[::4]]
    texts += [copy for _, copy in planted(texts, 0.02, 1)]
    exam = tmp_path / "exam.jsonl"
    exam.write_text("".join(json.dumps({"q": text[100:260]}) + "\n" for text in texts[:5]), "utf-8")
    file = tmp_path / "web.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), "utf-8")
    steps = [{"op": "line_dedup"}, {"op": "near_dedup"}, {"op": "decontaminate", "tests": [str(exam)]}]
    written = []
    for name, how in (("one", {"workers": 1}), ("many", {"workers": 2, "task_bytes": 20_000})):
        source = {"path": str(file), "name": "web"}
        clean(check(CleanSettings, {"sources": [source], "steps": steps, **how}), tmp_path / name)
        folders = [tmp_path / name / folder for folder in ("documents", "dropped")]
        written.append([[row.fields for row in read_rows(folder)] for folder in folders])
    assert written[0] == written[1]
    reasons = {row["step"] for row in written[0][1]}
    assert reasons == {"near_dedup", "decontaminate"} and not any(menu in row["text"] for row in written[0][0])


def test_files_of_one_name_in_two_sources_are_told_apart(tmp_path: Path) -> None:
    text = "四川盆地位于中国西南部，四周被高山环绕，气候温暖湿润，物产丰富，自古被称为天府之国。"
    for source, rows in (
        ("old", ["完全不同的另一段文字，说的是海边的渔村和清晨的潮水声。"]),
        ("new", [text, text + "！又"]),
    ):
        (tmp_path / source).mkdir()
        lines = "".join(json.dumps({"text": row}) + "\n" for row in rows)
        (tmp_path / source / "a.jsonl").write_text(lines, "utf-8")
    sources = [{"path": str(tmp_path / name)} for name in ("old", "new")]
    steps = [{"op": "near_dedup"}]
    clean(check(CleanSettings, {"sources": sources, "steps": steps, "workers": 1}), tmp_path / "out")
    [row] = [row.fields for row in read_rows(tmp_path / "out" / "dropped")]
    assert (row["value"]["twin"], row["value"]["source"]) == ("a.jsonl:1", "new")
