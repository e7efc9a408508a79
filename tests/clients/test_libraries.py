"""Libraries that people call the server with, each in an environment of its own. What they do: `talks`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.serving import HERE, ROOT, Serving, prepared, program, run

pytestmark = pytest.mark.clients
PROTOS = ROOT / "proto"


def talk(environment: str, script: str, *arguments: str | Path) -> None:
    python = prepared(environment, "bin", "python")
    # A PYTHONPATH from outside would show it packages that are not its own.
    output = run(python, HERE / "talks" / script, *arguments, PYTHONPATH="")
    assert output.endswith("all well\n"), output


@pytest.mark.parametrize("environment", ["grpcio-oldest", "grpcio-newest"])
def test_grpcio_with_its_health_and_reflection_clients(server: Serving, environment: str) -> None:
    talk(environment, "talk_grpcio.py", server.target, PROTOS)


def test_our_stubs_with_the_oldest_grpcio_that_they_allow(server: Serving) -> None:
    talk("stubs", "talk_stubs.py", server.target)


def test_kserve(server: Serving) -> None:
    talk("kserve", "talk_kserve.py", server.target)


def test_tritonclient(server: Serving) -> None:
    talk("tritonclient", "talk_tritonclient.py", server.target)


def talk_node(target: str) -> None:
    modules = prepared("node", "node_modules")
    script = HERE / "talks" / "talk.js"
    output = run(
        program("node", "nodejs"), script, target, PROTOS / "dataplane.proto", NODE_PATH=str(modules)
    )
    assert output.endswith("all well\n"), output


def test_grpc_js(server: Serving) -> None:
    talk_node(server.target)
