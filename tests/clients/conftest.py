from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.serving import Serving, serving


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("models")) as running:
        yield running
        log = running.process.log()
        assert " ERROR " not in log, log
