"""The weights of a folder: names and shapes at once, values file by file, mapped. Never a pickle that acts."""

from __future__ import annotations

import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from danlu.ledger.errors import UserError

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_OLD_SINGLE, _OLD_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_AGAIN = "copy or download this file again"
_NAMED = re.compile(r"GLOBAL:? (?:GLOBAL )?([\w.]+)")
_PICKLES = (b"\x80", b"PK\x03\x04", b"(")  # protocols 2 to 5, torch's zip file, protocol 0


class Place(NamedTuple):
    """Where a tensor lies, its shape and its format."""

    path: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


class Stored:
    """What a folder's safetensors, or without any its `pytorch_model*.bin`, hold.

    A `.bin` is unpickled with torch's `weights_only`, which makes tensors and refuses all else.
    Raises UserError for files that are missing, damaged, cut short, or that hold anything but tensors.
    """

    def __init__(self, folder: Path) -> None:
        self.paths = _weight_files(folder)
        self.places: dict[str, Place] = {}
        for path in self.paths:
            with opened(path) as tensors:
                for name in tensors:
                    self.places[name] = Place(path, tensors.shape(name), tensors[name].dtype)

    def names(self, path: Path) -> list[str]:
        """The tensors to be read from one of `paths`."""
        return [name for name, place in self.places.items() if place.path == path]

    def read(self, name: str) -> Tensor:
        """A copy of one tensor."""
        with opened(self.places[name].path) as tensors:
            return tensors[name].clone()


class _Safetensors(Mapping[str, Tensor]):
    def __init__(self, file: Any) -> None:
        self._file, self._names = file, dict.fromkeys(file.keys())
        self.metadata: dict[str, str] = file.metadata() or {}

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = self._file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


class _Unpickled(dict[str, Tensor]):
    metadata: Mapping[str, str] = MappingProxyType({})

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self[name].shape)


@contextmanager
def opened(path: Path) -> Iterator[_Safetensors | _Unpickled]:
    """The tensors of one file, its pages mapped until the block ends and no tensor is left."""
    if path.suffix == ".safetensors":
        try:
            file = safe_open(path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise _unreadable(path, error) from error
        except RuntimeError as error:  # torch's, where the system maps no file of this size
            do = "free memory, lift the limit on it (ulimit -v), or have the weights in smaller files (--shard-gb)"
            raise UserError(f"cannot be mapped ({error})", where=str(path), do=do) from error
        with file as mapped:
            yield _Safetensors(mapped)
        return
    yield _unpickled(path)


def _unreadable(path: Path, error: Exception) -> UserError:
    with path.open("rb") as file:
        if not _is_safetensors(path) and file.read(4).startswith(_PICKLES):
            return UserError(
                "a pickle under the name of safetensors; it could run code and is not read",
                where=str(path),
                do="get the safetensors; as a .bin it is read where it holds tensors alone",
            )
    return UserError(f"damaged or cut short ({error})", where=str(path), do=_AGAIN)


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do: the length of a JSON object in 8 bytes, then that object."""
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _unpickled(path: Path) -> _Unpickled:
    if _is_safetensors(path):
        name = path.with_suffix(".safetensors").name.replace("pytorch_model", "model")
        do = f"rename it to {name}" + (", in the index too" if "-of-" in name else "")
        raise UserError("these are safetensors under the name of a pickle", where=str(path), do=do)
    mapped = zipfile.is_zipfile(path)  # files of torch before 1.6 cannot be mapped
    with path.open("rb") as file:
        if not mapped and file.read(4) == b"PK\x03\x04":
            raise UserError("damaged or cut short (a zip file without its end)", where=str(path), do=_AGAIN)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        named = _NAMED.search(str(error))  # the rest of torch's message says how to run it all the same
        raise UserError(
            f"holds more than tensors{f' ({named[1]})' if named else ''}, which could run code, and is not read",
            where=str(path),
            do="get the model's safetensors, or the file from a place that you trust",
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise UserError(f"damaged or cut short ({error})", where=str(path), do=_AGAIN) from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError("not a file of weights: it holds no tensors by name", where=str(path), do=_AGAIN)
    return _Unpickled(state)


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors of a folder, else its .bin files: those that its index names where it has one."""
    for index, single in ((INDEX, SINGLE), (_OLD_INDEX, _OLD_SINGLE)):
        if (folder / index).is_file():
            return _indexed(folder, folder / index)
        if (folder / single).is_file():
            return [folder / single]
    other = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    raise UserError(
        f"no {SINGLE} here" + (f"; {some(other)} is under no name that weights have" if other else ""),
        where=str(folder),
        do="name a folder that holds weights beside its config.json",
    )


def _indexed(folder: Path, index: Path) -> list[Path]:
    try:
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"not an index of weights ({error})", where=str(index), do=_AGAIN) from error
    foreign = [name for name in names if Path(name).name != name]
    absent = [name for name in names if not (folder / name).is_file()]
    if foreign or absent:
        said = f"names files outside the folder: {some(foreign)}" if foreign else f"missing: {some(absent)}"
        raise UserError(said, where=str(folder), do="copy or download these files too")
    return [folder / name for name in names]


def some(names: list[str], most: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
