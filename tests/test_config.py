"""Strict settings: what a typing mistake, a doubled key or a wrong type gets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, model_validator

from danlu.config import Settings, describe, load_settings, read_yaml, settings_from
from danlu.infer.settings import ChatSettings
from danlu.ledger.errors import UserError


class Item(Settings):
    name: str = Field(description="A name.")
    weight: float = Field(1.0, description="A weight.")


class Whole(Settings):
    method: Literal["whole"] = "whole"


class Ends(Settings):
    method: Literal["ends"] = "ends"
    last: int = Field(2, description="How many.")


class Low(Settings):
    method: Literal["low", "lower"] = "low"
    rank: int = Field(8, description="Rank.")
    targets: list[str] = Field(["all-linear"], description="Modules.")
    parts: list[Item] = Field([], description="Parts.")


Tuned = Annotated[Whole | Ends | Low, Field(discriminator="method")]


class Training(Settings):
    epochs: int = Field(3, description="Passes over the data.")
    learning_rate: float = Field(1e-3, description="Peak rate.")
    schedule: Literal["cosine", "linear"] = Field("cosine", description="Shape of the rate.")
    items: list[Item] = Field([], description="Items.")
    tune: Tuned = Field(Whole(), description="What is trained.")
    tunes: list[Tuned] = Field([], description="Several.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="A pair.")
    skip: list[tuple[int, int]] = Field([], description="Pairs.")

    @model_validator(mode="after")
    def _betas_below_1(self) -> Training:
        if max(self.betas) >= 1:
            raise ValueError(f"betas {self.betas} must be below 1.")
        return self


class Top(Settings):
    name: str = Field(description="The run's name.")
    out: Path = Field(Path("runs"), description="Where to write.")
    train: Training = Field(Training(), description="Training.")


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, "utf-8")
    return path


def test_reads_numbers_paths_and_chinese(tmp_path: Path) -> None:
    path = written(
        tmp_path, "name: 丹炉🔥\nout: /tmp/出\ntrain: {learning_rate: 1e-4, items: [{name: no, weight: 2}]}\n"
    )
    top = load_settings(Top, path)
    assert top.name == "丹炉🔥"
    assert top.out == Path("/tmp/出")
    assert top.train.learning_rate == 1e-4
    assert top.train.items == [Item(name="no", weight=2.0)]


def test_unknown_key_names_file_line_and_nearest(tmp_path: Path) -> None:
    path = written(tmp_path, "name: a\ntrain:\n  epoch: 2\n")
    with pytest.raises(UserError) as error:
        load_settings(Top, path)
    assert f"{path}:3" in str(error.value)
    assert "`train.epoch`" in str(error.value)
    assert "did you mean `epochs`" in str(error.value)


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, "train:\n  epochs: two\n  schedule: cosin\n  items: [{nam: x}]\n")
    with pytest.raises(UserError) as error:
        load_settings(Top, path)
    text = str(error.value)
    for part in (
        "`name` is missing",
        f"{path}:2",
        "integer",
        f"{path}:3",
        "`train.items.0.nam`",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: a\nname: b\n", "comes twice"),
        ("name: [a\n", "not YAML"),
        ("- a\n", "mapping"),
        ("name: 3\n", "string"),
        ("name: a\ntrain: {epochs: 1.5}\n", "integer"),
        ("name: a\ntrain: {epochs: yes}\n", "integer"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(UserError, match=part):
        load_settings(Top, written(tmp_path, text))


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    written(tmp_path, "name: a\n")
    with pytest.raises(UserError, match=r"did you mean .*recipe\.yaml"):
        load_settings(Top, tmp_path / "recpe.yaml")


def test_wrong_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gbk.yaml"
    path.write_bytes("name: 中文\n".encode("gbk"))
    with pytest.raises(UserError, match="UTF-8"):
        load_settings(Top, path)


def test_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, "name: a\ntrain: {items: [{name: x}]}\n")
    top = load_settings(Top, path, ["train.epochs=5", "train.items.0.weight=0.5", "out=/tmp/b", "name=李白"])
    assert (top.train.epochs, top.train.items[0].weight, top.out, top.name) == (5, 0.5, Path("/tmp/b"), "李白")


@pytest.mark.parametrize("override", ["train.epochs", "=3", "name.x=1", "train.items.7.name=a", "train.epochs=[1"])
def test_bad_overrides_are_refused(tmp_path: Path, override: str) -> None:
    path = written(tmp_path, "name: a\ntrain: {items: [{name: x}]}\n")
    with pytest.raises(UserError, match="command line"):
        load_settings(Top, path, [override])


def test_what_is_wrong_has_its_place(tmp_path: Path) -> None:
    path = tmp_path / "空，😀.yaml"
    path.write_text("# nothing\n", "utf-8")
    with pytest.raises(UserError, match=rf"^{path}:1: `name` is missing"):
        load_settings(Top, path)
    path.write_text("name: x\ntrain: {items: [{name: a}]}\n", "utf-8")
    with pytest.raises(UserError, match=r"^command line: `trian` is not a setting\n  → did you mean `train`"):
        load_settings(Top, path, ["trian.epochs=1"])
    with pytest.raises(UserError, match=r"`train.items` is a list of 1, .*\n.* from 0 to 0"):
        load_settings(Top, path, ["train.items.7.name=a"])
    with pytest.raises(UserError, match=r'`name` is "x", so `name.x` cannot be set\n  → set name as a whole'):
        load_settings(Top, path, ["name.x=1"])


def test_a_wrong_override_is_laid_to_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"command line: `train\.epochs`"):
        load_settings(Top, written(tmp_path, "name: a\n"), ["train.epochs=many"])


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives(value: float) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), f"value: {value!r}\n")
        read, _ = read_yaml(path)
    assert read["value"] == value


def test_describe_names_every_setting() -> None:
    rows = {key: (kind, default, meaning) for key, kind, default, meaning in describe(Top)}
    assert rows["train.learning_rate"] == ("number", "0.001", "Peak rate.")
    assert rows["train.items[].name"] == ("text", "required", "A name.")
    assert rows["train.schedule"][0] == "one of cosine, linear"


@pytest.mark.parametrize(
    ("tune", "key", "part"),
    [
        ("{method: whole, rank: 8}", "tune.rank", "`rank` belongs to method low or lower, but method is whole here"),
        ("{method: ends, rnk: 8}", "tune.rnk", "`rank` belongs to method low or lower, but method is ends here"),
        ("{method: low, last: 8}", "tune.last", "`last` belongs to method ends, but method is low here"),
        ("{method: low, rnk: 8}", "tune.rnk", "did you mean `rank`?"),
        ("{method: lower, 秩🔥: 8}", "tune.秩🔥", "known here: method, parts, rank, targets"),
        ("{method: ends, wibble: 8}", "tune.wibble", "known here: last, method"),
        ("{method: low, parts: [{nam: a}]}", "tune.parts.0.nam", "did you mean `name`?"),
        ("{method: lowe}", "tune.method", "did you mean `lower`?"),
        ("{method: 低秩}", "tune.method", 'should be whole, ends, low or lower, but is "低秩"'),
        ("{method: 3}", "tune.method", "should be whole, ends, low or lower, but is 3"),
        ("{rank: 8}", "tune.method", "set it to low or lower"),
        ("{rank: 8, last: 2}", "tune.method", "set it to whole, ends, low or lower"),
        ("{method: low, targets: [1]}", "tune.targets.0", "string"),
    ],
)
def test_a_union_is_told_by_the_kind_that_was_chosen(tmp_path: Path, tune: str, key: str, part: str) -> None:
    """In the file, on the command line, and in a list alike."""
    told = {}
    one = written(tmp_path, f"name: 丹炉\ntrain:\n  tune: {tune}\n")
    with pytest.raises(UserError) as told[f"{one}:3: `train.{key}`"]:
        load_settings(Top, one)
    with pytest.raises(UserError) as told[f"command line: `train.{key}`"]:
        settings_from(Top, ["name=丹炉", f"train.tune={tune}"])
    with pytest.raises(UserError) as told[f"command line: `train.{key.replace('tune', 'tunes.1')}`"]:
        settings_from(Top, ["name=丹炉", f"train.tunes=[{{method: ends}}, {tune}]"])
    for where, error in told.items():
        assert where in str(error.value)
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("override", "right"),
    [
        ("train.tune={method: low, targets: all-linear}", "train.tune.targets=[all-linear]"),
        ("train.tune={method: low, targets: 'q_proj, v_proj'}", "train.tune.targets=[q_proj, v_proj]"),
        ("train.tune={method: low, targets: q_proj，输出、v_proj}", "train.tune.targets=[q_proj, 输出, v_proj]"),
        ("train.tune=low", "train.tune={method: low}"),
        ("train.tune=method：low", "train.tune={method: low}"),
        ("train.tunes=ends", "train.tunes=[{method: ends}]"),
    ],
)
def test_a_word_for_a_list_or_settings_is_shown_as_it_is_written(tmp_path: Path, override: str, right: str) -> None:
    with pytest.raises(UserError) as error:
        settings_from(Top, ["name=a", override])
    assert str(error.value).endswith(f"\n  → write '{right}'")
    settings_from(Top, ["name=a", "train.tune={method: low}", right])
    section, _, value = override.partition("=")
    path = written(tmp_path, f"name: a\ntrain:\n  {section.removeprefix('train.')}: {value}\n")
    with pytest.raises(UserError) as error:
        load_settings(Top, path)
    assert str(error.value).startswith(f"{path}:3: `train.tune")
    assert str(error.value).endswith(f"\n  → write {right.partition('=')[2]}")


def test_no_list_of_settings_is_made_up(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'`train\.items`: should be a list, but is "a"$'):
        settings_from(Top, ["name=a", "train.items=a"])


def test_the_nearest_of_a_few_words_is_named() -> None:
    with pytest.raises(UserError, match=r"`train\.schedule`: should be 'cosine' or 'linear'.*\n.*mean `cosine`"):
        settings_from(Top, ["name=a", "train.schedule=cosin"])


@pytest.mark.parametrize(
    ("given", "place", "needed"),
    [
        ("train.betas=[0.9]", "train.betas", "2, but is [0.9]"),
        ("train.betas=[]", "train.betas", "2, but is []"),
        ("train.betas=[1, 2, 3]", "train.betas", "2, but is [1, 2, 3]"),
        ("train.skip=[[1, 2], [3]]", "train.skip.1", "2, but is [3]"),
    ],
)
def test_a_list_of_another_length_says_which_is_wanted(tmp_path: Path, given: str, place: str, needed: str) -> None:
    with pytest.raises(UserError) as error:
        settings_from(Top, ["name=a", given])
    assert str(error.value) == f"command line: `{place}`: should be a list of {needed}"
    section, _, value = given.partition("=")
    path = written(tmp_path, f"name: a\ntrain:\n  {section.removeprefix('train.')}: {value}\n")
    with pytest.raises(UserError) as error:
        load_settings(Top, path)
    assert str(error.value) == f"{path}:3: `{place}`: should be a list of {needed}"


def test_what_a_section_refuses_is_laid_to_where_it_was_written(tmp_path: Path) -> None:
    path = written(tmp_path, "name: a\ntrain:\n  epochs: 2\n  betas: [2, 3]\n")
    with pytest.raises(UserError, match=rf"^{path}:4: `train`: betas "):
        load_settings(Top, path)
    path = written(tmp_path, "name: a\ntrain:\n  epochs: 2\n")
    with pytest.raises(UserError, match=r"^command line: `train`: betas "):
        load_settings(Top, path, ["train.betas=[2, 3]"])


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("name: a\nout：runs\ntrain: {epochs: 2}\n", 2, "out"),
        ("name: 名：字  # 例如 name：a\ntrain：\n  epochs: 2\n", 2, "train"),
        ("name：a\nout：runs\n", 1, "name"),
        ("name: a\ntrain: {items：[a], epochs: 2}\n", 2, "items"),
    ],
)
def test_a_full_width_colon_is_named(tmp_path: Path, text: str, line: int, key: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as error:
        load_settings(Top, path)
    assert str(error.value) == (
        f"{path}:{line}: the colon after `{key}` is full-width (：)\n"
        f"  → write `{key}: `, with a half-width colon and a blank"
    )


def test_a_key_without_its_section_is_told_the_section() -> None:
    with pytest.raises(UserError, match=r"`temperature` is not a setting\n  → did you mean `sampling\.temperature`\?"):
        settings_from(ChatSettings, ["temperature=0.5"])
