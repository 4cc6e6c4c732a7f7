"""The READMEs say what is so: their snippets run, their links lead somewhere, and both tell the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from danlu.model.decoder import Decoder
from danlu.model.folder import save_decoder
from danlu.model.parts import initialise
from danlu.model.settings import ModelSettings
from danlu.tokens.settings import TokenizerTrainSettings
from danlu.tokens.train import train_tokenizer

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "README.zh-CN.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the end of a run: a random model with its tokenizer."""
    folder = tmp_path_factory.mktemp("readme")
    texts = iter([page.read_text("utf-8") for page in PAGES[:2]])
    tokenizer = train_tokenizer(TokenizerTrainSettings(vocab_size=300, reserved=0), texts, folder / "tokenizer")
    shape = ModelSettings(vocab_size=512, hidden_size=32, layers=2, heads=2, mlp_size=64, max_positions=128)
    decoder = Decoder.empty(shape)
    initialise(decoder, 0)
    save_decoder(decoder, folder / "model", tokenizer=tokenizer)
    return folder / "model"


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_python_snippets_run(page: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), re.S)
    assert blocks
    for block in blocks:
        exec(block.replace("runs/tiny", str(run)), {})
    assert float(capsys.readouterr().out.split()[-1]) > 0


def test_both_readmes_name_the_same_commands_recipes_and_pages() -> None:
    english, chinese = ((ROOT / page).read_text("utf-8") for page in ("README.md", "README.zh-CN.md"))
    for pattern in (r"`danlu ([a-z]+)", r"\]\((recipes/[^)]*)\)", r"```python\n(.*?)```", r"docs/(?:en|zh)/(\w+)\.md"):
        assert re.findall(pattern, english, re.S) == re.findall(pattern, chinese, re.S), pattern


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text("utf-8")
    for link in re.findall(r"\]\(([^)#\s]+)", text):
        if not link.startswith(("http", "mailto")):
            assert (page.parent / link).exists(), link


def test_every_guide_page_is_in_both_languages() -> None:
    pages = {folder: {path.name for path in (ROOT / "docs" / folder).glob("*.md")} for folder in ("en", "zh")}
    assert pages["en"] == pages["zh"]
