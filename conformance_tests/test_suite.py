"""The suite under test: every *must* of the contract has a case; gaps; the command."""

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import fsd_core.driver
from fsd_conformance import InvokeCases, MessageCases, ObjectCases, ProvisionCases

MUSTS: dict[str, Sequence[Callable[..., object]]] = {
    "must raise the SDK's own error, unwrapped, and must not retry": [
        ProvisionCases.test_no_driver_retries,
        MessageCases.test_no_such_queue,
        ObjectCases.test_get_of_a_missing_key,
    ],
    "must map any error to a": [MessageCases.test_classify_takes_any_error],
    "must be safe to call from several threads": [
        MessageCases.test_threads_lose_nothing,
        ObjectCases.test_threads_lose_nothing,
        InvokeCases.test_threads_launch,
    ],
    "Importing a provider's package must not import an SDK": [ProvisionCases.test_import_is_light],
    "must be delivered to the queue of its rank": [MessageCases.test_arrives_at_its_rank_only],
    "must not deliver a message again within ``lease_s`` after its delivery, and must deliver it again later": [
        MessageCases.test_not_again_before_its_lease_ended,
        MessageCases.test_unacknowledged_comes_again,
        MessageCases.test_acknowledged_stays_away,
    ],
    "must return as soon as the queue has one message. If none comes within ``wait_s``, it must return an empty": [
        MessageCases.test_receive_returns_when_one_is_there,
        MessageCases.test_receive_is_empty_after_its_wait,
    ],
    "must return one `Rejected` for each refused entry": [
        MessageCases.test_refused_entries_are_reported,
        MessageCases.test_publish_takes_a_full_batch,
    ],
    "no longer valid must be harmless": [MessageCases.test_ack_twice_is_harmless, MessageCases.test_ack_after_the_lease_is_harmless],
    "Over a limit, it must raise": [
        MessageCases.test_publish_refuses_one_more,
        MessageCases.test_message_of_the_largest_size,
        MessageCases.test_batch_of_the_largest_size,
    ],
    "and one without must receive what the other publishes": [MessageCases.test_drivers_with_direct_and_without_share_their_queues],
    "after a put has returned must show that put. A get must return a complete object": [
        ObjectCases.test_read_after_write,
        ObjectCases.test_whole_or_none,
    ],
    "exactly one of any number of concurrent puts of a key must win": [
        ObjectCases.test_one_create_wins,
        ObjectCases.test_one_create_wins_over_conflicts,
        ObjectCases.test_create_of_what_is_there,
    ],
    "of a missing key must raise `Code.NOT_FOUND`": [ObjectCases.test_missing, ObjectCases.test_get_of_a_missing_key],
    "must return keys in ascending order, each once": [ObjectCases.test_list_is_in_order, ObjectCases.test_list_over_pages],
    "of a missing key must succeed": [ObjectCases.test_delete, ObjectCases.test_delete_takes_a_full_batch],
    "must return without waiting": [InvokeCases.test_returns_without_waiting],
    "over ``payload_bytes``, ``invoke`` must raise `Code.TOO_LARGE` or `Code.INVALID`, and must not start a function": [
        InvokeCases.test_payload_of_the_largest_size
    ],
    "For a function that does not exist, ``invoke`` must raise `Code.NOT_FOUND`, or ``Launch.poll`` must return it": [
        InvokeCases.test_no_such_function
    ],
    "must return what the last ``ensure`` returned": [ProvisionCases.test_ensure_twice, ProvisionCases.test_destroy],
    "functions would run at once, ``invoke`` must raise `Code.THROTTLED`, or ``Launch.poll`` must return it": [
        InvokeCases.test_more_than_may_run_at_once
    ],
}


def test_every_must_has_a_case() -> None:
    contract = " ".join(Path(fsd_core.driver.__file__).read_text().split())
    contract = re.sub(r"each sentence below that contains \*must\*", "", contract)
    for sentence, cases in MUSTS.items():
        assert cases, sentence
        assert contract.count(sentence) == 1, sentence
        contract = contract.replace(sentence, "")
    assert not re.findall(r".{40}\bmust\b.{40}", contract)


def test_plain_import_is_light() -> None:
    code = "import sys, fsd_conformance, fsd_conformance.local; sys.exit('pytest' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("provider", "emulator"), [("local", None), ("aws", "moto")])
def test_runs_as_a_command(provider: str, emulator: str | None) -> None:
    code = f"import sys, fsd_conformance.table as t; t._GROUPS = ('ProvisionCases',); sys.exit(t.run({provider!r}, emulator={emulator!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "TestProvision::test_ensure_twice PASSED" in done.stderr
    assert done.stdout == ""


def test_gaps_skip_their_case(tmp_path: Path) -> None:
    (tmp_path / "test_gap.py").write_text(
        "from fsd_conformance import ProvisionCases\n"
        "from fsd_conformance.local import LocalHarness\n"
        "class Mine(LocalHarness):\n"
        "    gaps = {'test_import_is_light': 'it is heavy: https://example.org/1'}\n"
        "class TestMine(ProvisionCases):\n"
        "    harness = Mine()\n"
    )
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", str(tmp_path), "-k", "light or gaps"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "gap of local: it is heavy: https://example.org/1" in done.stdout
    assert "1 passed, 1 skipped" in done.stdout
