"""The command ``fcn-beam-worker``, by which a runner starts a worker on a machine of its own.

Beam's container image has such a command, ``boot``; this one is for machines on which fcn-beam is
installed, by ``--environment_type PROCESS``. What a job's client would stage is not fetched: the
worker has its own copy of the code.
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
from model_build.common.limits import stay_within


def environment(worker: str, info: Any, given: Mapping[str, str]) -> dict[str, str]:
    """The variables that Beam's harness takes its settings from.

    Args:
        worker: its id.
        info: the ``ProvisionInfo`` that the runner has for it.
        given: endpoints of the command line, by name, for what the runner's answer lacks.
    """
    found = {
        "WORKER_ID": worker,
        "PIPELINE_OPTIONS": json.dumps(_plain(info.pipeline_options)),
        "RUNNER_CAPABILITIES": " ".join(info.runner_capabilities),
    }
    for name in ("control", "logging", "status"):
        address = getattr(info, f"{name}_endpoint").url or given.get(name)
        if address:
            descriptor = endpoints_pb2.ApiServiceDescriptor(url=address)
            found[f"{name.upper()}_API_SERVICE_DESCRIPTOR"] = text_format.MessageToString(
                descriptor, as_one_line=True
            )
    return found


def _plain(options: Any) -> Any:
    """Options as Beam's parser takes them: all numbers of a ``Struct`` are floats, ``300.0``."""

    def number(text: str) -> int | float:
        value = float(text)
        return int(value) if value.is_integer() else value

    return json.loads(json_format.MessageToJson(options), parse_float=number)


def provision(worker: str, address: str) -> Any:
    """Asks the runner what its worker has to know: a ``ProvisionInfo``."""
    with grpc.insecure_channel(address) as channel:
        answer = beam_provision_api_pb2_grpc.ProvisionServiceStub(channel).GetProvisionInfo(
            beam_provision_api_pb2.GetProvisionInfoRequest(),
            timeout=60,
            metadata=(("worker_id", worker),),
        )
    return answer.info


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs a worker until its runner needs it no more."""
    open_streams()
    stay_within()
    parser = argparse.ArgumentParser(
        prog="fcn-beam-worker",
        description="A worker for --environment_type PROCESS; its runner starts it.",
        allow_abbrev=False,
    )
    # Prism quotes it, though no shell takes the quotes off again.
    parser.add_argument("--id", required=True, type=lambda text: text.strip("'"))
    parser.add_argument("--provision_endpoint", required=True)
    for name in ("control", "logging", "artifact"):
        parser.add_argument(f"--{name}_endpoint")
    options, _ = parser.parse_known_args(arguments)  # newer runners may say more
    given = {name: getattr(options, f"{name}_endpoint") for name in ("control", "logging")}
    info = provision(options.id, options.provision_endpoint)
    os.environ.update(environment(options.id, info, {k: v for k, v in given.items() if v}))

    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main([])
