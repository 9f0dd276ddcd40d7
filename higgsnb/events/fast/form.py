"""Where a TTree or RNTuple has the columns that are asked for: one value per event, or several and what counts them.

A *collection* is what a counter counts (``nMuon``: ``Muon``), the records of a field (``Muon`` with its field ``pt``),
or, where each column has a counter of its own (``nMuon_pt``, or that of a ``std::vector``), the part of the name before
the first ``_``, unless a counter of a longer part exists.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from higgsnb.errors import SchemaError, did_you_mean
from higgsnb.events.columns import NOTHING, Columns, Missing, find_missing

_LISTS = re.compile(r"(std::)?vector<|(ROOT::VecOps::|ROOT::)?RVec<")
_LEAF, _COLLECTION = 0, 1
SIMULATED = ("gen", "Gen", "LHE", "PSWeight", "Pileup", "HTXS", "btagWeight")
"""How the names of columns of NanoAOD begin that only simulation has."""
CARDINALITY = "RNTupleCardinality"
"""The type of a field of an RNTuple that counts the values of others."""


class Column(NamedTuple):
    """How a file has one column.

    ``branch`` is its name there. ``collection`` is empty if it has one value per event; ``counter`` names the branch
    that counts its values, and is empty if they are counted beside the values themselves.
    """

    branch: str
    collection: str = ""
    counter: str = ""


@dataclass(frozen=True)
class Form:
    """Where one file has what is asked for: by name, columns with one value per event, counters, and jagged columns."""

    flat: Mapping[str, Column]
    counts: Mapping[str, Column]
    jagged: Mapping[str, Column]
    missing: Missing = NOTHING

    @property
    def collections(self) -> tuple[str, ...]:
        """The collections of the jagged columns, in order of first use."""
        return tuple(dict.fromkeys(column.collection for column in self.jagged.values()))


class TreeCatalogue:
    """The branches of a TTree, as uproot has opened it; ``names`` are those of all, for messages."""

    def __init__(self, tree: Any, location: str) -> None:
        self.tree, self.location = tree, location
        self.branches: dict[str, Any] = {str(branch.name): branch for branch in tree.branches}
        self.names = list(self.branches)

    def find(self, name: str) -> Column | None:
        """Return a column by name; None if there is none. Raises `SchemaError` if it is not made of numbers."""
        found = next((one for one in _spellings(name) if one in self.branches), None)
        if found is not None and (unread := _unread_type(self.branches[found])):
            raise SchemaError(
                f"{self.location}: branch {found} is stored as {unread}, which is not supported",
                "The file may be whole: write this branch as float (/F), for example with RDataFrame's Snapshot.",
            )
        return None if found is None else self._column(found)

    def counted(self, collection: str) -> Column | None:
        """Return a column whose objects are those of a collection; None if there is none."""
        named = (one for one in self.names if one.startswith(f"{collection}_") or one == collection)
        columns = (self._column(one) for one in named if self._is_list(one))
        return next((column for column in columns if column.collection == collection), None)

    def typename(self, column: Column) -> str | None:
        """Return the type of a column in C++, or None if uproot does not tell."""
        found: str | None = self.branches[column.branch].typename
        return found

    def entries(self, branch: str) -> int:
        """Return how many entries a branch has."""
        return int(self.branches[branch].num_entries)

    def _is_list(self, name: str) -> bool:
        leaves = self.branches[name].member("fLeaves")
        is_one = len(leaves) == 1 and int(leaves[0].member("fLen")) == 1
        return self._is_vector(name) or (is_one and leaves[0].member("fLeafCount") is not None)

    def _is_vector(self, name: str) -> bool:
        branch = self.branches[name]
        return branch.classname == "TBranchElement" and bool(_LISTS.match(branch.member("fClassName")))

    def _column(self, name: str) -> Column:
        branch = self.branches[name]
        leaves = branch.member("fLeaves")
        lengths = [int(leaf.member("fLen")) for leaf in leaves]
        if lengths != [1] and not self._is_vector(name):
            what = f"{sum(lengths) or len(branch.branches)} values per entry" if lengths else "other branches"
            raise _not_numbers(self.location, name, f"is a {branch.classname} of {what}")
        if not self._is_list(name):
            return Column(name)
        counter = self._counter(name)
        collection = _collection(name, counter, self.branches)
        prefix = name.partition("_")[0]
        if collection == name != prefix:  # what counts it is called otherwise: jet_pt and jet_eta, counted by njets
            others = (one for one in self.names if one.startswith(f"{prefix}_") and self._is_list(one))
            collection = prefix if {self._counter(one) for one in others} == {counter} else name
        return Column(name, collection, counter if counter in self.branches else "")  # else uproot reads it

    def _counter(self, name: str) -> str:
        """Return the branch that counts a list; empty if it counts itself."""
        leaf = None if self._is_vector(name) else self.branches[name].member("fLeaves")[0].member("fLeafCount")
        return "" if leaf is None else str(leaf.member("fName"))


class FieldCatalogue:
    """The fields of an RNTuple, likewise."""

    def __init__(self, ntuple: Any, location: str) -> None:
        self.tree, self.location = ntuple, location
        self._fields = ntuple.field_records
        self._top = {str(one.field_name): i for i, one in enumerate(self._fields) if one.parent_field_id == i}
        self._children: dict[int, list[int]] = {}
        for number, record in enumerate(self._fields):
            if record.parent_field_id != number:
                self._children.setdefault(int(record.parent_field_id), []).append(number)
        self.names = list(self._all_names())

    def find(self, name: str) -> Column | None:
        """See `TreeCatalogue.find`."""
        for top, number, inner in self._places(name):
            if not inner:
                return self._column(top, number)
            items = self._item(number) if self._fields[number].struct_role == _COLLECTION else number
            child = self._child(items, inner)
            if child is not None and self._fields[child].struct_role == _LEAF:
                return Column(f"{top}.{inner}", "" if items == number else top)
        return None

    def counted(self, collection: str) -> Column | None:
        """See `TreeCatalogue.counted`."""
        number = self._top.get(collection)
        if number is not None and self._fields[number].struct_role == _COLLECTION:
            fields = (self._fields[one] for one in self._children.get(self._item(number), []))
            leaf = next((str(one.field_name) for one in fields if one.struct_role == _LEAF), None)
            return Column(collection if leaf is None else f"{collection}.{leaf}", collection)
        named = (one for one in self._top if one.startswith(f"{collection}_"))
        lists = (one for one in named if self._fields[self._top[one]].struct_role == _COLLECTION)
        columns = (Column(one, _collection(one, "", self._top)) for one in lists)
        return next((column for column in columns if column.collection == collection), None)

    def typename(self, column: Column) -> str | None:
        """See `TreeCatalogue.typename`."""
        return str(self._fields[self.values_of(column.branch)].type_name)

    def entries(self, branch: str) -> int:  # noqa: ARG002 - all fields have as many
        """See `TreeCatalogue.entries`."""
        return int(self.tree.num_entries)

    def values_of(self, branch: str) -> int:
        """Return the number of the field that has the values of a `Column.branch`."""
        if branch in self._top:
            return self._item(self._top[branch])
        top, _, inner = branch.partition(".")
        found = self._child(self._item(self._top[top]), inner)
        if found is None:
            raise KeyError(f"no field {inner} in {top}")
        return found

    def list_of(self, branch: str) -> int:
        """Return the number of the field that has the offsets of a jagged `Column.branch`."""
        return self._top[branch if branch in self._top else branch.partition(".")[0]]

    def _places(self, name: str) -> Iterator[tuple[str, int, str]]:
        """Yield the fields that a name may stand for: one by itself, then one inside of another."""
        if name in self._top:
            yield name, self._top[name], ""
        for cut in (match.start() for match in re.finditer("_", name)):
            if name[:cut] in self._top and name[cut + 1 :]:
                yield name[:cut], self._top[name[:cut]], name[cut + 1 :]

    def _column(self, name: str, number: int) -> Column:
        record = self._fields[number]
        if record.struct_role == _LEAF and not record.type_name.startswith("std::string"):
            return Column(name)
        if record.struct_role == _COLLECTION and self._fields[self._item(number)].struct_role == _LEAF:
            return Column(name, _collection(name, "", self._top))
        inner = [self._fields[one].field_name for one in self._children.get(self._item(number), [])]
        more = f" with {', '.join(map(str, inner[:6]))}" if inner else ""
        raise _not_numbers(self.location, name, f"is a {record.type_name or 'record'}{more}")

    def _item(self, number: int) -> int:
        """Return the field of the items of a collection, or of a record the record itself."""
        children = self._children.get(number, [])
        return children[0] if self._fields[number].struct_role == _COLLECTION and len(children) == 1 else number

    def _child(self, number: int, name: str) -> int | None:
        return next((one for one in self._children.get(number, []) if self._fields[one].field_name == name), None)

    def _all_names(self) -> Iterator[str]:
        for name, number in self._top.items():
            if name.startswith("_"):  # such as _collection0, which files converted by ROOT have
                continue
            inner = [str(self._fields[one].field_name) for one in self._children.get(self._item(number), [])]
            yield from (f"{name}_{one}" for one in inner if one != "_0") if inner and inner != ["_0"] else [name]


Catalogue = TreeCatalogue | FieldCatalogue


def resolve(columns: Columns, catalogues: Sequence[Catalogue], location: str, tree: str) -> list[Form]:
    """Return where each of some files (one, and its friends) has what is asked for; a column comes from the first.

    Raises
    ------
    SchemaError
        If columns are in none of them, though their collection is; names the nearest. If a column is not made of
        numbers, or the preselection needs one with several values per event.
    """
    forms = [Form({}, {}, {}) for _ in catalogues]
    missing: list[str] = []
    for name in dict.fromkeys((*columns.names, *columns.tested)):
        finds = ((form, *found) for form, one in zip(forms, catalogues, strict=True) if (found := _find(one, name)))
        form, kind, column = next(finds, (None, "", None))
        if form is None:
            missing.append(name)
            continue
        getattr(form, kind)[name] = column
        if kind == "jagged" and name in columns.tested:
            raise SchemaError(
                f"{location}: the preselection needs {name}, which has several values per event",
                f"Use columns with one value per event, such as n{name.partition('_')[0]}.",
            )
    present = [name for one in catalogues for name in one.names]
    absent, wrong = find_missing(missing, columns, present)
    if wrong:
        raise lacks(wrong, present, location, tree)
    return [Form(form.flat, form.counts, form.jagged, absent) for form in forms]


def _find(catalogue: Catalogue, name: str) -> tuple[str, Column] | None:
    """Return the kind of a column, which is a field of `Form`, and how a file has it; None if it does not."""
    counted = catalogue.counted(name[1:]) if name[:1] == "n" and name[1:] else None
    if counted is not None:
        return "counts", counted
    column = catalogue.find(name)
    return None if column is None else ("jagged" if column.collection else "flat", column)


def lacks(wrong: Sequence[str], present: Sequence[str], location: str, tree: str) -> SchemaError:
    """Return the error for columns that a file should have."""
    more = f" and {len(wrong) - 6} more" if len(wrong) > 6 else ""
    simulated = [name for name in wrong if name.startswith(SIMULATED)]
    known = {name: _instead(name, present) for name in wrong[:3]}
    hints = [f"For {one}: {hint}" for one, hint in known.items() if one not in simulated or "Did you mean" in hint]
    if simulated:
        hints.append(f"If these are data, name {simulated[0]} in simulation_columns.")
    else:
        hints.append("Is this a file of the schema that the campaign names?")
    return SchemaError(f"{location}: tree {tree!r} lacks {', '.join(wrong[:6])}{more}", " ".join(hints))


def _instead(name: str, present: Sequence[str]) -> str:
    """Return what may be meant by a column that a file lacks."""
    inside = [one for one in present if one.startswith(f"{name}_")]
    return f"Name its columns, such as {inside[0]}." if inside else did_you_mean(name, present)


def _spellings(name: str) -> Iterator[str]:
    """Yield how a branch of this name may be written: as it is, or with a dot for one ``_``, as records have it."""
    yield name
    yield from (f"{name[: match.start()]}.{name[match.end() :]}" for match in re.finditer("_", name))


def _collection(name: str, counter: str, present: Container[str]) -> str:
    """Return the collection that a jagged column belongs to, from its name and that of its counter, if it has one."""
    counted = counter.removeprefix("n") if counter.startswith("n") else counter.removesuffix("_n")
    if counted and (name == counted or name.startswith(f"{counted}_")) and counted != name:
        return counted
    name = name.replace(".", "_")
    if "_" not in name or (counter and counter not in (f"n{name}", f"{name}_n")):
        return name  # a list by itself, or columns x and y that are counted by n
    prefixes = [name[: match.start()] for match in re.finditer("_", name) if match.start()]
    longer = [one for one in reversed(prefixes) if f"n{one}" in present or f"{one}_n" in present]
    return (longer or prefixes)[0]


def _unread_type(branch: Any) -> str | None:
    """Return the type of a branch if uproot cannot read it, or takes its packed numbers for plain ones; else None."""
    for leaf in branch.member("fLeaves"):
        title = str(leaf.member("fTitle"))
        if leaf.classname == "TLeafF16":
            return "Float16_t"
        if leaf.classname == "TLeafD32" and re.search(r"\[[^]]*,", f"{title} {branch.title}"):
            return f"Double32_t in a range of its own ({branch.title})"
    return None


def _not_numbers(location: str, name: str, what: str) -> SchemaError:
    return SchemaError(
        f"{location}: {name} {what}; a column has one number per event, or a list of numbers",
        "Leave it out, or write it as columns of numbers.",
    )
