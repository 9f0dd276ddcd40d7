"""Files with changed bytes, and what a run makes of each: in a process of its own, with little memory."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot
from generators import random_leptons
from outreach import branches, write

from higgsnb import events, selection
from higgsnb.datasets import Chunk, File
from higgsnb.errors import HiggsnbError
from higgsnb.events import Read

FORMS = {
    f"{kind}-{codec or 'none'}": (kind, codec)
    for kind, codecs in {"TTree": ("ZLIB", "LZ4", "ZSTD", "LZMA", ""), "RNTuple": ("ZSTD", "")}.items()
    for codec in codecs
}
"""Form and codec of the files; with "" they are not compressed."""
MEMORY = 2 * 2**30
PEAK = 1_200_000_000
HANGS = 60
"""Seconds after which reading one small file is a hang, on the busiest machine."""

Change = tuple[int, str]
"""Where bytes of a file are replaced, and by what (hexadecimal)."""


def write_form(path: Path, form: str, n_events: int = 300) -> Path:
    """Write a good file of the outreach schema."""
    kind, codec = FORMS[form]
    leptons = random_leptons(n_events, seed=13)
    compression = getattr(uproot, codec)(1) if codec else uproot.ZLIB(0)
    if kind == "TTree":
        return write(path, leptons, basket=n_events // 2, compression=compression)
    fields = branches(leptons)
    fields |= {"nMuon": ak.num(fields["Muon_pt"]), "nElectron": ak.num(fields["Electron_pt"])}
    with uproot.recreate(path, compression=compression) as file:
        file.mkrntuple("Events", fields)
    return path


def chunk_of(file: File, entries: int) -> Chunk:
    """The chunk of all events of a file of simulation."""
    return Chunk("mc", 0, 0, file, "outreach", None, False, 0, entries, None, entries)


def high_bits(data: bytes, places: Iterable[int], bits: Iterable[int] = (6, 7)) -> list[Change]:
    """One high bit at each place, by itself."""
    bits = list(bits)
    return [(place, f"{data[place] ^ 1 << bit:02x}") for place in places for bit in bits]


def mutations(data: bytes, draw: random.Random) -> Iterator[list[Change]]:
    """Endless: some flipped bits, a number at its limit, zeros, bytes from elsewhere, an exchanged half."""
    while True:
        place, kind = draw.randrange(len(data) - 16), draw.choice(("bit", "bits", "number", "zeros", "elsewhere"))
        if kind in ("bit", "bits"):
            places = [draw.randrange(len(data)) for _ in range(1 if kind == "bit" else draw.randint(2, 6))]
            yield [(p, f"{data[p] ^ 1 << draw.randrange(8):02x}") for p in places]
        elif kind == "number":
            yield [(place, draw.choice(("7fffffff", "80000000", "ffffffff", "7fffffffffffffff", "ffff", "00000000")))]
        elif kind == "zeros":
            yield [(place, bytes(draw.choice((8, 64, 512))).hex())]
        else:
            other = draw.randrange(len(data) - 16)
            yield [(place, data[other : other + draw.choice((4, 16, 128))].hex())]


def places_of(path: Path, step: int) -> list[int]:
    """Every ``step``-th byte of what is not payload in a file: its header, tree, keys of baskets, and the counters."""
    with uproot.open(path) as file:
        tree, size = file["Events"], path.stat().st_size
        if not hasattr(tree, "branches"):
            return list(range(0, size, 40 * step))
        places = list(range(100))
        for key in file._keys:
            places += range(key.fSeekKey, key.fSeekKey + key.fNbytes)
        for branch in tree.branches:
            for seek in branch.member("fBasketSeek")[: branch.num_baskets].tolist():
                places += range(seek, seek + (160 if branch.name.startswith("n") else 90))
    return sorted({place for place in places if place < size})[::step]


def outcomes(path: Path, changes: list[list[Change]]) -> tuple[list[str], int]:
    """What becomes of a file with each of some sets of changes, and the most memory (bytes) that was used.

    "same": equal to the good file. "named": an error of this package, of one line, with the file and a hint. "marked":
    other numbers that no checksum covered. Anything else is a fault; a hang or a crash raises `CalledProcessError`.
    """
    done = subprocess.run(
        [sys.executable, __file__, str(path)], input=json.dumps(changes), capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    found, peak = json.loads(done.stdout)
    return found, peak


def _read(path: Path) -> tuple[Read, Any]:
    """Read a file as a run does: inspect it, read it in one chunk, select."""
    file = File(str(path))
    entries = events.inspect(file, "outreach").entries
    if entries > 10**7:
        raise RuntimeError(f"a plan for {entries} events")
    read = events.read_preselected(chunk_of(file, entries))
    return read, selection.select(read.leptons, selection.load("open2012"))


def _judge(path: Path, good: Read) -> str:
    try:
        found, _ = _read(path)
    except HiggsnbError as error:
        right = str(path) in error.message and "\n" not in error.message and error.hint
        return "named" if right else f"{type(error).__name__}: {error.message}"
    except BaseException as error:  # noqa: BLE001 - it is counted as what it is
        return f"{type(error).__name__}: {error}"
    pairs = [(found.entries, good.entries), *zip(found.leptons, good.leptons, strict=True)]
    if found.n_events == good.n_events and all(a is b or np.array_equal(a, b, equal_nan=True) for a, b in pairs):
        return "same"
    return "marked" if found.integrity == "none" else "silent"


def _main(path: Path) -> None:
    data, changed = path.read_bytes(), path.with_suffix(".changed.root")
    good, _ = _read(path)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    found = []
    for changes in json.load(sys.stdin):
        content = bytearray(data)
        for place, hexadecimal in changes:
            new = bytes.fromhex(hexadecimal)
            content[place : place + len(new)] = new
        changed.unlink(missing_ok=True)
        changed.write_bytes(content)
        signal.alarm(HANGS)
        found.append(_judge(changed, good))
    signal.alarm(0)
    status = Path("/proc/self/status").read_text(encoding="utf-8")  # ru_maxrss begins with that of pytest
    sys.stdout.write(json.dumps([found, 1024 * int(status.partition("VmHWM:")[2].split()[0])]))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
