"""Writes docs/api.md from the signatures and docstrings of what `fsd_core` exports.

python docs/api.py
"""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs

import fsd_core

PAGE = Path(__file__).with_name("api.md")
# Each command of fsd, and the names that do the same from Python.
COMMANDS = {
    "run": "run",
    "plan": "make_plan, write_plan",
    "measure": "measure, write_measurement",
    "compare": "compare, write_comparison",
    "report": "write_report",
    "runs": "past_runs, prediction_accuracy",
    "logs": "read_log",
    "audit log": "read_audit_log",
    "partition": "make_partition, ExchangePlan, estimate_partition",
    "model import": "import_model, save_model, open_graph, save_graph",
    "model radixnet": "radixnet, save_model",
    "model show": "open_model, describe_model, open_graph, describe_graph, graph_stages",
    "bill": "bill",
    "tariff list": "tariff_names, load_tariff",
    "tariff show": "load_tariff",
    "demo": "run_demo, run_onnx_demo",
    "deploy": "deploy",
    "destroy": "destroy",
    "audit": "audit, Promise",
    "gc": "collect_garbage",
    "clean": "clean",
    "emulators up": "start_emulators, emulator",
    "emulators down": "stop_emulators",
    "emulators status": "emulator_states",
    "conformance": "conformance",
    "provider new": "new_provider",
    "doctor": "doctor",
}
GROUPS = {
    "Running a model": "run, Result, TensorResult, Progress, serial",
    "Models and inputs": "open_model, import_model, radixnet, save_model, describe_model, Model, Layer, Csr, open_inputs",
    "ONNX models": "open_graph, save_graph, describe_graph, Graph, graph_stages, GraphStage",
    "Partitions": "make_partition, Partition, ExchangePlan, estimate_partition, Estimate",
    "Plans": "make_plan, Plan, Candidate, Prediction, write_plan",
    "Measurements": "measure, Measurement, write_measurement",
    "Comparisons and reports": "compare, Comparison, write_comparison, write_report, Report",
    "Past runs": "past_runs, PastRun, prediction_accuracy, Accuracy, read_log, RunLog",
    "Audit log": "read_audit_log, AuditLog, AuditEntry",
    "Money": "bill, Bill, Usage, load_tariff, tariff_names, Tariff",
    "Apps": "deploy, Resources, destroy, audit, Promise, collect_garbage, clean",
    "This machine": "emulator, start_emulators, stop_emulators, emulator_states, doctor, Check, conformance, new_provider, run_demo, Demo, "
    "run_onnx_demo, OnnxDemo",
    "Settings": "read_settings, Settings",
    "Errors": "FsdError, InputError, CheckFailed, RunFailed, DamagedContent, DriverError, Code",
}
HEAD = """# The Python API

`import fsd_core` gives a function for everything that the command does, for instance in a notebook:

```python
import fsd_core
import numpy as np

model = fsd_core.radixnet(1024, 12)
samples = np.random.default_rng(1).random((60, 1024)) < 0.3

result = fsd_core.run(model, samples, workers=4, partition="block")
result  # as the last line of a cell, it shows itself: figures, times, bill

answer = result.output.toarray()  # float32 (60, 1024)
np.testing.assert_allclose(answer, fsd_core.serial(model, samples).toarray(), rtol=1e-4, atol=1e-4)
result.bill("aws-us-east-1").total_usd  # what these requests cost there
fsd_core.write_comparison(fsd_core.compare(model, samples, ["local"], workers=[2], repeat=1, partition="block"), csv="table.csv")
```

- A wrong argument raises `InputError` before anything starts; its message is one line with the value and what was expected. No function
  changes what you pass. Numbers may be of Python or numpy, a path may be a text or a `Path`.
- Interrupting a cell stops the workers of its run, removes its objects and gives its slot back, within 2 s, also in a notebook, which runs
  cells in an event loop.
- `import fsd_core` is fast: it loads a module when one of its names is first used. All names have types.
- `python docs/api.py` (`make api`) makes this page from the signatures and docstrings.
"""


def page() -> str:
    """The page as text. Raises `ValueError` if a name that `fsd_core` exports is in no group, or in several."""
    grouped = [name for names in GROUPS.values() for name in _words(names)]
    if odd := set(grouped) ^ set(fsd_core.__all__) or {name for name in grouped if grouped.count(name) > 1}:
        raise ValueError(f"{', '.join(sorted(odd))}: expected each exported name in one group")
    lines = [HEAD, "| command | in Python |", "|---|---|"]
    lines += [f"| `fsd {command}` | {', '.join(map(_link, _words(names)))} |" for command, names in COMMANDS.items()]
    for title, names in GROUPS.items():
        lines += ["", f"## {title}"]
        for name in _words(names):
            lines += ["", f"### {_heading(name)}", "", *_described(name, getattr(fsd_core, name))]
    return "\n".join(lines) + "\n"


def _words(names: str) -> list[str]:
    return names.split(", ")


def _link(name: str) -> str:
    return f"[`{name}`](#{_heading(name).lower().replace(' ', '-')})"


def _heading(name: str) -> str:
    """Classes say so: `Bill` and `bill` would have one anchor."""
    return f"class {name}" if inspect.isclass(getattr(fsd_core, name)) else name


def _described(name: str, what: Any) -> Iterator[str]:
    if not inspect.isclass(what):
        yield from (_code(_call(name, what)), "", _text(what, name))
        return
    if issubclass(what, enum.Enum):
        yield from (_text(what, name), "", ", ".join(f"`{each.name}`" for each in what))
        return
    if attrs.has(what):
        yield from (_code(_call(name, what)), "")
    elif issubclass(what, Exception):
        yield from (_code(f"{name}({what.__base__.__name__})"), "")
    yield _text(what, name)
    helps = [f"- `{key}`: {help}" for key, help in _helps(what).items()]
    yield from ("", *helps) if helps else ()
    for inner, each in vars(what).items():
        if inner.startswith("_") or inner in _fields(what):
            continue
        function = each.fget if isinstance(each, property) else getattr(each, "__func__", getattr(each, "func", each))
        if callable(function) and function.__doc__:
            title = _call(f"{name}.{inner}", function) if function is each or isinstance(each, staticmethod) else f"{name}.{inner}"
            yield from ("", _code(title), "", _text(function, name))


def _helps(what: type) -> dict[str, str]:
    """The texts for --help of a class of settings, by field."""
    fields = attrs.fields(what) if attrs.has(what) else ()
    return {field.name: field.metadata["help"] for field in fields if field.metadata.get("help")}


def _fields(what: type) -> list[str]:
    return [field.name for field in attrs.fields(what)] if attrs.has(what) else []


def _call(name: str, what: Any) -> str:
    """The call of a function or class: its arguments with types and defaults, one line or a line for each."""
    parts, result = [], ""
    if inspect.isclass(what):
        for field in attrs.fields(what):
            default = "" if field.default is attrs.NOTHING else f" = {field.default!r}"
            if hasattr(field.default, "factory"):
                default = f" = {field.default.factory()!r}"
            parts.append(f"{field.name}: {field.type}{default}")
    else:
        signature, starred = inspect.signature(what), False
        for each in signature.parameters.values():
            if each.name == "self":
                continue
            if each.kind is each.KEYWORD_ONLY and not starred:
                starred = True
                parts.append("*")
            default = "" if each.default is each.empty else f" = {each.default!r}"
            parts.append(f"{'**' if each.kind is each.VAR_KEYWORD else ''}{each.name}: {each.annotation}{default}")
        result = f" -> {signature.return_annotation}"
    if inspect.isgeneratorfunction(inspect.unwrap(what)):  # a context manager
        name, result = f"with {name}", " as " + re.sub(r"^Iterator.(.*).$", r"\1", signature.return_annotation)
    line = f"{name}({', '.join(parts)}){result}"
    return line if len(line) <= 120 else f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){result}"


def _code(text: str) -> str:
    return f"```text\n{text}\n```"


def _text(what: Any, section: str) -> str:
    """The docstring as Markdown. A name that is exported becomes a link, unless it is this section's, a field's or an argument's."""
    own = {section, *(_fields(what) if inspect.isclass(what) else inspect.signature(what).parameters)}
    linked = set(fsd_core.__all__) - own
    text = re.sub(r"::$", ":", inspect.getdoc(what) or "", flags=re.M)
    text = re.sub(r"`fsd_core\.(\w+)`", lambda found: f"`{found[1]}`" if found[1] in linked else found[0], text.replace("``", "`"))
    text = re.sub(r"(?<![`\w])InputError(?!\w)", "`InputError`", text)
    return re.sub(r"`(\w+)`", lambda found: _link(found[1]) if found[1] in linked else found[0], text)


if __name__ == "__main__":
    PAGE.write_text(page())
