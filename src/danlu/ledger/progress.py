"""Progress, rate and time left: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

PLAIN_SECONDS = 10.0


class Bar(Protocol):
    """What long work reports to."""

    def advance(self, amount: float = 1, **shown: object) -> None:
        """Counts `amount` more units and shows the given values beside them."""


@contextmanager
def progress(title: str, total: float | None = None, unit: str = "") -> Iterator[Bar]:
    """Shows work on standard error until the block ends; `total` None means that the end is not known."""
    console = Console(stderr=True)
    if not console.is_terminal:
        plain = _Plain(title, total, unit)
        yield plain
        plain.show(last=True)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[amount]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[shown]}"),
    )
    with Progress(*columns, console=console, refresh_per_second=4) as bars:
        yield _Rich(bars, bars.add_task(title, total=total, amount="", shown=""), total, unit)


def brief(number: float) -> str:
    """A count in at most five characters: 950, 12.3k, 4.56M, 7.8G."""
    for suffix, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.3g}{suffix}"
    return f"{number:.3g}"


def memory_size(nbytes: int) -> str:
    """Bytes in the greatest binary unit of which there is one: 512 B, 1.50 KiB, 38.20 MiB, 7.80 GiB."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if nbytes >= 1 << power:
            return f"{nbytes / (1 << power):.2f} {unit}"
    return f"{nbytes} B"


def duration(seconds: float) -> str:
    """Seconds as 42s, 3m05s or 2h10m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def peak_memory() -> int:
    """The most bytes of memory that this process has held at once."""
    status = Path("/proc/self/status")
    if status.is_file():  # elsewhere a process also counts what its parent held when it was started
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) << 10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def _values(shown: dict[str, object]) -> str:
    return " ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items()
    )


class _Rich:
    def __init__(self, bars: Progress, task: TaskID, total: float | None, unit: str) -> None:
        self._bars, self._task, self._total, self._unit = bars, task, total, unit
        self._done, self._start = 0.0, time.monotonic()

    def advance(self, amount: float = 1, **shown: object) -> None:
        self._done += amount
        rate = self._done / max(time.monotonic() - self._start, 1e-9)
        of = f"/{brief(self._total)}" if self._total is not None else ""
        text = f"{brief(self._done)}{of} {self._unit} {brief(rate)}/s"
        self._bars.update(self._task, advance=amount, amount=text, shown=_values(shown))


class _Plain:
    def __init__(self, title: str, total: float | None, unit: str) -> None:
        self._title, self._total, self._unit = title, total, unit
        self._done, self._start, self._shown = 0.0, time.monotonic(), ""
        self._last = self._start

    def advance(self, amount: float = 1, **shown: object) -> None:
        self._done += amount
        self._shown = _values(shown)
        if time.monotonic() - self._last >= PLAIN_SECONDS:
            self.show()

    def show(self, last: bool = False) -> None:
        self._last = time.monotonic()
        elapsed = self._last - self._start
        rate = self._done / max(elapsed, 1e-9)
        parts = [f"{self._title}: {brief(self._done)}"]
        if self._total is not None:
            parts[0] += f"/{brief(self._total)}"
        parts[0] += f" {self._unit}".rstrip()
        parts.append(f"{brief(rate)}/s")
        parts.append(f"{duration(elapsed)}")
        if not last and self._total is not None and rate > 0:
            parts.append(f"{duration(max(self._total - self._done, 0) / rate)} left")
        if self._shown:
            parts.append(self._shown)
        print(", ".join(parts), file=sys.stderr, flush=True)
