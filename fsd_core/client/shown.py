"""A result for people: its tables, which the command prints, and the same tables as HTML for a notebook.

The HTML has no script, no style sheet and no link, so it makes no request. It escapes all text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING

from fsd_core.client.against import BYTES, REQUESTS, compared
from fsd_core.client.stragglers import SLOW
from fsd_core.common.amount import amount, counted
from fsd_core.cost import tariff_of_run
from fsd_core.errors import one_line
from fsd_core.latency import words as in_words

if TYPE_CHECKING:
    from fsd_core.client.result import Result

__all__ = ["Rows", "html", "tables"]

Rows = list[tuple[str, str]]  # names and values
_NOTES = {
    "total": "on this machine's clock, including the time for making resources and collecting the output",
    "compute": "slowest rank",
    "exchange": "slowest rank, waiting for other ranks",
    "load": "slowest rank",
    "cleanup": "after the total: records fetched, objects removed, slot given back",
}


def _split(result: Result) -> str:
    """The replicas, stages and ranks of a stage of a run, and its micro-batches."""
    data, pipeline, tensor = (result.parallel[name] for name in ("data", "pipeline", "tensor"))
    counts = {"replica": data, "stage": pipeline, "worker": tensor}
    words = " x ".join(counted(count, word) for word, count in counts.items())
    return f"{words}, {result.micro_batches} micro-batch{'es' * (result.micro_batches > 1)}"


def tables(result: Result, truth: Mapping[str, int] | None = None) -> list[tuple[str, Rows]]:
    """The titles and rows of a result: the run, its times, its requests and bytes, its memory. ``truth``: of `Result.check`."""
    meter, seconds = result.meter, result.seconds
    answer = [
        ("samples", f"{result.samples}"),
        ("network", result.network),
        (
            "workers",
            f"{result.workers} on {result.provider}{f', emulated at {result.stand_in}' if result.stand_in else ''}"
            + (f", {result.channel} channel, {result.partition} partition" if result.workers > 1 else ""),
        ),
        ("split", _split(result)),
        *([("chosen", result.reason)] if result.reason else ()),
        *([("latency", in_words(result.latency))] if result.latency else ()),
        ("nonzero samples", f"{result.output_nonzero_samples}"),
    ]
    for each in result.recovered:
        where = f" in layer {each['layer']}" if each["layer"] else ""
        became, why = ("slow", "") if each["reason"] == SLOW else ("lost", f": {one_line(each['reason'])}")
        answer.append(("recovered", f"rank {each['rank']}, {became}{where}, {each['seconds']:.1f} s{why}"))
    if result.audit:
        what = f"entry {result.audit['entry']}" if "entry" in result.audit else f"no entry: {result.audit['error']}"
        answer.append(("audit log", f"{what}, {result.audit['seconds']:.3f} s after the clean-up"))
    if words := result.left_out:
        answer.append(("left out", words))
    if truth:
        answer.append(("truth", f"{truth['matched']} of {truth['expected']} match, {truth['missing']} missing, {truth['extra']} extra"))
    times = [(phase, f"{value:8.3f} s  {_NOTES.get(phase, '')}".rstrip()) for phase, value in seconds.items()]
    requests = sum(meter[f"{verb}_requests"] for verb in ("publish", "receive", "ack"))
    objects = sum(meter[f"object_{verb}"] for verb in ("puts", "gets", "lists"))
    sent = [
        ("activations", amount(meter["payload_bytes_sent"])),
        ("messages", f"{meter['messages_sent']} sent, {meter['messages_received']} received, {amount(meter['message_bytes_sent'])}"),
        (
            "queue requests",
            f"{requests} ({meter['publish_requests']} publish, {meter['receive_requests']} receive, {meter['ack_requests']} ack)",
        ),
        ("object requests", f"{objects} ({meter['object_puts']} put, {meter['object_gets']} get, {meter['object_lists']} list)"),
        ("object bytes", f"{amount(meter['object_bytes_written'])} written, {amount(meter['object_bytes_read'])} read"),
        ("functions", f"{meter['invocations']} invoked, {meter['retries']} retries, {meter['duplicates_dropped']} duplicates dropped"),
    ]
    if dropped := meter["frames_dropped"]:
        sent.append(("dropped", f"{dropped} damaged or forged messages"))
    sized = {name.removesuffix("_max").removesuffix("_bytes"): value for name, value in result.memory.items() if "bytes" in name}
    memory = [(name, amount(value)) for name, value in sized.items()]
    if streamed := result.memory.get("streamed"):
        words = "1 worker, whose weights are" if streamed == 1 else f"{streamed} workers, whose weights are"
        memory.append(("streamed", f"by {words} larger than the memory of a function: read layer by layer"))
    expected = [(name, f"{_figure(name, mine):>12} {_figure(name, real):>12}") for name, (mine, real) in _compared(result).items()]
    found = [("Result", answer), ("Time", times), ("Sent and stored", sent), ("Memory of a worker", memory)]
    if expected:
        expected.insert(0, ("", f"{'predicted':>12} {'actual':>12}"))
        found.append(("Predicted and actual", expected))
    return found


def _compared(result: Result) -> dict[str, tuple[float, float]]:
    """The predicted and the actual figures, with the bill by the provider's tariff."""
    tariff = tariff_of_run(result.provider) if result.predicted else None
    return compared(result.to_json(), result.bill(tariff).total_usd if tariff else None)


def _figure(name: str, value: float) -> str:
    if name == "USD":
        return f"{value:.3g}"
    return amount(int(value)) if name in BYTES else f"{value:.0f}" if name in REQUESTS else f"{value:.3f} s"


def html(title: str, parts: Iterable[tuple[str, Rows]]) -> str:
    """Tables as a piece of HTML: one table, with a body for each."""
    style = "text-align:left;vertical-align:top;white-space:pre-wrap"
    body = f"<caption style='{style};font-weight:bold'>{_text(title)}</caption>"
    for name, rows in parts:
        body += f"<tbody><tr><th colspan='2' scope='rowgroup' style='{style}'>{_text(name)}</th></tr>"
        for first, second in rows:
            head = f"<th scope='row' style='{style};font-weight:normal'>{_text(first)}</th>"
            body += f"<tr>{head}<td style='{style}'>{_text(second)}</td></tr>"
        body += "</tbody>"
    return f"<table>{body}</table>"


def _text(value: str) -> str:
    return escape(value.strip()).encode(errors="replace").decode()  # the path of a partition may have surrogates
