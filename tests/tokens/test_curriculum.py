"""Easy before hard: still every example once a pass, still a pure function of seed and position."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from danlu.ledger.errors import UserError
from danlu.text.settings import SourceSettings
from danlu.tokens.curriculum import bands, count_bands
from danlu.tokens.order import GradedPasses, Grades, Order
from danlu.tokens.order_settings import CurriculumSettings, Pacing
from danlu.tokens.pack import open_stream, pack
from danlu.tokens.settings import DataSettings

quick = settings(max_examples=60, deadline=None)


@st.composite
def grades(draw: st.DrawFn) -> Grades:
    shards, count = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    sizes = [[draw(st.integers(0, 9)) for _ in range(shards)] for _ in range(count)]
    sizes[0][0] += 1
    opens = sorted(draw(st.lists(st.floats(0, 1), min_size=count - 1, max_size=count - 1)))
    return Grades(sizes, [0.0, *opens])


@quick
@given(grades(), st.integers(0, 9))
def test_a_pass_is_a_permutation_and_no_band_comes_early(made: Grades, seed: int) -> None:
    passes = GradedPasses(made, seed)
    ends = np.cumsum(made.sizes, axis=0)
    everything = {(shard, rank) for shard in range(ends.shape[1]) for rank in range(ends[-1, shard])}
    orders = [passes.places(number * passes.total, passes.total) for number in range(2)]
    for order in orders:
        assert len(order) == len(everything) and set(order) == everything
        for at, (shard, rank) in enumerate(order):
            band = int(np.searchsorted(ends[:, shard], rank, "right"))
            easier = sum(map(sum, made.sizes[:band]))
            assert at >= min(round(made.opens[band] * passes.total), easier), (
                "before its time only when nothing is left"
            )


@quick
@given(grades(), st.lists(st.integers(1, 30), min_size=1), st.integers(0, 5))
def test_the_order_is_the_same_however_it_is_asked_for(made: Grades, counts: list[int], seed: int) -> None:
    sizes = np.sum(made.sizes, axis=0).tolist()
    order = Order([sizes, [5, 5]], [(0, [1.0, 2.0]), (23, [0.5, 1.0])], seed, [made, None])
    parts, at = [], 0
    for count in counts:
        parts += order.places(at, count)
        at += count
    assert parts == Order([sizes, [5, 5]], [(0, [1.0, 2.0]), (23, [0.5, 1.0])], seed, [made, None]).places(0, at)


def test_only_the_first_passes_are_ordered() -> None:
    made = Grades([[50, 50], [50, 50]], [0.0, 0.5], passes=1)
    passes = GradedPasses(made, 1)
    hard = [[rank >= 50 for _, rank in passes.places(200 * number, 100)] for number in range(2)]
    assert not any(hard[0]) and 30 < sum(hard[1]) < 70
    assert len(set(passes.places(200, 200))) == 200


def test_pacing_is_the_competence_of_its_source() -> None:
    """Platanios et al. 2019, equation 6: at t the easiest sqrt(t (1 - c²) / T + c²) may be shown."""
    settings = CurriculumSettings(by="x", pacing=Pacing(start=0.2, full=0.8, power=2.0))
    scores = np.random.default_rng(0).permutation(16_000).astype(np.float32)
    edges, opens = bands(settings, scores)
    sizes = count_bands(scores, edges)
    shown = GradedPasses(Grades([[size] for size in sizes], opens), 0).places(0, 16_000)
    for at in range(500, 16_000, 500):
        competence = min(1.0, (at / 16_000 * (1 - 0.04) / 0.8 + 0.04) ** 0.5)
        hardest = max(rank for _, rank in shown[: at + 1]) / 16_000
        assert competence - 0.07 < hardest <= competence + 0.01


def stages(*pairs: tuple[float, float | str], **more: Any) -> CurriculumSettings:
    side = "above" if more.get("first") == "high" else "below"
    found = [{"until": until, side: threshold} for until, threshold in pairs]
    return CurriculumSettings.model_validate({"by": "hard", "stages": found, **more})


def data(path: Path, curriculum: CurriculumSettings | None, **more: Any) -> DataSettings:
    source = SourceSettings(path=str(path), name="texts")
    return DataSettings(
        **{"sources": [source], "length": 64, "held_out": 0.0, "workers": 1, "shard_tokens": 600, **more},
        curriculum=curriculum,
    )


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 conversations with a number `hard`, the last 20 without."""
    made = [
        {
            "messages": [{"role": "user", "content": f"问 {n}"}, {"role": "assistant", "content": "ok" * (n % 9 + 1)}],
            **({"hard": n * 0.5} if n < 100 else {}),
        }
        for n in range(120)
    ]
    path = tmp_path_factory.mktemp("rows") / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    return path


def hardness(stream: Any, count: int) -> list[float]:
    shards = [stream.sets[0].shard(taken.place.shard) for taken in stream.examples(0, count)]
    at = [taken.place.index for taken in stream.examples(0, count)]
    return [float(shard.scores[number, 0]) for shard, number in zip(shards, at, strict=True)]


def test_stages_by_a_number_of_the_rows(tmp_path: Path, byte_tokenizer: Path, rows: Path) -> None:
    settings = data(rows, stages((0.25, 10), (0.5, "q50")))
    manifest = pack(settings, byte_tokenizer, "sft", tmp_path / "out")
    found = manifest["curriculum"]["texts"]
    assert (found["examples"], found["scored"], found["sizes"][0]) == (120, 100, 20)
    stream = open_stream(tmp_path / "out", settings, "sft", seed=1, epochs=2)
    assert len(stream.sets[0].shards) > 3
    seen = hardness(stream, 240)
    assert sorted(seen[:20]) == [n * 0.5 for n in range(20)], "the stage ends once all below 10 are shown"
    assert max(seen[20:50]) < 25 and np.isnan(seen[50:120]).sum() == 20, "those without a score are the hardest"
    assert np.array_equal(np.sort(seen[:120]), np.sort(seen[120:]), equal_nan=True) and seen[:20] != seen[120:140]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_and_resuming_change_nothing(tmp_path: Path, byte_tokenizer: Path, rows: Path, world: int) -> None:
    settings = data(rows, CurriculumSettings(by="length", first="high"))
    pack(settings, byte_tokenizer, "sft", tmp_path / "out")
    whole = open_stream(tmp_path / "out", settings, "sft", seed=1)
    lengths = [len(taken.documents[0]) for taken in whole.examples(0, 120)]
    assert np.mean(lengths[:30]) > np.mean(lengths[90:]) and sorted(lengths[:12]) > sorted(lengths)[:12]
    at, tokens = 0, []
    while at < whole.total:
        fresh = open_stream(tmp_path / "out", settings, "sft", seed=1)
        steps = [fresh.step(at, 17, rank, world, 2) for rank in range(world)]
        documents = [batch.tokens.ravel()[batch.cu[s] : batch.cu[s + 1]] for step in steps for batch in step.micro
                     for s in np.flatnonzero(batch.doc["index"] >= 0)]  # fmt: skip
        expected = [taken.documents[0].encoded.tokens for taken in whole.examples(at, 17)]
        assert sorted(map(tuple, documents)) == sorted(map(tuple, expected))
        tokens += [trace.hashes for trace in fresh.trace(at, 17)]
        at = steps[0].consumed
    assert len(tokens) == len(set(tokens)) == 120


def test_scores_that_are_not_there_are_named(tmp_path: Path, byte_tokenizer: Path, rows: Path) -> None:
    settings = data(rows, CurriculumSettings(by="quality"))
    with pytest.raises(UserError, match=r"number called 'quality'[^|]*length, hard"):
        pack(settings, byte_tokenizer, "sft", tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"stages": [{"until": 0.3, "above": 1}]}, "a stage has `below`"),
        ({"stages": [{"until": 0.3, "below": "30%"}]}, "no threshold"),
        ({"stages": [{"until": 0.3, "below": 1}, {"until": 0.2, "below": 2}]}, "must rise"),
        ({"stages": [{"until": 0.3, "below": "q30"}, {"until": 0.4, "below": "q20"}]}, "must let in more"),
        ({"stages": [{"until": 0.3, "below": 1}], "pacing": {}}, "Remove one"),
    ],
)
def test_mistakes_are_explained(content: dict[str, Any], part: str) -> None:
    with pytest.raises(ValidationError, match=part):
        CurriculumSettings.model_validate(content)


def test_windows_have_no_curriculum() -> None:
    with pytest.raises(ValidationError, match="window"):
        data(Path("x"), CurriculumSettings(), pack="concat")


def test_bands_are_in_order_and_whole() -> None:
    scores = np.array([3, np.nan, 1, 2, 2, 5, np.nan], np.float32)
    assert count_bands(scores, [2, 3]) == [1, 2, 4]
    edges, opens = bands(CurriculumSettings(), np.arange(1000.0))
    assert all(a < b for a, b in pairwise(edges)) and all(a < b for a, b in pairwise(opens)) and opens[0] == 0
