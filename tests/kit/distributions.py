"""Distributions that are installed in a folder, as `importlib.metadata` sees them."""

from __future__ import annotations

from pathlib import Path

BUILT_HERE = {"direct_url.json": '{"url": "file:///home/me/toylib", "dir_info": {}}'}
"""What pip writes of a distribution that was built from a folder."""


def install(folder: Path, code: str, version: str = "1.0", **files: str) -> Path:
    """A small distribution in a folder of its own that is called site-packages."""
    site = folder / "site-packages"
    information = site / "toylib-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "toylib.py").write_text(code, encoding="utf-8")
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: toylib\nVersion: {version}\n", encoding="utf-8"
    )
    (information / "RECORD").write_text(
        f"toylib.py,sha256={hash(code)},1\ntoylib-1.0.dist-info/METADATA,,\n", encoding="utf-8"
    )
    (information / "top_level.txt").write_text("toylib\n", encoding="utf-8")
    for name, text in files.items():
        (information / name).write_text(text, encoding="utf-8")
    return site
