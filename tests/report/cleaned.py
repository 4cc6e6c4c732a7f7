"""A small corpus with something for every part of the data report, cleaned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from danlu.config import check
from danlu.text.clean import clean
from danlu.text.settings import CleanSettings

SCRIPT = "</script><script>window.hacked = 1</script><img src=x onerror=alert(1)> & 'quotes' `ticks`"
PHONE = "13812345678"
MENU = "首页 产品介绍 关于我们 联系方式 网站地图 隐私声明"
QUESTION = "请问下列哪一个选项最能说明春天到来时田野里麦苗与野花同时生长的原因是什么呢请选择正确答案"
STORY = (
    "The old lighthouse keeper walked slowly along the harbour wall and counted every lamp that still burned tonight. "
)
STEPS: list[dict[str, Any]] = [
    {"op": "normalise"},
    {"op": "language"},
    {"op": "length", "min": 12, "max": 4000},
    {"op": "lines"},
    {"op": "words", "languages": ["en"], "average_length": {"min": 2}},
    {"op": "exact_dedup"},
    {"op": "near_dedup"},
    {"op": "line_dedup", "max": 3},
    {"op": "decontaminate", "tests": ["TESTS"]},
    {"op": "privacy"},
    {"op": "smooth", "kinds": ["conversation"]},
]


def texts() -> dict[str, list[str]]:
    """By source."""
    zh = [f"第{n}篇。" + "春风吹过田野，孩子们在河边放风筝。" * (n % 9 + 1) + f"编号{n * 7919}。" for n in range(40)]
    zh += [f"{MENU}\n这是第{n}个页面，讲的是第{n * 31}件事，各不相同，内容也不一样。" for n in range(8)]
    zh += ["短", f"{QUESTION}选项甲乙丙丁", f"请拨打电话{PHONE}找我，或者改天再说也可以的。"]
    numbers = [" ".join(f"word{n}x{m}" for m in range(30)) for n in range(3)]
    en = [f"Note {n}: " + STORY * (n % 5 + 1) + numbers[n % 3] + f" number {n * 104729}" for n in range(30)]
    en += [STORY * 3 + "It was a quiet night in the bay.", STORY * 3 + "It was a quiet night at the bay."]
    en += [
        "a b c d e f g h i j k l m n o p q r s t",
        f"{SCRIPT} and some more words in a plain English sentence.",
        en[3],
    ]
    return {"papers": zh, "notes": en}


def corpus(folder: Path) -> Path:
    """Writes the sources, and a test set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in texts().items():
        content = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in rows)
        (folder / f"{name}.jsonl").write_text(content + ("{broken\n" if name == "notes" else ""))
    talks = [
        [("user", f"呃，我我我想问一下第{n}个问题怎么做？？？"), ("assistant", f"嗯，先看第{n * 13}页的说明。")]
        for n in range(12)
    ]
    rows = [{"messages": [{"role": role, "content": said} for role, said in talk]} for talk in talks]
    (folder / "talk.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (folder / "tests").mkdir(exist_ok=True)
    (folder / "tests" / "quiz.jsonl").write_text(json.dumps({"question": QUESTION}, ensure_ascii=False) + "\n")
    return folder


def cleaned(folder: Path, steps: list[dict[str, Any]] = STEPS) -> Path:
    """Cleans the corpus in `folder`/raw; gives the cleaned folder."""
    raw = corpus(folder / "raw")
    steps = json.loads(json.dumps(steps).replace("TESTS", str(raw / "tests" / "quiz.jsonl")))
    sources = [{"path": str(raw / f"{name}.jsonl")} for name in ("papers", "notes", "talk")]
    clean(check(CleanSettings, {"sources": sources, "steps": steps, "workers": 1}), folder / "clean")
    return folder / "clean"
