"""Files with flipped bits, and what the fast readers make of them."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from basket_files import COLUMNS, plainly, same

from higgsnb.events import Columns
from higgsnb.events.fast.baskets import Preselected
from higgsnb.events.fast.blocks import UnexpectedFormError
from higgsnb.events.fast.preselected import open_preselected

DATA = Path(__file__).resolve().parents[1] / "data"
READABLE = DATA / "unaligned.root"


def read(
    path: Path, start: int = 0, stop: int | None = None, *, checked: bool = True, columns: Columns = COLUMNS
) -> Preselected:
    with open_preselected(path, columns, checked=checked) as reader:
        return reader.read(start, stop)


def flipped(data: bytes, rng: np.random.Generator) -> bytes:
    """The same bytes with one bit flipped."""
    bit = int(rng.integers(8 * len(data)))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def outcomes(path: Path, n_flips: int, seed: int = 1) -> Counter[str]:
    """What becomes of single flipped bits anywhere in a file, see `judge_flips`.

    In a process of its own: uproot remembers the classes that a damaged file describes, and a wrong length can ask for
    any amount of memory.
    """
    command = [sys.executable, __file__, str(path), str(n_flips), str(seed)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return Counter(json.loads(done.stdout))


def judge_flips(path: Path, n_flips: int, seed: int) -> Counter[str]:
    """Caught, without effect, wrong but marked as not verified, or silently wrong; of what uproot reads, its answer."""
    expected = plainly(path)
    data = path.read_bytes()
    rng = np.random.default_rng(seed)
    bad = path.with_suffix(".bad.root")
    found: Counter[str] = Counter()
    for _ in range(n_flips):
        bad.write_bytes(flipped(data, rng))
        try:
            result = read(bad)
        except UnexpectedFormError:
            found[_by_uproot(bad, expected)] += 1
        except Exception:  # noqa: BLE001 - uproot raises whatever the damage to its metadata leads to
            found["caught"] += 1
        else:
            wrong = "silent" if result.notes.verified else "marked"
            found["no effect" if same(result, expected) else wrong] += 1
    return found


def _by_uproot(path: Path, expected: dict[str, np.ndarray]) -> str:
    try:
        found = plainly(path)
    except Exception:  # noqa: BLE001 - see above
        return "caught"
    alike = found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in expected)
    return "no effect" if alike else "silent"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
    sys.stdout.write(json.dumps(judge_flips(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
