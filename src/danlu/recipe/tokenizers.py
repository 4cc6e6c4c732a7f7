"""`danlu tokenizer extend` and `danlu tokenizer inspect`: work on tokenizers that are there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich import table as terminal
from rich.console import Console
from rich.text import Text

from danlu.ledger.checkpoints import resolve_checkpoint
from danlu.ledger.counts import Counts
from danlu.ledger.errors import UserError
from danlu.report.scores import Table
from danlu.report.tokenizers import NOT_GIVEN, sections, write_page
from danlu.report.words import Language
from danlu.text.files import source_name
from danlu.text.ops.language import language_of, measure
from danlu.text.records import Document
from danlu.text.sample.documents import make_documents
from danlu.text.sample.lexicon import LANGUAGES
from danlu.text.sample.settings import SampleSettings
from danlu.text.sample.world import make_world
from danlu.text.settings import SourceSettings
from danlu.text.steps.basic import LanguageStep
from danlu.tokens.extend import Extension, extend
from danlu.tokens.study import Study, study
from danlu.tokens.tokenizer import Tokenizer
from danlu.tokens.training_text import TrainingText

LEARNED_BYTES = 32_000_000
STUDIED_BYTES = 5_000_000
GENERATED = SampleSettings(documents=400)
"""What tokenizers are measured on where no text is given."""


def inspect_tokenizers(paths: list[Path], texts: list[Path], html: Path | None, language: Language) -> list[Study]:
    """Prints what the tokenizers at `paths` make of `texts`, side by side; with `html` also writes a page.

    Of each text an even share of its files is read. Raises UserError for a path without a tokenizer.
    """
    loaded = [Tokenizer.load(_folder(path)) for path in paths]
    samples = list(_given(texts) if texts else _generated())
    studies = [study(one, name, samples) for one, name in zip(loaded, _names(paths), strict=True)]
    found = sections(studies, language)
    console = Console(highlight=False)
    for tables in found.values():
        for table in tables:
            console.print(terminal_table(table))
            console.print(table.note, style="dim")
    if html is not None:
        write_page(found, " · ".join(one.name for one in studies), language, html)
        console.print(f"→ {html}")
    return studies


def _given(texts: list[Path]) -> Iterator[tuple[str, str, str]]:
    step = LanguageStep()
    for path in texts:
        source = SourceSettings(path=str(path))
        for text in TrainingText([source], STUDIED_BYTES, Counts()):
            columns = measure([Document(text, "", {})], step)
            language = language_of({name: values[0] for name, values in columns.items()}, step)
            yield language, source_name(source), text


def _generated() -> Iterator[tuple[str, str, str]]:
    world = make_world(GENERATED)
    for language in LANGUAGES:
        yield from ((language, NOT_GIVEN, made.text) for made in make_documents(GENERATED, world, language))


def _names(paths: list[Path]) -> list[str]:
    """The last parts of the folders, as many as tell them apart."""
    folders = [path.parent if path.name.startswith("tokenizer.") else path for path in map(Path.resolve, paths)]
    parts = 1
    while len({folder.parts[-parts:] for folder in folders}) < len(set(folders)):
        parts += 1
    return ["/".join(folder.parts[-parts:]) for folder in folders]


def terminal_table(table: Table) -> terminal.Table:
    """A page's table for the terminal."""
    shown = terminal.Table(title=table.title, title_justify="left")
    for place, cell in enumerate(table.head):
        shown.add_column(Text(cell), justify="left" if place < table.names else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(Text(str(cell)) for cell in row))
    return shown


def extend_tokenizer(base: Path, out: Path, texts: list[Path], words: Path | None, size: int) -> Extension:
    """Writes the tokenizer of `base` with more tokens to the new folder `out`, its model too where it holds one.

    `words` is a file with one word a line, each to be one token; `size` tokens are learned from `texts`. Raises
    UserError for a folder that exists, for files that do not, and where there is nothing to add.
    """
    if out.exists():
        raise UserError("this folder exists", where=str(out), do="name a new one, or remove it first")
    if bool(texts) != bool(size):
        raise UserError("--with and --size belong together", do="say from which text, and how many tokens")
    base = _folder(base)
    tokenizer = Tokenizer.load(base)
    if words and not words.is_file():
        raise UserError("no such file", where=str(words), do="name a file with one word a line")
    listed = [line for line in words.read_text("utf-8-sig").splitlines() if line.strip()] if words else []
    sources = [SourceSettings(path=str(path)) for path in texts]
    learned = list(TrainingText(sources, LEARNED_BYTES, Counts())) if sources else []
    found = extend(tokenizer, learned, size, listed)
    if (base / "config.json").is_file():
        _grow_model(base, out, found)
    else:
        found.tokenizer.save(out)
    _tell(tokenizer, found, learned, out)
    return found


def _folder(path: Path) -> Path:
    """Where a tokenizer's files lie: the path itself, or the newest checkpoint of a run."""
    names = ("tokenizer.json", "tokenizer.model", "vocab.json")
    there = path.is_file() or any((path / name).is_file() for name in names)
    return path if there else resolve_checkpoint(path)


def _grow_model(base: Path, out: Path, found: Extension) -> None:
    import torch

    from danlu.model.folder import load_decoder, save_decoder, stored_dtype
    from danlu.model.vocabulary import grow_vocabulary

    decoder = grow_vocabulary(load_decoder(base, dtype=getattr(torch, stored_dtype(base))), found.pieces)
    save_decoder(decoder, out, found.tokenizer, stop_ids=found.tokenizer.generation_stops)


def _tell(base: Tokenizer, found: Extension, texts: list[str], out: Path) -> None:
    console = Console(highlight=False)
    for word, reason in found.left_out.items():
        console.print(f"left out: {word!r} ({reason})", style="yellow", markup=False)
    console.print(f"{len(found.pieces):,} tokens added: {base.vocab_size:,} → {found.tokenizer.vocab_size:,}")
    if texts:
        old, new = (sum(len(one.encode_array(text)) for text in texts) for one in (base, found.tokenizer))
        size = sum(len(text.encode("utf-8", "replace")) for text in texts)
        console.print(f"the text: {size / old:.2f} → {size / new:.2f} bytes a token ({1 - new / old:.1%} fewer tokens)")
    console.print(f"→ {out}")
