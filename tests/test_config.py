"""Settings: flags over variables over file, and what is said of a mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsd_core.config import KINDS, Settings, home, load
from fsd_core.errors import InputError


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.toml"
    path.write_text(text)
    return path


def test_defaults_are_the_contracts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = load(environ={})
    assert settings == Settings()
    assert (settings.provider, settings.channel, settings.workers, settings.branching) == ("local", "auto", 8, 4)
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


def test_tables_go_to_their_provider(tmp_path):
    settings = load(
        config=write(tmp_path, '[local]\nmemory_mb = 512\n[aws]\nregion = "eu-west-1"\n[mine]\nx = 1\n'), environ={}, providers=("mine",)
    )
    assert settings.table() == {"memory_mb": 512}
    assert load({"provider": "mine"}, tmp_path / "settings.toml", environ={}, providers=("mine",)).table() == {"x": 1}


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
        ("workers = 8.0", ["workers = 8.0", "a whole number"]),
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
    with pytest.raises(InputError, match=r"--batch-size 0: must be a whole number of at least 1"):
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
        KINDS[key].read(text, f"--{key} ")
    except InputError as error:
        said = str(error)
    assert len(said.splitlines()) <= 1


def test_home():
    assert home({"FSD_HOME": "/somewhere"}) == Path("/somewhere")
    assert home({}) == Path.home() / ".fsd"
