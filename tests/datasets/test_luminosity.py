"""Masks and luminosity against the certified lists of 2011 and 2012, a brilcalc table, and Python sets."""

from __future__ import annotations

import json
import math
import time
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from http_server import FileServer
from hypothesis import given
from hypothesis import strategies as st

from higgsnb.datasets import Campaign, Dataset, luminosity
from higgsnb.datasets.luminosity import (
    SECTION_SECONDS,
    LumiList,
    LumiMask,
    Segments,
    check_inputs,
    kept_mask,
    pack,
    read_table,
)
from higgsnb.errors import LumiDataError, LumiMaskError, MissingFileError
from higgsnb.results.lumi_sections import DatasetSections, LumiCatalogue, lumi_accounting, lumi_catalogue

CERTIFIED = {
    "Cert_160404-180252_7TeV_ReRecoNov08_Collisions11_JSON.txt": (470, 160_526),
    "Cert_190456-208686_8TeV_22Jan2013ReReco_Collisions12_JSON.txt": (572, 222_264),
}
HEADER = "#run:fill,ls,time,beamstatus,E(GeV),delivered(/pb),recorded(/pb),avgpu,source\n"


def row(run: int, section: str, delivered: float, recorded: float) -> str:
    return f"{run}:5839,{section},06/16/17 20:55:44,STABLE BEAMS,6500,{delivered},{recorded},40.3,HFET\n"


def contains(mask: LumiMask, runs: npt.ArrayLike, sections: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which events are certified."""
    return mask.holds(pack(runs, sections))


# --- masks


@pytest.mark.parametrize(("name", "counts"), CERTIFIED.items())
def test_certified_lists_have_the_published_counts(shared_data: Path, name: str, counts: tuple[int, int]) -> None:
    mask = LumiMask.load(shared_data / "golden-json" / name)
    assert len(mask.sections) == counts[1]
    assert len(np.unique(mask.sections.keys >> 32)) == counts[0]


@pytest.mark.parametrize("name", CERTIFIED)
def test_mask_agrees_with_a_plain_look_up(shared_data: Path, name: str) -> None:
    path = shared_data / "golden-json" / name
    content = json.loads(path.read_text())
    mask = LumiMask.load(path)
    draw = np.random.default_rng(3)
    runs = draw.choice([int(run) for run in content] + [1, 2**31 - 1, 170_000], 5000)
    sections = draw.integers(0, 400, 5000)
    plain = [
        any(first <= section <= last for first, last in content.get(str(run), []))
        for run, section in zip(runs.tolist(), sections.tolist(), strict=True)
    ]
    assert 500 < sum(plain) < 4500
    assert contains(mask, runs, sections).tolist() == plain
    assert contains(mask, runs.astype(np.int32), sections.astype(np.uint32)).tolist() == plain
    assert contains(mask, mask.sections.keys >> 32, mask.sections.keys & 0xFFFFFFFF).all()


@pytest.mark.parametrize("name", CERTIFIED)
def test_mask_written_again_is_the_same(shared_data: Path, name: str) -> None:
    path = shared_data / "golden-json" / name
    mask = LumiMask.load(path)
    assert mask.sections.ranges() == json.loads(path.read_text())
    assert LumiMask.of(mask.sections.ranges()).digest == mask.digest


RANGES = st.dictionaries(
    st.integers(1, 5).map(str),
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)).map(lambda pair: [pair[0], sum(pair)]), max_size=5),
    max_size=4,
)


@given(RANGES)
def test_overlapping_ranges_are_joined(ranges: dict[str, list[list[int]]]) -> None:
    mask = LumiMask.of(ranges)
    plain = {(int(run), section) for run, spans in ranges.items() for a, b in spans for section in range(a, b + 1)}
    grid = [(run, section) for run in range(7) for section in range(45)]
    found = contains(mask, *(np.array(column) for column in zip(*grid, strict=True)))
    assert {pair for pair, good in zip(grid, found, strict=True) if good} == plain
    assert len(mask.sections) == len(plain)
    assert len(np.unique(mask.sections.keys >> 32)) == len({run for run, _ in plain})


def test_last_section_of_one_run_does_not_touch_the_first_of_the_next() -> None:
    mask = LumiMask.of({"1": [[5, 2**31 - 1]], "2": [[0, 3]]})
    assert contains(mask, [1, 1, 2, 2, 3], [4, 5, 3, 4, 0]).tolist() == [False, True, True, False, False]


def test_empty_mask_certifies_nothing() -> None:
    mask = LumiMask.of({})
    assert contains(mask, [1, 2], [3, 4]).tolist() == [False, False]
    assert (len(mask.sections), mask.sections.ranges()) == (0, {})


def test_mask_is_fetched_from_an_address(http_server: FileServer) -> None:
    url = http_server.add("/Cert.txt", b'{"1": [[1, 2]]}')
    assert len(LumiMask.load(url).sections) == 2


BAD_MASKS = {
    "{": "not JSON",
    "[1]": "got a list",
    '{"a": [[1, 2]]}': "expected a run number as key, got 'a'",
    '{"0": [[1, 2]]}': "expected a run number as key, got '0'",
    '{"1": {"2": 3}}': "run 1: expected a list",
    '{"1": [[2, 1]]}': r"run 1: expected \[first, last\] with 0 <= first <= last, got \[2, 1\]",
    '{"1": [[1]]}': r"got \[1\]",
    '{"1": [[1, 2.5]]}': r"got \[1, 2.5\]",
    '{"1": [[true, 2]]}': r"got \[True, 2\]",
    '{"1": [[1, 9999999999]]}': "run 1: expected",
    '{"1": [[1, 2]], "1": [[3, 4]]}': "run 1 is listed twice",
    "[" * 200_000: "brackets are nested too deeply",  # Python 3.12 takes 5,000
    '{"1": [[' + "9" * 5000 + ", 1]]}": "a number has thousands of digits",
    '{"1": [[1e308, 1]]}': r"got \[1e\+308, 1\]",
    '{"\\u0661": [[1, 2]]}': "expected a run number as key",
    '{"1\\n": [[1, 2]]}': r"expected a run number as key, got '1\\n'",
    "\xff": r"line 1 is not UTF-8 text \(byte 0: 0xff\)",
}


@pytest.mark.parametrize(("text", "words"), BAD_MASKS.items())
def test_bad_mask_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "Cert.txt"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(LumiMaskError, match=words) as caught:
        LumiMask.load(path)
    assert str(caught.value).startswith(str(path))


# --- sets of lumi sections

SETS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), max_size=25)


def sections(pairs: list[tuple[int, int]]) -> LumiList:
    return LumiList(np.unique(pack([run for run, _ in pairs], [section for _, section in pairs])))


@given(SETS, SETS)
def test_set_operations_are_those_of_python_sets(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    assert (sections(a) & sections(b)) == sections(sorted(set(a) & set(b)))
    assert (sections(a) - sections(b)) == sections(sorted(set(a) - set(b)))
    assert len(sections(a)) == len(set(a))
    assert LumiMask.of(sections(a).ranges()).sections == sections(a)


@given(SETS, SETS)
def test_set_of_ranges_is_that_of_its_sections(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    ones, ends = pack([run for run, _ in a], [section for _, section in a]), [8 - section for _, section in a]
    ranges = LumiList.of_ranges(ones, ones + np.array(ends, np.int64))
    plain = {(run, one) for run, section in a for one in range(section, 9)}
    assert ranges == sections(sorted(plain))
    assert (len(ranges), ranges.holds(ranges.keys).all()) == (len(plain), True)
    assert ranges - sections(b) == sections(sorted(plain - set(b)))
    assert sections(b) - ranges == sections(sorted(set(b) - plain))
    assert ranges & sections(b) == sections(sorted(plain & set(b)))


def test_range_of_two_thousand_million_sections_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "Cert.txt"
    path.write_text('{"1": [[0, 2147483647]], "7": [[0, 2147483647]]}')
    tracemalloc.start()
    mask = LumiMask.load(path)
    catalogue = lumi_catalogue(str(path), None)
    assert catalogue is not None
    seen = sections([(1, 5), (7, 0)])
    found = lumi_accounting(catalogue.sections, {"d": DatasetSections(seen, sections([(7, 0)]))}, complete=False)["d"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(mask.sections) == 2**32
    assert found.processed.ranges() == {"1": [[5, 5]]}
    assert found.lost.ranges() == {"1": [[0, 4], [6, 2147483647]], "7": [[0, 2147483647]]}
    assert peak < 10**6


# --- the table


def test_brilcalc_table_adds_up(shared_data: Path) -> None:
    path = shared_data / "golden-json" / "lumi_small.csv"
    table = read_table(path)
    catalogue = LumiCatalogue(table.sections, table.recorded)
    lines = [line.split(",") for line in path.read_text().splitlines() if not line.startswith("#")]
    assert len(table.sections) == len(lines) == 998
    assert catalogue.integrated(table.sections) == pytest.approx(math.fsum(float(line[6]) for line in lines) / 1000)
    assert table.delivered.sum() == pytest.approx(sum(float(line[5]) for line in lines) / 1000)
    assert bool((table.recorded <= table.delivered).all())
    some = LumiList(table.sections.keys[::2])
    rest = table.sections - some
    assert catalogue.integrated(some) + catalogue.integrated(rest) == pytest.approx(catalogue.total)


def test_rows_in_any_order_give_the_same_table(tmp_path: Path) -> None:
    rows = [row(2, "1:1", 3, 2), row(1, "7:7", 5, 4), row(1, "3:3", 1, 0.5)]
    tables = []
    for number, order in enumerate([rows, rows[::-1]]):
        path = tmp_path / f"{number}.csv"
        path.write_text("#Data tag : 19v2\n" + HEADER + "".join(order) + "#Summary:\n#nfill,nrun\n#1,2\n")
        tables.append(read_table(path))
    assert tables[0].sections == tables[1].sections == sections([(1, 3), (1, 7), (2, 1)])
    assert tables[0].recorded.tolist() == tables[1].recorded.tolist() == pytest.approx([0.0005, 0.004, 0.002])
    catalogue = LumiCatalogue(tables[0].sections, tables[0].recorded)
    assert catalogue.integrated(sections([(1, 7), (2, 1)])) == pytest.approx(0.006)


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("/fb", 1),
        ("/pb", 1e-3),
        ("/nb", 1e-6),
        ("/ub", 1e-9),
        ("1e3/ub", 1e-6),
        ("hz/ub", 1e-9 * SECTION_SECONDS),
    ],
)
def test_units_come_from_the_header(tmp_path: Path, unit: str, factor: float) -> None:
    path = tmp_path / "a.csv"
    header = HEADER.replace("recorded(/pb)", f"recorded({unit})").replace("delivered(/pb)", "delivered(/fb)")
    path.write_text(header + row(1, "1:1", 3, 2))
    table = read_table(path)
    assert table.recorded.tolist() == pytest.approx([2 * factor])
    assert table.delivered.tolist() == [3]


def test_a_lumi_section_lasts_23_seconds() -> None:
    assert pytest.approx(23.31, abs=0.01) == SECTION_SECONDS


def test_section_that_cms_did_not_record_keeps_its_number(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(HEADER + row(1, "8:0", 3, 0) + row(1, "9:9", 3, 2))
    assert read_table(path).sections == sections([(1, 8), (1, 9)])


def saved(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_each_of_two_joined_tables_has_its_own_units(tmp_path: Path) -> None:
    ub = HEADER.replace("(/pb)", "(/ub)")
    joined = HEADER + row(1, "1:1", 0.2, 0.1) + "#Summary:\n#1,1\n" + "\ufeff" + ub + row(1, "2:2", 2e5, 1e5)
    table = read_table(saved(tmp_path / "a.csv", joined))
    assert table.recorded.tolist() == pytest.approx([1e-4, 1e-4], rel=1e-15)
    assert table.delivered.tolist() == pytest.approx([2e-4, 2e-4], rel=1e-15)


TABLES = {
    "columns exchanged": "#run:fill,ls,recorded(/pb),delivered(/pb)\n1:9,3:3,0.5,2",
    "columns exchanged below the second header": (
        "#run:fill,ls,delivered(/pb),recorded(/pb)\n1:9,4:4,9,8\n#run:fill,ls,recorded(/pb),delivered(/pb)\n1:9,3:3,0.5,2"
    ),
    "run last": "#ls,delivered(/pb),recorded(/pb),run:fill\n3:3,2,0.5,1:9",
    "lumiCalc2": (
        "Run:Fill,LS,UTCTime,Beam Status,E(GeV),Delivered(/ub),Recorded(/ub),avgPU\n"
        "1:9,3:3,04/06/12 10:00:00,STABLE BEAMS,4000,2e6,5e5,20.5"
    ),
    "blanks": "# run:fill , ls , delivered (/pb) , recorded (/pb)\n 1:9 , 3:3 , 2 , 0.5 ",
    "blanks before quotes": '#run:fill, "ls", "delivered(/pb)", "recorded(/pb)"\n"1:9", "3:3", "2", "0.5"',
    "semicolons": "#run:fill;ls;delivered(/pb);recorded(/pb)\n1:9;3:3;2;0.5",
    "tabs": "#run:fill\tls\tdelivered(/pb)\trecorded(/pb)\n1:9\t3:3\t2\t0.5",
    "rows of a spreadsheet": (
        "#Data tag,,,\n,,,\n#run:fill,ls,delivered(/pb),recorded(/pb)\n01:09,03:03,2,0.5\n,,,\n  \n"
    ),
    "first column empty": ",#run:fill,ls,delivered(/pb),recorded(/pb)\n,1:9,3:3,2,0.5",
    "first cell quoted": (
        '"#Data tag : 19v2 , Norm tag: None"\n"#run:fill",ls,delivered(/pb),recorded(/pb)\n1:9,3:3,2,0.5'
    ),
    "a column that begins like another": "#run:fill,ls,runtime,delivered(/pb),recorded(/pb)\n1:9,3:3,7,2,0.5",
}


@pytest.mark.parametrize("text", TABLES.values(), ids=TABLES)
def test_columns_are_found_by_name_however_they_are_written(tmp_path: Path, text: str) -> None:
    table = read_table(saved(tmp_path / "a.csv", text))
    at = table.sections.keys.tolist().index(1 << 32 | 3)
    assert table.recorded[at] == pytest.approx(0.0005, rel=1e-15)
    assert table.delivered[at] == pytest.approx(0.002, rel=1e-15)


BAD_TABLES = {
    "no header": (row(1, "1:1", 3, 2), "no header '#run:fill"),
    "by run": (HEADER.replace("ls,", ""), "no column 'ls' .*\nMake the table with brilcalc lumi --byls"),
    "no recorded": (HEADER.replace("recorded(/pb)", "x"), "no column 'recorded'"),
    "no unit": (
        HEADER.replace("recorded(/pb)", "recorded"),
        r"no unit in 'recorded'; expected one as \(/pb\)",
    ),
    "strange unit": (HEADER.replace("recorded(/pb)", "recorded(/xb)"), "no unit in"),
    "cut line": (HEADER + row(1, "1:1", 3, 2)[:30], "line 2 cannot be read: '1:5839"),
    "word": (HEADER + row(1, "1:1", 3, 2).replace(",2,", ",two,"), "line 2 cannot be read"),
    "negative": (HEADER + row(1, "1:1", 3, -2), "line 2: luminosity must not be negative"),
    "nan": (HEADER + row(1, "1:1", 3, math.nan), "line 2: luminosity"),
    "run": (HEADER + row(-1, "1:1", 3, 2), "line 2: run -1, section 1 are out of range"),
    "twice": (HEADER + row(1, "1:1", 3, 2) + row(1, "1:1", 3, 2), "run 1, section 1 is there twice"),
    "first column only begins with run": (HEADER.replace("#run:fill", "#runs"), "no header '#run:fill"),
    "rows before the header": (row(1, "1:1", 3, 2) + HEADER, "no header '#run:fill"),
    "numbers exchanged": (
        HEADER + row(1, "1:1", 2, 3),
        r"more luminosity recorded \(0.003 /fb\) than .* in line 1\nAre",
    ),
    "numbers exchanged below the second header": (
        HEADER + row(1, "1:1", 9, 8) + HEADER + row(1, "2:2", 2, 3),
        "than delivered .0.002 /fb. below the header in line 3",
    ),
    "no unit below the second header": (
        HEADER + row(1, "1:1", 3, 2) + HEADER.replace("(/pb)", ""),
        "line 3: no unit in 'delivered'",
    ),
    "unit without end": (HEADER.replace("(/pb)", "(1e400/pb)"), "no unit in"),
    "unit of nothing": (HEADER.replace("(/pb)", "(0/pb)"), "no unit in"),
    "column twice": (HEADER.replace("avgpu", "recorded(/pb)"), "more than one column 'recorded'"),
    "1e308": (HEADER + row(1, "1:1", 3, 1e308), r"line 2: luminosity must not be .* above 1e\+06 /fb"),
    "underscore": (HEADER + row(1, "1_1", 3, 2), "line 2 cannot be read"),
    "5000 digits": (HEADER + row(1, "9" * 5000, 3, 2), "line 2 cannot be read"),
    "a cell too many": (HEADER + row(1, "1:1,5", 3, 2), "line 2 cannot be read"),
    "header shifted": (f",{HEADER}{row(1, '1:1', 3, 2)}", "line 2 cannot be read"),
    "decimal commas": (HEADER.replace(",", ";") + "1:1;1:1;x;x;1;3,5;2,5;1;x", "line 2 cannot be read"),
    "for the screen": (
        "#Data tag\n+------+----+\n| run:fill | ls |\n",
        "line 2: a table for the screen, with | between",
    ),
    "by run, of lumiCalc2": ("Run,Total LS,Delivered(/ub),Selected LS,Recorded(/ub)", "no column 'ls'"),
    "binary": ("ab\0\xff", "is not a luminosity table: line 1 has a zero byte"),
}


@pytest.mark.parametrize(("text", "words"), BAD_TABLES.values(), ids=BAD_TABLES.keys())
def test_bad_table_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(LumiDataError, match=words) as caught:
        read_table(path)
    assert str(caught.value).startswith(str(path))


# --- what a campaign names


def inputs(**changes: Any) -> Campaign:
    """A campaign that names some inputs."""
    plain = Campaign("c", "c", "outreach", 1.0, 0.1, 8.0, "open2012", ())
    return replace(plain, **changes)


@pytest.mark.parametrize(
    ("key", "content", "kind", "words"),
    [
        ("golden_json", None, MissingFileError, "a.txt: not found; tried"),
        ("golden_json", "{", LumiMaskError, "not JSON"),
        ("golden_json", '{"1": [[2, 1]]}', LumiMaskError, "run 1: expected"),
        ("golden_json", "{}", LumiMaskError, "certifies no lumi section"),
        ("golden_json", '{"1": []}', LumiMaskError, "certifies no lumi section"),
        ("luminosity_table", None, MissingFileError, "a.txt: not found; tried"),
        ("luminosity_table", "x", LumiDataError, "no header"),
    ],
)
def test_bad_input_is_named_with_its_key(
    tmp_path: Path, key: str, content: str | None, kind: type[Exception], words: str
) -> None:
    path = tmp_path / "a.txt"
    good = {"golden_json": '{"1": [[1, 2]]}', "luminosity_table": HEADER + row(1, "1:1", 3, 2)}
    path.write_text(good[key])
    check_inputs(inputs(**{key: str(path)}))
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(kind) as caught:
        check_inputs(inputs(**{key: str(path)}))
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{key} = {path}: {words}")
    assert str(caught.value).count(f"{path}:") == 1


@pytest.mark.parametrize("golden", ['{"2": [[1, 9]]}', '{"1": [[2, 9]], "3": [[1, 1]]}'])
def test_table_of_other_sections_than_the_golden_json_is_refused(tmp_path: Path, golden: str) -> None:
    (tmp_path / "c.json").write_text(golden)
    (tmp_path / "t.csv").write_text(HEADER + row(1, "1:1", 3, 2))
    with pytest.raises(LumiDataError, match="has no lumi section that the golden JSON certifies"):
        check_inputs(inputs(golden_json=str(tmp_path / "c.json"), luminosity_table=str(tmp_path / "t.csv")))


@pytest.mark.parametrize(("key", "kind"), [("golden_json", LumiMaskError), ("luminosity_table", LumiDataError)])
def test_lumi_sections_for_data_in_csv_are_refused(key: str, kind: type[Exception]) -> None:
    data, simulation = (Dataset(name="d", process=process, files=()) for process in ("data", "zz"))
    check_inputs(inputs(schema="csv", datasets=(data,)))
    with pytest.raises(kind, match=f"^{key} = a.txt: CSV files have no lumi sections"):
        check_inputs(inputs(**{key: "a.txt"}, schema="csv", datasets=(simulation, data)))
    with pytest.raises(MissingFileError):
        check_inputs(inputs(**{key: "a.txt"}, schema="csv", datasets=(simulation,)))


def test_secret_in_the_address_of_an_input_is_not_told(http_server: FileServer) -> None:
    http_server.add("/c.json", b"{")
    with pytest.raises(LumiMaskError, match=r"^golden_json = http://127.*c\.json\?authz=\*\*\*: not JSON") as caught:
        check_inputs(inputs(golden_json=f"{http_server.base}/c.json?authz=c4n4ry"))
    assert "c4n4ry" not in str(caught.value)


# --- events


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), max_size=30))
def test_segments_are_neighbouring_events_of_one_section(pairs: list[tuple[int, int]]) -> None:
    run, section = (np.array(column, np.uint32) for column in zip(*pairs, strict=True)) if pairs else (np.empty(0),) * 2
    found = Segments.of(run, section)
    assert np.repeat(found.keys, found.lengths).tolist() == pack(run, section).tolist()
    assert not (np.diff(found.keys) == 0).any()
    assert found.at(np.arange(len(pairs))).tolist() == np.repeat(np.arange(len(found.keys)), found.lengths).tolist()
    groups = [pair for i, pair in enumerate(pairs) if not i or pairs[i - 1] != pair]
    assert found.scattered == (len(set(groups)) < len(groups))


def test_mask_that_is_written_again_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"1": [[1, 2]]}')
    first = kept_mask(str(path))
    assert kept_mask(str(path)) is first
    path.write_text('{"1": [[1, 20]]}')
    assert len(kept_mask(str(path)).sections) == 20


# --- the quick way through a table


def test_quick_way_gives_what_the_slow_one_does(shared_data: Path) -> None:
    text = (shared_data / "golden-json" / "lumi_small.csv").read_text()
    quick = luminosity._plain_rows(text)
    assert quick is not None
    headers, packed, values = quick
    slow = list(luminosity._rows(text, "table"))
    assert list(zip(headers.tolist(), packed.tolist(), *values.T.tolist(), strict=True)) == slow


UNUSUAL = {
    "two headers": HEADER + row(1, "1:1", 0.2, 0.1) + HEADER.replace("/pb", "/ub") + row(1, "2:2", 0.2, 0.1),
    "row before the header": row(1, "1:1", 0.2, 0.1) + HEADER + row(1, "2:2", 0.2, 0.1),
    "no header": row(1, "1:1", 0.2, 0.1),
    "no row": HEADER,
    "nothing": "",
    "blank before a row": HEADER + row(1, "1:1", 0.2, 0.1) + " " + row(1, "2:2", 0.2, 0.1),
    "separators only": HEADER + row(1, "1:1", 0.2, 0.1) + ",,,,,,,,\n",
    "quotes": HEADER + row(1, "1:1", 0.2, 0.1).replace("STABLE BEAMS", '"STABLE, BEAMS"'),
    "underscore": HEADER + row(1, "1:1", 0.2, 0.1).replace("0.2", "0_2.0"),
    "digits of another script": HEADER + row(1, "1:1", 0.2, 0.1).replace("0.2", "\u0660.2"),
    "cell too few": HEADER + "1:5,1:1,0.2,0.1\n",
    "cell too many": HEADER + row(1, "1:1", 0.2, 0.1).replace("\n", ",,\n"),
    "negative": HEADER + row(1, "1:1", -0.2, 0.1),
    "nan": HEADER + row(1, "1:1", math.nan, 0.1),
    "run 0": HEADER + row(0, "1:1", 0.2, 0.1),
    "large run": HEADER + row(2**70, "1:1", 0.2, 0.1),
    "no number": HEADER + row(1, "a:b", 0.2, 0.1),
}


@pytest.mark.parametrize("text", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_table_of_another_form_is_left_to_the_slow_way(text: str) -> None:
    assert luminosity._plain_rows(text) is None


def test_comments_may_stand_anywhere_and_a_section_not_recorded_keeps_its_number() -> None:
    rows = row(7, "3:0", 0.2, 0.0) + row(7, "4:9", 0.2, 0.1)
    text = f"#Norm tag: normtag_PHYSICS.json\n{HEADER}{rows}#Summary:\n#nfill,nrun\n#1,1\n"
    found = luminosity._plain_rows(text)
    assert found is not None
    assert (found[1].tolist(), found[0].tolist()) == ([7 << 32 | 3, 7 << 32 | 9], [2, 2])


def test_table_as_large_as_that_of_2016_takes_less_than_two_seconds_of_a_core(tmp_path: Path) -> None:
    rows = [row(run, f"{section}:{section}", 0.2, 0.1) for run in range(273158, 273358) for section in range(1, 1436)]
    path = tmp_path / "byls.csv"
    path.write_text(HEADER + "".join(rows))
    assert path.stat().st_size > 21_000_000
    started = time.process_time()
    table = read_table(path)
    assert time.process_time() - started < 2  # 0.5 on an idle one
    assert len(table.sections) == 287_000
