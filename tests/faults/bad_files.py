"""Small good files, each with an identity of its own, and one of every kind of bad file."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uproot
from generators import random_leptons
from http_server import Fault, FileServer
from outreach import events_of, write

from higgsnb.datasets import File
from higgsnb.events.schema import BRANCHES

N_EVENTS = 120
UUID_PLACE = slice(47, 63)
"""Of the UUID in the header of a file of less than 2 GB (https://root.cern/doc/master/TFile__header_8dox.html)."""


def stamped(data: bytes, name: str) -> bytes:
    """The same file with another UUID, as if written anew."""
    changed = bytearray(data)
    changed[UUID_PLACE] = uuid.uuid5(uuid.NAMESPACE_URL, name).bytes
    return bytes(changed)


def contents(folder: Path, n: int = 4) -> list[bytes]:
    """Good files with different events."""
    leptons = random_leptons(n * N_EVENTS, seed=77)
    parts = [events_of(leptons, i * N_EVENTS, (i + 1) * N_EVENTS) for i in range(n)]
    return [write(folder / f"content{i}.root", part).read_bytes() for i, part in enumerate(parts)]


def many(folder: Path, n: int) -> Iterator[bytes]:
    """``n`` good files, of four different contents."""
    some = contents(folder)
    for number in range(n):
        yield stamped(some[number % len(some)], f"file {number}")


@dataclass(frozen=True)
class Workshop:
    """Where bad files are made: from the content of a good one, in a folder or on a server."""

    folder: Path
    server: FileServer
    good: bytes

    def local(self, name: str, data: bytes, **known: Any) -> File:
        path = self.folder / f"{name}.root"
        path.write_bytes(data)
        return File(str(path), **known)

    def remote(self, name: str, fault: Fault) -> File:
        path = f"/bad/{name}.root"
        self.server.fail(path, fault)
        return File(self.server.base + path)

    def header(self) -> tuple[int, int]:
        """Where the first basket of Muon_pt lies, and the record of the top folder."""
        path = self.folder / "kept.root"
        path.write_bytes(self.good)
        with uproot.open(path) as file:
            basket = int(file["Events"]["Muon_pt"].member("fBasketSeek")[0])
            return basket, file.file.fBEGIN + file.file.fNbytesName


def _wrong_tree(shop: Workshop) -> File:
    path = shop.folder / "tree.root"
    with uproot.recreate(path) as file:
        file["Event"] = {"run": np.ones(3, np.int32)}
    return File(str(path))


def _missing_branch(shop: Workshop) -> File:
    return File(str(write(shop.folder / "branch.root", random_leptons(N_EVENTS, seed=80), leave_out=("Muon_dz",))))


def _wrong_type(shop: Workshop) -> File:
    path = shop.folder / "type.root"
    with uproot.recreate(path) as file:
        columns = {branch: np.zeros(3, np.int32) for branch in BRANCHES.values()}
        file.mktree("Events", {name: column.dtype for name, column in columns.items()}).extend(columns)
    return File(str(path))


def _corrupted_block(shop: Workshop) -> File:
    basket, _ = shop.header()
    damaged = shop.good[: basket + 150] + bytes(40) + shop.good[basket + 190 :]
    return shop.local("corrupted", stamped(damaged, "corrupted"))


def _never_closed(shop: Workshop) -> File:
    """As a writer leaves it that was killed: the record of the top folder names no list of keys."""
    _, folder = shop.header()
    data = bytearray(shop.good)
    data[folder + 10 : folder + 14] = data[folder + 26 : folder + 30] = bytes(4)  # fNbytesKeys and fSeekKeys
    return shop.local("open", bytes(data))


PAGE = Fault(status=200, body=b"<!DOCTYPE html><html>log in</html>", headers={"Content-Type": "text/html"}, times=None)
BAD: dict[str, tuple[Callable[[Workshop], File], str, str]] = {
    "truncated": (lambda s: s.local("short", s.good[: len(s.good) // 2]), "UnreadableError", "is truncated"),
    "zero bytes": (lambda s: s.local("zero", b""), "UnreadableError", "is empty"),
    "not ROOT": (lambda s: s.local("text", b"PK" * 5000), "UnreadableError", "is not a ROOT file"),
    "HTML page": (lambda s: s.remote("page", PAGE), "TransferError", "HTML page"),
    "404": (lambda s: s.remote("absent", Fault(status=404, times=None)), "MissingFileError", "404 Not Found"),
    "403": (lambda s: s.remote("secret", Fault(status=403, times=None)), "TransferError", "403 Forbidden"),
    "wrong tree": (_wrong_tree, "SchemaError", "no tree 'Events'"),
    "missing branch": (_missing_branch, "SchemaError", "lacks Muon_dz"),
    "wrong type": (_wrong_type, "SchemaError", "branch Muon_pt has type int32_t"),
    "corrupted block": (_corrupted_block, "UnreadableError", "branch Muon_pt is damaged"),
    "wrong checksum": (lambda s: s.local("sum", s.good, adler32="12345678"), "ChecksumError", "expected 12345678"),
    "not closed": (_never_closed, "UnreadableError", "before it closed the file"),
    "missing file": (lambda s: File(str(s.folder / "nowhere.root")), "MissingFileError", "no such file"),
    "wrong event count": (
        lambda s: s.local("count", stamped(s.good, "count"), events=N_EVENTS + 1),
        "CampaignError",
        f"holds {N_EVENTS} events, the campaign says {N_EVENTS + 1}",
    ),
}
"""How each kind is made, and the error and words by which it has to be named."""
