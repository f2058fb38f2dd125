import json
import os
import subprocess
import sys
from concurrent import futures

import grpc
import pytest
from apache_beam.portability.api import (
    beam_provision_api_pb2,
    beam_provision_api_pb2_grpc,
    endpoints_pb2,
)
from google.protobuf import text_format

from pipeline.cli import worker


def info(**endpoints):
    made = beam_provision_api_pb2.ProvisionInfo(runner_capabilities=["a", "b"])
    made.pipeline_options.update({"beam:option:job_name:v1": "mine"})
    for name, url in endpoints.items():
        getattr(made, f"{name}_endpoint").url = url
    return made


def address(text):
    return text_format.Parse(text, endpoints_pb2.ApiServiceDescriptor()).url


def test_the_harness_gets_the_runners_settings():
    found = worker.environment("1-1", info(control="c:1", logging="l:2", status="s:3"), {})
    assert found["WORKER_ID"] == "1-1"
    assert json.loads(found["PIPELINE_OPTIONS"]) == {"beam:option:job_name:v1": "mine"}
    assert found["RUNNER_CAPABILITIES"] == "a b"
    addresses = {k: address(v) for k, v in found.items() if k.endswith("_DESCRIPTOR")}
    assert addresses == {
        "CONTROL_API_SERVICE_DESCRIPTOR": "c:1",
        "LOGGING_API_SERVICE_DESCRIPTOR": "l:2",
        "STATUS_API_SERVICE_DESCRIPTOR": "s:3",
    }


def test_whole_numbers_among_the_options_are_whole():
    told = info()
    told.pipeline_options.update({"a": 300, "b": [0.5, {"c": 2}], "d": "1.0", "e": True})
    found = json.loads(worker.environment("1", told, {})["PIPELINE_OPTIONS"])
    assert str(found.pop("a")) == "300"
    assert found.pop("d") == "1.0"
    assert json.dumps(found["b"]) == '[0.5, {"c": 2}]'
    assert found["e"] is True


def test_endpoints_of_the_command_line_fill_the_gaps():
    found = worker.environment("1", info(control="c:1"), {"control": "other", "logging": "l:2"})
    assert address(found["CONTROL_API_SERVICE_DESCRIPTOR"]) == "c:1"
    assert address(found["LOGGING_API_SERVICE_DESCRIPTOR"]) == "l:2"
    assert "STATUS_API_SERVICE_DESCRIPTOR" not in found


class Runner(beam_provision_api_pb2_grpc.ProvisionServiceServicer):
    def GetProvisionInfo(self, request, context):
        self.asked = dict(context.invocation_metadata())
        return beam_provision_api_pb2.GetProvisionInfoResponse(info=info(control="c:1"))


@pytest.fixture
def runner():
    server = grpc.server(futures.ThreadPoolExecutor(1))
    servicer = Runner()
    beam_provision_api_pb2_grpc.add_ProvisionServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield servicer
    server.stop(None)


def test_the_worker_asks_its_runner_and_starts_the_harness(runner, monkeypatch):
    from apache_beam.runners.worker import sdk_worker_main

    started = []
    monkeypatch.setattr(sdk_worker_main, "main", lambda arguments: started.append(dict(os.environ)))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    arguments = ["--id='1-2'", f"--provision_endpoint={runner.address}", "--logging_endpoint=l:2"]
    worker.main([*arguments, "--artifact_endpoint=a:3", "--semi_persist_dir=/tmp"])
    assert runner.asked["worker_id"] == "1-2"
    (environment,) = started
    assert environment["WORKER_ID"] == "1-2"
    assert address(environment["LOGGING_API_SERVICE_DESCRIPTOR"]) == "l:2"


@pytest.mark.slow
def test_the_workers_help_says_that_a_runner_calls_it():
    code = "from pipeline.cli.worker import main; main(['--help'])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0
    assert "its runner starts it" in " ".join(told.stdout.split())
