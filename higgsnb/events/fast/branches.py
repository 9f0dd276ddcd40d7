"""One branch of a TTree: how its elements are stored, where its baskets are, and what their headers say."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from higgsnb.errors import DamagedFileError
from higgsnb.events.columns import Integers
from higgsnb.events.fast.blocks import Buffer, UnexpectedFormError

_STORED = {
    ("TLeafF", False): ">f4",
    ("TLeafD", False): ">f8",
    ("TLeafO", False): "?",
    ("TLeafB", False): "i1",
    ("TLeafB", True): "u1",
    ("TLeafS", False): ">i2",
    ("TLeafS", True): ">u2",
    ("TLeafI", False): ">i4",
    ("TLeafI", True): ">u4",
    ("TLeafL", False): ">i8",
    ("TLeafL", True): ">u8",
    ("TLeafG", False): ">i8",  # Long_t, stored with eight bytes on every machine
    ("TLeafG", True): ">u8",
}
_VECTORS = {
    "float": ">f4",
    "double": ">f8",
    "bool": "?",
    "char": "i1",
    "unsigned char": "u1",
    "short": ">i2",
    "unsigned short": ">u2",
    "int": ">i4",
    "unsigned int": ">u4",
    "long": ">i8",
    "unsigned long": ">u8",
    "Long64_t": ">i8",
    "ULong64_t": ">u8",
}
"""What a `std::vector` can hold, and how it is stored."""
_KEY = struct.Struct(">ihiIhhii")
_BIG_KEY = struct.Struct(">ihiIhhqq")
_BASKET = struct.Struct(">HiiiiB")
_BASKET_WITH_BITS = struct.Struct(">HiiBiiB")
_GENERATED_OFFSETS = 0x01
"""The only I/O feature that baskets can have: entry offsets left out. They are not used here anyway."""
_OFFSETS_TO_GENERATE = 80
"""The flag of a basket whose offsets were left out."""


@dataclass(frozen=True)
class BranchBaskets:
    """One branch: how its elements are stored, and where its baskets are.

    ``counter`` is the branch that counts them, if any; those of a vector are counted beside them. ``edges``
    (n_baskets + 1,) are the entries at which baskets start; ``seeks`` and ``sizes`` (n_on_file,) place them
    in the file. Baskets that the writer left inside the tree's header follow in ``embedded``.
    """

    name: str
    dtype: np.dtype[Any]
    counter: str | None
    is_vector: bool
    edges: Integers
    seeks: tuple[int, ...]
    sizes: tuple[int, ...]
    embedded: tuple[bytes, ...]
    key_names: bytes = field(repr=False)

    def overlapping(self, start: int, stop: int) -> range:
        """Return the indices of the baskets that hold entries ``start`` to ``stop``."""
        if stop <= start:
            return range(0)
        first = int(np.searchsorted(self.edges, start, side="right")) - 1
        last = int(np.searchsorted(self.edges, stop, side="left"))
        return range(first, last)

    def places(self, baskets: Iterable[int]) -> list[tuple[int, int]]:
        """Return (offset, size) in the file of some baskets; those in the tree's header have none."""
        return [(self.seeks[i], self.sizes[i]) for i in baskets if i < len(self.seeks)]


def branch_baskets(branch: Any) -> BranchBaskets:
    """Return how the baskets of ``branch`` are stored, as uproot has read it.

    Raises
    ------
    UnexpectedFormError
        If it is not one leaf of numbers, alone or counted by another branch.
    DamagedFileError
        If its table of baskets contradicts itself.
    """
    name = str(branch.name)
    dtype, counter, is_vector = _stored_form(branch)
    n_on_file = int(branch._num_normal_baskets)
    embedded = branch.embedded_baskets
    edges = np.asarray(branch.member("fBasketEntry")[: n_on_file + 1], dtype=np.int64)
    if n_on_file == 0:
        edges = np.zeros(1, dtype=np.int64)
    edges = np.concatenate([edges, edges[-1] + np.cumsum([b.num_entries for b in embedded], dtype=np.int64)])
    n_entries = int(branch.member("fEntries"))
    if edges[0] != 0 or edges[-1] != n_entries or (np.diff(edges) < 0).any():
        raise DamagedFileError(
            f"{branch.file.file_path}: branch {name} has baskets to entry {edges[-1]} of {n_entries}"
        )
    encoded = name.encode()
    length = bytes([len(encoded)]) if len(encoded) < 255 else b"\xff" + struct.pack(">I", len(encoded))  # as ROOT does
    return BranchBaskets(
        name=name,
        dtype=dtype,
        counter=counter,
        is_vector=is_vector,
        edges=edges,
        seeks=tuple(branch.member("fBasketSeek")[:n_on_file].tolist()),
        sizes=tuple(branch.member("fBasketBytes")[:n_on_file].tolist()),
        embedded=tuple(bytes(basket.data) for basket in embedded),
        key_names=b"\x07TBasket" + length + encoded,
    )


def _stored_form(branch: Any) -> tuple[np.dtype[Any], str | None, bool]:
    """Return the type of one stored element, the name of the counting branch, if any, and whether it is a vector."""
    leaves = list(branch.member("fLeaves"))
    if branch.classname == "TBranchElement" and not len(branch.member("fBranches")):
        vector = re.fullmatch(r"(?:std::)?vector<([\w ]+)>|(?:ROOT::VecOps::|ROOT::)?RVec<([\w ]+)>", _class(branch))
        stored = vector and _VECTORS.get(vector[1] or vector[2])
        if stored:
            return np.dtype(stored), None, True
    if branch.classname != "TBranch" or len(leaves) != 1 or len(branch.member("fBranches")):
        raise UnexpectedFormError(
            f"branch {branch.name} is a {branch.classname} with {len(leaves)} leaves, not a plain one"
        )
    leaf = leaves[0]
    length = leaf.member("fLen")
    stored = _STORED.get((leaf.classname, bool(leaf.member("fIsUnsigned"))))
    if stored is None or length != 1:
        raise UnexpectedFormError(f"branch {branch.name} has a {leaf.classname} of {length} elements, not one number")
    counter = leaf.member("fLeafCount")
    return np.dtype(stored), None if counter is None else str(counter.member("fName")), False


def _class(branch: Any) -> str:
    """Return the class of a branch without blanks that mean nothing."""
    return re.sub(r"\s*([<>,])\s*", r"\1", str(branch.member("fClassName")))


class Head(NamedTuple):
    """The header of a basket: bytes of its key, of the whole object and of the content in it, and entries."""

    key_length: int
    object_length: int
    content_length: int
    n_entries: int


def read_head(raw: Buffer, branch: BranchBaskets, index: int) -> Head:
    """Read key and header of a basket, which must be those of basket ``index`` of ``branch``."""
    n_bytes, version, object_length, _, key_length, _, seek, _ = _KEY.unpack_from(raw)
    names = _KEY.size
    if version > 1000:
        seek, names = _BIG_KEY.unpack_from(raw)[6], _BIG_KEY.size
    title = names + len(branch.key_names)
    if n_bytes != len(raw) or seek != branch.seeks[index] or raw[names:title] != branch.key_names:
        raise ValueError("its key is that of something else")
    start = title + (1 + raw[title] if raw[title] < 255 else 5 + int.from_bytes(raw[title + 1 : title + 5], "big"))
    if key_length - start == _BASKET.size:
        _, _, entry_size, n_entries, last, flag = _BASKET.unpack_from(raw, start)
        is_known = entry_size >= 0 and flag == 0
    elif key_length - start == _BASKET_WITH_BITS.size:
        _, _, entry_size, bits, n_entries, last, flag = _BASKET_WITH_BITS.unpack_from(raw, start)
        is_known = entry_size < 0 and bits & 0x7F == _GENERATED_OFFSETS and flag in (0, _OFFSETS_TO_GENERATE)
    else:
        raise ValueError(f"its header has {key_length - start} bytes")
    if not is_known:
        what = bytes(raw[start:key_length]).hex()
        raise UnexpectedFormError(f"a basket's header has features not known here: {what}")
    if not 0 <= last - key_length <= object_length:
        raise ValueError(f"its content ends at byte {last - key_length} of {object_length}")
    return Head(key_length, object_length, last - key_length, n_entries)
