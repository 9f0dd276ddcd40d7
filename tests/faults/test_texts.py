"""G10, G25: damaged campaigns, selections, golden JSONs, tables and CSV files are refused, or read as they stand.

Run as a program (``python test_texts.py SEED NUMBER``) it damages texts and prints what became of them.
"""

from __future__ import annotations

import collections
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
SECONDS = 60
"""Longest time that a text of a few hundred bytes may take, on a busy machine."""


def outcome(kind: str, data: bytes, folder: Path) -> str:
    """Return what becomes of a text: refused, right, or what is wrong with how it was read."""
    from click.testing import CliRunner
    from texts import KINDS, PLAIN, text_of

    from higgsnb.__main__ import main
    from higgsnb.errors import HiggsnbError
    from higgsnb.text import is_one_line

    _, read, name = KINDS[kind]
    path = folder / name
    path.write_bytes(data)
    try:
        found = read(path)
    except HiggsnbError as error:
        return "refused" if is_one_line(error.message) and error.hint else f"unclear: {error.message}"
    except TimeoutError:
        return "hang"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is the outcome
        return f"unexpected {type(error).__name__}: {error}"
    if kind == "campaign":
        shown = CliRunner().invoke(main, ["plan", str(path), "--price", "0.1"])
        if shown.exit_code not in (0, 2):
            return f"exit code {shown.exit_code} of plan: {shown.exception!r}"
    try:
        return "right" if repr(PLAIN[kind](text_of(data))) == repr(found) else "silent"  # repr: nan is nan
    except Exception as error:  # noqa: BLE001 - likewise
        return f"read although the plain reader says {type(error).__name__}: {error}"


def damage(seed: int, number: int) -> dict[str, Any]:
    """Damage ``number`` texts of each kind, one to three times each, and return how many became what."""
    sys.path[:0] = [str(FOLDER.parent / "kit")]
    from texts import KINDS, SAVED, broken

    def late(*_: object) -> None:
        raise TimeoutError

    signal.signal(signal.SIGALRM, late)
    counts: collections.Counter[str] = collections.Counter()
    examples: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind, (good, _, _) in KINDS.items():
            draw = random.Random(f"{seed} {kind}")
            for _ in range(number):
                data = SAVED[draw.choice(list(SAVED))](good) if draw.random() < 0.2 else good.encode()
                for _ in range(draw.choice((1, 1, 2, 3))):
                    data = broken(data, draw) or b"\n"
                signal.alarm(SECONDS)
                what = outcome(kind, data, Path(folder))
                signal.alarm(0)
                counts[f"{kind} {what.partition(':')[0]}"] += 1
                if what not in ("refused", "right"):
                    examples.setdefault(f"{kind}: {what}", repr(data[:3000]))
    return {"counts": counts, "examples": examples}


def test_damaged_text_is_refused_or_read_as_it_stands(long: bool, figure: Any) -> None:
    number = 4000 if long else 400
    limited = ["import resource as r, runpy, sys", "r.setrlimit(r.RLIMIT_AS, (2 * 10**9,) * 2)"]
    limited += [f"sys.argv = ['', '13', '{number}']", f"runpy.run_path({__file__!r}, run_name='__main__')"]
    command = [sys.executable, "-c", "; ".join(limited)]
    one_thread = os.environ | {"OPENBLAS_NUM_THREADS": "1"}  # each thread reserves 100 MB of addresses
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    figure("G10", "damaged texts", ", ".join(f"{what} {count}" for what, count in sorted(found["counts"].items())))
    assert found["examples"] == {}
    kinds = {"campaign", "selection", "golden_json", "table", "events"}
    assert set(found["counts"]) == {f"{kind} {what}" for kind in kinds for what in ("refused", "right")}
    assert sum(found["counts"].values()) == 5 * number


if __name__ == "__main__":
    sys.stdout.write(json.dumps(damage(int(sys.argv[1]), int(sys.argv[2]))))
