"""Fully serverless distributed inference: many short functions share the layers of a model, on any cloud.

``fsd_core.run(model, inputs, provider="local", channel="queue", workers=8)`` does what ``fsd run`` does and returns a `Result`. Each other
command of ``fsd`` is a function here too; docs/api.md lists them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsd_core.client.apps import audit, deploy, destroy
    from fsd_core.client.audit import AuditEntry, AuditLog, read_audit_log
    from fsd_core.client.garbage import clean, collect_garbage
    from fsd_core.client.history import RunLog, read_log
    from fsd_core.client.inference import run
    from fsd_core.client.job import Progress
    from fsd_core.client.planning import make_plan
    from fsd_core.client.result import Result
    from fsd_core.client.tensors import TensorResult
    from fsd_core.config import Settings, read_settings
    from fsd_core.cost.bill import Bill, bill
    from fsd_core.cost.tariff import Tariff
    from fsd_core.cost.tariff import load as load_tariff
    from fsd_core.cost.tariff import names as tariff_names
    from fsd_core.cost.usage import Usage
    from fsd_core.demo.running import Demo, run_demo
    from fsd_core.demo.stages import OnnxDemo, run_onnx_demo
    from fsd_core.driver import Code, Resources
    from fsd_core.errors import CheckFailed, DamagedContent, DriverError, FsdError, InputError, RunFailed
    from fsd_core.graph.figures import describe_graph
    from fsd_core.graph.graph import Graph, open_graph
    from fsd_core.graph.store import save_graph
    from fsd_core.machine.doctor import Check, doctor
    from fsd_core.machine.emulators import emulator, emulator_states, start_emulators, stop_emulators
    from fsd_core.machine.skeleton import new_provider
    from fsd_core.machine.suite import conformance
    from fsd_core.measuring.making import Measurement, measure
    from fsd_core.model.challenge import radixnet
    from fsd_core.model.inputs import open_inputs
    from fsd_core.model.layer import Csr, Layer, Model
    from fsd_core.model.layer import describe as describe_model
    from fsd_core.model.serial import serial
    from fsd_core.model.sources import import_model, open_model
    from fsd_core.model.store import save as save_model
    from fsd_core.partition.estimate import Estimate
    from fsd_core.partition.estimate import estimate as estimate_partition
    from fsd_core.partition.graph_stages import GraphStage, graph_stages
    from fsd_core.partition.methods import partition as make_partition
    from fsd_core.partition.owners import Partition
    from fsd_core.partition.plan import ExchangePlan
    from fsd_core.plan.choose import Candidate
    from fsd_core.plan.making import Plan
    from fsd_core.plan.predict import Prediction
    from fsd_core.providers.promises import Promise
    from fsd_core.report.accuracy import Accuracy, prediction_accuracy
    from fsd_core.report.compare import Comparison
    from fsd_core.report.comparing import compare
    from fsd_core.report.measured import write_measurement
    from fsd_core.report.past import PastRun, past_runs
    from fsd_core.report.planned import write_plan
    from fsd_core.report.writing import Report, write_comparison, write_report

__all__ = [
    "Accuracy",
    "AuditEntry",
    "AuditLog",
    "Bill",
    "Candidate",
    "Check",
    "CheckFailed",
    "Code",
    "Comparison",
    "Csr",
    "DamagedContent",
    "Demo",
    "DriverError",
    "Estimate",
    "ExchangePlan",
    "FsdError",
    "Graph",
    "GraphStage",
    "InputError",
    "Layer",
    "Measurement",
    "Model",
    "OnnxDemo",
    "Partition",
    "PastRun",
    "Plan",
    "Prediction",
    "Progress",
    "Promise",
    "Report",
    "Resources",
    "Result",
    "RunFailed",
    "RunLog",
    "Settings",
    "Tariff",
    "TensorResult",
    "Usage",
    "audit",
    "bill",
    "clean",
    "collect_garbage",
    "compare",
    "conformance",
    "deploy",
    "describe_graph",
    "describe_model",
    "destroy",
    "doctor",
    "emulator",
    "emulator_states",
    "estimate_partition",
    "graph_stages",
    "import_model",
    "load_tariff",
    "make_partition",
    "make_plan",
    "measure",
    "new_provider",
    "open_graph",
    "open_inputs",
    "open_model",
    "past_runs",
    "prediction_accuracy",
    "radixnet",
    "read_audit_log",
    "read_log",
    "read_settings",
    "run",
    "run_demo",
    "run_onnx_demo",
    "save_graph",
    "save_model",
    "serial",
    "start_emulators",
    "stop_emulators",
    "tariff_names",
    "write_comparison",
    "write_measurement",
    "write_plan",
    "write_report",
]

# Where each name is, in the order of docs/api.md: the module, and the name in it if it is another one.
_PLACES = {
    "run": "client.inference",
    "Result": "client.result",
    "TensorResult": "client.tensors",
    "Progress": "client.job",
    "serial": "model.serial",
    "open_model": "model.sources",
    "import_model": "model.sources",
    "radixnet": "model.challenge",
    "save_model": "model.store:save",
    "describe_model": "model.layer:describe",
    "Model": "model.layer",
    "Layer": "model.layer",
    "Csr": "model.layer",
    "open_graph": "graph.graph",
    "save_graph": "graph.store",
    "describe_graph": "graph.figures",
    "Graph": "graph.graph",
    "graph_stages": "partition.graph_stages",
    "GraphStage": "partition.graph_stages",
    "open_inputs": "model.inputs",
    "make_partition": "partition.methods:partition",
    "estimate_partition": "partition.estimate:estimate",
    "Estimate": "partition.estimate",
    "Partition": "partition.owners",
    "ExchangePlan": "partition.plan",
    "make_plan": "client.planning",
    "Plan": "plan.making",
    "Candidate": "plan.choose",
    "Prediction": "plan.predict",
    "write_plan": "report.planned",
    "measure": "measuring.making",
    "Measurement": "measuring.making",
    "write_measurement": "report.measured",
    "compare": "report.comparing",
    "Comparison": "report.compare",
    "write_comparison": "report.writing",
    "write_report": "report.writing",
    "Report": "report.writing",
    "past_runs": "report.past",
    "PastRun": "report.past",
    "prediction_accuracy": "report.accuracy",
    "Accuracy": "report.accuracy",
    "read_log": "client.history",
    "RunLog": "client.history",
    "read_audit_log": "client.audit",
    "AuditLog": "client.audit",
    "AuditEntry": "client.audit",
    "bill": "cost.bill",
    "Bill": "cost.bill",
    "Usage": "cost.usage",
    "load_tariff": "cost.tariff:load",
    "tariff_names": "cost.tariff:names",
    "Tariff": "cost.tariff",
    "deploy": "client.apps",
    "Resources": "driver",
    "destroy": "client.apps",
    "audit": "client.apps",
    "Promise": "providers.promises",
    "collect_garbage": "client.garbage",
    "clean": "client.garbage",
    "emulator": "machine.emulators",
    "start_emulators": "machine.emulators",
    "stop_emulators": "machine.emulators",
    "emulator_states": "machine.emulators",
    "new_provider": "machine.skeleton",
    "doctor": "machine.doctor",
    "Check": "machine.doctor",
    "conformance": "machine.suite",
    "run_demo": "demo.running",
    "run_onnx_demo": "demo.stages",
    "OnnxDemo": "demo.stages",
    "Demo": "demo.running",
    "read_settings": "config",
    "Settings": "config",
    "FsdError": "errors",
    "InputError": "errors",
    "CheckFailed": "errors",
    "RunFailed": "errors",
    "DamagedContent": "errors",
    "DriverError": "errors",
    "Code": "driver",
}


if not TYPE_CHECKING:  # so that a checker of types finds names that do not exist

    def __getattr__(name: str) -> Any:
        """Import a public name at its first use. A worker imports this package too, and needs none of these names."""
        if name in _PLACES:
            import importlib

            module, _, inside = _PLACES[name].partition(":")
            globals()[name] = getattr(importlib.import_module(f"fsd_core.{module}"), inside or name)
            return globals()[name]
        if name.startswith("_"):  # what Python and its tools look for
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from fsd_core.common.fields import suggestion

        text = f"module {__name__!r} has no attribute {name!r}; {suggestion(name, __all__)}"
        raise AttributeError(text, name=name, obj=None)  # with this module as ``obj``, Python would add its own suggestion


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
