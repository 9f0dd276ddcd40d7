"""Options, marker and report of the fault kit; see README.md in this folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
FIGURE = "figure"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "fault kit")
    group.addoption("--long", action="store_true", help="the full number of faults; takes many minutes")
    group.addoption("--faults-report", metavar="FILE", help="write the table of figures to this JSON file")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if FOLDER in item.path.parents:
            item.add_marker("faults")


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the full number of faults was asked for (``--long``)."""
    return bool(request.config.getoption("--long", default=False))


@pytest.fixture
def figure(record_property: pytest.RecordProperty) -> object:
    """``figure("G9", "files done", "200 of 200")``: a line of the table at the end of the run."""

    def record(guarantee: str, what: str, value: object) -> None:
        record_property(FIGURE, [guarantee, what, str(value)])

    return record


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    reports = [report for found in terminalreporter.stats.values() for report in found if hasattr(report, "when")]
    rows = [
        [*value, report.outcome]
        for report in reports
        if report.when == "call"
        for name, value in report.user_properties
        if name == FIGURE
    ]
    if rows:
        terminalreporter.section("faults: guarantee | what | figure | outcome")
        for row in sorted(rows, key=lambda row: int(row[0].removeprefix("G"))):
            terminalreporter.write_line(" | ".join(row))
    report = config.getoption("--faults-report", default=None)
    if report:
        names = ("guarantee", "what", "figure", "outcome")
        text = json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=1)
        Path(report).write_text(text + "\n", encoding="utf-8")
