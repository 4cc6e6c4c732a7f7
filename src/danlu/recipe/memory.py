"""What the training stages of a recipe will take on a GPU, whether there is one here or not."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, cast

from rich.console import Console
from rich.table import Table

from danlu.ledger.errors import UserError
from danlu.ledger.progress import memory_size
from danlu.model.settings import ModelSettings
from danlu.recipe.doctor_words import WORDS
from danlu.recipe.settings import Recipe, TrainingStage
from danlu.recipe.starts import starting_shape
from danlu.tokens.settings import StageName
from danlu.train.settings import TrainSettings

if TYPE_CHECKING:
    from danlu.train.memory import Memory


@dataclass(frozen=True)
class Planned:
    """A step of a training stage on one device: rows of a micro-batch, whether they fit, and what they take."""

    rows: int
    fits: bool
    memory: Memory
    at_once: int
    """Tokens whose logits are held at once."""
    cost: float
    """The time of a token, in that of its own operations without recomputation."""


def gpu_here() -> int | None:
    """Bytes of memory of this machine's GPU; None where it has none."""
    import torch

    return torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None


def planned(recipe: Recipe, name: str, gpu: int | None, recompute: bool | None = None) -> Planned:
    """One training stage on GPUs with `gpu` bytes each, or on a CPU, with the rows that it names or the most that fit.

    `recompute` is taken in the place of its own.
    """
    import torch

    from danlu.model.pour import free_bytes
    from danlu.train.memory import CPU_TOKENS, cost_per_token, launching_tokens, most_rows, needs, room_of, sharded

    section = recipe.training()[name]
    unit = section.data.unit(cast(StageName, name))
    shape = trained_shape(recipe, name)
    processes = _processes(recipe)
    train = section.train if recompute is None else section.train.model_copy(update={"recompute": recompute})
    found = needs(sharded(train, shape, gpu, processes), shape, gpu, processes)
    length, least = section.data.length, 2 if unit == "pair" else 1
    room = free_bytes(torch.device("cpu")) if gpu is None else room_of(gpu)
    whole = -(-most_rows(train, unit) // processes)
    fitting = min(whole, CPU_TOKENS // length) if gpu is None else found.rows_in(length, room, whole)
    rows = train.rows or max(least, fitting - fitting % least)
    memory = found.of(rows, length)
    cost = cost_per_token(train, rows * length, 0 if gpu is None else launching_tokens(shape))
    return Planned(rows, memory.total <= room, memory, found.at_once(rows * length), cost)


def trained_shape(recipe: Recipe, name: str) -> ModelSettings:
    """The shape of what a training stage trains: where its weights come from, in `reward` with a head of its own."""
    from danlu.model.reward_head import reward_shape

    shape = starting_shape(recipe, name)
    return reward_shape(shape) if name == "reward" else shape


def require_room(recipe: Recipe, name: str) -> None:
    """Raises UserError where not even the smallest micro-batch of a training stage fits into what is free here.

    Processes with a GPU each see to that themselves: a look at a GPU's memory takes some of it while this one lives.
    """
    import torch

    from danlu.train.memory import require_fit
    from danlu.train.parallel import World

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    world = World(0, _processes(recipe), device)
    if device.type == "cuda" and world.size > 1:
        return
    section, shape = recipe.training()[name], trained_shape(recipe, name)
    try:
        require_fit(section.train, shape, section.data.length, section.data.unit(cast(StageName, name)), world)
    except UserError as error:
        raise UserError(f"{name}: {error.what}", where=error.where, do=error.do) from None


def print_memory(recipe: Recipe, gpu: int | None, console: Console) -> None:
    """A table a training stage: memory by part with and without recomputation, and the largest micro-batch of each;
    then what to take of them.
    """
    words, processes = WORDS[recipe.language], _processes(recipe)
    place = words["cpu"] if gpu is None else words["gpu"].format(size=gpu / 2**30)
    place = words["one of"].format(place=place, processes=processes) if processes > 1 else place
    for name, section in recipe.training().items():
        both = {recompute: planned(recipe, name, gpu, recompute) for recompute in (False, True)}
        named = {False: "recompute: false", True: "recompute: true"}
        named[section.train.recompute] = words["as set"].format(setting=named[section.train.recompute])
        table = Table("", *named.values(), title=words["title"].format(stage=name, place=place))
        for part in (field.name for field in fields(both[False].memory)):
            values = [getattr(one.memory, part) for one in both.values()]
            if any(values):
                table.add_row(words[part], *map(memory_size, values), end_section=part == "loss")
        table.add_row(words["in all"], *(memory_size(one.memory.total) for one in both.values()))
        said = (_said(one, section.train, section.data.length, words) for one in both.values())
        table.add_row(words["micro-batch"], *said)
        console.print(table)
        console.print(_pick(name, section, both, words), soft_wrap=True)
        if section.train.optimizer_states == "paged":
            console.print(words["paged"].format(stage=name))


def _pick(stage: str, section: TrainingStage, both: dict[bool, Planned], words: dict[str, str]) -> str:
    """With recomputation or without, the faster of those that fit, and what a step is then made of."""
    fitting = [recompute for recompute, one in both.items() if one.fits]
    if not fitting:
        return words["none fits"].format(stage=stage)
    best = min(fitting, key=lambda recompute: both[recompute].cost)
    way = words["keep" if best == section.train.recompute else "set"].format(stage=stage, value=json.dumps(best))
    one, length = both[best], section.data.length
    logits = words["at once"].format(tokens=one.at_once) if one.at_once else ""
    size = words["rows"].format(rows=one.rows, length=length)
    return words["pick"].format(stage=stage, way=way, size=size, logits=logits, batch=section.train.batch)


def _said(one: Planned, train: TrainSettings, length: int, words: dict[str, str]) -> str:
    rows = words["rows"].format(rows=one.rows, length=length)
    if not one.fits:
        return words["too many"].format(rows=rows)
    return rows if train.rows else words["most"].format(rows=rows)


def _processes(recipe: Recipe) -> int:
    import torch

    return recipe.processes or max(1, torch.cuda.device_count())
