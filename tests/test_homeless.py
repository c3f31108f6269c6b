"""A user without a home folder, as containers have them: a temporary folder of their own keeps what is made once."""

import os
import pwd
import tempfile

import pytest

from fpt.errors import UserError
from fpt.files import cache_folder, data_folder


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The temporary folder of a user who has no home."""
    for name in ("HOME", "FPT_CACHE", "XDG_CACHE_HOME", "FPT_DATA"):
        monkeypatch.delenv(name, raising=False)

    def unknown(*_):
        raise KeyError

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(pwd, "getpwnam", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def _refused():
    with pytest.raises(UserError, match="FPT_CACHE") as caught:
        cache_folder()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_command_keeps_its_data_in_a_folder_of_this_user_s_alone(command, temporary):
    for _ in range(2):
        code, said, err = command("data", "listops", "--train-examples", 20, "--held-out", 5)
        assert code == 0 and not err
    folder = temporary / f"fpt-{os.getuid()}"
    assert "drawing" not in said and list(folder.rglob("*.safetensors")) and folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_somebody_else_s_is_refused(temporary, monkeypatch):
    cache_folder().rename(temporary / f"fpt-{os.getuid() + 1}")
    monkeypatch.setattr(os, "getuid", lambda real=os.getuid(): real + 1)
    assert "somebody else" in _refused()


@pytest.mark.parametrize("to", ["elsewhere", "nowhere"])
def test_a_link_is_refused_wherever_it_leads(temporary, to):
    (temporary / "elsewhere").mkdir(mode=0o700)
    (temporary / f"fpt-{os.getuid()}").symlink_to(temporary / to)
    _refused()


def test_a_folder_that_others_can_write_to_is_refused(temporary):
    cache_folder().chmod(0o770)
    assert "can write to it" in _refused()


def test_without_a_temporary_folder_too_it_is_one_line(temporary, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "missing"))
    _refused()


@pytest.mark.parametrize("name", ["FPT_CACHE", "XDG_CACHE_HOME"])
def test_a_cache_below_a_home_that_is_none_is_refused(monkeypatch, name):
    monkeypatch.setenv(name, "~/cache")
    with pytest.raises(UserError, match=f"{name} names ~/cache"):
        cache_folder()


def test_data_below_a_home_that_is_none_are_refused():
    with pytest.raises(UserError, match="names ~/data, but there is no such home folder"):
        data_folder("~/data")


def test_what_is_named_is_used(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "fpt"
    monkeypatch.setenv("FPT_CACHE", str(tmp_path / "named"))
    assert cache_folder() == tmp_path / "named"


def test_a_home_folder_holds_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "fpt"
