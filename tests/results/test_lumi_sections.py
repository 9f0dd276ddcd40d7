"""Processed and lost lumi sections, against Python sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from higgsnb.datasets import luminosity
from higgsnb.datasets.luminosity import LumiList
from higgsnb.results import Tally
from higgsnb.results.layout import FOUR_LEPTONS
from higgsnb.results.lumi_sections import DatasetSections, FileSections, lumi_accounting, lumi_catalogue, unfinished
from higgsnb.results.tally import Span, Sum, join_spans, merge, pack

HEADER = "#run:fill,ls,time,beamstatus,E(GeV),delivered(/pb),recorded(/pb),avgpu,source\n"


def row(run: int, section: str, delivered: float, recorded: float) -> str:
    return f"{run}:5839,{section},06/16/17 20:55:44,STABLE BEAMS,6500,{delivered},{recorded},40.3,HFET\n"


SETS = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6)), max_size=25)


def sections(pairs: list[tuple[int, int]]) -> LumiList:
    return LumiList(np.unique(luminosity.pack([run for run, _ in pairs], [section for _, section in pairs])))


def chunk(
    file: tuple[int, int], entries: tuple[int, int], keys: list[int], edges: tuple[int, int], *, scattered: bool = False
) -> Tally:
    """The tally of a chunk of a file in which nothing but lumi sections was noted."""
    noted = np.array(keys, np.int64)
    return Tally(
        ranges={file: (entries,)},
        **{name: {file[0]: np.zeros(shape, np.int64)} for name, shape in FOUR_LEPTONS.shapes.items()},
        rejected_by_golden_json={file[0]: 0}, not_applied={file[0]: frozenset()},
        readers={file: frozenset({("baskets", "blocks")})},
        sections={file[0]: noted} if keys else {},
        spans={file: (Span(*entries, *edges),)},
        scattered={file: noted} if scattered else {},
    )  # fmt: skip


def sections_in(tally: Tally) -> dict[str, object]:
    """What a tally says of lumi sections, in plain numbers."""
    return {
        "sections": {dataset: keys.tolist() for dataset, keys in tally.sections.items()},
        "spans": dict(tally.spans),
        "scattered": {file: keys.tolist() for file, keys in tally.scattered.items()},
    }


def test_sum_over_chunks_is_the_same_in_any_order_and_through_bytes() -> None:
    told = [
        chunk((0, f), (10 * i, 10 * i + 10), [i, i + 1], (i, i + 1), scattered=i == 2)
        for f in range(2)
        for i in range(4)
    ]
    expected = {
        "sections": {0: [0, 1, 2, 3, 4]},
        "spans": {(0, 0): (Span(0, 40, 0, 4),), (0, 1): (Span(0, 40, 0, 4),)},
        "scattered": {(0, 0): [2, 3], (0, 1): [2, 3]},
    }
    for order in (told, told[::-1], told[::2] + told[1::2]):
        one_by_one = Sum()
        for tally in order:
            one_by_one.add([tally])
            one_by_one.tally()
        assert sections_in(one_by_one.tally()) == expected
        assert sections_in(merge(order)) == expected
        assert sections_in(merge(map(pack, order))) == expected
        assert sections_in(merge([*order[:3], *map(pack, order[3:])])) == expected


def test_sections_none_of_which_is_certified_are_noted_at_the_edges_only() -> None:
    tally = chunk((0, 0), (0, 5), [], (8, 9))
    expected = {"sections": {}, "spans": {(0, 0): (Span(0, 5, 8, 9),)}, "scattered": {}}
    assert sections_in(merge([tally])) == sections_in(merge([pack(tally)])) == expected


def test_nothing_noted_is_nothing_packed() -> None:
    record = pack(replace(chunk((0, 0), (0, 5), [], (8, 9)), spans={}))
    assert (record.sections, record.edges) == (b"", b"")
    assert sections_in(merge([record])) == {"sections": {}, "spans": {}, "scattered": {}}


def test_events_that_are_counted_already_change_nothing_in_a_sum() -> None:
    total = Sum()
    total.add([chunk((0, 0), (0, 10), [1], (1, 1))])
    for again in (chunk((0, 0), (9, 12), [2], (2, 2)), pack(chunk((0, 0), (0, 10), [1], (1, 1)))):
        with pytest.raises(ValueError, match="of file 0 of dataset 0 were counted twice"):
            total.add([chunk((0, 1), (0, 10), [3], (3, 3)), again])
    assert sections_in(total.tally()) == sections_in(chunk((0, 0), (0, 10), [1], (1, 1)))
    assert total.tally().ranges == {(0, 0): ((0, 10),)}


def test_spans_join_where_they_touch() -> None:
    assert join_spans([Span(5, 9, 3, 4), Span(0, 5, 1, 3), Span(10, 12, 4, 6)]) == [
        Span(0, 9, 1, 4),
        Span(10, 12, 4, 6),
    ]


DONE = (Span(0, 100, 1, 10),)
UNFINISHED: dict[str, tuple[list[FileSections], list[list[int]], set[int]]] = {
    "all done": ([FileSections(100, DONE)], [], set()),
    "the rest pending": ([FileSections(200, DONE)], [], {10}),
    "a hole": ([FileSections(300, (*DONE, Span(200, 300, 15, 20)))], [], {10, 15}),
    "a failed range, known": ([FileSections(200, DONE, [(100, 200)])], [[10, 11]], {10, 11}),
    "a failed range, known, that begins with its own": ([FileSections(200, DONE, [(100, 200)])], [[11]], {11}),
    "failed, then pending": ([FileSections(300, DONE, [(100, 200)])], [[11]], {11}),
    "scattered, the rest pending": ([FileSections(200, DONE, (), np.array([1, 5, 10]))], [], {1, 5, 10}),
    "scattered, all done": ([FileSections(100, DONE, (), np.array([1, 5, 10]))], [], set()),
    "next file pending": ([FileSections(100, DONE), FileSections(100)], [], {10}),
    "file before lost": ([FileSections(None), FileSections(100, DONE)], [], {1}),
    "next file lost, an empty one between": ([FileSections(100, DONE), FileSections(0), FileSections(None)], [], {10}),
    "next file begun": ([FileSections(100, DONE), FileSections(50, (Span(0, 20, 11, 13),))], [], {13}),
    "other files share sections": (
        [FileSections(100, DONE), FileSections(9, (Span(0, 9, 10, 12),)), FileSections(5, (Span(0, 5, 13, 14),)),
         FileSections(5), FileSections(5, (Span(0, 5, 16, 17),))],
        [], {1, 10, 12, 13, 14, 16, 17},
    ),
    "files share sections, all done": ([FileSections(100, DONE), FileSections(9, (Span(0, 9, 10, 12),))], [], set()),
}  # fmt: skip


@pytest.mark.parametrize(("files", "failed", "expected"), UNFINISHED.values(), ids=UNFINISHED.keys())
def test_unfinished_sections_are_those_that_may_go_on(
    files: list[FileSections], failed: list[list[int]], expected: set[int]
) -> None:
    assert set(unfinished(files, [np.array(keys) for keys in failed]).keys.tolist()) == expected


@given(SETS, SETS, SETS, SETS, SETS, st.booleans())
def test_processed_and_lost_are_all_sections_of_the_stream(
    everything: list[tuple[int, int]],
    seen_b: list[tuple[int, int]],
    seen_c: list[tuple[int, int]],
    missing_b: list[tuple[int, int]],
    missing_c: list[tuple[int, int]],
    complete: bool,
) -> None:
    eras = {"b": (set(seen_b), set(missing_b)), "c": (set(seen_c), set(missing_c))}
    progress = {
        name: DatasetSections(sections([*seen]), sections([*missing])) for name, (seen, missing) in eras.items()
    }
    found = lumi_accounting(sections(everything), progress, complete=complete)
    union = set()
    for name, other in (("b", "c"), ("c", "b")):
        (seen, missing), (elsewhere, _) = eras[name], eras[other]
        mine = set(everything) - (elsewhere - seen)
        processed = mine if complete else (seen - missing) & mine
        assert found[name].processed == sections([*processed])
        assert found[name].lost == sections([*(mine - processed)])
        union |= mine
    assert union == set(everything)


def test_catalogue_of_sections_is_what_is_in_mask_and_table(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"1": [[1, 2], [4, 9]]}')
    (tmp_path / "t.csv").write_text(HEADER + "".join(row(1, f"{n}:{n}", 30, n) for n in (2, 3, 4, 11)))
    mask, table = str(tmp_path / "c.json"), str(tmp_path / "t.csv")
    assert lumi_catalogue(None, None) is None
    expected = {(mask, None): [1, 2, 4, 5, 6, 7, 8, 9], (None, table): [2, 3, 4, 11], (mask, table): [2, 4]}
    for places, numbers in expected.items():
        found = lumi_catalogue(*places)
        assert found is not None
        assert found.sections == sections([(1, number) for number in numbers])
        assert found.total == pytest.approx(sum(numbers) / 1000 if places[1] else 0)
        assert found.integrated(sections([(1, 4), (1, 3)])) == pytest.approx(
            sum({3, 4} & set(numbers)) / 1000 if places[1] else 0
        )
