"""CSV files: whole numbers are whole, event numbers keep their digits, and what is no CSV is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from higgsnb.datasets import Chunk, File
from higgsnb.errors import SchemaError, UnreadableError
from higgsnb.events import Columns, Read, csv, inspect, read_events, read_leptons
from higgsnb.selection import missing_quantities, parse

CELLS = {
    "Run": "194050",
    "Event": "12",
    **{f"{name}{i}": text for i in range(1, 5) for name, text in {"pt": "20.5", "eta": "0.3", "phi": "-1"}.items()},
    **{f"PID{i}": "13" if i % 2 else "-11" for i in range(1, 5)},
    **{f"Q{i}": "-1" if i % 2 else "1" for i in range(1, 5)},
}


def text_of(*changes: dict[str, str]) -> str:
    """A header and one line for each dictionary of changed cells."""
    rows = [list(CELLS), *([*(CELLS | changed).values()] for changed in changes)]
    return "".join(",".join(row) + "\n" for row in rows)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "f.csv"


def read(path: Path) -> Read:
    entries = inspect(File(url=str(path)), "csv").entries
    return read_leptons(Chunk("d", 0, 0, File(url=str(path)), "csv", None, True, 0, entries, None))


def test_line_becomes_two_muons_and_two_electrons(path: Path) -> None:
    path.write_text(text_of({}, {"Event": "13.0", "pt2": "7"}))
    found = read(path)
    assert (found.run.tolist(), found.event.tolist()) == ([194050, 194050], [12, 13])
    assert found.muon_offsets.tolist() == found.electron_offsets.tolist() == [0, 2, 4]
    assert found.electron_pt.tolist() == [20.5, 20.5, 7, 20.5]
    assert (found.muon_charge.tolist(), found.electron_charge.tolist()) == ([-1] * 4, [1] * 4)


def test_only_negative_event_numbers_are_wrapped(path: Path) -> None:
    numbers = {
        "-1": 2**32 - 1,
        "-2147483648": 2**31,
        "-2147483648.0": 2**31,
        "4294967296": 2**32,
        "5000000000": 5 * 10**9,
        "9007199254740993": 2**53 + 1,
        "9223372036854775807": 2**63 - 1,
    }
    path.write_text(text_of(*({"Event": text} for text in numbers)))
    found = read(path)
    assert found.event.dtype == np.uint64
    assert found.event.tolist() == list(numbers.values())


BAD_CELLS = [
    ("Run", "nan", "a whole number from 0 to 2147483647"),
    ("Run", "1.7", "a whole number from 0"),
    ("Run", "-5", "a whole number from 0"),
    ("Run", "2147483648", "a whole number from 0"),
    ("Event", "inf", "a whole number from -2147483648 to 9223372036854775807"),
    ("Event", "0.5", "a whole number from"),
    ("Event", "9223372036854775808", "a whole number from"),
    ("Event", "-2147483649", "a whole number from"),
    ("Event", "1e17", "a whole number from"),
    ("Q3", "0.7", "1 or -1"),
    ("Q3", "nan", "1 or -1"),
    ("Q3", "0", "1 or -1"),
    ("PID4", "11.5", "11, -11, 13 or -13"),
    ("PID4", "15", "11, -11, 13 or -13"),
]


@pytest.mark.parametrize(("column", "text", "expected"), BAD_CELLS)
def test_bad_number_is_named_with_file_line_and_column(path: Path, column: str, text: str, expected: str) -> None:
    path.write_text(text_of({}, {column: text}))
    with pytest.raises(UnreadableError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, line 3: {column} is '{text}', expected {expected}")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize(("column", "text"), [("eta2", "x"), ("Run", ""), ("pt1", "1;2"), ("Event", "12a")])
def test_cell_that_is_no_number_is_named(path: Path, column: str, text: str) -> None:
    path.write_text(text_of({column: text}))
    with pytest.raises(UnreadableError, match=f"line 2: not a row of numbers: {column} is '{text}', expected a"):
        read(path)


AS_SAVED = {
    "blanks after commas": lambda text: text.replace(",", ", "),
    "blanks around all": lambda text: text.replace(",", " , "),
    "quotes": lambda text: "\n".join(",".join(f'"{c}"' for c in line.split(",")) for line in text.split("\n")),
    "quotes after blanks": lambda text: "\n".join(
        ", ".join(f'"{c}"' for c in line.split(",")) for line in text.split("\n")
    ),
    "semicolons": lambda text: text.replace(",", ";"),
    "tabs": lambda text: text.replace(",", "\t"),
    "last column empty": lambda text: text.replace("\n", ",\n"),
    "blank lines": lambda text: "\n" + text.replace("\n", "\n\n \n") + ",,,,\n",
    "another column with commas": lambda text: "\n".join(f'{line},"a,b"' if line else "" for line in text.split("\n")),
}


@pytest.mark.parametrize("change", AS_SAVED.values(), ids=AS_SAVED)
def test_rows_are_the_same_however_they_are_separated(path: Path, change: Callable[[str], str]) -> None:
    text = text_of({}, {"Event": "876658967", "pt2": "7.25", "phi4": "3"})
    path.write_text(text)
    expected = [None if column is None else column.tolist() for column in read(path)]
    path.write_text(change(text))
    assert [None if column is None else column.tolist() for column in read(path)] == expected


BAD_ROWS = {
    "a cell too many": (text_of({}).replace("20.5", "20,5"), "line 2: PID1 is '20', expected"),
    "a cell too many, last": (text_of({})[:-1] + ",7\n", "line 2: not a row of numbers: 23 cells, 22 in the header"),
    "a cell too few, unread": (
        text_of({}).replace("Q4\n", "Q4,M,N\n"),
        "line 2: not a row of numbers: 22 cells, 24 in",
    ),
    "decimal commas": (
        text_of({}).replace(",", ";").replace("20.5", "20,5"),
        "line 2: not a row of numbers: pt1 is '20,5', expected a number\nWrite decimals with a point",
    ),
    "digits of another script": (text_of({"pt1": "\u0661"}), "line 2: not a row of numbers: pt1 is"),
    "underscore": (text_of({"Run": "19_4050"}), "line 2: not a row of numbers: Run is '19_4050'"),
    "5000 digits": (text_of({"Event": "9" * 5000}), "line 2: Event is '999"),
    "open quote": (text_of({"Run": '"194050'}, {}, {}), "line 5: not a row of numbers: unexpected end of data"),
    "quote over lines": (text_of({"Q4": '"1'}, {"Q4": '1"'}), "line 3: not a row of numbers: a quoted cell of several"),
}


@pytest.mark.parametrize(("text", "words"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_row_that_is_shifted_or_joined_is_named(path: Path, text: str, words: str) -> None:
    path.write_text(text)
    with pytest.raises(UnreadableError, match=rf"f\.csv, {words}"):
        read(path)


def test_column_that_is_there_twice_is_named(path: Path) -> None:
    path.write_text("\n".join(f"{line},{line.split(',')[2]}" for line in text_of({}).splitlines()))
    with pytest.raises(SchemaError, match="the CSV has more than one column pt1"):
        read(path)


def test_momentum_beyond_single_precision_is_infinite_without_a_warning(path: Path) -> None:
    path.write_text(text_of({"pt1": "1e308", "pt2": "1e-320"}))
    assert (read(path).muon_pt[0], read(path).electron_pt[0]) == (np.inf, 0)


def test_header_that_runs_into_the_first_row_is_named(path: Path) -> None:
    path.write_text(text_of({}, {}).replace("Q4\n", "Q4,M", 1))
    with pytest.raises(
        SchemaError, match="a number among the names of its columns: '12'\nIs the end of the first line"
    ):
        read(path)


def test_columns_that_lack_are_named_with_the_separators(path: Path) -> None:
    path.write_text(text_of({}).replace(",", "|"))
    with pytest.raises(SchemaError, match=r"lacks the columns Run, .*\n.*separated by commas, semicolons or tabs"):
        read(path)


def test_line_cut_short_is_named(path: Path) -> None:
    path.write_text(text_of({}, {})[:-3])
    with pytest.raises(UnreadableError, match=r"f\.csv, line 3: not a row of numbers: Q4 is '', expected 1 or -1"):
        read(path)


def test_cell_of_endless_length_is_an_error_of_the_file(path: Path) -> None:
    path.write_text(text_of({"Run": "1" * 200_000}))
    with pytest.raises(UnreadableError, match=r"f\.csv, line 2: not a row of numbers"):
        read(path)


def test_byte_order_mark_is_no_part_of_the_first_column(path: Path) -> None:
    path.write_text(text_of({}), encoding="utf-8-sig")
    assert path.read_bytes()[:3] == b"\xef\xbb\xbf"
    assert read(path).run.tolist() == [194050]


@pytest.mark.parametrize("head", ["", "\ufeff", "\n  "])
def test_page_called_csv_is_named_as_such(path: Path, head: str) -> None:
    path.write_text(head + "<!DOCTYPE html><html><body>Please log in</body></html>", encoding="utf-8")
    with pytest.raises(UnreadableError, match=r"f\.csv: is an HTML or XML page, not a CSV file\nThe link"):
        inspect(File(url=str(path)), "csv")


def test_empty_csv_is_named_as_such(path: Path) -> None:
    path.write_bytes(b"")
    with pytest.raises(UnreadableError, match=r"f\.csv: is empty \(0 bytes\)\nFetch the file again\."):
        inspect(File(url=str(path)), "csv")


def test_csv_with_a_header_only_has_no_candidates(path: Path) -> None:
    path.write_text(text_of())
    assert read(path).n_events == 0


def test_root_file_called_csv_lacks_the_columns(path: Path) -> None:
    path.write_bytes(b"root" + bytes(range(256)))
    with pytest.raises((SchemaError, UnreadableError), match=r"f\.csv"):
        inspect(File(url=str(path)), "csv")


def test_csv_that_changes_is_read_again(path: Path) -> None:
    path.write_text(text_of({}))
    assert read(path).run.tolist() == [194050]
    path.write_text(text_of({"Run": "7"}, {}))
    assert read(path).run.tolist() == [7, 194050]
    assert set(csv.CSV_COLUMNS) == set(CELLS)


# --- Tables whose columns the campaign names

DIMUONS = {
    "run": "Run", "event": "Event", "dxy": "dxy1",
    **{f"Muon_{name}": (f"{header}1", f"{header}2") for name, header in {
        "pt": "pt", "eta": "eta", "phi": "phi", "charge": "Q", "dxy": "dxy",
    }.items()},
}  # fmt: skip


def named(path: Path, headers: dict[str, str | tuple[str, ...]], *, n: int, start: int = 0) -> Chunk:
    return Chunk("d", 0, 0, File(url=str(path)), "csv", None, True, start, n, None, columns=headers)


def test_real_z_candidates_are_read_with_their_columns(shared_data: Path) -> None:
    path = shared_data / "zcandidates" / "Zmumu_Run2011A.csv"
    n = inspect(File(url=str(path)), "csv", headers=DIMUONS).entries
    table = np.genfromtxt(path, delimiter=",", names=True)
    assert n == len(table) == 10_583
    columns = Columns(("nMuon", "Muon_pt", "Muon_mass", "Muon_charge", "dxy"), parse("dxy > 0 and nMuon >= 2"))
    found = read_events(named(path, DIMUONS, n=n, start=100), columns)
    which = np.flatnonzero(table["dxy1"][100:] > 0) + 100
    assert (found.entries.tolist(), found.n_events, found.reader) == (which.tolist(), n - 100, "csv")
    assert found.flat["run"].tolist() == table["Run"][which].astype(int).tolist()
    assert found.flat["event"].tolist() == (table["Event"][which].astype(np.int64) % 2**32).tolist()
    assert np.array_equal(found.flat["dxy"], table["dxy1"][which])
    pairs = np.stack([table["pt1"][which], table["pt2"][which]], axis=1).astype(np.float32)
    assert np.array_equal(found.jagged["Muon_pt"].reshape(-1, 2), pairs)
    assert set(found.jagged["Muon_mass"].tolist()) == {float(np.float32(0.1056583755))}
    assert np.diff(found.offsets["Muon"]).tolist() == [2] * len(which)
    leptons = read_leptons(named(path, DIMUONS, n=n))
    missing = {"muon_dxy_error", "muon_dz", "muon_dz_error", "muon_isolation"}
    assert set(missing_quantities(leptons)) == missing
    assert (len(leptons.muon_pt), leptons.electron_offsets[-1], leptons.muon_charge.dtype) == (2 * n, 0, np.int32)


def test_candidates_have_columns_of_leptons_too(path: Path) -> None:
    path.write_text(text_of({}, {"PID1": "11", "PID3": "11"}, {"pt2": "99"}))
    columns = Columns(("Electron_pt", "nElectron", "Tau_pt", "HLT_x"), parse("nMuon == 2"))
    found = read_events(Chunk("d", 0, 0, File(url=str(path)), "csv", None, True, 0, 3, None), columns)
    assert (found.entries.tolist(), found.n_events, found.missing) == ([0, 2], 3, {"Tau", "HLT_x"})
    assert found.jagged["Electron_pt"].tolist() == [20.5, 20.5, 99, 20.5]
    assert (found.flat["nElectron"].tolist(), found.flat["HLT_x"].tolist()) == ([2, 2], [False, False])
    with pytest.raises(SchemaError, match=r"f.csv: no column Muon_dxy\n.*\[campaign.columns\]"):
        read_events(Chunk("d", 0, 0, File(url=str(path)), "csv", None, True, 0, 3, None), Columns(("Muon_dxy",)))


MUONS = {f"Muon_{name}": (f"{name}1", f"{name}2") for name in ("pt", "eta", "phi", "charge")}
HEAD = "pt1,eta1,phi1,charge1,pt2,eta2,phi2,charge2,met\n"


def test_objects_are_there_whose_cells_are_not_empty(path: Path) -> None:
    path.write_text(f"{HEAD}10,0,0,1,20,1,1,-1,5\n,,,,30,2,2,1,6\n,,,,,,,,7\n")
    found = read_events(named(path, {**MUONS, "met": "met"}, n=3), Columns(("Muon_pt", "met")))
    assert found.jagged["Muon_pt"].tolist() == [10, 20, 30]
    assert found.offsets["Muon"].tolist() == [0, 2, 3, 3]
    assert found.flat["met"].tolist() == [5, 6, 7]
    assert (found.flat["run"].tolist(), found.flat["event"].tolist()) == ([0, 0, 0], [0, 1, 2])


@pytest.mark.parametrize(
    ("headers", "line", "error", "message"),
    [
        ({"met": "mett"}, "", SchemaError, r"f.csv: the CSV lacks the columns mett\nFor mett: Did you mean met\?"),
        ({"met": "met"}, "10,0,0,1,20,1,1,-1,x", UnreadableError, r"f.csv, line 3: .*met is 'x', expected a number"),
        ({"met": "met"}, "10,0,0,1,20,1,1,-1,", UnreadableError, r"f.csv, line 3: .*met is '', expected a number"),
        (MUONS, "10,0,0,2,20,1,1,-1,1", UnreadableError, r"f.csv, line 3: charge1 is '2', expected 1 or -1"),
        (MUONS, "10,,0,1,20,1,1,-1,1", UnreadableError, r"f.csv, line 3: cell 1 of Muon_eta is empty, unlike"),
        (MUONS, ",0,,,20,1,1,-1,1", UnreadableError, r"f.csv, line 3: cell 1 of Muon_eta is not empty, unlike"),
        ({"event": "met"}, "10,0,0,1,20,1,1,-1,1.5", UnreadableError, r"f.csv, line 3: met is '1.5', expected a whole"),
        ({**MUONS, "Muon_dz": ("met",)}, "", SchemaError, r"gives 1 headers for Muon_dz, 2 for others"),
        (MUONS, "10,0,0,1,20,1,1,-1,1,5", UnreadableError, r"f.csv, line 3: not a row of numbers: 10 cells, 9 in the"),
    ],
)  # fmt: skip
def test_cell_that_does_not_fit_is_named(
    path: Path, headers: dict[str, str | tuple[str, ...]], line: str, error: type[Exception], message: str
) -> None:
    path.write_text(f"{HEAD}10,0,0,1,20,1,1,-1,5\n{line}\n")
    with pytest.raises(error, match=message):
        read_events(named(path, headers, n=2), Columns(tuple(headers)))


def test_leptons_of_a_table_need_momentum_and_charge(path: Path) -> None:
    path.write_text(f"{HEAD}10,0,0,1,20,1,1,-1,5\n")
    with pytest.raises(SchemaError, match=r"\[campaign.columns\] gives no header for Muon_phi, Muon_charge\n"):
        inspect(File(url=str(path)), "csv", headers={"Muon_pt": ("pt1",), "Muon_eta": ("eta1",)})
    with pytest.raises(SchemaError, match="gives no header for Muon_pt, Electron_pt"):
        inspect(File(url=str(path)), "csv", headers={"met": "met"})
    assert inspect(File(url=str(path)), "csv", headers={"met": "met"}, columns=Columns(("met",))).entries == 1
