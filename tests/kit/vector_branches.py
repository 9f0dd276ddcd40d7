"""Trees with branches of ``std::vector``, as ROOT writes them for ATLAS; uproot only reads such branches.

uproot writes the baskets: what ROOT stores of a vector (a header of ten bytes and the elements) goes through it as
bytes. Then the header of the tree is written again, with a `TBranchElement` in place of each branch of bytes. ROOT 6.40
reads the files as if it had written them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import awkward as ak
import numpy as np
import uproot

# Name of the C++ class, and its checksum as ROOT 6 writes it.
CLASSES = {
    "float32": ("vector<float>", 89790107), "int32": ("vector<int>", 9976712), "bool": ("vector<bool>", 29929751),
    "uint32": ("vector<unsigned int>", 3106279697),
}  # fmt: skip
LETTERS = {"bool": "O", "int32": "I", "uint32": "I", "float32": "F", "float64": "D", "int64": "L", "uint64": "L"}
LIMITS = {"O": ">??", "I": ">ii", "F": ">ff", "D": ">dd", "L": ">qq"}  # fMinimum and fMaximum of a leaf
NUMBERS = (  # of a tree, in the order of `TTree` version 20, after that of its entries
    "fTotBytes", "fZipBytes", "fSavedBytes", "fFlushedBytes", "fWeight", "fTimerInterval", "fScanField", "fUpdate",
    "fDefaultEntryOffsetLen", "fNClusterRange", "fMaxEntries", "fMaxEntryLoop", "fMaxVirtualSize", "fAutoSave",
    "fAutoFlush", "fEstimate",
)  # fmt: skip
BYTE_COUNT, NEW_CLASS, OFFSET_IN_MAP = 0x40000000, 0xFFFFFFFF, 2
FILL = b"@\x00\x00\x06\x00\x02\x00\x00\x03\xe9"  # TAttFill
LINE_FILL_MARKER = (
    b"@\x00\x00\x08\x00\x02\x02Z\x00\x01\x00\x01" + FILL + b"@\x00\x00\n\x00\x02\x00\x01\x00\x01?\x80\x00\x00"
)
FEATURES = b"@\x00\x00\x07\x00\x00\x1a\xa1/\x10\x00"  # ROOT::TIOFeatures
NO_OBJECTS = b"@\x00\x00\x15\x00\x03\x00\x01\x00\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"


def write_tree(file: Any, name: str, columns: Mapping[str, Any], vectors: Mapping[str, ak.Array]) -> None:
    """Write a tree with ``columns`` (n,) and with lists of numbers, which become branches of ``std::vector``."""
    packed = {key: _packed(values) for key, values in vectors.items()}
    types = {key: values.dtype for key, values in columns.items()} | dict.fromkeys(packed, "var * uint8")
    tree = file.mktree(name, types)
    tree.extend({**columns, **packed})
    made = tree._cascading
    branches = [one for one in made._branch_data if one["kind"] != "counter"]
    kinds = {key: str(ak.to_numpy(ak.flatten(values)).dtype) for key, values in vectors.items()}
    raw = _header(made, branches, kinds)
    made._directory.add_object(file._file.sink, "TTree", name, "", raw, len(raw), replaces=made._key, big=True)


def _packed(values: ak.Array) -> ak.Array:
    """The bytes that ROOT stores of each vector: their number, version 10, number of elements, elements."""
    stored = []
    for one in values:
        elements = np.asarray(one)
        content = elements.astype(elements.dtype.newbyteorder(">")).tobytes()
        stored.append(struct.pack(">IHI", (6 + len(content)) | BYTE_COUNT, 10, len(elements)) + content)
    flat = np.frombuffer(b"".join(stored), np.uint8)
    return ak.unflatten(ak.Array(flat), np.array([len(one) for one in stored], np.int64))


class _Buffer:
    """Bytes of an object as ROOT streams it; ``before`` are the bytes of its key."""

    def __init__(self, before: int) -> None:
        self.bytes, self.before = bytearray(), before

    def put(self, form: str, *values: Any) -> None:
        self.bytes += struct.pack(form, *values)

    def string(self, text: str) -> None:
        self.bytes += bytes([len(text)]) + text.encode()

    @contextmanager
    def versioned(self, version: int) -> Iterator[None]:
        start = len(self.bytes)
        self.put(">IH", 0, version)
        yield
        struct.pack_into(">I", self.bytes, start, (len(self.bytes) - start - 4) | BYTE_COUNT)

    @contextmanager
    def any_object(self, classname: str) -> Iterator[int]:
        """An object with its class; yields by which number others refer to it."""
        start = len(self.bytes)
        self.put(">II", 0, NEW_CLASS)
        self.bytes += classname.encode() + b"\0"
        yield self.before + start + OFFSET_IN_MAP
        struct.pack_into(">I", self.bytes, start, (len(self.bytes) - start - 4) | BYTE_COUNT)

    def named(self, name: str, title: str, bits: int = 0) -> None:
        with self.versioned(1):
            self.put(">HII", 1, 0, 0x03000000 | bits)
            self.string(name)
            self.string(title)

    @contextmanager
    def objects(self, number: int) -> Iterator[None]:
        with self.versioned(3):
            self.put(">HIIBII", 1, 0, 0x03000000, 0, number, 0)
            yield


def _header(made: Any, branches: list[dict[str, Any]], kinds: Mapping[str, str]) -> bytes:
    """The tree without its baskets, `TTree` version 20."""
    meta = made._metadata
    key = uproot.reading._key_format_big.size + len("TTree") + 1 + len(made._name) + 1 + 1
    out = _Buffer(key)
    with out.versioned(20):
        out.named(made._name, "", 8)
        out.bytes += LINE_FILL_MARKER
        out.put(">qqqqqdiiiiIqqqqqq", made._num_entries, *(meta[name] for name in NUMBERS))
        out.bytes += b"\x00\x00" + FEATURES
        with out.objects(len(branches)):
            leaves = [_branch(out, made, branch, kinds.get(branch["fName"])) for branch in branches]
        with out.objects(len(leaves)):
            out.put(f">{len(leaves)}I", *leaves)
        out.bytes += bytes(28)  # neither aliases, indexes, friends nor information of users
    return bytes(out.bytes)


def _branch(out: _Buffer, made: Any, branch: dict[str, Any], kind: str | None) -> int:
    """Put a branch, of vectors if they have a kind; return the number of its leaf."""
    name = branch["fName"]
    if kind is None:
        with out.any_object("TBranch"):
            return _plain_branch(out, made, branch, name)
    classname, checksum = CLASSES[kind]
    with out.any_object("TBranchElement"), out.versioned(10):
        leaf = _plain_branch(out, made, branch, None)
        for text in (classname, "", ""):
            out.string(text)
        out.put(">IhiiiiII", checksum, 6, -1, 0, -1, 0, 0, 0)
        return leaf


def _plain_branch(out: _Buffer, made: Any, branch: dict[str, Any], plain: str | None) -> int:
    """Put what all branches have, `TBranch` version 13; ``plain`` is the name of a branch of numbers."""
    with out.versioned(13):
        out.named(branch["fName"], branch["fTitle"] if plain else branch["fName"], 0x00400000)
        out.bytes += FILL
        out.put(">iiiiq", 0, branch["fBasketSize"], branch["fEntryOffsetLen"], made._num_baskets, made._num_entries)
        out.bytes += FEATURES
        sizes = branch["fTotBytes"], branch["fZipBytes"]
        out.put(">iIiqqqq", 0, made._basket_capacity, 0 if plain else 99, made._num_entries, 0, *sizes)
        out.bytes += NO_OBJECTS
        with out.objects(1):
            leaf = _leaf(out, branch, plain)
        out.bytes += NO_OBJECTS
        for column in ("fBasketBytes", "fBasketEntry", "fBasketSeek"):
            out.bytes += b"\x01" + branch[column].tobytes()
        out.string("")
    return leaf


def _leaf(out: _Buffer, branch: dict[str, Any], plain: str | None) -> int:
    name, dtype = branch["fName"], branch["dtype"].newbyteorder("=")
    letter = LETTERS[str(dtype)] if plain else ""
    with out.any_object(f"TLeaf{letter}" if plain else "TLeafElement") as number, out.versioned(1):
        with out.versioned(2):
            out.named(name, name)
            out.put(">iii??I", 1, dtype.itemsize if plain else 0, 0, False, plain is not None and dtype.kind == "u", 0)
        out.put(LIMITS[letter], 0, 0) if plain else out.put(">ii", -1, -1)
    return number
