"""The four kinds of text that users write, the ways in which programs save them, and the ways in which they break."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import tomllib
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from higgsnb import datasets, selection
from higgsnb.datasets import File, LumiMask
from higgsnb.datasets.luminosity import read_table
from higgsnb.events.csv import CSV_COLUMNS, read_csv

CAMPAIGN = """\
[campaign]
name = "mine"
title = "10 fb⁻¹ of muons, 5 µm"
schema = "csv"
luminosity_fb = 11.58
luminosity_uncertainty = 0.026
energy_tev = 8

[[dataset]]
name = "signal"
process = "higgs"
cross_section_pb = 0.0065
file = [{ url = "/data/signal.csv", events = 299973 }]

[[dataset]]
name = "muons"
process = "data"
file = [{ url = "https://host/muons.csv", events = 12, adler32 = "1dafc1d7" }]
"""
GOLDEN_JSON = '{"190456": [[1, 9], [12, 40]],\n "190459": [[3, 3]]}\n'
TABLE = """\
#Data tag : 19v2 , Norm tag: None
#run:fill,ls,time,beamstatus,E(GeV),delivered(/ub),recorded(/ub),avgpu,source
190456:2464,1:1,04/06/12 10:00:00,STABLE BEAMS,4000,3.25,3.125,20.5,HF
190456:2464,2:2,04/06/12 10:00:23,STABLE BEAMS,4000,3.5,3.0,20.5,HF
190459:2465,7:0,04/06/12 11:00:00,STABLE BEAMS,4000,0.5,0.0,20.5,HF
#Summary:
#nfill,nrun,nls,ncms,totdelivered(/ub),totrecorded(/ub)
#2,2,3,2,7.25,6.125
"""
EVENTS = "\n".join(
    ",".join(cells)
    for cells in (
        [*CSV_COLUMNS, "M"],
        ["190456", "12", *(["13", "20.5", "0.3", "-1.25", "-1", "-13", "12.75", "-0.4", "2.5", "1"] * 2), "91.5"],
        ["190459", "876658967", *(["11", "46.25", "-0.5", "3", "1", "-11", "9.5", "2.25", "-3", "-1"] * 2), "125.25"],
    )
)


def campaign(path: Path) -> Any:
    """All that a campaign says of its physics and files, of which only the names are compared."""
    found = datasets.load(path)
    parts = [(one.name, one.process, one.cross_section_pb, one.scale, _files(one.files)) for one in found.datasets]
    return found.name, found.title, found.luminosity_fb, found.luminosity_uncertainty, found.energies_tev, parts


def golden_json(path: Path) -> Any:
    """The certified lumi sections."""
    return LumiMask.load(path).sections.ranges()


def table(path: Path) -> Any:
    """The recorded luminosity by section."""
    found = read_table(path)
    return dict(zip(found.sections.keys.tolist(), found.recorded.tolist(), strict=True))


def events(path: Path) -> Any:
    """Run, event, muons and electrons of each row; of each lepton pt, eta, phi and charge."""
    leptons = read_csv(str(path), 0, 10**6)
    flavours = []
    for name in ("muon", "electron"):
        columns = (getattr(leptons, f"{name}_{quantity}").tolist() for quantity in ("pt", "eta", "phi", "charge"))
        rows, offsets = list(zip(*columns, strict=True)), getattr(leptons, f"{name}_offsets").tolist()
        flavours.append([rows[first:last] for first, last in pairwise(offsets)])
    return list(zip(leptons.run.tolist(), leptons.event.tolist(), *flavours, strict=True))


def cuts(path: Path) -> Any:
    """The cuts of a selection."""
    return selection.load(path).as_dict() | {"name": "", "title": "", "source": ""}


KINDS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "campaign": (CAMPAIGN, campaign, "c.toml"),
    "selection": ('base = "aod2012"\nmuon_pt_min = 6.5\nsource = "Ångström"\n', cuts, "s.toml"),
    "golden_json": (GOLDEN_JSON, golden_json, "g.json"),
    "table": (TABLE, table, "t.csv"),
    "events": (EVENTS, events, "e.csv"),
}
"""Of each kind a good text, the numbers in a file of it, and the name of such a file."""

SAVED: dict[str, Callable[[str], bytes]] = {
    "UTF-8 with a mark (Notepad, Excel)": lambda text: text.encode("utf-8-sig"),
    "UTF-16 with a mark (PowerShell)": lambda text: text.encode("utf-16"),
    "UTF-16, the other way round": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-32": lambda text: text.encode("utf-32"),
    "Windows line ends": lambda text: text.replace("\n", "\r\n").encode(),
    "old Mac line ends": lambda text: text.replace("\n", "\r").encode(),
    "gzip": lambda text: gzip.compress(text.encode()),
    "gzip in two members": lambda text: gzip.compress(text[:50].encode()) + gzip.compress(text[50:].encode()),
    "gzip of UTF-16 with a mark": lambda text: gzip.compress(text.encode("utf-16")),
    "no last line end": lambda text: text.rstrip("\n").encode(),
    "blank last lines": lambda text: f"{text}\n  \n\n".encode(),
}
"""Ways to save a text that change nothing in it."""


def broken(data: bytes, draw: random.Random) -> bytes:
    """Damage some bytes: flip, cut, double, leave out, move, or put in what texts of other programs have."""
    at, length = draw.randrange(len(data)), draw.choice((1, 1, 2, 5, 20, 100))
    piece = data[at : at + length]
    odd = (b"\0", b'"', b"'", b",", b";", b"\t", b"\n", b"\r", b"#", b"_", b"-", b".", b"e9", b"\xef\xbb\xbf", b"\xff",
           b"[" * 500, b"9" * 5000, "٣".encode(), b"\x1b[2J", b" ", b"<", b"1e308", b"inf", b"\xc2\xa0")  # fmt: skip
    return draw.choice((
        lambda: data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :],
        lambda: data[:at],
        lambda: data[:at] + piece + data[at:],
        lambda: data[:at] + data[at + length :],
        lambda: data[:at] + draw.choice(odd) + data[at:],
        lambda: data[:at] + draw.choice(odd) + data[at + 1 :],
        lambda: data[:at] + data[at:] * 2,
        lambda: data + data,
        lambda: data.decode("utf-8", "replace").encode(draw.choice(("utf-16", "utf-16-be", "utf-7", "utf-32-be"))),
        lambda: data.decode("utf-8", "replace").encode(draw.choice(("cp1252", "cp500", "cp932")), "replace"),
        lambda: gzip.compress(data)[: draw.choice((-1, 20, 10**6))],
    ))()  # fmt: skip


# --- The same numbers, read by the shortest program that is right for a text without tricks


def text_of(data: bytes) -> str:
    """The text of some bytes, as the standard library would have it."""
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    marks = {
        b"\xff\xfe\0\0": "utf-32",
        b"\0\0\xfe\xff": "utf-32",
        b"\xff\xfe": "utf-16",
        b"\xfe\xff": "utf-16",
        b"\xef\xbb\xbf": "utf-8-sig",
    }
    coding = next((name for mark, name in marks.items() if data.startswith(mark)), None)
    if coding is None:
        coding = "utf-8" if 0 not in data[:2] else "utf-16-be" if data[0] == 0 else "utf-16-le"
    return io.TextIOWrapper(io.BytesIO(data), coding, "replace", newline=None).read()


def plain_campaign(text: str) -> Any:
    """What `campaign` returns."""
    found = tomllib.loads(text)
    head = found["campaign"]
    parts = [
        (one["name"], one["process"], _float(one.get("cross_section_pb")), _float(one.get("scale", 1.0)),
         _files(File(**file) for file in one["file"]))
        for one in found["dataset"]
    ]  # fmt: skip
    energies = tuple(sorted({_float(one.get("energy_tev", head["energy_tev"])) for one in found["dataset"]}))
    numbers = _float(head["luminosity_fb"]), _float(head["luminosity_uncertainty"])
    return head["name"], head.get("title", head["name"]), *numbers, energies, parts


def plain_golden_json(text: str) -> Any:
    """What `golden_json` returns."""
    found: dict[str, list[list[int]]] = {}
    pairs = json.loads(text, object_pairs_hook=list)
    assert len({run for run, _ in pairs}) == len(pairs)
    for run, spans in sorted(pairs, key=lambda pair: int(pair[0])):
        joined = found.setdefault(str(int(run)), [])
        for first, last in sorted(spans):
            if joined and first <= joined[-1][1] + 1:
                joined[-1][1] = max(last, joined[-1][1])
            else:
                joined.append([first, last])
    return {run: spans for run, spans in found.items() if spans}


def plain_table(text: str) -> Any:
    """What `table` returns, of a table with the columns of `TABLE`, which may be listed in another order."""
    found: dict[int, float] = {}
    names: list[str] = []
    for line in text.replace("\ufeff", "").split("\n"):
        cells = [cell.strip() for cell in line.split(",")]
        if line.lower().lstrip(' \t,;"').startswith("#") and "delivered(" in line.lower() and "run:" in line:
            names = ["".join(cell.split()).partition("(")[0].partition(":")[0].lstrip("#") for cell in cells]
        elif any(cells) and not line.lstrip(' \t,;"').startswith("#"):
            row = dict(zip(names, cells, strict=True))
            first, _, second = row["ls"].partition(":")
            key = int(row["run"].partition(":")[0]) << 32 | (int(second or 0) or int(first))
            assert key not in found
            found[key] = float(row["recorded"]) * 1e-9
    return dict(sorted(found.items()))


@np.errstate(over="ignore")
def plain_events(text: str) -> Any:
    """What `events` returns."""
    header, *rows = (row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row))
    names, found = [name.strip() for name in header], []
    assert len(set(names)) == len(names)
    for row in rows:
        line = dict(zip(names, row, strict=True))
        flavours: dict[int, list[tuple[float, ...]]] = {13: [], 11: []}
        for i in range(1, 5):
            numbers = [float(np.float32(float(line[f"{name}{i}"]))) for name in ("pt", "eta", "phi")]
            flavours[abs(int(float(line[f"PID{i}"])))].append((*numbers, int(float(line[f"Q{i}"]))))
        event = (
            int(float(line["Event"])) if "." in line["Event"] or "e" in line["Event"].lower() else int(line["Event"])
        )
        found.append((int(float(line["Run"])), event % 2**32 if event < 0 else event, flavours[13], flavours[11]))
    return found


def plain_cuts(text: str) -> Any:
    """What `cuts` returns."""
    found = tomllib.loads(text)
    base = selection.load(found.pop("base", "open2012")).as_dict() | found
    numbers = {name: _float(value) for name, value in base.items() if name != "version"}
    return {**base, **numbers, "name": "", "title": "", "source": ""}


def _files(files: Iterable[File]) -> list[tuple[Any, ...]]:
    return [(file.url.rsplit("/", 1)[-1], file.events, file.bytes, file.adler32) for file in files]


def _float(value: Any) -> Any:
    """Return a whole number as float."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


PLAIN: dict[str, Callable[[str], Any]] = {
    "campaign": plain_campaign,
    "selection": plain_cuts,
    "golden_json": plain_golden_json,
    "table": plain_table,
    "events": plain_events,
}
"""Of each kind the short program that reads its text."""
