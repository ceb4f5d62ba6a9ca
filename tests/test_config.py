"""Settings: flags over variables over file, and what is said of a mistake."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core import cost
from fsd_core.cli import main
from fsd_core.common import textfile
from fsd_core.config import KINDS, Settings, load
from fsd_core.errors import InputError


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def test_defaults_are_the_contracts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load(environ={})
    assert settings == Settings()
    assert (settings.provider, settings.channel, settings.workers, settings.branching) == ("local", "auto", "auto", 4)
    assert (settings.partition, settings.objective, settings.batch_size) == ("hypergraph", "cost", None)
    assert (settings.timeout, settings.seed, settings.json) == (900.0, 0, False)


def test_flags_over_variables_over_file(tmp_path):
    file = write(tmp_path, 'workers = 2\nbranching = 3\nseed = 4\nchannel = "queue"\n')
    settings = load({"workers": "16", "seed": None}, file, environ={"FSD_WORKERS": "5", "FSD_BRANCHING": "6"})
    assert (settings.workers, settings.branching, settings.seed, settings.channel) == (16, 6, 4, "queue")


def test_file_of_this_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fsd.toml").write_text("timeout = 60\njson = true\n")
    assert (load(environ={}).timeout, load(environ={}).json) == (60.0, True)
    other = write(tmp_path, "timeout = 61\n")
    assert load(environ={"FSD_CONFIG": str(other)}).timeout == 61.0
    assert load(config=other, environ={}).timeout == 61.0


def test_an_emulator_is_any_one_or_a_named_one(tmp_path):
    said = {"true": "auto", "false": None, '"localstack"': "localstack"}
    assert {text: load(None, write(tmp_path, f"emulator = {text}\n"), environ={}).emulator for text in said} == said
    file = write(tmp_path, "emulator = true\n")
    variables = {"1": "auto", "no": None, "moto": "moto"}
    assert {text: load(None, file, environ={"FSD_EMULATOR": text}).emulator for text in variables} == variables
    assert load({"emulator": "moto"}, file, environ={}).emulator == "moto"


def test_tables_go_to_their_provider(tmp_path, monkeypatch):
    monkeypatch.setattr("fsd_core.config.installed", lambda: ["aws", "local", "mine"])
    settings = load(config=write(tmp_path, '[local]\nmemory_mb = 512\n[aws]\nregion = "eu-west-1"\n[mine]\nx = 1\n'), environ={})
    assert settings.table() == {"memory_mb": 512}
    assert load({"provider": "mine"}, tmp_path / "settings.toml", environ={}).table() == {"x": 1}


def test_empty_variable_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(environ={"FSD_FAULTS": "", "FSD_WORKERS": ""}) == Settings()


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("workres = 8", ["settings.toml", "workres", "did you mean workers?"]),
        ("zzz = 8", ["settings.toml", "zzz", "known are provider, channel"]),
        ('workers = "8"', ["settings.toml", "workers", "'8'", "a whole number of at least 1"]),
        ("workers = 0", ["workers = 0", "a whole number of at least 1"]),
        ("workers = true", ["workers = True", "a whole number"]),
        ("workers = 8.5", ["workers = 8.5", "a whole number"]),
        ("timeout = inf", ["timeout = inf", "a number of seconds above 0"]),
        ('channel = "carrier"', ["channel = 'carrier'", "auto, queue, object, hybrid"]),
        ('app = "Mine"', ["app = 'Mine'", "lower-case"]),
        ("aws = 3", ["aws = 3", "[aws]"]),
        ("[provider]", ["provider = {}", "text"]),
        ("workers = ", ["settings.toml", "TOML"]),
    ],
)
def test_mistake_in_the_file(tmp_path, text, parts):
    with pytest.raises(InputError) as caught:
        load(config=write(tmp_path, text), environ={})
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize(
    ("environ", "parts"),
    [
        ({"FSD_WORKERS": "many"}, ["FSD_WORKERS", "'many'", "whole number"]),
        ({"FSD_JSON": "perhaps"}, ["FSD_JSON", "true or false"]),
        ({"FSD_WORKRES": "8"}, ["FSD_WORKRES", "FSD_WORKERS"]),
        ({"FSD_TIMEOUT": "nan"}, ["FSD_TIMEOUT", "above 0"]),
    ],
)
def test_mistake_in_a_variable(tmp_path, monkeypatch, environ, parts):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        load(environ=environ)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_other_variables_are_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load(environ={"FSD_HOME": "/x", "FSD_DEBUG": "1", "FSD_LOCAL_THING": "y", "WORKERS": "3"}) == Settings()


def test_mistake_in_a_flag_names_it_as_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--batch-size 0: expected a whole number of at least 1"):
        load({"batch_size": "0"}, environ={})
    with pytest.raises(InputError, match=r"--method ''"):
        load({"partition": ""}, environ={}, names={"partition": "--method"})


def test_missing_file_is_an_error_only_where_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    load(environ={})
    with pytest.raises(InputError, match="no such file"):
        load(config="none.toml", environ={})
    with pytest.raises(InputError, match="cannot be read"):
        load(config=tmp_path, environ={})


@given(st.sampled_from(sorted(KINDS)), st.text())
def test_any_text_is_read_or_refused_in_one_line(key, text):
    said = ""
    try:
        KINDS[key].read_text(text, f"--{key} ")
    except InputError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbfworkers = 3\nseed = 4\n",
        b"workers = 3\r\nseed = 4\r\n",
        b"\xef\xbb\xbfworkers = 3\r\nseed = 4",
        b"workers = 3\rseed = 4",
    ],
)
def test_what_an_editor_adds_is_no_content(content, tmp_path):
    path = tmp_path / "fsd.toml"
    path.write_bytes(content)
    settings = load(config=path, environ={})
    assert (settings.workers, settings.seed) == (3, 4)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("workers = 3".encode("utf-16"), "is UTF-16: expected UTF-8"),
        (b'app = "\xe4"', "byte 7 is 0xe4, which is not UTF-8"),
        (b"\0", "is not TOML"),
        (b"a = " + b"[" * 100_000, "is not TOML"),
    ],
)
def test_what_is_no_text_is_named(content, says, tmp_path):
    path = tmp_path / "fsd.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says) as caught:
        load(config=path, environ={})
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_read_and_not_waited_for_in_vain(tmp_path, monkeypatch):
    monkeypatch.setattr(textfile, "PIPE_S", 0.2)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="is a pipe that sent nothing"):
        load(config=tmp_path / "pipe", environ={})
    monkeypatch.setattr(textfile, "PIPE_S", 60.0)
    read, write = os.pipe()
    threading.Timer(0.2, lambda: (os.write(write, b"workers = 3\n"), os.close(write))).start()
    assert load(config=f"/dev/fd/{read}", environ={}).workers == 3  # as of `--config <(command)`
    os.close(read)
    with pytest.raises(InputError, match="is larger than 16 MiB"):
        load(config="/dev/zero", environ={})


def test_a_file_here_that_leads_nowhere_is_no_missing_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("fsd.toml").symlink_to("gone.toml")
    with pytest.raises(InputError, match=r"fsd\.toml: no such file"):
        load(environ={})


def test_prices_and_counts_are_read_alike(tmp_path, capfd):
    prices, usage = tmp_path / "t.toml", tmp_path / "u.json"
    prices.write_bytes(b"\xef\xbb\xbf" + Path(cost.load("local").path).read_bytes().replace(b"\n", b"\r\n"))
    assert [price.sku for price in cost.load(str(prices)).prices] == [price.sku for price in cost.load("local").prices]
    usage.write_bytes(b'\xef\xbb\xbf{"object_puts": 3}\r\n')
    assert main(["bill", "--tariff", str(prices), "--usage", str(usage), "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["tariff"]
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        cost.load(f"{tmp_path}/")


def test_a_table_of_a_provider_that_is_not_installed(tmp_path):
    with pytest.raises(InputError, match=r"\[amazon\]: provider 'amazon' is not installed; expected tables of aws, azure, gcp, local"):
        load(config=write(tmp_path, "[amazon]\nx = 1\n"), environ={})
    with pytest.raises(InputError, match=r"\[azur\]: provider 'azur' is not installed; did you mean \[azure\]\?"):
        load(config=write(tmp_path, "[azur]\nx = 1\n"), environ={})
