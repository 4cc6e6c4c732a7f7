"""Stages run when what they depend on has changed, and only then; nothing that was made is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from danlu.recipe.graph import PARKED, Stage, notices, run_stages, state


class Kitchen:
    """Two stages, the second of which needs the first; counts what is cooked."""

    def __init__(self, out: Path) -> None:
        self.out, self.cooked = out, list[str]()

    def stages(self, salt: int = 1, sugar: int = 1, sources: tuple[Path, ...] = ()) -> list[Stage]:
        soup = Stage("soup", self.out / "soup", {"salt": salt}, lambda: self._cook("soup", salt), sources=sources)
        cake = Stage(
            "bake/cake", self.out / "bake" / "cake", {"sugar": sugar}, lambda: self._cook("bake/cake", sugar), (soup,)
        )
        return [soup, cake]

    def run(self, **settings: int) -> list[str]:
        return [outcome.state for outcome in run_stages(self.stages(**settings))]

    def _cook(self, name: str, amount: int) -> None:
        self.cooked.append(f"{name} {amount}")
        (self.out / name / "dish").write_text(str(amount))


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    assert kitchen.run() == ["finished", "finished"]
    assert kitchen.run() == ["unchanged", "unchanged"]
    assert kitchen.cooked == ["soup 1", "bake/cake 1"]


def test_a_changed_setting_reruns_what_depends_on_it(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    kitchen.run()
    assert kitchen.run(sugar=2) == ["unchanged", "finished"]
    assert kitchen.run(sugar=2, salt=2) == ["finished", "finished"]


def test_going_back_to_old_settings_brings_old_results_back(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    kitchen.run()
    kitchen.run(sugar=2)
    assert (tmp_path / "bake/cake/dish").read_text() == "2"
    assert kitchen.run(sugar=1) == ["unchanged", "restored"]
    assert (tmp_path / "bake/cake/dish").read_text() == "1"
    assert kitchen.run(sugar=2) == ["unchanged", "restored"]
    assert kitchen.cooked == ["soup 1", "bake/cake 1", "bake/cake 2"]
    assert len(list((tmp_path / PARKED).iterdir())) == 1


def test_a_changed_file_reruns(tmp_path: Path) -> None:
    source = tmp_path / "water.txt"
    source.write_text("cold")
    kitchen = Kitchen(tmp_path / "out")
    for expected in (["finished", "finished"], ["unchanged", "unchanged"]):
        assert [outcome.state for outcome in run_stages(kitchen.stages(sources=(source,)))] == expected
    source.write_text("boiling")
    assert [outcome.state for outcome in run_stages(kitchen.stages(sources=(source,)))] == ["finished", "finished"]


def test_what_was_made_elsewhere_stays_without_its_files(tmp_path: Path) -> None:
    source = tmp_path / "水.txt"
    source.write_text("cold")
    kitchen = Kitchen(tmp_path / "here")

    def run(**settings: int) -> list[str]:
        """The stages as a recipe makes them: of files that are gone they are told nothing."""
        there = (source,) if source.exists() else ()
        return [outcome.state for outcome in run_stages(kitchen.stages(sources=there, **settings))]

    assert run() == ["finished", "finished"]
    source.unlink()
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    kitchen.out = tmp_path / "there"
    assert run() == ["unchanged", "unchanged"]
    assert run(sugar=2) == ["unchanged", "finished"], "what comes after it can still be made in another way"
    assert kitchen.stages()[0].without_sources()
    assert run(salt=2) == ["finished", "finished"], "other settings ask for the files, whose absence the stage tells"
    assert run() == ["restored", "restored"]
    source.write_text("boiling")
    assert run() == ["finished", "finished"], "files that are here again count"
    assert not kitchen.stages(sources=(source,))[0].without_sources()


def test_a_stage_that_was_cut_short_goes_on_in_its_folder(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    soup = kitchen.stages()[0]

    def burn() -> None:
        (soup.folder / "half").write_text("x")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        list(run_stages([Stage("soup", soup.folder, soup.settings, burn)]))
    assert state(soup) == "unfinished"
    assert kitchen.run() == ["continued", "finished"]
    assert (soup.folder / "half").exists()


def test_an_unfinished_stage_of_other_settings_is_parked(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    kitchen.run()
    (tmp_path / "soup" / "stage.json").unlink()
    assert kitchen.run() == ["finished", "unchanged"]
    assert [path.name for path in (tmp_path / PARKED).iterdir()] == ["soup-unknown"]


def test_a_stage_told_to_go_on_keeps_its_folder_whatever_changed(tmp_path: Path) -> None:
    kitchen = Kitchen(tmp_path)
    kitchen.run()
    told = replace(kitchen.stages(salt=2)[0], goes_on=True)
    assert [outcome.state for outcome in run_stages([told])] == ["continued"]
    assert [outcome.state for outcome in run_stages([told])] == ["unchanged"]
    assert not (tmp_path / PARKED).exists()


def test_what_is_gone_is_made_again_only_for_who_needs_it(tmp_path: Path) -> None:
    kitchen, there = Kitchen(tmp_path), list[bool]()

    def run(only_soup: bool = False, **settings: int) -> list[str]:
        soup, cake = kitchen.stages(**settings)
        soup = replace(soup, lacks=lambda language: "" if there else "it was eaten")
        return [outcome.state for outcome in run_stages([soup] if only_soup else [soup, replace(cake, needs=(soup,))])]

    assert run() == ["finished", "finished"]
    assert run() == ["unchanged", "unchanged"], "nobody asks"
    soup, cake = kitchen.stages()
    soup = replace(soup, lacks=lambda language: "it was eaten")
    assert [*notices([soup, replace(cake, needs=(soup,))])] == [
        "soup: it was eaten; nothing that is to be done needs it"
    ]
    soup = replace(soup, product=True)
    assert [*notices([soup, replace(cake, needs=(soup,))])] == ["soup: it was eaten; it is made again"]
    assert run(sugar=2) == ["continued", "finished"]
    assert run(only_soup=True) == ["continued"]
    there.append(True)
    assert run(sugar=3) == ["unchanged", "finished"]


def test_free_settings_do_not_count(tmp_path: Path) -> None:
    def stage(**settings: object) -> Stage:
        (tmp_path / "soup").mkdir(exist_ok=True)
        return Stage("soup", tmp_path / "soup", dict(settings), lambda: None, free=("pot.size", "spoon"))

    assert (
        stage(pot={"size": 1, "kind": "iron"}, spoon=1).key() == stage(pot={"size": 2, "kind": "iron"}, spoon=2).key()
    )
    assert stage(pot={"size": 1, "kind": "iron"}).key() != stage(pot={"size": 1, "kind": "clay"}).key()


def test_an_unfinished_stage_goes_on_with_open_settings(tmp_path: Path) -> None:
    out = tmp_path / "soup"

    def stage(run: Callable[[], object] = lambda: None, **settings: object) -> Stage:
        return Stage("soup", out, {"pot": "iron", "salt": 1, **settings}, run, open=("salt",), instead="soup=warm")

    def burn() -> None:
        raise RuntimeError

    def cut_short() -> None:
        with pytest.raises(RuntimeError):
            list(run_stages([stage(burn)]))

    cut_short()
    more = stage(salt=2)
    assert [*notices([more])] == [
        f"soup goes on from what is there, though salt changed 1 → 2; to begin anew move {out} away"
    ]
    assert [*notices([more], "zh")] == [f"soup 从已有的结果接着做，尽管 salt 改变（1 → 2）；要从头开始，请移走 {out}"]
    assert [outcome.state for outcome in run_stages([more])] == ["continued"]
    assert not [*notices([more])]
    (anew,) = notices([stage(salt=3)])
    place = tmp_path / PARKED / f"soup-{more.key()[:12]}"
    assert (
        anew == f"soup starts anew, as salt changed 2 → 3; what was there is kept in {place}; soup=warm goes on instead"
    )
    (anew,) = notices([stage(salt=3)], "zh")
    assert anew == f"soup 从头开始，因为 salt 改变（2 → 3）；原有的结果留在 {place}；写上 soup=warm 则接着做"
    (outcome,) = run_stages([stage(salt=3)])
    assert (outcome.state, outcome.parked) == ("finished", place)
    (anew,) = notices([stage(pot="clay", salt=3)])
    assert 'pot changed "iron" → "clay"' in anew and "instead" not in anew


def test_what_is_begun_anew_is_said_before_with_why(tmp_path: Path) -> None:
    source = tmp_path / "水.txt"
    source.write_text("cold")
    kitchen = Kitchen(tmp_path / "out")
    assert not [*notices(kitchen.stages(sources=(source,)))], "nothing is there"
    list(run_stages(kitchen.stages(sources=(source,))))
    source.write_text("boiling")
    soup, cake = notices(kitchen.stages(sources=(source,), sugar=2))
    assert soup.startswith(f"soup starts anew, as {source} changed; what was there is kept in {tmp_path}")
    assert cake.startswith("bake/cake starts anew, as sugar changed 1 → 2, soup changed; ")
    _, cake = notices(kitchen.stages(sources=(source,), sugar=2), "zh")
    assert cake.startswith("bake/cake 从头开始，因为 sugar 改变（1 → 2）、soup 改变；原有的结果留在 ")
    record = tmp_path / "out" / "soup" / "stage.json"
    record.write_text('{"key": "k", "finished": true, "seconds": 1.0, "files": []}')
    (soup, _) = notices(kitchen.stages(sources=(source,)))
    assert "an older danlu made it" in soup


def test_a_moved_run_stays_what_it_is(tmp_path: Path) -> None:
    def stages(out: Path) -> list[Stage]:
        soup = Stage("soup", out / "soup", {"salt": 1}, lambda: None)
        reads = {"from": [{"path": str(out / "soup")}, str(out), f"{out}-2"]}
        return [soup, Stage("bake/cake", out / "bake" / "cake", reads, lambda: None, (soup,))]

    list(run_stages(stages(tmp_path / "here")))
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert [outcome.state for outcome in run_stages(stages(tmp_path / "there"))] == ["unchanged", "finished"]
    assert stages(tmp_path / "there")[1].basis().settings["from"] == [
        {"path": "out:/soup"},
        "out:",
        f"{tmp_path}/there-2",
    ]
