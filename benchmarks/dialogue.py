"""What the steps for conversations do to real ones: share of turns smoothed, tags found, exchanges repeated; examples.

python benchmarks/dialogue.py FILE ... [show=20]
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from pathlib import Path

from danlu.ledger.counts import Counts
from danlu.text.ops import tags, turns
from danlu.text.ops.contents import messages_of
from danlu.text.ops.smooth import difference, smooth
from danlu.text.settings import SourceSettings
from danlu.text.source import read_records
from danlu.text.steps.dialogue import SmoothStep, TagsStep, TurnsStep


def main() -> None:
    shown = next((int(a.removeprefix("show=")) for a in sys.argv[1:] if a.startswith("show=")), 0)
    for path in (Path(argument) for argument in sys.argv[1:] if "=" not in argument):
        measure(path, shown)


def measure(path: Path, shown: int) -> None:
    source = SourceSettings(path=str(path), max_bad_share=1.0)
    all_turns = changed = characters = repeated = 0
    noise, values = Counter[str](), Counter[str]()
    diffs: list[str] = []
    start = time.process_time()
    records = list(read_records(source, "conversation", Counts()))
    read = time.process_time()
    for record in records:
        after = smooth(record, SmoothStep())
        noise.update(after.meta.get("smoothed", {}))
        for old, new in zip(messages_of(record), messages_of(after), strict=True):
            all_turns += old["role"] != "system"
            characters += len(old["content"])
            if old["content"] != new["content"]:
                changed += 1
                diffs.append(f"{record.meta['origin'].rpartition('/')[2]} {told(old['content'], new['content'])}")
        tagged = tags.change(record, TagsStep()).meta.get("tags", {})
        values.update(f"{tag} {made['value']}" for tag, made in tagged.items())
        repeated += len(turns.repeated(record, TurnsStep()))
    seconds = time.process_time() - read
    print(f"{path.name}: {len(records)} conversations, {all_turns} turns, {characters / 1e6:.1f} million characters")
    print(f"  read in {read - start:.1f} s, the three steps {seconds:.1f} s")
    print(f"  smoothed {changed / all_turns:.2%} of turns: {dict(noise)}; repeated exchanges: {repeated}")
    print(f"  tags: {dict(values.most_common(12))}")
    for text in random.Random(0).sample(diffs, min(shown, len(diffs))):
        print("     ", text)


def told(before: str, after: str) -> str:
    """The diff on a line, long equal parts cut."""
    pieces = []
    for sign, text in difference(before, after):
        flat = text.replace("\n", "⏎")
        pieces.append(f"【{sign}{flat}】" if sign != "=" else flat if len(flat) < 16 else f"{flat[:6]}…{flat[-8:]}")
    return "".join(pieces)


if __name__ == "__main__":
    main()
