"""Does cleaning pay? The same small decoder and token budget on raw and on cleaned text, side by side.

    python benchmarks/cleaning_pays.py [DATA] [RESULT.json] [--tokens 1200000] [--seeds 2] [--junk 0.4] [--work FOLDER]

Text of DATA/pretrain in Chinese and English, half each, with junk planted by a seed: copies (exact, and with one word
in a hundred another), pages of nothing but menus and notices, garbage (wrong encodings, mixed-up letters, mashed keys,
random characters, base64) and spam; and menus and notices around a third of the real documents. `--junk` is the
junk's share of the bytes.
`raw` trains on all of it, `cleaned` on what the preset `mixed` leaves, `real` on the documents before anything was
planted: what the junk costs is raw - real, and cleaning can win back no more than that. The tokenizer (learned from
the raw text), the decoder, seeds, tokens and the languages' shares are the same, and there is text enough that none
sees a document twice. Held out are other real documents of the same files, without anything planted; bits per byte are
those of danlu's engine, over the beginnings of all of them.
Batch and learning rate are the best of a few on `real` alone: a batch so large that tokens are plentiful would hide
what junk costs, as it then only makes a step's gradient a little noisier.
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

from danlu.config import check
from danlu.infer.model import load
from danlu.ledger.counts import Counts
from danlu.recipe.run import run_recipe
from danlu.recipe.settings import Recipe
from danlu.text.ops.contents import text_of
from danlu.text.readers import read_rows
from danlu.text.settings import SourceSettings
from danlu.text.source import read_records
from danlu.tokens.tokenizer import Tokenizer

LANGUAGES = ("zh", "en")
TEXTS = ("real", "raw", "cleaned")
WRAPPED = 1 / 3
BYTES_A_TOKEN = 3.0  # more than the small tokenizer has, some 2.8: so that there is text enough
LONGEST = 6000  # characters of a document: many short ones teach a small model more than a few books
HELD_OUT, HELD_OUT_CHARACTERS = 100, 1000  # documents of each language, and how much of each
LENGTH, BATCH, RATE = 256, 4, 4e-3
SHAPE = {
    "family": "qwen3", "vocab_size": 4096, "hidden_size": 128, "layers": 4, "heads": 4, "mlp_size": 344,
    "max_positions": 512, "tie_embeddings": True,
}  # fmt: skip

MENUS = {
    "zh": [
        "首页 | 新闻 | 产品中心 | 解决方案 | 关于我们 | 联系我们",
        "当前位置：首页 > 资讯 > 正文",
        "登录 注册 收藏本站 设为首页",
        "分享到：微信 微博 QQ空间 豆瓣",
        "上一篇：没有了　下一篇：返回列表",
        "热门推荐 最新评论 排行榜 标签云",
        "版权所有 未经许可不得转载，转载请注明出处",
        "本网站使用浏览器缓存以改善您的浏览体验，继续浏览即表示同意",
        "扫描二维码关注我们的公众号，获取更多精彩内容",
        "免责声明：本文仅代表作者个人观点，与本网站无关",
        "您的浏览器版本过低，请升级后访问本页面",
        "抱歉，您访问的页面不存在或已被删除",
    ],
    "en": [
        "Home | Products | Solutions | About us | Contact us | Careers",
        "Skip to main content. Sign in or create an account",
        "Share this article on Facebook, Twitter, LinkedIn or by email",
        "Subscribe to our newsletter for weekly updates",
        "We use cookies to improve your experience. Accept all cookies",
        "All rights reserved. Terms of service and privacy policy",
        "You may also like these related posts from our archive",
        "Please enable JavaScript to view the comments powered by us",
        "Previous post: none available. Next post: back to the list",
        "Sorry, the page you are looking for could not be found",
        "Your browser is out of date. Please update it to view this site",
        "Leave a reply. Your email address will not be published",
    ],
}
PITCHES = {
    "zh": [
        "加微信{n}领取红包",
        "点击链接立即注册送{n}元彩金",
        "正规平台日赚{n}元无需投资",
        "专业办理各类证件电话{n}",
        "最低价批发{n}件起订包邮",
        "股票内部消息加群{n}稳赚不赔",
        "老中医祖传秘方{n}天见效",
        "免费领取价值{n}元课程",
    ],
    "en": [
        "Buy cheap watches now only ${n}",
        "Click here to claim your ${n} prize today",
        "Work from home and earn ${n} a day",
        "Lowest price guaranteed order {n} pills online",
        "Limited offer call {n} now",
        "Hot singles near you join {n} members",
        "Casino bonus {n} free spins no deposit",
        "SEO backlinks {n} pack best rank",
    ],
}
KEYS = {"zh": "的了是在我有他这个们来到说看", "en": "asdfghjklqwertyuiopzxcvbnm"}


@dataclass
class Corpus:
    """Documents of one language, rows of them with what was planted, and documents that are held out."""

    real: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[str] = field(default_factory=list)


def documents(data: Path, language: str) -> Iterator[str]:
    """Real documents, taken from all files in turn."""
    files = sorted((data / "pretrain" / language).glob("*.jsonl.zst"))
    open_files = [read_records(SourceSettings(path=str(file)), "document", Counts()) for file in files]
    while open_files:
        for reader in list(open_files):
            record = next(reader, None)
            if record is None:
                open_files.remove(reader)
            elif len(text_of(record)) > 200:
                yield text_of(record)[:LONGEST]


def corpus_of(data: Path, language: str, size: int, junk: float, random: Random) -> Corpus:
    """About `size` bytes of real text, and junk that is a share `junk` of all bytes."""
    made, source, taken = Corpus(), documents(data, language), 0
    made.held_out = [next(source)[:HELD_OUT_CHARACTERS] for _ in range(HELD_OUT)]
    real = made.real
    for text in source:
        real.append(text)
        taken += len(text.encode())
        if taken >= size:
            break
    for number, text in enumerate(real):
        whole = wrapped(text, language, random) if random.random() < WRAPPED else text
        made.rows.append({"text": whole, "planted": "none", "original": number})
    wanted = taken * junk / (1 - junk) / len(KINDS)
    for kind, write in KINDS.items():
        written = 0
        while written < wanted:
            original = random.randrange(len(real))
            text = write(real[original], language, random)
            made.rows.append({"text": text, "planted": kind, "original": original})
            written += len(text.encode())
    random.shuffle(made.rows)
    return made


def wrapped(text: str, language: str, random: Random) -> str:
    """A document as a page brings it: menus above, notices below."""
    lines = random.sample(MENUS[language], 4)
    return "\n".join([*lines[:2], text, *lines[2:]])


def copied(text: str, language: str, random: Random) -> str:
    if random.random() < 0.5:
        return text
    parts = list(text) if language == "zh" else text.split(" ")
    for _ in range(len(parts) // 100):
        parts[random.randrange(len(parts))] = random.choice(parts)
    return ("" if language == "zh" else " ").join(parts)


def page(text: str, language: str, random: Random) -> str:
    return "\n".join(random.choices(MENUS[language], k=random.randint(6, 30)))


def garbage(text: str, language: str, random: Random) -> str:
    kind = random.randrange(4)
    if kind == 0 and language == "zh":
        return text[:1500].encode("utf-8").decode("gbk", "replace")
    if kind == 0:
        return "".join(random.sample(text[:1500], len(text[:1500])))
    if kind == 1:
        return " ".join("".join(random.choices(KEYS[language], k=random.randint(3, 12))) for _ in range(150))
    if kind == 2:
        return "".join(chr(random.choice((random.randint(33, 126), random.randint(0xA1, 0x24F)))) for _ in range(900))
    return base64.b64encode(random.randbytes(1200)).decode()


def spam(text: str, language: str, random: Random) -> str:
    pitches = [random.choice(PITCHES[language]).format(n=random.randint(1, 99999)) for _ in range(random.randint(3, 6))]
    return ("，" if language == "zh" else ". ").join(pitches * random.randint(3, 12))


# What each plants, given a real document that copies and garbage are made of.
KINDS = {"copies": copied, "pages": page, "garbage": garbage, "spam": spam}


def recipe_of(folder: Path, name: str, arguments: argparse.Namespace, seed: int) -> Recipe:
    """A run on one of the texts; all share what is tokenised and the tokenizer's text."""
    raw = [{"path": f"{language}.jsonl", "name": language} for language in LANGUAGES]
    paths = {"real": "{}.real.jsonl", "raw": "{}.jsonl", "cleaned": "clean:documents/{}"}
    sources = [{"path": paths[name].format(language), "name": language, "share": 0.5} for language in LANGUAGES]
    steps = max(1, arguments.tokens // (BATCH * LENGTH))
    content: dict[str, Any] = {
        "name": name, "out": str(folder / f"{name}-{seed}"), "data": str(folder), "seed": seed,
        "token_sets": str(folder / "token-sets"),
        "tokenizer": {"train": {"sources": raw, "vocab_size": SHAPE["vocab_size"], "max_bytes": 8_000_000}},
        "model": SHAPE,
        "pretrain": {
            "data": {"sources": sources, "length": LENGTH, "pack": "concat", "held_out": 0.0},
            "train": {"steps": steps, "batch": BATCH, "learning_rate": RATE, "warmup": 0.05, "rows": BATCH},
        },
    }  # fmt: skip
    if name == "cleaned":
        content["clean"] = {"sources": [{**source, "kind": "document"} for source in raw], "preset": "mixed"}
    return check(Recipe, content)


def bits_per_byte(model: Path, texts: list[str]) -> float:
    scores = load(model, device="cpu").scores(texts, LENGTH)
    return sum(score.nats for score in scores) / math.log(2) / sum(score.bytes for score in scores)


def kept(folder: Path) -> dict[str, dict[str, float]]:
    """By what was planted: the share that cleaning keeps. Of a document and its copies one should stay, whichever."""
    found = {}
    for language in LANGUAGES:
        rows = [row.fields for row in read_rows(folder / f"{language}.jsonl")]
        cleaned = folder / "cleaned-1" / "clean" / "documents" / language
        left = [row.fields["meta"] for row in read_rows(cleaned)]
        total, stay = (Counter(row["planted"] for row in some) for some in (rows, left))
        originals = len({row["original"] for row in left if row["planted"] in ("none", "copies")})
        again = stay["none"] + stay["copies"] - originals
        own = {"real": originals / total["none"], "copies": again / total["copies"]}
        found[language] = own | {kind: stay[kind] / total[kind] for kind in KINDS if kind != "copies"}
    return found


def planted_tokens(folder: Path) -> dict[str, float]:
    """By language: the share of the raw text's tokens that stand in planted rows."""
    tokenizer, found = Tokenizer.load(folder / "raw-1" / "tokenizer"), {}
    for language in LANGUAGES:
        tokens: Counter[bool] = Counter()
        for row in read_rows(folder / f"{language}.jsonl"):
            tokens[row.fields["planted"] != "none"] += len(tokenizer.encode(str(row.fields["text"])))
        found[language] = tokens[True] / tokens.total()
    return found


def write(folder: Path, arguments: argparse.Namespace) -> dict[str, list[str]]:
    """Writes real and raw text of both languages; gives what is held out."""
    size, held_out = int(arguments.tokens * BYTES_A_TOKEN / 2 * 1.3), {}
    for number, language in enumerate(LANGUAGES):
        made = corpus_of(arguments.data, language, size, arguments.junk, Random(f"{language} {number}"))
        for name, rows in (("", made.rows), (".real", [{"text": text} for text in made.real])):
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (folder / f"{language}{name}.jsonl").write_text("".join(lines), "utf-8", "surrogatepass")
        held_out[language] = made.held_out
    return held_out


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    held_out = write(folder, arguments)
    settings = {"tokens": arguments.tokens, "junk": arguments.junk, "wrapped": WRAPPED, "shape": SHAPE}
    found: dict[str, Any] = {**settings, "batch": BATCH * LENGTH, "rate": RATE, "runs": []}
    for seed in range(1, arguments.seeds + 1):
        for name in TEXTS if seed % 2 else reversed(TEXTS):
            recipe, start = recipe_of(folder, name, arguments, seed), time.perf_counter()
            run_recipe(recipe, until="pretrain")
            seconds = time.perf_counter() - start
            bits = {language: bits_per_byte(recipe.out / "pretrain", texts) for language, texts in held_out.items()}
            found["runs"].append({"text": name, "seed": seed, "seconds": round(seconds, 1), "bits_per_byte": bits})
    return {**found, "planted_tokens": planted_tokens(folder), "kept": kept(folder)}


def show(found: dict[str, Any]) -> None:
    """Means over the seeds, and how far apart the seeds are."""
    table = Table("held out", *TEXTS, "seeds differ by", "cleaned / raw", "junk's cost won back")
    table.title = f"bits per byte after {found['tokens']:,} tokens"
    for language in LANGUAGES:
        of = {name: [run["bits_per_byte"][language] for run in found["runs"] if run["text"] == name] for name in TEXTS}
        real, raw, cleaned = (statistics.mean(of[name]) for name in TEXTS)
        apart = max(max(bits) - min(bits) for bits in of.values())
        cells = [f"{value:.4f}" for value in (real, raw, cleaned, apart)]
        table.add_row(language, *cells, f"{cleaned / raw:.3f}", f"{(raw - cleaned) / (raw - real):.0%}")
    stays = Table("kept by cleaning", "real", *KINDS, "planted share of the raw tokens")
    for language, of in found["kept"].items():
        shares = [*of.values(), found["planted_tokens"][language]]
        stays.add_row(language, *(f"{share:.1%}" for share in shares))
    console = Console()
    console.print(table)
    console.print(stays)
    console.print(f"{sum(run['seconds'] for run in found['runs']):.0f} s of training and cleaning")


def main() -> None:
    parser = argparse.ArgumentParser(description="Bits per byte of a small decoder trained on raw and on cleaned text.")
    parser.add_argument("data", type=Path, nargs="?", default=Path("../shared/data"))
    parser.add_argument("result", type=Path, nargs="?")
    parser.add_argument("--tokens", type=int, default=1_200_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--junk", type=float, default=0.4, help="the junk's share of the bytes")
    parser.add_argument("--work", type=Path, help="a new folder that stays, instead of one that is thrown away")
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = arguments.work or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(folder, arguments)
    show(found)
    if arguments.result:
        arguments.result.write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
