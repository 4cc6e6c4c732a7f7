"""A process that another one started ends when that one does, however it did."""

from __future__ import annotations

import os
import signal
import threading
import time

LOOKING = 0.5  # seconds between looks
GRACE = 600.0
"""Seconds that a process has for saving, once it was asked to stop."""


def end_with(parent: int, *, saving: bool = False) -> None:
    """Has this process end soon after the process `parent`, which started it, is gone, be it by `kill -9`.

    With `saving` it is asked by SIGTERM, so that it saves what it has, and killed only after `GRACE` seconds. Else it
    is killed at once: what it had in hand is not recorded anywhere, and is done again.
    """

    def watch() -> None:
        # A process without its parent is given another one, so that no number taken anew is mistaken for the old.
        while os.getppid() == parent:
            time.sleep(LOOKING)
        if saving:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(GRACE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="parent", daemon=True).start()
