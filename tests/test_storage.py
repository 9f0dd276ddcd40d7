"""`atomic_write`: the old content or the new one, never a part."""

from __future__ import annotations

from pathlib import Path

import pytest

from higgsnb.storage import atomic_write


def test_file_is_replaced_only_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with (
        pytest.raises(UnicodeEncodeError),
        atomic_write(path) as temporary,
        temporary.open("w", encoding="ascii") as file,
    ):
        file.writelines(["half", "…"])
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_error_names_the_file_and_not_the_temporary_one(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "a.json"
    with pytest.raises(FileNotFoundError) as caught, atomic_write(path) as temporary:
        temporary.write_text("new")
    assert caught.value.filename == str(path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as caught, atomic_write(tmp_path / "folder") as temporary:
        temporary.write_text("new")
    assert caught.value.filename == str(tmp_path / "folder")
