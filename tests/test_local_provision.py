"""The app as a folder, the [local] table, and the provider as others find it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from fsd_core.driver import Code, InvokeDriver, Message, MessageDriver, ObjectDriver, Refused
from fsd_core.errors import InputError
from fsd_local import PROVIDER
from fsd_local.errors import classify
from fsd_local.provision import LocalProvisioner
from fsd_local.settings import Settings


def test_ensure_is_idempotent_and_grows(tmp_path: Path) -> None:
    provisioner = PROVIDER.provisioner({"root": str(tmp_path), "memory_mb": 512, "lease_s": 3, "cold": True})
    first = provisioner.ensure("my-app", 2, 1)
    queue = PROVIDER.messages(first, 0)
    queue.publish([Message(1, b"kept")])
    PROVIDER.objects(first).put("kept", b"")
    second = provisioner.ensure("my-app", 3, 2)
    assert (second.ranks, second.slots) == (3, 2)
    assert [d.body for d in PROVIDER.messages(second, 0).receive(1, 10, 0)] == [b"kept"]
    assert PROVIDER.objects(second).list("").keys == ["kept"]
    assert PROVIDER.messages(second, 1).receive(2, 10, 0) == []
    assert provisioner.ensure("my-app", 1, 1) == provisioner.ensure("my-app", 1, 1)
    assert second.names == {
        "root": str(tmp_path / "my-app"),
        "memory_mb": "512",
        "timeout_s": "900.0",
        "concurrency": "128",
        "lease_s": "3.0",
        "cold": "true",
        "audit_retention_days": "365",
    }
    assert queue.limits.lease_s == 3
    assert PROVIDER.invoker(second).limits.memory_bytes == 512 << 20


def test_drivers_satisfy_the_protocols(tmp_path: Path) -> None:
    resources = PROVIDER.provisioner({"root": str(tmp_path)}).ensure("app", 1, 1)
    for driver, protocol in (
        (PROVIDER.messages(resources, 0), MessageDriver),
        (PROVIDER.objects(resources), ObjectDriver),
        (PROVIDER.invoker(resources), InvokeDriver),
    ):
        assert isinstance(driver, protocol)
        driver.native()
        driver.close()
        driver.close()


def test_destroy_removes_all_and_says_what(tmp_path: Path) -> None:
    provisioner = PROVIDER.provisioner({"root": str(tmp_path)})
    assert provisioner.destroy("app") == []
    resources = provisioner.ensure("app", 2, 1)
    provisioner.ensure("app-2", 1, 1)
    PROVIDER.objects(resources).put("a/b", b"")
    (tmp_path / "app.destroyed-0123456789ab").mkdir()  # as an interrupted destroy leaves it
    (tmp_path / "app.notes").mkdir()
    assert provisioner.destroy("app") == ["queue 0/0", "queue 0/1", f"folder {tmp_path / 'app'}"]
    assert sorted(os.listdir(tmp_path)) == ["app-2", "app.notes"]
    assert provisioner.destroy("app") == []


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1").write_text("dear")
    provisioner = PROVIDER.provisioner({"root": str(tmp_path)})
    for call in (lambda: provisioner.ensure("thesis", 1, 1), lambda: provisioner.destroy("thesis")):
        with pytest.raises(InputError, match="did not make"):
            call()
    assert os.listdir(tmp_path / "thesis") == ["chapter1"]


def test_stale_leftovers_of_writers_are_swept(tmp_path: Path) -> None:
    provisioner = PROVIDER.provisioner({"root": str(tmp_path)})
    root = Path(provisioner.ensure("app", 1, 1).names["root"])
    for folder in (root / "tmp", root / "queues/0/0/tmp"):
        (folder / "old").write_bytes(b"half")
        (folder / "young").write_bytes(b"half")
        os.utime(folder / "old", (0, 0))
    provisioner.ensure("app", 1, 1)
    assert os.listdir(root / "tmp") == os.listdir(root / "queues/0/0/tmp") == ["young"]


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FSD_HOME", str(tmp_path))
    assert LocalProvisioner({}).ensure("app", 1, 1).names["root"] == str(tmp_path / "local" / "app")
    monkeypatch.delenv("FSD_HOME")
    assert Settings().folder("app") == str(Path.home() / ".fsd" / "local" / "app")
    monkeypatch.chdir(tmp_path)
    assert Settings(root="here").folder("app") == str(tmp_path / "here" / "app")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"memory": 1}, "memory: unknown"),
        ({"memory_mb": "2048"}, "memory_mb = '2048': expected a whole number"),
        ({"memory_mb": True}, "memory_mb = True: expected a whole number"),
        ({"memory_mb": 3}, "memory_mb = 3: expected a whole number from 64 to"),
        ({"timeout_s": float("nan")}, "timeout_s = nan"),
        ({"lease_s": 0}, "lease_s = 0: expected a number of seconds from 0.1"),
        ({"concurrency": 1.5}, "concurrency = 1.5: expected a whole number"),
        ({"cold": 1}, "cold = 1: expected true or false"),
        ({"root": 1}, "root = 1: expected a path"),
    ],
)
def test_settings_are_checked(table: dict[str, object], said: str) -> None:
    with pytest.raises(InputError) as caught:
        PROVIDER.provisioner(table)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("app", ["", "A", "a/b", "..", "a.b", "a" * 41, "a\n"])
def test_app_names_are_checked(tmp_path: Path, app: str) -> None:
    provisioner = PROVIDER.provisioner({"root": str(tmp_path)})
    for call in (lambda: provisioner.ensure(app, 1, 1), lambda: provisioner.destroy(app)):
        with pytest.raises(InputError, match="app "):
            call()
    for ranks, slots in ((0, 1), (1, 0)):
        with pytest.raises(InputError, match="at least 1"):
            provisioner.ensure("app", ranks, slots)


def test_attach_outside_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FSD_LOCAL_RESOURCES", raising=False)
    with pytest.raises(InputError, match="not a function"):
        PROVIDER.attach("app")
    monkeypatch.setenv("FSD_LOCAL_RESOURCES", json.dumps({"app": "app", "ranks": 2, "slots": 1, "names": {"root": "r"}}))
    assert PROVIDER.attach("app").names == {"root": "r"}
    with pytest.raises(InputError, match="'other'"):
        PROVIDER.attach("other")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError(errno.ENOENT, "x"), Code.NOT_FOUND),
        (FileExistsError(errno.EEXIST, "x"), Code.ALREADY_EXISTS),
        (PermissionError(errno.EACCES, "x"), Code.DENIED),
        *((OSError(full, "x"), Code.TOO_LARGE) for full in (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)),
        (OSError(errno.EROFS, "x"), Code.DENIED),
        (OSError(errno.EIO, "x"), Code.UNAVAILABLE),
        (OSError(errno.ENAMETOOLONG, "x"), Code.INVALID),
        (ConnectionError("x"), Code.UNAVAILABLE),
        (TimeoutError(), Code.DEADLINE),
        (Refused(Code.TOO_LARGE, "x"), Code.TOO_LARGE),
        (OSError("x"), Code.UNKNOWN),
        (ValueError("x"), Code.UNKNOWN),
    ],
)
def test_errors_have_codes(error: Exception, code: Code) -> None:
    assert classify(error) is code


def test_found_by_entry_point_and_light() -> None:
    (entry,) = entry_points(group="fsd.providers", name="local")
    assert entry.load() is PROVIDER
    probe = "import sys, fsd_local; print([m for m in ('numpy', 'zstandard', 'scipy', 'sqlite3', 'subprocess') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-P", "-c", probe], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("at", ["mark", "queues"])
def test_an_app_whose_making_was_cut_short_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Killed, or out of room: what is there is no app yet, and the next `ensure` makes all of it."""
    provisioner, made = LocalProvisioner({"root": str(tmp_path)}), []
    mkfifo = os.mkfifo

    def cut_short(*arguments: Any) -> None:
        if len(made) == (0 if at == "mark" else 3):
            raise KeyboardInterrupt
        made.append(mkfifo(*arguments))

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkfifo", cut_short)
        with pytest.raises(KeyboardInterrupt):
            provisioner.ensure("half", 2, 4)
    assert provisioner.find("half") is None
    (tmp_path / "half" / ".app.0123456789ab").write_text("")  # a mark that was being written
    assert (provisioner.ensure("half", 2, 4).ranks, provisioner.ensure("half", 2, 4).slots) == (2, 4)
    found = provisioner.find("half")
    assert found is not None
    assert (found.ranks, found.slots) == (2, 4)


def test_who_looks_while_others_make_and_remove_sees_a_whole_app_or_none(tmp_path: Path) -> None:
    provisioner, over = LocalProvisioner({"root": str(tmp_path)}), threading.Event()

    def look() -> set[tuple[int, int]]:
        seen = set()
        while not over.is_set():
            if found := provisioner.find("app"):
                seen.add((found.ranks, found.slots))
        return seen

    with ThreadPoolExecutor(2) as pool:
        looking = [pool.submit(look) for _ in range(2)]
        for _ in range(20):
            provisioner.ensure("app", 3, 2)
            provisioner.destroy("app")
        over.set()
        assert set().union(*(each.result(60) for each in looking)) <= {(3, 2)}
