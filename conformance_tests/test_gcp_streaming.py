"""Google Cloud's queues against the suite where messages come by a stream: the cases of messages, plain, metered, under faults."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from fsd_conformance import FaultyMessageCases, MessageCases, MeteredMessageCases
from fsd_conformance.gcp import GoogleHarness


class _Streaming(GoogleHarness):
    def settings(self, folder: Path) -> Mapping[str, object]:
        return {**super().settings(folder), "receive": "stream"}


HARNESS = _Streaming()
pytestmark = [pytest.mark.emulator, pytest.mark.usefixtures("installed"), pytest.mark.timeout(600)]


class TestMessages(MessageCases):
    harness = HARNESS


class TestMeteredMessages(MeteredMessageCases):
    harness = HARNESS


class TestFaultyMessages(FaultyMessageCases):
    harness = HARNESS
