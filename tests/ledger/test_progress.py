"""Numbers as the terminal shows them."""

from __future__ import annotations

import pytest

from danlu.ledger.progress import memory_size


@pytest.mark.parametrize(
    ("nbytes", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (40_000_000, "38.15 MiB"),
        (3 << 29, "1.50 GiB"),
        (80 << 30, "80.00 GiB"),
    ],
)
def test_memory_is_told_in_the_unit_of_its_size(nbytes: int, said: str) -> None:
    assert memory_size(nbytes) == said
