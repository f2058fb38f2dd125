"""The command ``fcn-beam-worker``, with which a runner starts a worker process.

It does the work of ``boot`` in Beam's container image on machines where fcn-beam is installed, with
``--environment_type PROCESS``. It does not fetch the files that a job's client stages: the worker
uses the installed code.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
from apache_beam.portability.api import (
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    endpoints_pb2,
)
from google.protobuf import json_format, text_format

from model_build.common.console import open_streams
from model_build.common.limits import adapt_to_limits


def environment(worker: str, info: Any, endpoints: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment variables from which Beam's harness takes its settings.

    Args:
        worker: its id.
        info: the runner's ``ProvisionInfo`` for it.
        endpoints: those of the command line, by name, for any missing in ``info``.
    """
    found = {
        "WORKER_ID": worker,
        "PIPELINE_OPTIONS": json.dumps(_plain(info.pipeline_options)),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    for name in ("control", "logging", "status"):
        address = getattr(info, f"{name}_endpoint").url or endpoints.get(name)
        if address:
            descriptor = endpoints_pb2.ApiServiceDescriptor(url=address)
            found[f"{name.upper()}_API_SERVICE_DESCRIPTOR"] = text_format.MessageToString(
                descriptor, as_one_line=True
            )
    return found


def _plain(options: Any) -> Any:
    """Returns options as Beam's parser expects them: a ``Struct`` has only floats, ``300.0``."""

    def number(text: str) -> int | float:
        value = float(text)
        return int(value) if value.is_integer() else value

    return json.loads(json_format.MessageToJson(options), parse_float=number)


def provision(worker: str, address: str) -> Any:
    """Fetches the ``ProvisionInfo`` of a worker from its runner."""
    with grpc.insecure_channel(address) as channel:
        answer = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel).GetProvisionInfo(
            beam_provision_api_pb2.GetProvisionInfoRequest(),
            timeout=60,
            metadata=(("worker_id", worker),),
        )
    return answer.info


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a worker until its runner stops it."""
    open_streams()
    adapt_to_limits()
    parser = argparse.ArgumentParser(
        prog="fcn-beam-worker",
        description="A worker for --environment_type PROCESS; its runner starts it.",
        allow_abbrev=False,
    )
    # Prism puts quotes around it, and no shell removes them.
    parser.add_argument("--id", required=True, type=lambda text: text.strip("'"))
    parser.add_argument("--provision_endpoint", required=True)
    for name in ("control", "logging", "artifact"):
        parser.add_argument(f"--{name}_endpoint")
    options, _ = parser.parse_known_args(arguments)  # newer runners may pass further options
    endpoints = {name: getattr(options, f"{name}_endpoint") for name in ("control", "logging")}
    info = provision(options.id, options.provision_endpoint)
    os.environ.update(environment(options.id, info, {k: v for k, v in endpoints.items() if v}))

    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])
