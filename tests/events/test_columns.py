"""Any columns of any preselection are what plain uproot finds; what a file lacks is named, or counts as none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import numpy.typing as npt
import pytest
import uproot
from basket_files import CODECS, Events, write_ntuple, write_tree
from event_forms import FORMS, Made, N, make, tree_of
from flipped_bits import DATA
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from higgsnb import events, selection
from higgsnb.datasets import Chunk, File
from higgsnb.errors import DamagedFileError, OptionError, SchemaError, UnreadableError
from higgsnb.events import Columns, EventColumns, root
from higgsnb.events.fast import baskets, gather
from higgsnb.events.fast.blocks import UnexpectedFormError
from higgsnb.events.fast.preselected import open_preselected
from higgsnb.events.root import KeptFiles
from higgsnb.selection import parse

NAMES = ("run", "luminosityBlock", "event", "nMuon", "Muon_pt", "Muon_charge", "Electron_pt", "Electron_charge")


def chunk_of(path: Path, entries: int = N, **options: Any) -> Chunk:
    friends = tuple(map(str, options.pop("friends", ())))
    chunk = Chunk("d", 0, 0, File(str(path), friends=friends), "nanoaod", None, True, 0, entries, None)
    return replace(chunk, **options)


def slowly(path: Path, columns: Columns, start: int, stop: int) -> dict[str, list[Any]]:
    """The same columns by uproot and awkward, event by event."""
    with uproot.open(path) as file:
        tree = file["Events"]
        lists = {name: tree[name].array(entry_start=start, entry_stop=stop) for name in tree.keys() if name != "vector"}  # noqa: SIM118
    lists |= {f"n{one}": ak.num(lists[f"{one}_pt"]) for one in ("Muon", "Electron")}
    plain = {name: values.tolist() for name, values in lists.items()}
    found: dict[str, list[Any]] = {name: [] for name in ("entries", *columns.names)}
    for i in range(stop - start):
        event = {name: np.array([plain[name][i]]) for name in columns.tested}
        if columns.preselection is not None and not columns.preselection(event)[0]:
            continue
        found["entries"].append(start + i)
        for name in columns.names:
            found[name].append(plain[name][i])
    return found


def as_lists(found: Any, columns: Columns) -> dict[str, list[Any]]:
    """Columns that were read, event by event."""
    result: dict[str, list[Any]] = {}
    for name in columns.names:
        if name in found.flat:
            result[name] = found.flat[name].tolist()
        else:
            starts = found.offsets[name.partition("_")[0]].tolist()
            result[name] = [found.jagged[name][first:last].tolist() for first, last in pairwise(starts)]
    return result


conditions = st.recursive(
    st.one_of(
        st.builds("nMuon {} {}".format, st.sampled_from([">=", "<", "=="]), st.integers(0, 4)),
        st.builds("nElectron {} {}".format, st.sampled_from([">=", "<", "!="]), st.integers(0, 4)),
        st.builds("run {} {}".format, st.sampled_from([">", "<="]), st.integers(1, 4)),
        st.builds("event > {}".format, st.integers(10**12, 10**12 + 37 * 100)),
    ),
    lambda inner: st.one_of(
        st.builds("({} and {})".format, inner, inner), st.builds("({} or {})".format, inner, inner),
        st.builds("(not {})".format, inner),
    ),
    max_leaves=4,
)  # fmt: skip
bounds = st.one_of(st.just((0.0, 1.0)), st.tuples(st.floats(0, 1), st.floats(0, 1)))
"""A range of entries, as parts of all."""


def between(parts: tuple[float, float], n: int) -> tuple[int, int]:
    """The range of ``n`` entries."""
    start, stop = sorted(round(part * n) for part in parts)
    return start, stop


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["TTree", "RNTuple"]),
    layout=st.lists(st.integers(5, 40), min_size=2, max_size=6),
    codec=st.sampled_from(sorted(CODECS)),
    window=st.integers(5, 100),
    few=st.sampled_from([0, 50_000]),
    names=st.lists(st.sampled_from(NAMES), unique=True, min_size=1),
    condition=st.one_of(conditions, conditions, st.none()),
    parts=bounds,
)
def test_any_columns_of_any_preselection_are_what_uproot_finds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, layout: list[int], codec: str, window: int, few: int,
    names: list[str], condition: str | None, parts: tuple[float, float],
) -> None:  # fmt: skip
    monkeypatch.setattr(baskets, "WINDOW", window)
    monkeypatch.setattr(baskets, "WIDEST_WINDOW", 2 * window)
    monkeypatch.setattr(gather, "FEW", few)
    n = sum(layout)
    made = Events.random(n, seed=n)
    if kind == "TTree":
        path = write_tree(tmp_path / "events.root", made, codec=codec, baskets=layout)
    else:
        path = write_ntuple(tmp_path / "events.root", made, codec=codec, clusters=layout)
    columns = Columns(tuple(names), None if condition is None else parse(condition, kind="condition"))
    start, stop = between(parts, n)
    with open_preselected(path, columns) as reader:
        found = reader.read(start, stop)
    expected = slowly(path, columns, start, stop)
    assert found.entries.tolist() == expected.pop("entries")
    assert as_lists(found, columns) == expected
    assert found.n_read == stop - start


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(["unaligned.root", "generated-offsets.root", "embedded.root", "converted.root"]),
    window=st.integers(1, 700),
    condition=st.one_of(conditions, conditions, st.none()),
    parts=bounds,
)
def test_files_of_root_are_what_uproot_finds(
    monkeypatch: pytest.MonkeyPatch, name: str, window: int, condition: str | None, parts: tuple[float, float]
) -> None:
    monkeypatch.setattr(baskets, "WINDOW", window)
    monkeypatch.setattr(baskets, "WIDEST_WINDOW", window)
    columns = Columns(NAMES, None if condition is None else parse(condition, kind="condition"))
    start, stop = between(parts, 600)
    with open_preselected(DATA / name, columns) as reader:
        found = reader.read(start, stop)
    expected = slowly(DATA / "unaligned.root", columns, start, stop)
    assert found.entries.tolist() == expected.pop("entries")
    assert as_lists(found, columns) == expected


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(window=st.integers(1, 700), least=st.integers(0, 6), parts=bounds)
def test_lists_of_a_vector_count_themselves(
    monkeypatch: pytest.MonkeyPatch, window: int, least: int, parts: tuple[float, float]
) -> None:
    monkeypatch.setattr(baskets, "WINDOW", window)
    monkeypatch.setattr(baskets, "WIDEST_WINDOW", window)
    columns = Columns(("vector", "Muon_pt"), parse(f"nvector >= {least} and run != 3"))
    start, stop = between(parts, 600)
    with open_preselected(DATA / "unaligned.root", columns) as reader:
        found = reader.read(start, stop)
    with uproot.open(DATA / "unaligned.root") as file:
        batch = file["Events"].arrays(["vector", "run"], entry_start=start, entry_stop=stop)
    batch = batch[(ak.num(batch["vector"]) >= least) & (batch["run"] != 3)]
    starts = found.offsets["vector"].tolist()
    assert [found.jagged["vector"][i:j].tolist() for i, j in pairwise(starts)] == batch["vector"].tolist()
    assert np.array_equal(found.offsets["Muon"], found.offsets["vector"])  # the file was made so


def list_of(*values: int, version: int = 9) -> bytes:
    """A list of two-byte numbers as ROOT stores it."""
    head = (0x40000000 | 6 + 2 * len(values)).to_bytes(4) + version.to_bytes(2) + len(values).to_bytes(4)
    return head + b"".join(value.to_bytes(2) for value in values)


def split(content: bytes, n_lists: int) -> tuple[int, list[int], list[int]]:
    counts, values = np.zeros(n_lists, np.int64), np.zeros(max(len(content) - 10 * n_lists, 0), np.uint8)
    n_bytes = gather.split_lists(np.frombuffer(content, np.uint8), 2, counts, values)
    return int(n_bytes), counts.tolist(), values.view(">u2").tolist() if n_bytes >= 0 else []


def test_headers_of_lists_are_taken_off() -> None:
    assert split(list_of(7, 500) + list_of() + list_of(3), 3) == (6, [2, 0, 1], [7, 500, 3])
    assert split(b"", 0) == (0, [], [])


@pytest.mark.parametrize(
    ("content", "n_lists"),
    [
        (list_of(7, 500) + list_of(), 3),
        (list_of(7, 500) + list_of(1), 1),
        (list_of(7, 500)[:-1], 1),
        (list_of(*range(20)), 2),
        (list_of(7)[:6] + (2**31).to_bytes(4) + b"\0\7", 1),
        (list_of(7)[:6] + b"\0\0\0\0" + b"\0\7", 1),
        (b"\0\0\0\0" + list_of(7)[4:], 1),
    ],
)
def test_lists_that_contradict_their_headers_are_noticed(content: bytes, n_lists: int) -> None:
    assert split(content, n_lists)[0] == -1


def test_every_column_of_real_files_is_what_uproot_finds(shared_data: Path) -> None:
    paths = sorted([*(shared_data / "nanoaod").glob("nano*.root"), *(shared_data / "rntuple").glob("*.root")])
    for path in paths:
        with uproot.open(path) as file:
            tree = file["Events"]
            lists = {name: tree[name].array() for name in tree.keys() if not name.startswith("_")}  # noqa: SIM118
            n = int(tree.num_entries)
        found = events.read_events(chunk_of(path, n), Columns(tuple(lists)))
        assert found.reader in ("baskets", "pages")
        assert len(lists) > 900
        for name, expected in lists.items():
            if expected.ndim == 1:
                same = np.array_equal(
                    found.flat[name], expected.to_numpy(), equal_nan=expected.to_numpy().dtype.kind == "f"
                )
            else:
                starts, values = found.offsets[found.collection(name)], ak.flatten(expected).to_numpy()
                same = np.array_equal(np.diff(starts), ak.num(expected))
                same &= np.array_equal(found.jagged[name], values, equal_nan=values.dtype.kind == "f")
            assert same, (path.name, name)


# --- What is not there


@pytest.fixture(scope="module")
def made() -> Made:
    return make()


@pytest.fixture(scope="module")
def muons_only(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree_of(tmp_path_factory.mktemp("muons") / "skim.root", {**made.flat, "Muon": made.records("Muon")})


def test_file_without_electrons_has_four_muons_only(made: Made, muons_only: Path, tmp_path: Path) -> None:
    from event_forms import LEPTONS

    assert events.inspect(File(str(muons_only)), "nanoaod").entries == N
    found = events.read_preselected(chunk_of(muons_only))
    assert found.missing == {"Electron"}
    assert found.entries.tolist() == np.flatnonzero(made.counts["Muon"] >= 4).tolist()
    assert found.leptons.electron_offsets.tolist() == [0] * (len(found.entries) + 1)
    assert all(len(getattr(found.leptons, f"electron_{name}")) == 0 for name in LEPTONS)
    cuts = selection.load("open2012").replace(sip_max=1e6)
    whole = FORMS["v12"](made, tmp_path).chunk
    few, all_ = (selection.select(events.read_preselected(one).leptons, cuts) for one in (chunk_of(muons_only), whole))
    assert set(few.channel.tolist()) == {0}
    assert set(few.mass_4l.tolist()) >= set(all_.mass_4l[all_.channel == 0].tolist())


def test_collection_that_a_file_lacks_has_none_in_each_event(muons_only: Path) -> None:
    columns = Columns(("Muon_pt", "nTau", "Tau_pt", "Tau_charge", "Tau_idDeepId", "FatJet_pt"), parse("nTau < 1"))
    found = events.read_events(chunk_of(muons_only), columns)
    assert found.missing == {"Tau", "FatJet"}
    assert found.entries.tolist() == list(range(N))
    assert found.flat["nTau"].tolist() == [0] * N
    assert found.offsets["Tau"].tolist() == found.offsets["FatJet"].tolist() == [0] * (N + 1)
    types = [found.jagged[name].dtype for name in ("Tau_pt", "Tau_charge", "Tau_idDeepId", "FatJet_pt")]
    assert types == [np.float32, np.int32, np.bool_, np.float32]
    assert len(events.read_events(chunk_of(muons_only), Columns((), parse("nTau >= 1"))).entries) == 0


def test_trigger_that_a_file_lacks_has_not_fired(made: Made, muons_only: Path) -> None:
    condition = parse("HLT_NotYet or HLT_IsoMu24 and not HLT_Gone")
    found = events.read_events(chunk_of(muons_only), Columns(("HLT_NotYet", "HLT_IsoMu24"), condition))
    assert found.missing == {"HLT_NotYet", "HLT_Gone"}
    assert found.entries.tolist() == np.flatnonzero(made.flat["HLT_IsoMu24"]).tolist()
    assert found.flat["HLT_IsoMu24"].all()
    assert not found.flat["HLT_NotYet"].any()


@pytest.mark.parametrize(
    ("names", "condition", "message"),
    [
        (("Muon_ptt",), None, r"lacks Muon_ptt\nFor Muon_ptt: Did you mean Muon_pt\?"),
        (("MET_ptt",), None, r"lacks MET_ptt\nFor MET_ptt: Did you mean MET_pt\?"),
        (("Muno_pt",), None, r"lacks Muno_pt\nFor Muno_pt: Did you mean Muon_pt\?"),
        ((), "nMuons >= 2", r"lacks nMuons\nFor nMuons: Did you mean nMuon\?"),
        ((), "Muon_pt > 5", r"the preselection needs Muon_pt, which has several values per event\n.*such as nMuon"),
    ],
)
def test_misspelt_column_is_an_error_and_not_none(
    muons_only: Path, names: tuple[str, ...], condition: str | None, message: str
) -> None:
    columns = Columns(names, None if condition is None else parse(condition))
    for action in (
        lambda: events.read_events(chunk_of(muons_only), columns),
        lambda: events.inspect(File(str(muons_only)), "nanoaod", columns=columns),
    ):
        with pytest.raises(SchemaError, match=message):
            action()


def test_file_without_any_lepton_is_none_of_leptons(made: Made, tmp_path: Path) -> None:
    path = tree_of(tmp_path / "jets.root", {**made.flat, "Jet": made.records("Jet")})
    with pytest.raises(SchemaError, match=r"lacks nMuon, Muon_pt, .* and \d+ more"):
        events.read_preselected(chunk_of(path))
    assert events.read_events(chunk_of(path), Columns(("Jet_pt",))).offsets["Jet"][-1] == made.counts["Jet"].sum()


def test_names_are_written_in_one_way() -> None:
    assert Columns(("Muon.pt", "Muon_pt", " MET.pt ")).names == ("Muon_pt", "MET_pt")
    assert Columns("Muon.pt") == Columns(("Muon_pt",))  # type: ignore[arg-type]
    for wrong in ("", " . ", 3):
        with pytest.raises(OptionError, match="is not the name of a column"):
            Columns((wrong,))  # type: ignore[arg-type]


def test_text_and_nested_lists_are_no_columns(tmp_path: Path) -> None:
    lists = ak.Array([[[1.0, 2.0], []], [], [[3.0]]])
    with uproot.recreate(tmp_path / "n.root") as file:
        file.mkrntuple("Events", {"text": ak.Array(["a", "b", "c"]), "deep": lists, "x": np.arange(3.0)})
    for name in ("text", "deep"):
        with pytest.raises(SchemaError, match=rf"{name} (is a|holds) .*one number per event, or a list of numbers"):
            open_preselected(tmp_path / "n.root", Columns((name,)))


# --- Friends


def test_friend_with_other_entries_is_refused(muons_only: Path, tmp_path: Path) -> None:
    with uproot.recreate(tmp_path / "short.root") as file:
        file.mktree("Events", {"x": np.float32}).extend({"x": np.zeros(N - 1, np.float32)})
    chunk = chunk_of(muons_only, friends=[tmp_path / "short.root"])
    for action in (
        lambda: events.inspect(chunk.file, "nanoaod"),
        lambda: events.read_events(chunk, Columns(("x",))),
    ):
        with pytest.raises(
            SchemaError, match=rf"its friend number 1 has {N - 1} entries, it has {N}\nFriends have one"
        ):
            action()


@pytest.mark.parametrize("reader", ["fast", "uproot"])
def test_friend_with_other_objects_is_refused(
    muons_only: Path, tmp_path: Path, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reader == "uproot":
        monkeypatch.setattr(KeptFiles, "readers", refuse)
    other = make(seed=3).lists("Muon")
    path = tree_of(tmp_path / "other.root", {"Muon": ak.zip({"corrected": other["pt"]})})
    chunk = chunk_of(muons_only, friends=[path])
    with pytest.raises(SchemaError, match="its friends have other numbers of Muon in an event than it has"):
        events.read_events(chunk, Columns(("Muon_pt", "Muon_corrected")))


def refuse(*_: Any) -> None:
    raise UnexpectedFormError("uproot shall read it")


def test_friend_adds_columns_and_replaces_none(made: Made, muons_only: Path, tmp_path: Path) -> None:
    more = {"corrected": made.lists("Muon")["pt"] * 2, "pt": made.lists("Muon")["pt"] * 0}
    path = tree_of(tmp_path / "more.root", {"Muon": ak.zip(more), "good": np.arange(N) % 3 == 0})
    columns = Columns(("Muon_pt", "Muon_corrected"), parse("good and nMuon > 1"))
    found = events.read_events(chunk_of(muons_only, friends=[path]), columns)
    which = (np.arange(N) % 3 == 0) & (made.counts["Muon"] > 1)
    assert found.jagged["Muon_pt"].tolist() == made.column("Muon_pt", which).tolist()
    assert found.jagged["Muon_corrected"].tolist() == (2 * made.column("Muon_pt", which)).tolist()


def test_friend_that_is_replaced_after_the_plan_is_named(muons_only: Path, tmp_path: Path) -> None:
    path = tree_of(tmp_path / "more.root", {"x": np.arange(N, dtype=np.float32)})
    file = File(str(muons_only), friends=(str(path),))
    info = events.inspect(file, "nanoaod")
    (version,) = info.friends
    assert version.digest
    chunk = chunk_of(muons_only, friends=[path], version=info.version, friend_versions=info.friends)
    assert events.read_events(chunk, Columns(("x",))).flat["x"].tolist() == list(range(N))
    tree_of(path, {"x": np.arange(N, dtype=np.float32) + 1})
    with pytest.raises(UnreadableError, match=r"more.root: is not the file that it was when the run began"):
        events.read_events(chunk, Columns(("x",)))
    assert events.info_from_campaign(replace(file, events=N, bytes=1, adler32="00000000")) is None


# --- One opening


def test_a_file_is_parsed_once_for_plan_and_chunks(muons_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.forget()
    parsed = []
    real = root.catalogue_of
    monkeypatch.setattr(root, "catalogue_of", lambda *a: parsed.append(a[1]) or real(*a))
    columns = Columns(("Muon_pt",), parse("nMuon >= 2"))
    events.inspect(File(str(muons_only)), "nanoaod", columns=columns)
    for start in range(0, N, 100):
        chunk = chunk_of(muons_only, start=start, stop=min(start + 100, N), entries=N, is_data=False)
        events.read_generator(chunk)
        events.read_events(chunk, columns)
        events.read_sections(chunk)
    assert parsed == [str(muons_only)]


def test_files_whose_chunks_alternate_are_parsed_once_each(
    made: Made, muons_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root.forget()
    parsed = []
    real = root.catalogue_of
    monkeypatch.setattr(root, "catalogue_of", lambda *a: parsed.append(a[1]) or real(*a))
    paths = [tmp_path / f"{i}.root" for i in range(4)]
    for path in paths:
        path.write_bytes(muons_only.read_bytes())
    for start in range(0, N, 40):
        for path in paths:
            chunk = chunk_of(path, start=start, stop=start + 40, entries=N)
            found = events.read_events(chunk, Columns(("Muon_pt",), parse("HLT_IsoMu24")))
            assert found.entries.tolist() == [i for i in range(start, start + 40) if made.flat["HLT_IsoMu24"][i]]
            events.read_sections(chunk)
    assert parsed == [str(path) for path in paths]


def test_threads_parse_a_file_once(muons_only: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.forget()
    parsed = []
    real = root.catalogue_of
    monkeypatch.setattr(root, "catalogue_of", lambda *a: parsed.append(a[1]) or real(*a))
    with ThreadPoolExecutor(4) as pool:
        chunks = [chunk_of(muons_only, start=start, stop=start + 20) for start in range(0, N, 20)]
        found = list(pool.map(lambda chunk: events.read_events(chunk, Columns(("Muon_pt",))), chunks))
    assert sum(len(one.entries) for one in found) == N
    assert len(parsed) == 1


def test_some_events_of_columns_are_kept() -> None:
    from higgsnb.events.columns import keep

    flat, jagged = {"x": np.arange(4)}, {"A_x": np.arange(6), "A_B_y": np.arange(3)}
    offsets = {"A": np.array([0, 2, 2, 5, 6]), "A_B": np.array([0, 1, 1, 1, 3])}
    columns = EventColumns(np.array([3, 5, 6, 9]), 20, flat, jagged, offsets, frozenset(), "baskets", "none")
    assert columns.collection("A_B_y") == "A_B"
    for which in (np.array([0, 2, 3]), np.array([True, False, True, True])):
        found = keep(columns, which)
        assert (found.entries.tolist(), found.flat["x"].tolist(), found.n_events) == ([3, 6, 9], [0, 2, 3], 20)
        assert found.jagged["A_x"].tolist() == [0, 1, 2, 3, 4, 5]
        assert found.jagged["A_B_y"].tolist() == [0, 1, 2]
        assert [found.offsets[name].tolist() for name in ("A", "A_B")] == [[0, 2, 5, 6], [0, 1, 1, 3]]
    with pytest.raises(KeyError, match=r"no jagged column 'x'; there are A_x, A_B_y"):
        columns.collection("x")


def test_no_flipped_bit_in_the_baskets_of_a_vector_goes_unnoticed(tmp_path: Path) -> None:
    content = (DATA / "unaligned.root").read_bytes()
    with uproot.open(DATA / "unaligned.root") as file:
        branch = file["Events"]["vector"]
        places = list(zip(branch.member("fBasketSeek"), branch.member("fBasketBytes"), strict=False))
    columns, rng, bad = Columns(("vector",)), np.random.default_rng(1), tmp_path / "bad.root"
    with open_preselected(DATA / "unaligned.root", columns) as reader:
        good = reader.read()
    assert good.notes.verified
    caught = 0
    for _ in range(150):
        seek, size = places[rng.integers(branch.num_baskets)]
        changed = bytearray(content)
        changed[seek + rng.integers(size)] ^= 1 << rng.integers(8)
        bad.write_bytes(changed)
        with open_preselected(bad, columns) as reader:
            try:
                found = reader.read()
            except (DamagedFileError, UnexpectedFormError):  # or one that uproot is left to read
                caught += 1
                continue
        assert np.array_equal(found.jagged["vector"], good.jagged["vector"])
        assert np.array_equal(found.offsets["vector"], good.offsets["vector"])
    assert caught > 50


def unequal(tmp_path: Path) -> Path:
    columns: dict[str, npt.NDArray[Any]] = {
        "Muon_pt": ak.Array([[1.0], [2.0, 3.0]]),
        "Muon_eta": ak.Array([[1.0], [2.0]]),
    }
    with uproot.recreate(tmp_path / "own.root") as file:
        tree = file.mktree("Events", dict.fromkeys(columns, "var * float32"))
        tree.extend(columns)
    return tmp_path / "own.root"


def test_columns_of_a_collection_that_differ_in_length_are_damage(tmp_path: Path) -> None:
    with (
        open_preselected(unequal(tmp_path), Columns(("Muon_pt", "Muon_eta"))) as reader,
        pytest.raises(DamagedFileError, match="the columns of Muon differ in length"),
    ):
        reader.read()


def test_columns_whose_counter_is_no_branch_are_read_by_uproot(made: Made, muons_only: Path, tmp_path: Path) -> None:
    content = muons_only.read_bytes()
    assert content.count(b"\5nMuon\7nMuon/I") == 1  # name and title of the branch
    (tmp_path / "a.root").write_bytes(content.replace(b"\5nMuon\7nMuon/I", b"\5oMuon\7nMuon/I"))
    found = events.read_events(chunk_of(tmp_path / "a.root"), Columns(("Muon_pt", "Muon_charge"), parse("nMuon >= 2")))
    which = made.counts["Muon"] >= 2
    assert found.reader == "uproot"
    assert found.jagged["Muon_charge"].tolist() == made.column("Muon_charge", which).tolist()
    assert np.diff(found.offsets["Muon"]).tolist() == made.counts["Muon"][which].tolist()


def test_collections_of_equal_size_are_not_mistaken_for_each_other(tmp_path: Path) -> None:
    """In one basket, three muons and three electrons: only which of them belong to the second event differs."""
    lists = {
        "Muon": ak.Array([[{"x": 1}], [{"x": 2}, {"x": 3}]]),
        "Electron": ak.Array([[{"x": 4}, {"x": 5}], [{"x": 6}]]),
    }
    with uproot.recreate(tmp_path / "a.root") as file:
        types = {name: ak.type(values).content for name, values in lists.items()}
        file.mktree("Events", {**types, "second": np.bool_}).extend({**lists, "second": np.array([False, True])})
    with open_preselected(tmp_path / "a.root", Columns(("Muon_x", "Electron_x"), parse("second"))) as reader:
        found = reader.read()
    assert (found.jagged["Muon_x"].tolist(), found.jagged["Electron_x"].tolist()) == ([2, 3], [6])


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
def test_longest_part_of_a_name_that_is_counted_is_the_collection(tmp_path: Path, kind: str) -> None:
    lists = {
        "truth_elec_pt": ak.Array([[1.0], [2.0, 3.0]]),
        "truth_muon_pt": ak.Array([[], [4.0]]),
        "a_b": ak.Array([[5], []]),
    }
    columns = {**lists, "truth_elec_n": np.array([1, 2]), "truth_muon_n": np.array([0, 1])}
    with uproot.recreate(tmp_path / "a.root") as file:
        if kind == "TTree":
            file.mktree("Events", {name: ak.type(ak.Array(v)).content for name, v in columns.items()}).extend(columns)
        else:
            file.mkrntuple("Events", columns)
    wanted = Columns(tuple(lists), parse("ntruth_elec > 1 and na == 0"))
    with open_preselected(tmp_path / "a.root", wanted) as reader:
        found = reader.read()
    assert {name: starts.tolist() for name, starts in found.offsets.items()} == {
        "truth_elec": [0, 2], "truth_muon": [0, 1], "a": [0, 0],
    }  # fmt: skip
    assert found.jagged["truth_elec_pt"].tolist() == [2.0, 3.0]


def test_columns_counted_under_another_name_are_one_collection(tmp_path: Path) -> None:
    """``jet_pt`` and ``jet_eta`` are counted by ``njets``, ``x`` by ``n``."""
    pt, x = ak.Array([[1.0], [2.0, 3.0], []]), ak.Array([[], [4], [5, 6]])
    columns = {"jet": ak.zip({"pt": pt, "eta": pt * 2}), "x": x}
    with uproot.recreate(tmp_path / "a.root") as file:
        types = {name: ak.type(values).content for name, values in columns.items()}
        file.mktree("Events", types, counter_name=lambda name: "n" if name == "x" else "njets").extend(columns)
    wanted = Columns(("jet_pt", "jet_eta", "x", "njets"), parse("njet >= 1 and njets >= 1"))
    with open_preselected(tmp_path / "a.root", wanted) as reader:
        found = reader.read()
    assert {name: starts.tolist() for name, starts in found.offsets.items()} == {"jet": [0, 1, 3], "x": [0, 0, 1]}
    assert (found.jagged["jet_eta"].tolist(), found.jagged["x"].tolist()) == ([2.0, 4.0, 6.0], [4])
    assert found.flat["njets"].tolist() == [1, 2]
