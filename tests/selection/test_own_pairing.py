"""A user's function that chooses the candidate of an event, against choosing outside."""

# ruff: noqa: ARG001 - such a function gets five numbers, of which it may need one

from __future__ import annotations

import json
import math
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import run2 as twin
from run2 import Candidate, Event, Outcome, columns_of

from higgsnb import selection as hs
from higgsnb.errors import SelectionError
from higgsnb.selection import Candidates, Selection, compiled, kernel

RUN2, OPEN = hs.load("run2"), hs.load("open2012")


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return twin.random_events(8000, seed=14)


@pytest.fixture(scope="module")
def outcomes(events: list[Event]) -> list[Outcome]:
    return [twin.select_event(event) for event in events]


def run(events: Sequence[Event], cuts: Selection) -> Candidates:
    return hs.select(hs.to_leptons(columns_of(events), cuts), cuts)


def travelled(one: Selection) -> Selection:
    """The selection as a worker gets it."""
    return pickle.loads(pickle.dumps(one))  # type: ignore[no-any-return]  # noqa: S301


def sum_of_distances(mass_z1: float, mass_z2: float, mass_4l: float, pt_sum_z1: float, pt_sum_z2: float) -> float:
    return (mass_z1 - 91.1876) ** 2 + (mass_z2 - 91.1876) ** 2


def hardest(mass_z1: float, mass_z2: float, mass_4l: float, pt_sum_z1: float, pt_sum_z2: float) -> float:
    return -(pt_sum_z1 + pt_sum_z2)


def lightest(mass_z1: float, mass_z2: float, mass_4l: float, pt_sum_z1: float, pt_sum_z2: float) -> float:
    return mass_4l + mass_z2


def sometimes(mass_z1: float, mass_z2: float, mass_4l: float, pt_sum_z1: float, pt_sum_z2: float) -> float:
    return math.nan if mass_z2 > 40 else mass_z2


def indifferent(mass_z1: float, mass_z2: float, mass_4l: float, pt_sum_z1: float, pt_sum_z2: float) -> float:
    return 1.0


PAIRINGS = (sum_of_distances, hardest, lightest, sometimes, indifferent)


def score(pairing: Any, candidate: Candidate) -> float:
    mass_4l, mass_z1, mass_z2 = candidate.masses
    value = pairing(mass_z1, mass_z2, mass_4l, *candidate.pt_sums)
    return math.inf if math.isnan(value) else value


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_own_pairing_chooses_the_smallest_of_those_that_pass(
    pairing: Any, events: list[Event], outcomes: list[Outcome]
) -> None:
    """Of the candidates that the twin finds passing; equal ones in the order without a function."""
    cuts = RUN2.replace(pairing=pairing)
    found = run(events, cuts)
    others, expected = 0, []
    for number, outcome in enumerate(outcomes):
        if outcome.all_passing:
            usual = sorted(outcome.all_passing, key=lambda c: (abs(c.masses[1] - twin.Z_MASS), -c.pt_sums[1]))
            best = min(usual, key=lambda candidate: score(pairing, candidate))
            others += best is not usual[0]
            expected.append((number, best.channel, best.masses))
    assert (others > 5) == (pairing is not indifferent)
    assert [int(e) for e in found.event_index] == [e for e, _, _ in expected]
    assert [hs.CHANNELS[c] for c in found.channel] == [channel for _, channel, _ in expected]
    mine = np.stack([found.mass_4l, found.mass_z1, found.mass_z2], axis=1)
    np.testing.assert_allclose(mine, [masses for _, _, masses in expected], rtol=1e-9)
    # The cutflow is that of all candidates, up to the last choice.
    usual_flow = run(events, RUN2).cutflow
    best_candidate = cuts.cut_names().index("best candidate")
    assert found.cutflow[:, :best_candidate].tolist() == usual_flow[:, :best_candidate].tolist()
    assert found.cutflow[:, best_candidate].sum() == usual_flow[:, best_candidate].sum()


def test_indifferent_pairing_changes_no_byte(events: list[Event]) -> None:
    for cuts in (RUN2, OPEN):
        one, other = run(events, cuts), run(events, cuts.replace(pairing=indifferent))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def test_pairing_that_numba_has_compiled_is_the_same(events: list[Event]) -> None:
    jitted, plain = OPEN.replace(pairing=numba.njit(hardest)), OPEN.replace(pairing=hardest)
    assert jitted.digest == plain.digest
    assert run(events[:1000], jitted).mass_z1.tolist() == run(events[:1000], plain).mass_z1.tolist()


def test_pairing_may_use_constants_and_other_functions(events: list[Event]) -> None:
    weight = 0.5

    @numba.njit
    def square(value: float) -> float:
        return value * value

    def pairing(mass_z1: float, mass_z2: float, mass_4l: float, pt_sum_z1: float, pt_sum_z2: float) -> float:
        return square(mass_z1 - 91.1876) + weight * math.sqrt(abs(mass_z2)) + np.log(pt_sum_z2) + min(mass_4l, 1.0)

    assert len(run(events[:1000], OPEN.replace(pairing=pairing)).channel) > 10


@pytest.mark.parametrize("algorithm", ["aod2012", "df103"])
def test_pairing_belongs_to_open2012(algorithm: str) -> None:
    with pytest.raises(SelectionError, match="pairing belongs to the algorithm open2012"):
        hs.load(algorithm).replace(pairing=hardest)


def text(mass_z1: float, mass_z2: float, mass_4l: float, pt_sum_z1: float, pt_sum_z2: float) -> Any:
    return "smallest"


def unknown(mass_z1: float, mass_z2: float, mass_4l: float, pt_sum_z1: float, pt_sum_z2: float) -> Any:
    return float(f"{mass_z1:.3f}")


def of_two(mass_z1: float, mass_z2: float) -> float:
    return mass_z1 - mass_z2


@pytest.mark.parametrize("pairing", [text, unknown, of_two])
def test_pairing_that_cannot_be_compiled_is_named(pairing: Any, events: list[Event]) -> None:
    with pytest.raises(SelectionError, match=f"pairing: {pairing.__name__} cannot be compiled") as caught:
        run(events[:500], OPEN.replace(pairing=pairing))
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("pairing", [3, "hardest", [hardest]])
def test_pairing_that_is_no_function_is_refused(pairing: Any) -> None:
    with pytest.raises(SelectionError, match="pairing"):
        OPEN.replace(pairing=pairing)


def test_pairing_is_compiled_once_however_often_it_arrives(
    events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, loop_over = [], compiled.loop_over
    monkeypatch.setattr(compiled, "loop_over", lambda function: calls.append(function) or loop_over(function))
    kernel._OWN_PAIRINGS.clear()
    cuts = OPEN.replace(pairing=lightest)
    for _ in range(3):
        run(events[:300], travelled(cuts))
    assert len(calls) == 1


def strict(mass_z1: float, mass_z2: float, mass_4l: float, pt_sum_z1: float, pt_sum_z2: float) -> float:
    if not (40 < mass_z1 < 120 and 12 < mass_z2 < 120 and mass_4l > 70 and pt_sum_z1 + pt_sum_z2 > 30):
        raise ValueError("a candidate that fails the cuts")
    return 0.0


def test_pairing_is_asked_for_candidates_that_pass_only(events: list[Event]) -> None:
    found = run(events, OPEN.replace(pairing=strict))
    assert found.mass_4l.tolist() == run(events, OPEN).mass_4l.tolist()
    with pytest.raises(ValueError, match="fails the cuts"):
        run(events, OPEN.replace(pairing=strict, z2_mass_min=4.0))


# --- What it is, and how it gets to workers


def above(threshold: float) -> Callable[..., float]:
    def pairing(mass_z1: float, mass_z2: float, mass_4l: float, pt_sum_z1: float, pt_sum_z2: float) -> float:
        return abs(mass_z2 - threshold)

    return pairing


def test_digest_tells_functions_apart_by_code_and_by_what_they_hold() -> None:
    digests = [OPEN.digest, *(OPEN.replace(pairing=one).digest for one in (*PAIRINGS, above(20.0), above(30.0)))]
    assert len(set(digests)) == len(digests)
    assert OPEN.replace(pairing=above(20.0)).digest == OPEN.replace(pairing=above(20.0)).digest
    assert OPEN.replace(pairing=hardest).replace(pairing=None).digest == OPEN.digest
    assert OPEN.replace(pairing=hardest, name="mine", title="my own").digest == OPEN.replace(pairing=hardest).digest


def test_result_tells_the_source_of_the_function() -> None:
    about = OPEN.replace(pairing=hardest).as_dict()["pairing"]
    assert "return -(pt_sum_z1 + pt_sum_z2)" in about["source"]
    assert json.loads(json.dumps(about)) == about
    assert "pt_sum_z1 + pt_sum_z2" in OPEN.replace(pairing=hardest)._repr_html_()


def test_function_gets_to_a_process_that_cannot_import_it(events: list[Event], tmp_path: Path) -> None:
    cuts, leptons = OPEN.replace(pairing=above(25.0)), hs.to_leptons(columns_of(events[:2000]), OPEN)
    (tmp_path / "job").write_bytes(pickle.dumps((cuts, leptons)))
    code = (
        "import pickle, sys\n"
        "cuts, leptons = pickle.load(open(sys.argv[1], 'rb'))\n"
        "from higgsnb import selection\n"
        "found = selection.select(leptons, cuts)\n"
        "print(cuts.digest, *found.mass_z2.tolist())"
    )
    path = {"PYTHONPATH": str(Path(hs.__file__).parents[2])}
    command = [sys.executable, "-c", code, str(tmp_path / "job")]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path, env=os.environ | path)
    digest, *masses = answer.stdout.split()
    assert digest == cuts.digest
    assert list(map(float, masses)) == hs.select(leptons, cuts).mass_z2.tolist()
    assert list(map(float, masses)) != hs.select(leptons, OPEN).mass_z2.tolist()


CALLS = [0]


def counting(mass_z1: float, mass_z2: float, mass_4l: float, pt_sum_z1: float, pt_sum_z2: float) -> float:
    CALLS[0] += 1
    return mass_z1 + CALLS[0]


def test_function_that_cannot_be_identified_is_refused_at_once() -> None:
    with pytest.raises(SelectionError, match="CALLS"):
        OPEN.replace(pairing=counting)
