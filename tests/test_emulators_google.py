"""The emulators of Google Cloud: finding Google's, using one that runs elsewhere, the variables of clients, a proxy before gRPC."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import grpc
import pytest
from google.api_core import exceptions
from google.cloud import pubsub_v1

from fsd_conformance import emulators
from fsd_conformance.emulators import pubsub
from fsd_conformance.emulators.emulator import pointed
from fsd_conformance.emulators.google import Google
from fsd_conformance.emulators.grpc_proxy import GrpcProxy
from fsd_conformance.emulators.process import POINTERS, Server, started
from fsd_conformance.emulators.pubsub import PubSub
from fsd_core.cli import main
from fsd_core.errors import InputError

ROOT = Path(__file__).parents[1]
WITHIN_S = 30


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """Google's emulator, once."""
    try:
        pubsub.find()
    except InputError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(pubsub.HOST, raising=False)
        folder = tmp_path_factory.mktemp("pubsub")
        server = started(lambda: PubSub(folder))
        yield server
        server.stop()


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """A machine that has nothing; the folder of its programs."""
    for name in (pubsub.HOST, pubsub.JAR, "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))

    def program(name: str, lines: str = "") -> Path:
        file = programs / name
        file.write_text(f"#!/bin/sh\n{lines}\n")
        file.chmod(0o755)
        return file

    return program


# finding it


def test_it_is_not_here(alone):
    with pytest.raises(InputError, match=r"not on this machine: `gcloud components install pubsub-emulator`.*FSD_PUBSUB_JAR"):
        pubsub.find()
    with pytest.raises(InputError, match="not on this machine"):
        pubsub.check()


def test_it_is_a_component_the_newest(alone, tmp_path):
    java = alone("java")
    alone("gcloud", f"echo {tmp_path}/sdk")
    with pytest.raises(InputError, match="gcloud components install"):
        pubsub.find()
    library = tmp_path / "sdk/platform/pubsub-emulator/lib"
    library.mkdir(parents=True)
    for version in ("0.8.9", "0.8.20", "0.8.3"):
        (library / f"cloud-pubsub-emulator-{version}-all.jar").touch()
    assert pubsub.find() == [str(java), "-jar", str(library / "cloud-pubsub-emulator-0.8.20-all.jar")]


def test_a_cli_that_fails(alone):
    alone("gcloud", "exit 1")
    with pytest.raises(InputError, match=r"`gcloud info` failed.*gcloud components install"):
        pubsub.find()


def test_it_is_named_by_its_file(alone, tmp_path, monkeypatch):
    jar = tmp_path / "a.jar"
    monkeypatch.setenv(pubsub.JAR, str(jar))
    with pytest.raises(InputError, match=r"FSD_PUBSUB_JAR: .*a\.jar: no such file"):
        pubsub.find()
    jar.touch()
    with pytest.raises(InputError, match="needs Java 11"):
        pubsub.find()
    java = alone("java")
    assert pubsub.find() == [str(java), "-jar", str(jar)]
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(InputError, match="needs Java 11"):
        pubsub.find()


@pytest.mark.parametrize(("ci", "code", "words"), [("", 0, "1 skipped"), ("true", 1, "1 error")])
def test_the_suite_without_it_is_skipped_and_fails_where_it_is_checked(alone, ci, code, words):
    env = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"} | {"CI": ci}
    command = [sys.executable, "-m", "pytest", "conformance_tests/test_gcp.py", "-k", "test_gaps_say_why", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, words in done.stdout) == (code, True), done.stdout
    assert "gcloud components install pubsub-emulator" in done.stdout
    assert ci or "fsd emulators up gcp --name google" in done.stdout


# one that runs elsewhere


def test_one_that_runs_elsewhere_is_used_and_left(alone, running, tmp_path, monkeypatch):
    monkeypatch.setenv(pubsub.HOST, running.address)
    pubsub.check()
    other = PubSub(tmp_path)
    other.start()
    assert (other.address, other.process) == (running.address, None)
    assert other.healthy()
    other.stop()
    assert running.healthy()
    assert Google(tmp_path).env[pubsub.HOST] == running.address


@pytest.mark.parametrize(
    ("host", "words"), [("localhost", "expected HOST:PORT"), (":1", "expected HOST:PORT"), ("127.0.0.1:1", "no Pub/Sub emulator answers")]
)
def test_none_runs_there(monkeypatch, tmp_path, host, words):
    monkeypatch.setenv(pubsub.HOST, host)
    with pytest.raises(InputError, match=f"PUBSUB_EMULATOR_HOST: .*{words}"):
        PubSub(tmp_path).start()


# the variables of clients and servers


def test_servers_are_pointed_nowhere(monkeypatch, tmp_path):
    told = (
        "AWS_PROFILE",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "CLOUDSDK_CONFIG",
        pubsub.HOST,
        "STORAGE_EMULATOR_HOST",
        "GCE_METADATA_HOST",
        "FSD_GCP_ENDPOINT",
    )
    for name in told:
        monkeypatch.setenv(name, "somewhere:1")
    server = type("Some", (Server,), {"name": "some"})(tmp_path)
    assert not set(told) & set(server.environment())
    assert "PATH" in server.environment()


def test_the_sdk_sees_the_metadata_server_that_it_is_pointed_at():
    metadata = importlib.import_module("google.auth.compute_engine._metadata")
    before = metadata._GCE_METADATA_HOST
    with pointed({"GCE_METADATA_HOST": "127.0.0.1:1234"}, POINTERS["gcp"]):
        assert metadata._get_metadata_root(False) == "http://127.0.0.1:1234/computeMetadata/v1/"
    assert before == metadata._GCE_METADATA_HOST


def test_up_serves_googles_own_clients(running, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("FSD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    try:
        assert main(["emulators", "up", "gcp", "--json"]) == 0
        up = json.loads(capfd.readouterr().out)["emulators"]["gcp"]
        assert (up["name"], up["state"]) == ("google", "running")
        assert up["servers"].keys() == {"pubsub", "cloud-storage", "cloud-run"}
        with pointed(up["env"], POINTERS["gcp"]):
            import google.auth
            from google.cloud import storage

            assert google.auth.default()[1] == up["env"]["GOOGLE_CLOUD_PROJECT"]
            storage.Client().create_bucket("a-bucket").blob("a").upload_from_string(b"x")
            assert publish_and_pull(up["env"]["GOOGLE_CLOUD_PROJECT"]) == [b"one", b"two"]
    finally:
        assert main(["emulators", "down", "gcp"]) == 0
    assert emulators.state("gcp") is None


# a proxy before gRPC


def publish_and_pull(project: str) -> list[bytes]:
    """What comes of two messages, by Google's client."""
    topic, subscription = f"projects/{project}/topics/queue", f"projects/{project}/subscriptions/queue"
    with pubsub_v1.PublisherClient() as publisher, pubsub_v1.SubscriberClient() as subscriber:
        publisher.create_topic(name=topic)
        subscriber.create_subscription(name=subscription, topic=topic)
        for future in [publisher.publish(topic, body) for body in (b"one", b"two")]:
            future.result(WITHIN_S)
        found = []
        while len(found) < 2:
            found += [
                each.message.data for each in subscriber.pull(subscription=subscription, max_messages=9, timeout=WITHIN_S).received_messages
            ]
        return sorted(found)


def test_a_proxy_sees_calls_and_lets_the_rest_through(running, monkeypatch):
    seen = []
    proxy = GrpcProxy(running.address, seen.append)
    try:
        monkeypatch.setenv(pubsub.HOST, proxy.address)
        assert publish_and_pull("seen") == [b"one", b"two"]
        names = [method.rpartition("/")[2] for method in seen]
        assert names[:2] == ["CreateTopic", "CreateSubscription"]
        assert set(names[2:]) == {"Publish", "Pull"}
        before = list(seen)
        with urllib.request.urlopen(f"http://{proxy.address}/v1/projects/seen/topics", timeout=WITHIN_S) as answer:
            assert json.load(answer)["topics"] == [{"name": "projects/seen/topics/queue"}]
        assert seen == before
        with pubsub_v1.SubscriberClient() as subscriber, pytest.raises(exceptions.NotFound):
            subscriber.pull(subscription="projects/seen/subscriptions/never", max_messages=1, retry=None)
    finally:
        proxy.close()


def test_a_proxy_answers_itself(monkeypatch):
    seen = []

    def see(method):
        seen.append(method)
        return grpc.StatusCode.RESOURCE_EXHAUSTED

    proxy = GrpcProxy("127.0.0.1:1", see)
    try:
        monkeypatch.setenv(pubsub.HOST, proxy.address)
        with pubsub_v1.SubscriberClient() as subscriber, pytest.raises(exceptions.ResourceExhausted):
            subscriber.pull(subscription="projects/a/subscriptions/queue", max_messages=1, retry=None, timeout=WITHIN_S)
        assert seen == ["/google.pubsub.v1.Subscriber/Pull"]
    finally:
        proxy.close()
    proxy.close()
