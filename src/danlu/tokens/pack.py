"""The pack stage: sources to token sets that runs share, and an index of them that says what this run takes of each.

Encoding is done once for a source, a tokenizer and a template; weights, order, length and packing are the index's.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.ledger.files import fingerprint
from danlu.ledger.manifest import NAME, read_manifest, write_manifest
from danlu.ledger.progress import brief
from danlu.ledger.tasks import Task, Workers
from danlu.text.files import source_files, source_name
from danlu.text.settings import Kind, SourceSettings
from danlu.text.survey import survey
from danlu.tokens.curriculum import Curriculum
from danlu.tokens.encode_sources import Origin, SourceEncoder, added, check_rows, origin_of
from danlu.tokens.index import TOKEN_SETS, token_sets_there
from danlu.tokens.index_sources import count_all_cuts, grade_sources
from danlu.tokens.mixing import plan, portions
from danlu.tokens.pack_tasks import Encoder, Encoding
from danlu.tokens.settings import DataSettings, StageName
from danlu.tokens.shards import SPLITS, TokenSet
from danlu.tokens.store import Store
from danlu.tokens.stream import Stream

_KINDS: dict[str, Kind] = {"pretrain": "document", "sft": "conversation"}


def pack(
    settings: DataSettings,
    tokenizer: Path,
    stage: StageName,
    out: Path,
    *,
    store: Path | None = None,
    epochs: float = 1,
    system: str = "default",
    template: str | None = None,
    terminator: str | None = None,
) -> dict[str, Any]:
    """Writes out/train/SOURCE and out/held_out/SOURCE, which name token sets in `store`; gives the manifest it writes.

    A source that the store (null: `token-sets` beside `out`) has under the same tokenizer, template and content is not
    encoded again. `tokenizer` is its folder; `system` and `template` are the Template's, `terminator` is the token that
    ends a document (null: the tokenizer's end token); `epochs` is how long training will be. The manifest has totals,
    what training will see of each source (`mix`), tokens in the loss by role, what cutting to the length will do, and
    every row that was left out, by reason. Interrupted anywhere, the same call goes on from there; with nothing changed
    it does nothing.
    Raises UserError for sources that give nothing, share a name, or have too many unusable rows, and for a tokenizer
    that lacks a template or end token.
    """
    unit = settings.unit(stage)
    encoding = Encoding(
        tokenizer=str(tokenizer),
        unit="document" if unit == "window" else unit,
        turns=settings.turns,
        held_out=settings.held_out,
        system=system,
        template=template,
        terminator=terminator,
        loss_on=" ".join(sorted(settings.loss_on)),
        prompts=json.dumps([prompt.model_dump() for prompt in settings.system], ensure_ascii=False),
        own_system=settings.own_system,
        max_source_length=settings.max_source_length,
        max_target_length=settings.max_target_length,
    )
    with Workers(settings.workers) as workers:
        kind, place = _KINDS.get(stage, "preference"), Store(store or out.parent / TOKEN_SETS)
        return _Packing(settings, encoding, kind, unit, epochs, out, place, workers).run()


def open_stream(
    packed: Path,
    settings: DataSettings,
    stage: StageName,
    *,
    split: Literal["train", "held_out"] = "train",
    **more: Any,
) -> Stream:
    """The stream over what `pack` wrote to `packed`; `more` are further arguments of Stream (seed, epochs, skip, ...).

    Sources without a record in the split are left out. Raises UserError when none has any.
    """
    names = folder_names(settings.sources)
    curricula = [_curriculum(packed / split / name) for name in names]
    sets = [
        TokenSet.open(packed / split / name, held=2 * len(one.grades.sizes) if one else 2)
        for name, one in zip(names, curricula, strict=True)
    ]
    if split == "train":
        mixed = portions(settings, [one.manifest["tokens"] for one in sets], more.get("epochs", 1))
        passes = [portion.passes for portion in mixed]
    else:
        passes = [1.0] * len(sets)
    found = list(zip(sets, passes, curricula, strict=True))
    filled = [one for one in found if len(one[0])] or found
    return Stream(
        [(token_set, rate) for token_set, rate, _ in filled],
        length=settings.length,
        unit=settings.unit(stage),
        pack=settings.pack,
        isolate=settings.isolate,
        overlong=settings.overlong,
        answer_budget=settings.answer_budget,
        oldest_turns=settings.oldest_turns,
        curricula=[one for _, _, one in filled] if any(curricula) else (),
        **more,
    )


def folder_names(sources: list[SourceSettings]) -> list[str]:
    """The folder of each source's token sets. Raises UserError when two are the same."""
    names = [re.sub(r"[^\w.-]+", "_", source_name(source)).strip(".") or "source" for source in sources]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"two sources are called {twice[0]}", do="give each a `name` of its own")
    return names


def _curriculum(index: Path) -> Curriculum | None:
    content = (read_manifest(index) or {}).get("curriculum")
    return Curriculum.of(content) if content else None


class _Packing:
    def __init__(
        self,
        settings: DataSettings,
        encoding: Encoding,
        kind: Kind,
        unit: str,
        epochs: float,
        out: Path,
        store: Store,
        workers: Workers,
    ) -> None:
        self.settings, self.kind, self.unit, self.epochs = settings, kind, unit, epochs
        self.out, self.store, self.workers = out, store, workers
        self.work = store.work(out)
        self.names = folder_names(settings.sources)
        self.encoder = Encoder(encoding)
        self.left_out = Counts()

    def run(self) -> dict[str, Any]:
        origins = self._origins()
        key = fingerprint(
            [
                self.settings.model_dump(exclude={"workers", "task_bytes"}),
                asdict(self.encoder.settings),
                self.epochs,
                [origin.key for origin in origins],
            ]
        )
        manifest = read_manifest(self.out)
        if manifest and manifest.get("key") == key and token_sets_there(self.out):
            return manifest
        (self.out / NAME).unlink(missing_ok=True)
        new = self._store(origins)
        stored = {origin.name: self.store.used(origin.key) for origin in origins}
        for origin in origins:
            check_rows(origin, stored[origin.name])
        self._tell(len(origins), new)
        return self._write(key, origins, stored)

    def _origins(self) -> list[Origin]:
        files = [source_files(source, self.kind, self.left_out) for source in self.settings.sources]
        unique, size = list(dict.fromkeys(file for of_source in files for file in of_source)), self.settings.task_bytes
        tasks = [Task(f"survey {file}", survey, {"file": str(file), "piece_bytes": size}, [file]) for file in unique]
        found = dict(zip(unique, self.workers.run(tasks, self.work / "survey", "pack: survey"), strict=True))
        return [
            origin_of(name, source, {file: found[file] for file in of_source}, self.encoder, self.settings.shard_tokens)
            for name, source, of_source in zip(self.names, self.settings.sources, files, strict=True)
        ]

    def _store(self, origins: list[Origin]) -> int:
        """Encodes what the store lacks; says how many that were."""
        if all(self.store.has(origin.key) for origin in origins):
            return 0
        with self.store.locked(origin.key for origin in origins if not self.store.has(origin.key)):
            missing = [origin for origin in origins if not self.store.has(origin.key)]
            if missing:
                SourceEncoder(self.settings, self.encoder, self.kind, self.store, self.work, self.workers).run(missing)
        return len(missing)

    def _tell(self, sources: int, new: int) -> None:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        if self.encoder.dated:
            console.print("pack: the chat template writes the date, so what is encoded serves today only")
        held = self.store.stored()
        console.print(
            f"pack: {new} of {sources} source{'s' * (sources != 1)} encoded"
            f"{', the others were there' if new < sources else ''}; {self.store.folder} holds {len(held)} token "
            f"set{'s' * (len(held) != 1)}, {brief(sum(one.bytes for one in held))}B (danlu sets {self.store.folder})"
        )

    def _write(self, key: str, origins: list[Origin], stored: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The index of each set, and the manifest."""
        places = {(split, origin.name): self.store.place(origin.key) / split for split in SPLITS for origin in origins}
        sets = {owner: TokenSet.open(place) for owner, place in places.items()}
        cuts = count_all_cuts(sets, self.settings, self.unit, self.workers, self.work)
        graded = self._graded({name: sets["train", name] for name in self.names})
        for split in SPLITS:
            shutil.rmtree(self.out / split, ignore_errors=True)
        for (split, name), token_set in sets.items():
            index = self.out / split / name
            content = {
                "set": os.path.relpath(token_set.folder.resolve(), index.resolve()),
                "fingerprint": token_set.fingerprint,
                "tokens": token_set.manifest["tokens"],
                "examples": len(token_set),
            }
            ordered = {"curriculum": graded[name]} if split == "train" and name in graded else {}
            write_manifest(index, {**content, **ordered})
        sources = {
            name: {"counts": of["counts"], **{split: {**of[split], "cuts": cuts[split, name]} for split in SPLITS}}
            for name, of in stored.items()
        }
        content = self._content(key, origins, sources) | {
            "encoders": sorted({encoder for of in stored.values() for encoder in of["encoders"]}),
            "curriculum": {name: {**of, "sizes": [sum(band) for band in of["sizes"]]} for name, of in graded.items()},
        }
        write_manifest(self.out, content)
        return content

    def _graded(self, sets: dict[str, TokenSet]) -> dict[str, dict[str, Any]]:
        if self.settings.curriculum is None:
            return {}
        return grade_sources(sets, self.settings.curriculum, self.unit, self.workers, self.work)

    def _content(self, key: str, origins: list[Origin], sources: dict[str, dict[str, Any]]) -> dict[str, Any]:
        splits = {split: added([of[split] for of in sources.values()]) for split in SPLITS}
        surveyed = {file: found for origin in origins for file, found in origin.surveyed.items()}
        return {
            "stage": "pack",
            "key": key,
            "unit": self.unit,
            "tokens": splits["train"]["tokens"],
            "examples": splits["train"]["examples"],
            "epochs": self.epochs,
            "mix": plan(
                self.names, self.settings, {name: of["train"]["tokens"] for name, of in sources.items()}, self.epochs
            ),
            **splits,
            "sources": sources,
            "left_out": self.left_out.as_dict(),
            "tokenizer": self.encoder.tokenizer.fingerprint,
            "template": self.encoder.fingerprint,
            "settings": self.settings.model_dump(),
            "encoding": asdict(self.encoder.settings),
            "inputs": [
                {"file": str(file), "sha256": found["sha256"], "bytes": found["bytes"]}
                for file, found in surveyed.items()
            ],
        }
