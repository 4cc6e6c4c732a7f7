"""TensorBoard, wandb and SwanLab as followers of the metrics: what fails there is said once and never stops a run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

Write = Callable[[int, Mapping[str, float]], None]
Close = Callable[[], None]
Result = TypeVar("Result")


class Trackers:
    """Sends the numbers of each metrics row to the chosen trackers.

    A tracker that is not installed or fails, in whatever way its library may, is named once on standard error and
    left out.
    """

    def __init__(self, names: Sequence[str], out: Path, config: Mapping[str, Any]) -> None:
        self._open: dict[str, tuple[Write, Close]] = {}
        for name in names:
            opened = self._guard(name, partial(_OPENERS[name], out, config))
            if opened is not None:
                self._open[name] = opened

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Shows the numbers among `values`; a text value `source` or `tag` becomes part of their names."""
        suffix = "".join(f"/{values[name]}" for name in ("source", "tag") if name in values)
        numbers = {f"{name}{suffix}": float(v) for name, v in values.items() if isinstance(v, int | float)}
        for name, (send, _) in list(self._open.items()):
            self._guard(name, partial(send, step, numbers))

    def close(self) -> None:
        for name, (_, end) in list(self._open.items()):
            self._guard(name, end)

    def _guard(self, name: str, action: Callable[[], Result]) -> Result | None:
        try:
            return action()
        except ImportError:
            self._leave(name, f"not installed: pip install 'danlu[{name}]'")
        except Exception as error:  # a tracker's library may raise anything, and must not cost a run
            self._leave(name, f"{type(error).__name__}: {error}")
        return None

    def _leave(self, name: str, why: str) -> None:
        self._open.pop(name, None)
        print(f"{name} is left out from here on ({why}); metrics.jsonl has everything", file=sys.stderr, flush=True)


def _tensorboard(out: Path, config: Mapping[str, Any]) -> tuple[Write, Close]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(out / "tensorboard"))

    def write(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return write, writer.close


def _wandb(out: Path, config: Mapping[str, Any]) -> tuple[Write, Close]:
    import wandb

    run = wandb.init(project="danlu", name=f"{out.parent.name}-{out.name}", dir=str(out), config=dict(config))
    return (lambda step, values: run.log(dict(values), step=step)), run.finish


def _swanlab(out: Path, config: Mapping[str, Any]) -> tuple[Write, Close]:
    import swanlab

    run = swanlab.init(
        project="danlu",
        experiment_name=f"{out.parent.name}-{out.name}",
        logdir=str(out / "swanlab"),
        config=dict(config),
    )
    return (lambda step, values: run.log(dict(values), step=step)), run.finish


_OPENERS: Mapping[str, Callable[[Path, Mapping[str, Any]], tuple[Write, Close]]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "swanlab": _swanlab,
}
