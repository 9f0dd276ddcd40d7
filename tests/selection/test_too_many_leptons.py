"""Events with more leptons than any collision gives take neither all memory nor all time, and are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from generators import Drawn, electron, muon, pack, random_events
from outreach import campaign, dataset, write

from higgsnb import engine, selection
from higgsnb.errors import UnreadableError
from higgsnb.selection import kernel, pairings

OPEN = selection.load("open2012")


def many(n_muons: int, n_electrons: int = 0) -> Drawn:
    """Leptons that are all good, far from each other, half of each charge."""
    spread = np.linspace(-2.0, 2.0, n_muons + n_electrons)
    return [
        (muon if i < n_muons else electron)(20.0 + i % 50, eta, 3.0 * eta, 1 if i % 2 else -1)
        for i, eta in enumerate(spread.tolist())
    ]


def quiet() -> Drawn:
    return many(4)


@pytest.mark.parametrize(("n_muons", "n_electrons"), [(33, 0), (100, 0), (0, 33), (17, 16), (2000, 2000)])
def test_an_event_with_too_many_good_leptons_is_named(n_muons: int, n_electrons: int) -> None:
    leptons = pack([quiet(), many(n_muons, n_electrons)], [(1, 2, 3), (190_000, 44, 2**40)])
    what = f"run 190000, luminosity block 44, event {2**40} has {n_muons} muons and {n_electrons} electrons"
    with pytest.raises(UnreadableError, match=what):
        selection.select(leptons, OPEN)


@pytest.mark.parametrize(("n_muons", "n_electrons"), [(32, 0), (16, 16)])
def test_as_many_as_are_paired_give_all_pairings(n_muons: int, n_electrons: int) -> None:
    event = many(n_muons, n_electrons)
    charges = np.array([lepton.charge for lepton in event])
    flavours = np.array([lepton.flavour for lepton in event])
    pairs = [
        {i, j}
        for i in range(32)
        for j in range(i + 1, 32)
        if charges[i] + charges[j] == 0 and flavours[i] == flavours[j]
    ]
    expected = sum(not one & other for k, one in enumerate(pairs) for other in pairs[k + 1 :])
    found, *_ = pairings.preselect(pack([event]), kernel.cuts_of(OPEN), any_pt=True)
    assert pairings.count_all(found).tolist() == [expected]


@pytest.mark.parametrize("name", ["aod2012", "df103"])
def test_one_pairing_per_channel_takes_as_many_leptons_as_their_places_can_number(name: str) -> None:
    found = selection.select(pack([many(500)]), selection.load(name), "DoubleMu")
    assert found.cutflow[0, 0] == 1
    with pytest.raises(UnreadableError, match="event 0 has 40000 muons and 0 electrons"):
        selection.select(pack([many(40_000)]), selection.load(name), "DoubleMu")


def test_many_pairings_are_made_some_at_a_time_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    leptons = pack([*random_events(300), many(12), *random_events(100, seed=3)])
    expected = selection.select(leptons, OPEN)
    blocks: list[int] = []
    pair_all = pairings.pair_all
    monkeypatch.setattr(pairings, "pair_all", lambda *a: blocks.append(int(a[1].sum())) or pair_all(*a))
    monkeypatch.setattr(kernel, "MOST_PAIRINGS", 20)
    found = selection.select(leptons, OPEN)
    kept, *_ = pairings.preselect(leptons, kernel.cuts_of(OPEN), any_pt=False)
    numbers = pairings.count_all(kept)
    assert sum(blocks) == numbers.sum() > 450
    assert sorted(n for n in blocks if n > 20) == sorted(numbers[numbers > 20].tolist())  # events by themselves
    for name in found._fields:
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


def test_a_run_names_file_and_event_and_counts_the_other_files(tmp_path: Path) -> None:
    good = write(tmp_path / "good.root", pack([quiet()] * 3))
    bad = write(tmp_path / "bad.root", pack([quiet(), many(100)], [(1, 1, 1), (7, 8, 9)]))
    (*_, result) = engine.run(campaign(dataset("zz", "zz", good, bad, cross_section_pb=1.0)), OPEN)
    (failure,) = result.failed
    assert failure.message.startswith(f"{bad}: run 7, luminosity block 8, event 9 has 100 muons")
    assert result.coverage.files == (1, 2)
    assert not result.complete
