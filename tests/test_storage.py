"""Where files are kept, whose are believed, and `atomic_write`: the old content or the new one, never a part."""

from __future__ import annotations

import os
import pwd
import stat
import tempfile
import uuid
from pathlib import Path

import pytest
from planted import KINDS, is_untouched, plant

from higgsnb import storage
from higgsnb.errors import OptionError
from higgsnb.storage import (
    NotOwnFileError,
    atomic_write,
    cache_folder,
    distrust,
    make_folder,
    open_no_link,
    own_folder,
)

OTHER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody else")


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


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This user's cache below the folder for temporary files; there is no home, and no entry in the list of users."""

    def unknown(user: int) -> None:
        raise KeyError(user)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    (folder := tmp_path / "tmp").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for name in ("HIGGSNB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/dev/null")
    return folder / f"higgsnb-{os.getuid()}"


@pytest.mark.parametrize("home", [None, "/dev/null", "~", "a/relative/folder"])
def test_cache_without_a_home_is_a_temporary_folder_of_this_user_and_said_once(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, home: str | None
) -> None:
    if home is None:
        monkeypatch.delenv("HOME")
    else:
        monkeypatch.setenv("HOME", home)
    assert [storage.cache_folder(), storage.cache_folder()] == [temporary] * 2
    assert temporary.stat().st_mode & 0o777 == 0o700
    assert list(Path.cwd().iterdir()) == []
    assert caplog.text.count(f"files are kept in {temporary}") == caplog.text.count("HIGGSNB_CACHE") == 1


@pytest.mark.parametrize("how", ["writable by all", "a link", "a file"])
def test_temporary_cache_that_somebody_else_could_have_made_is_not_used(temporary: Path, how: str) -> None:
    (elsewhere := temporary.parent / "elsewhere").mkdir()
    if how == "writable by all":
        temporary.mkdir()
        temporary.chmod(0o777)
    elif how == "a link":
        temporary.symlink_to(elsewhere)
    else:
        temporary.touch()
    found = storage.cache_folder()
    assert found == storage.cache_folder()
    assert (found.parent, found.stat().st_mode & 0o777) == (temporary.parent, 0o700)
    assert found not in (temporary, elsewhere)


@pytest.mark.usefixtures("temporary")
def test_no_place_for_a_cache_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")
    with pytest.raises(OptionError, match=r"no folder to keep files in.*\nSet HIGGSNB_CACHE to a folder"):
        storage.cache_folder()
    assert list(storage.cached("toy")) == []


@pytest.mark.usefixtures("temporary")
def test_cache_below_the_home_of_nobody_makes_no_folder_called_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "~")
    monkeypatch.setenv("HIGGSNB_CACHE", "~/cache")
    with pytest.raises(OptionError, match="HIGGSNB_CACHE = ~/cache: this user has no home"):
        storage.cache_folder()


def test_shared_caches_are_looked_at_in_order_after_the_own(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a/toy", "b/toy", "installed/toy"):
        (tmp_path / name).mkdir(mode=0o755, parents=True)
    monkeypatch.setattr(storage, "INSTALLED_CACHE", tmp_path / "installed")
    assert list(storage.shared("toy")) == []  # the tests name none
    monkeypatch.delenv("HIGGSNB_SHARED_CACHE")
    assert list(storage.cached("toy")) == [temporary / "toy", tmp_path / "installed" / "toy"]
    monkeypatch.setenv("HIGGSNB_SHARED_CACHE", os.pathsep.join([f"{tmp_path}/b", f"{tmp_path}/none", f"{tmp_path}/a"]))
    assert list(storage.cached("toy")) == [temporary / "toy", tmp_path / "b" / "toy", tmp_path / "a" / "toy"]


@pytest.mark.parametrize(
    ("mode", "owner", "why"),
    [
        (0o755, 0, ""),
        (0o555, 0, ""),
        (0o775, 0, "can be written to by others (mode 775)"),
        (0o757, 0, "can be written to by others (mode 757)"),
        (0o755, 54321, "belongs to user 54321"),
    ],
)
def test_shared_folder_is_believed_if_only_root_or_this_user_could_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, mode: int, owner: int, why: str
) -> None:
    (folder := tmp_path / "toy").mkdir()
    folder.chmod(mode)
    if owner:
        if os.getuid() != 0:
            pytest.skip("only root can give a folder to another user")
        os.chown(folder, owner, -1)
    monkeypatch.setenv("HIGGSNB_SHARED_CACHE", str(tmp_path))
    assert [list(storage.shared("toy")) for _ in range(3)] == [[] if why else [folder]] * 3
    assert storage.distrust(folder) == why
    assert caplog.text.count(f"chmod -R go-w {folder}") == bool(why)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"HOME": "{home}"}, {}),
        ({"HOME": "/dev/null"}, {"MPLCONFIGDIR": "{temporary}/matplotlib"}),
        ({}, {"MPLCONFIGDIR": "{temporary}/matplotlib", "DASK_CONFIG": "{temporary}/dask"}),
        ({"HOME": "~", "MPLCONFIGDIR": "mine"}, {"DASK_CONFIG": "{temporary}/dask"}),
        ({"HOME": "{home}", "XDG_CONFIG_HOME": "/dev/null"}, {"MPLCONFIGDIR": "{home}/.cache/higgsnb/matplotlib"}),
    ],
)
def test_libraries_get_a_place_only_where_the_home_has_none(
    temporary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: dict[str, str]
) -> None:
    before = {name: value.format(home=tmp_path) for name, value in given.items()}
    monkeypatch.setattr(os, "environ", dict(before))
    storage.house_libraries()
    new = {name: value for name, value in os.environ.items() if before.get(name) != value}
    assert new == {name: value.format(temporary=temporary, home=tmp_path) for name, value in expected.items()}


# --- whose files are believed


def test_file_that_others_can_write_to_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert distrust(path) == ""
    path.touch(mode=0o644)
    assert distrust(path) == ""
    for mode in (0o664, 0o646, 0o666):
        path.chmod(mode)
        assert distrust(path) == f"can be written to by others (mode {mode:o})"


@as_root
def test_what_belongs_to_somebody_else_is_not_believed(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "to-theirs").symlink_to(tmp_path / "theirs")
    os.chown(tmp_path / "theirs", OTHER, OTHER)
    (tmp_path / "link-of-theirs").symlink_to(tmp_path)
    os.chown(tmp_path / "link-of-theirs", OTHER, OTHER, follow_symlinks=False)
    for name in ("theirs", "to-theirs", "link-of-theirs"):
        assert distrust(tmp_path / name) == f"belongs to user {OTHER}"


@as_root
def test_read_only_cache_of_an_administrator_is_believed_by_another_user(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir(mode=0o755)
    os.seteuid(OTHER)
    try:
        assert own_folder(tmp_path / "toy") == tmp_path / "toy"
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o775, 0o777, 0o1777])
def test_cache_where_others_can_write_becomes_a_folder_of_ones_own_in_it(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(mode)
    monkeypatch.setenv("HIGGSNB_CACHE", str(shared))
    assert {cache_folder("toy") for _ in range(3)} == {shared / f"user-{os.geteuid()}" / "toy"}
    (record,) = caplog.records
    assert f"(mode {mode:o})" in record.getMessage()
    assert f"chmod -R go-w {shared}" in record.getMessage()


@pytest.mark.parametrize("name", ["toy", "files"])
def test_folder_in_a_cache_is_believed_only_by_itself(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path))
    (tmp_path / name).mkdir()
    (tmp_path / name).chmod(0o777)
    assert cache_folder(name) == tmp_path / name / f"user-{os.geteuid()}"
    assert cache_folder() == tmp_path


@as_root
def test_where_others_hold_even_that_folder_a_temporary_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o777)
    (tmp_path / "user-0").mkdir()
    os.chown(tmp_path / "user-0", OTHER, OTHER)
    monkeypatch.setenv("HIGGSNB_CACHE", str(tmp_path))
    folder = cache_folder()
    assert (folder.stat().st_uid, stat.S_IMODE(folder.stat().st_mode)) == (0, 0o700)
    assert tmp_path not in folder.parents


@pytest.mark.parametrize("umask", [0o000, 0o002])
def test_what_is_written_to_a_cache_is_believed_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        make_folder(tmp_path / "new" / "files")
        with atomic_write(tmp_path / "new" / "a", mode=0o644) as temporary:
            temporary.write_text("x")
    finally:
        os.umask(before)
    made = [tmp_path / "new", tmp_path / "new" / "files", tmp_path / "new" / "a"]
    assert [distrust(path) for path in made] == ["", "", ""]


# --- links


def test_link_at_the_name_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a.json"
    victim.write_text("precious")
    path.symlink_to(victim)
    with atomic_write(path) as temporary:
        temporary.write_text("new")
    assert (victim.read_text(), path.read_text(), path.is_symlink()) == ("precious", "new", False)


def test_link_at_a_temporary_name_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr("uuid.uuid4", lambda: uuid.UUID(int=1))  # as if it could be foreseen
    temporary = tmp_path / f".a.json.{uuid.UUID(int=1).hex}.part"
    temporary.symlink_to(victim)
    with pytest.raises(FileExistsError) as caught, atomic_write(tmp_path / "a.json") as given:
        given.write_text("new")
    assert caught.value.filename == str(tmp_path / "a.json")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("kind", KINDS)
def test_name_that_others_can_foresee_is_opened_only_if_it_is_a_plain_file(kind: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a.part"
    plant(kind, path, victim)
    with pytest.raises(NotOwnFileError, match=r"is a link|is a second name|is not a regular file"):
        open_no_link(path)
    assert is_untouched(kind, victim)
