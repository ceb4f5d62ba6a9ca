"""The command: what it prints where, its exit codes, and what it refuses. A small RadiX-Net runs for real."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse

from fsd_core.cli import main
from fsd_core.cli.screen import Screen
from fsd_core.client.outputs import compare, write_output
from fsd_core.common.amount import amount
from fsd_core.common.sealed import seal
from fsd_core.driver import ObjectDriver
from fsd_core.model import open_model
from fsd_core.model.inputs import open_inputs
from fsd_core.model.serial import serial
from fsd_local import PROVIDER

NET, INPUT = "radixnet:1024:6", "random:40"
FIELDS = {
    "samples", "neurons", "layers", "workers", "branching", "provider", "channel", "partition", "output_nonzero_samples",
    "seconds", "seconds_sum", "meter", "meter_layers", "memory", "truth", "parallel", "micro_batches",
}  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def here(tmp_path, monkeypatch, home):
    """An empty folder to stand in, and a home shared by this file."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("FSD_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FSD_HOME", str(home))
    return tmp_path


@pytest.fixture
def fsd(here, capfd):
    """Run the command in this process: exit code, standard output, standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = main([str(word) for word in words])
        out, err = capfd.readouterr()
        return code, out, err

    return call


def one_object(out: str) -> dict:
    assert out.count("\n") == 1
    return json.loads(out)


def small_run(*more: object) -> list[object]:
    return ["run", NET, INPUT, "--workers", 2, "--partition", "block", *more]


# what it prints


def test_run_prints_a_table_for_people(fsd):
    code, out, err = fsd(*small_run())
    assert code == 0, err
    for words in ("Result", "samples", "40", "2 on local", "Time", "exchange", "Sent and stored", "queue requests", "Memory"):
        assert words in out
    assert "launch" in err
    assert "Result" not in err


def test_run_prints_one_object(fsd):
    code, out, err = fsd("run", "--workers", 2, NET, "--json", "--partition=block", INPUT)
    assert code == 0, err
    answer = one_object(out)
    assert answer.keys() >= FIELDS
    assert "error" not in answer
    assert (answer["samples"], answer["neurons"], answer["layers"], answer["workers"]) == (40, 1024, 6, 2)
    assert answer["truth"] is None
    assert answer["seconds"].keys() >= {"total", "stage", "launch", "load", "compute", "exchange"}


def test_run_json_by_variable(fsd, monkeypatch):
    monkeypatch.setenv("FSD_JSON", "1")
    code, out, _ = fsd(*small_run())
    assert code == 0
    assert one_object(out)["samples"] == 40


def test_without_words_it_helps(fsd):
    code, out, _ = fsd()
    assert code == 0
    assert "fsd demo" in out


COMMANDS = """run, compare, report, partition, model import, model radixnet, model show, deploy, destroy, audit, gc, clean, conformance,
    doctor, demo, emulators up, emulators down, emulators status, provider new, tariff list, tariff show, bill"""


@pytest.mark.parametrize("words", COMMANDS.replace("\n   ", "").split(", "))
def test_every_help_has_an_example(fsd, words):
    code, out, _ = fsd(*words.split(), "--help")
    assert code == 0
    assert f"fsd {words}" in out.split("Example")[1]


def test_libraries_and_children_do_not_reach_standard_output(capfd):
    screen = Screen(json=True)
    with screen.guarded():
        print("a library")
        os.write(1, b"a C library\n")
        subprocess.run([sys.executable, "-c", "print('a child')"], check=True)
        screen.answer({"one": 1})
        screen.answer({"two": 2})
        screen.print("a table")
    out, err = capfd.readouterr()
    assert out == '{"one": 1}\n'
    assert all(words in err for words in ("a library", "a C library", "a child"))


def test_a_closed_pipe_is_no_error(here):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-m", "fsd_core.cli", "doctor"], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_amount():
    assert [amount(n) for n in (0, 999, 1000, 1_234_567, 5e12)] == ["0 B", "999 B", "1.0 kB", "1.2 MB", "5000.0 GB"]


def test_a_split_by_flags_by_file_and_by_its_partition(fsd, here):
    code, out, _ = fsd("run", NET, INPUT, "--data-parallel", 2, "--pipeline-parallel", 2, "--batch-size", 10, "--json")
    answer = json.loads(out)
    assert code == 0
    assert (answer["workers"], answer["micro_batches"]) == (4, 4)
    assert answer["parallel"] == {"data": 2, "pipeline": 2, "tensor": 1}
    assert answer["seconds_sum"]["compute"] >= answer["seconds"]["compute"] > 0
    code, out, _ = fsd("partition", NET, "p.npz", "--pipeline-parallel", 3, "--tensor-parallel", 2, "--json")
    assert (code, json.loads(out)["first_layers"], json.loads(out)["workers"]) == (0, [1, 3, 5], 6)
    (here / "fsd.toml").write_text('workers = "auto"\npipeline_parallel = 3\ntensor_parallel = 2\npartition = "p.npz"\n')
    code, out, _ = fsd("run", NET, INPUT)
    assert code == 0
    assert "1 replica x 3 stages x 2 workers, 1 micro-batch" in out
    code, _, err = fsd("run", NET, INPUT, "--pipeline-parallel", 1, "--tensor-parallel", 6)
    assert code == 2
    assert "made for 3 stages: expected 1; use --pipeline-parallel 3" in err


# what it refuses

WRONG = [
    (["run", NET], "INPUT"),
    (["run", NET, INPUT, "more"], "more"),
    (["run", NET, INPUT, "--nonsense"], "--nonsense"),
    (["nonsense"], "nonsense"),
    (["run", NET, INPUT, "--workers", "0"], "--workers 0"),
    (["run", NET, INPUT, "--workers", "-3"], "--workers -3"),
    (["run", NET, INPUT, "--workers", "eight"], "--workers 'eight'"),
    (["run", NET, INPUT, "--workers", "8", "--pipeline-parallel", "3"], "--workers 8: --pipeline-parallel 3, which does not divide 8"),
    (
        ["run", NET, INPUT, "--workers", "4", "--data-parallel", "2", "--pipeline-parallel", "2", "--tensor-parallel", "2"],
        "--workers 4: --data-parallel 2 x --pipeline-parallel 2 x --tensor-parallel 2 = 8: expected --workers 8",
    ),
    (["run", NET, INPUT, "--pipeline-parallel", "7"], "--pipeline-parallel 7: expected at most 6, the number of layers"),
    (["run", NET, INPUT, "--data-parallel", "41"], "--data-parallel 41: expected at most 40, the number of samples"),
    (["run", NET, INPUT, "--data-parallel", "2", "--batch-size", "40"], "--batch-size 40 makes 1 micro-batches of 40 samples"),
    (["partition", NET, "out.npz", "--workers", "8", "--pipeline-parallel", "3"], "--pipeline-parallel 3"),
    (["run", NET, INPUT, "--batch-size", "0"], "--batch-size 0"),
    (["run", NET, INPUT, "--branching", "0"], "--branching 0"),
    (["run", NET, INPUT, "--timeout", "0"], "--timeout 0"),
    (["run", NET, INPUT, "--channel", "pigeon"], "auto, queue, object, hybrid"),
    (["run", NET, INPUT, "--app", "Über"], "--app"),
    (["run", NET, INPUT, "--provider", "nowhere"], "local"),
    (["run", NET, INPUT, "--emulator"], "needs no emulator"),
    (["run", NET, INPUT, "--emulator=moto"], "needs no emulator"),
    (["run", NET, INPUT, "--faults", "gremlins=1"], "gremlins"),
    (["run", NET, INPUT, "--partition", "nosuch.npz"], "nosuch.npz"),
    (["run", NET, INPUT, "--config", "nosuch.toml"], "nosuch.toml"),
    (["run", NET, INPUT, "--output", "no/such/out.npz"], "no/such/out.npz"),
    (["run", NET, INPUT, "--output", "."], "did not make it"),
    (["run", NET, INPUT, "--truth", "nosuch.tsv"], "nosuch.tsv"),
    (["run", "nosuch", INPUT], "nosuch"),
    (["run", "radixnet:1000:6", INPUT], "1000"),
    (["run", NET, "nosuch.npz"], "nosuch.npz"),
    (["model", "show", "nosuch"], "nosuch"),
    (["model", "radixnet", "out"], "--neurons"),
    (["model", "import", "nosuch", "out"], "nosuch"),
    (["model", "import", "nosuch", "out", "--clip", "-1"], "--clip -1"),
    (["partition", NET, "out.npz", "--workers", "0"], "--workers 0"),
    (["partition", NET, "out.npz", "--method", "nosuch"], "nosuch"),
    (["partition", NET], "OUT is missing: expected the path"),
    (["partition", NET, "out.npz", "--estimate"], "--estimate writes no partition"),
    (["partition", NET, "--estimate", "--method", "block"], "--estimate --method block: expected hypergraph"),
    (["partition", NET, "--estimate", "--workers", "4", "--pipeline-parallel", "2"], "--pipeline-parallel 2: expected 1 stage"),
    (["emulators", "up", "aws", "--name", "nosuch"], "moto, localstack"),
    (["emulators", "up", "--name", "moto"], "the cloud is missing: expected"),
    (["run", NET, INPUT, "--provider", "aws", "--emulator=nosuch"], "moto, localstack"),
    (["destroy", "--provider", "aws", "--emulator"], "fsd emulators up aws"),
    (["conformance", "--provider", "aws", "--live", "--emulator"], "expected only one of them"),
    (["emulators", "up", "local"], "needs no emulator"),
    (["emulators", "up", "mars"], "aws, azure, gcp"),
    (["deploy", "--provider", "nowhere"], "local"),
    (["deploy", "--slots", "0"], "--slots 0"),
    (["conformance", "--provider", "nowhere"], "local"),
]


@pytest.mark.parametrize(("words", "part"), WRONG, ids=lambda value: " ".join(value[2:] or value) if isinstance(value, list) else "")
def test_wrong_input_is_one_line_and_2(fsd, words, part):
    code, out, err = fsd(*words)
    assert (code, out) == (2, "")
    assert part in err.splitlines()[-1]
    assert err.startswith("fsd")
    code, out, _ = fsd(*words, "--json")
    error = one_object(out)["error"]
    assert code == 2
    assert (error["code"], error["rank"], error["layer"]) == ("INVALID", None, None)
    assert part in error["message"]


def test_a_group_wants_a_command(fsd):
    code, out, err = fsd("model")
    assert (code, out) == (2, "")
    assert "Missing command" in err


def test_what_is_known_of_a_failed_run_is_told(fsd):
    code, out, _ = fsd(*small_run("--json", "--truth", "nosuch.tsv"))
    answer = one_object(out)
    assert code == 2
    assert (answer["layers"], answer["samples"], answer["workers"], answer["channel"]) == (6, 40, 2, "auto")


def test_a_run_past_its_deadline_is_3(fsd):
    code, out, err = fsd(*small_run("--json", "--timeout", "0.01"))
    error = one_object(out)["error"]
    assert code == 3
    assert error["code"] == "DEADLINE"
    assert err.splitlines()[-1].startswith("fsd: DEADLINE")


def test_a_bug_says_so(fsd, monkeypatch):
    def broken(spec: str) -> None:
        raise KeyError("x")

    monkeypatch.setattr("fsd_core.model.open_model", broken, raising=False)
    code, out, err = fsd("model", "show", NET, "--json")
    assert code == 3
    assert "this is a bug: KeyError" in one_object(out)["error"]["message"]
    assert "Traceback" not in err
    monkeypatch.setenv("FSD_DEBUG", "1")
    assert "Traceback" in fsd("model", "show", NET)[2]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(here, number, code):
    words = ["run", "radixnet:1024:120", INPUT, "--workers", "2", "--partition", "block", "--json", "--channel=queue", "--faults=delay=2s"]
    process = subprocess.Popen([sys.executable, "-m", "fsd_core.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        while "launch" not in (line := process.stderr.readline()):
            assert line, "ended before it launched"
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, err
    assert one_object(out)["error"]["code"] == "INTERRUPTED"
    rest = "; could not .*: the slot is free after 60 s, `fsd gc --provider local --app fsd` removes the rest"  # where 1.2 s are too short
    assert re.fullmatch(f"fsd: (interrupted|terminated)({rest})?", err.splitlines()[-1])


# files that it writes and reads


def test_output_is_the_serial_answer_and_replaces_its_own(fsd, here):
    out = here / "out.npz"
    for _ in range(2):
        code, _, err = fsd(*small_run("--output", out))
        assert code == 0, err
    model = open_model(NET)
    expected = serial(model, open_inputs(INPUT, model.inputs))
    np.testing.assert_allclose(scipy.sparse.load_npz(out).toarray(), expected.toarray(), atol=1e-4)
    assert [path.name for path in here.iterdir()] == ["out.npz"]


def test_output_of_others_is_refused_before_anything_starts(fsd, here):
    theirs = here / "theirs.npz"
    scipy.sparse.save_npz(theirs, scipy.sparse.csr_matrix((3, 3)))
    before = theirs.read_bytes()
    code, _, err = fsd(*small_run("--output", theirs))
    assert code == 2
    assert "did not make it" in err
    assert "launch" not in err
    assert theirs.read_bytes() == before


def test_written_output_keeps_the_mode_that_umask_gives(here):
    write_output(here / "out.npz", scipy.sparse.csr_matrix((2, 3), dtype=np.float32))
    (here / "plain").touch()
    assert (here / "out.npz").stat().st_mode == (here / "plain").stat().st_mode


def test_truth(fsd, here):
    code, out, _ = fsd(*small_run("--json", "--output", "out.npz"))
    assert code == 0
    rows = scipy.sparse.load_npz("out.npz")
    alive = [int(row) + 1 for row in np.flatnonzero(np.diff(rows.indptr))]
    assert one_object(out)["output_nonzero_samples"] == len(alive) > 2
    truth = here / "truth.tsv"
    truth.write_text("".join(f"{row}\n" for row in alive))
    code, out, _ = fsd(*small_run("--json", "--truth", truth))
    assert code == 0
    assert one_object(out)["truth"] == {"expected": len(alive), "matched": len(alive), "missing": 0, "extra": 0}
    truth.write_text("".join(f"{row}\n" for row in alive[1:]))
    code, out, err = fsd(*small_run("--json", "--truth", truth))
    assert code == 1
    assert one_object(out)["truth"] == {"expected": len(alive) - 1, "matched": len(alive) - 1, "missing": 0, "extra": 1}
    assert "1 are extra" in err.splitlines()[-1]


def test_compare_does_not_count_stored_zeros():
    output = scipy.sparse.csr_matrix((np.array([0, 1, 2], np.float32), ([0, 1, 3], [0, 0, 0])), shape=(4, 1))
    assert compare(np.array([1, 2]), output) == {"expected": 2, "matched": 1, "missing": 1, "extra": 1}


@pytest.mark.parametrize("line", ["0", "41", "-1", "1.5", "one", "1 2", "99999999999999999999"])
def test_wrong_line_of_truth(fsd, here, line):
    Path("truth.tsv").write_text(f"1\n\n{line}\n")
    code, _, err = fsd(*small_run("--truth", "truth.tsv"))
    assert code == 2
    assert "line 3" in err
    assert "1 to 40" in err


def test_partition_then_run_with_it(fsd):
    code, out, err = fsd("partition", "--method", "random", NET, "--workers", 2, "p.npz", "--json")
    assert code == 0, err
    figures = one_object(out)
    assert figures.keys() >= {
        "rows_moved",
        "rows_moved_by_layer",
        "rows_per_source_row",
        "max_sent",
        "max_received",
        "imbalance",
        "seconds",
    }
    assert len(figures["rows_moved_by_layer"]) == 5
    code, out, err = fsd("run", NET, INPUT, "--workers", 2, "--partition", "p.npz", "--json")
    assert code == 0, err
    code, out, _ = fsd("partition", NET, "p.npz", "--method", "block", "--workers", 2)
    assert code == 0
    assert "rows_moved" in out


def test_estimate_of_a_partition(fsd):
    pytest.importorskip("mtkahypar")
    code, out, err = fsd("partition", NET, "--workers", 2, "--estimate", "--json")
    assert code == 0, err
    answer = one_object(out)
    assert (answer["estimated"], answer["workers"], len(answer["rows_moved_by_layer"])) == (True, 2, 5)
    assert answer["rows_moved"] == sum(answer["rows_moved_by_layer"])
    code, out, _ = fsd("partition", NET, "--workers", 2, "--estimate")
    assert code == 0
    assert "estimate" in out
    assert f"about {answer['rows_moved']}" in out


def test_negative_values_and_positionals_anywhere(fsd, here):
    np.savez(here / "weights.npz", weights_1=np.eye(3, dtype=np.float32))
    for bias in ("-0.05", "-1e-3", "-.5"):
        code, out, err = fsd("model", "import", "--bias", bias, "weights.npz", "--activation", "tanh", "made", "--json")
        assert code == 0, err
        low, high = one_object(out)["groups"][0]["bias"]
        assert low == high == np.float32(bias)
    code, out, _ = fsd("model", "show", "made")
    assert code == 0
    assert "tanh" in out


def test_model_radixnet(fsd):
    code, out, _ = fsd("model", "radixnet", "--neurons", 1024, "made", "--layers", 3, "--weights", "normal", "--seed", 5, "--json")
    assert code == 0
    assert (one_object(out)["layers"], open_model("made").neurons) == (3, 1024)


# the rest


def test_settings_of_a_file_hold(fsd, here):
    Path("fsd.toml").write_text('workers = 3\npartition = "block"\nchannel = "object"\n')
    code, out, err = fsd("run", NET, INPUT, "--json")
    assert code == 0, err
    answer = one_object(out)
    assert (answer["workers"], answer["partition"], answer["channel"]) == (3, "block", "object")


def put(app: str, bodies: dict[str, object]) -> ObjectDriver:
    """Objects in the store of a deployed app."""
    objects = PROVIDER.objects(PROVIDER.provisioner({}).ensure(app, 1, 1))
    for key, body in bodies.items():
        objects.put(key, seal(body))
    return objects


def test_deploy_gc_clean_destroy(fsd, home):
    code, out, err = fsd("deploy", "--app", "mine", "--workers", 2, "--json")
    assert code == 0, err
    assert (one_object(out)["app"], one_object(out)["slots"]) == ("mine", 4)
    assert fsd(*small_run("--app", "mine"))[0] == 0
    objects = put("mine", {"0123456789abcdef/run/config": {}})
    code, out, err = fsd("gc", "--app", "mine", "--json")
    assert code == 0, err
    assert one_object(out)["removed"] == 1
    assert not objects.list("0123456789abcdef/").keys
    assert any("/content/" in key for key in objects.list("").keys)
    code, out, _ = fsd("clean", "--app", "mine", "--keep-records", "--json")
    assert code == 0
    assert one_object(out)["removed"] > 0
    assert not any("/content/" in key for key in objects.list("").keys)
    assert list((home / "runs").iterdir())
    assert fsd(*small_run("--app", "mine"))[0] == 0
    code, out, _ = fsd("clean", "--app", "mine", "--json")
    assert code == 0
    assert one_object(out)["removed"] > 0
    assert not any("/content/" in key for key in objects.list("").keys)
    assert [each.name for each in (home / "runs").iterdir()] == ["audit"]
    code, out, _ = fsd("destroy", "--app", "mine", "--json")
    assert code == 0
    assert one_object(out)["removed"]
    assert one_object(fsd("destroy", "--app", "mine", "--json")[1])["removed"] == []


def test_an_audit_says_what_does_not_hold(fsd):
    code, out, err = fsd("audit", "--app", "mine", "--json")
    assert code == 2
    assert "is not deployed, or not completely: expected a complete app: run 'fsd deploy --provider local --app mine' first" in err
    assert fsd("deploy", "--app", "mine", "--workers", 1, "--slots", 1)[0] == 0
    code, out, _ = fsd("audit", "--app", "mine", "--json")
    answer = one_object(out)
    assert (code, answer["app"], answer["provider"]) == (0, "mine", "local")
    assert [(each["name"], each["holds"]) for each in answer["checks"]] == [
        ("folder: no public access", True),
        ("deployment: last change", True),
    ]
    assert "shown  deployment: last change" in fsd("audit", "--app", "mine")[1]
    root = Path(PROVIDER.provisioner({}).find("mine").names["root"])
    root.chmod(0o777)
    code, out, err = fsd("audit", "--app", "mine")
    assert code == 1
    assert "FAILS  folder: no public access" in out
    assert f"to do:    chmod 700 {root}" in out
    assert err.splitlines()[-1].endswith("1 of 2 promises do not hold: folder: no public access")


def test_gc_leaves_the_runs_under_way(fsd):
    leases = {
        "slots/0/0000000001": {"run": "aaaa", "until": time.time() + 1e6},
        "slots/1/0000000007": {"run": "bbbb", "until": time.time() - 1},
        "slots/2/0000000003": {"run": "cccc", "until": time.time() + 1e6},
        "slots/2/0000000003.free": {},
    }
    objects = put("busy", leases | {f"{run}/run/config": {} for run in ("aaaa", "bbbb", "cccc", "dddd")})
    assert one_object(fsd("gc", "--app", "busy", "--json")[1])["removed"] == 3
    assert [key for key in objects.list("").keys if "/run/" in key] == ["aaaa/run/config"]


def check_of(fsd, name):
    return next(check for check in json.loads(fsd("doctor", "--json")[1])["checks"] if check["name"] == name)


def test_doctor_names_whose_credentials_there_are_and_no_secret(fsd, monkeypatch):
    pytest.importorskip("botocore.session")  # once it is imported, it answers at once
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_", "AZURE_"))]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    nobody = check_of(fsd, "credentials of aws")
    assert (nobody["found"], "aws configure" in nobody["hint"]) == (None, True)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    found = check_of(fsd, "credentials of aws")
    assert found["found"] == "by env, key id AKIA1, region eu-west-1"
    assert "hidden" not in fsd("doctor")[1]
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "AWS_PROFILE names a profile" in check_of(fsd, "credentials of aws")["hint"]
    assert check_of(fsd, "credentials of local")["found"] == "none are needed"


def test_doctor_does_not_wait_for_a_source_that_does_not_answer(fsd, monkeypatch):
    answered = threading.Event()
    monkeypatch.setattr("fsd_local.LocalProvider.credentials", lambda self: answered.wait(60) and "late")
    monkeypatch.setattr("fsd_core.machine.doctor.ANSWERS_S", 0.1)
    assert "did not answer" in check_of(fsd, "credentials of local")["hint"]
    answered.set()


def test_doctor_says_that_an_sdk_is_missing(fsd, monkeypatch, capfd):
    def missing(self):
        raise ModuleNotFoundError("No module named 'botocore'")

    monkeypatch.setattr("fsd_local.LocalProvider.credentials", missing)
    check = check_of(fsd, "credentials of local")
    assert (check["found"], check["hint"]) == (None, "its SDK is not installed: No module named 'botocore'")


def test_doctor(fsd):
    code, out, _ = fsd("doctor", "--json")
    assert code == 0
    checks = {check["name"]: check for check in one_object(out)["checks"]}
    assert checks["numpy"]["found"]
    assert checks["provider local"]["found"]
    assert checks["provider aws"]["found"] or checks["provider aws"]["hint"]


def test_emulators_status(fsd):
    code, out, _ = fsd("emulators", "status", "--json")
    assert code == 0
    assert one_object(out)["emulators"].keys() >= {"aws", "gcp", "azure"}
