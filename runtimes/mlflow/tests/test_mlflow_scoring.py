"""`/invocations` beside MLflow's own scoring server: the same bytes for the same bytes."""
# ruff: noqa: N802 - functions with an R are named after the ids of faults that users met

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from processes import Server, mlserver, scoring_server
from saving import COLUMNS, PETS, X

JSON = "application/json"
CSV = "text/csv"
PARQUET = "application/vnd.apache.parquet"

FRAME = X.iloc[[0, 60, 120]]
SPLIT = FRAME.to_dict(orient="split", index=False)
RECORDS = FRAME.to_dict(orient="records")
PET_RECORDS = PETS.head(3).to_dict(orient="records")
ROWS = FRAME.to_numpy().tolist()


def parquet(frame: Any) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


PROBES = ("/ping", "/health", "/version")
Case = tuple[str | None, bytes | str]

ANSWERED: dict[str, dict[str, Case]] = {
    "columns": {
        "dataframe_split": (JSON, json.dumps({"dataframe_split": SPLIT})),
        "dataframe_split, columns in another order": (
            JSON,
            json.dumps({"dataframe_split": FRAME[COLUMNS[::-1]].to_dict(orient="split", index=False)}),
        ),
        "dataframe_records": (JSON, json.dumps({"dataframe_records": RECORDS})),
        "inputs": (JSON, json.dumps({"inputs": FRAME.to_dict(orient="list")})),
        "instances": (JSON, json.dumps({"instances": RECORDS})),
        "an extra column": (
            JSON,
            json.dumps({"dataframe_records": [{**row, "colour": "red"} for row in RECORDS]}),
        ),
        "charset": (f"{JSON}; charset=utf-8", json.dumps({"dataframe_split": SPLIT})),
        "charset in capitals": (f"{JSON};charset=UTF-8", json.dumps({"dataframe_split": SPLIT})),
        "params that it does not have": (
            JSON,
            json.dumps({"dataframe_split": SPLIT, "params": {"a": 1}}),
        ),
        "csv": (CSV, FRAME.to_csv(index=False)),
        "csv, index and all": (CSV, FRAME.to_csv()),
        "parquet": (PARQUET, parquet(FRAME)),
    },
    "matrix": {
        "inputs": (JSON, json.dumps({"inputs": ROWS})),
        "instances": (JSON, json.dumps({"instances": ROWS})),
        "dataframe_split": (JSON, json.dumps({"dataframe_split": SPLIT})),
    },
    "plain": {
        "inputs": (JSON, json.dumps({"inputs": ROWS})),
        "instances": (JSON, json.dumps({"instances": ROWS})),
        "dataframe_split": (JSON, json.dumps({"dataframe_split": SPLIT})),
        "dataframe_records": (JSON, json.dumps({"dataframe_records": RECORDS})),
    },
    "named": {
        "inputs": (JSON, json.dumps({"inputs": {"a": [[1, 2], [3, 4]], "b": [5, 6]}})),
        "instances": (JSON, json.dumps({"instances": [{"a": [1, 2], "b": 5}, {"a": [3, 4], "b": 6}]})),
    },
    "local": {
        "R44 inputs and params": (
            JSON,
            json.dumps({"inputs": {"x": [1.5, 2.5]}, "params": {"factor": 2.0, "shift": [1, 2]}}),
        ),
        "records and params": (
            JSON,
            json.dumps({"dataframe_records": [{"x": 1.0}], "params": {"factor": 2.0}}),
        ),
        "params for others": (JSON, json.dumps({"inputs": {"x": [1.5]}, "params": {"other": 1}})),
        "no params": (JSON, json.dumps({"inputs": {"x": [1.5, 2.5]}})),
    },
    "pets": {
        "records": (JSON, json.dumps({"dataframe_records": PET_RECORDS})),
        "csv": (CSV, PETS.head(3).to_csv(index=False)),
    },
    "hinted": {"inputs": (JSON, json.dumps({"inputs": ["a", "b", "ü"]}))},
    "results": {
        what: (JSON, json.dumps({"inputs": [what]}))
        for what in ("array", "series", "numbers", "scalar", "one text", "lists", "records", "mixed", "frame")
    }
    | {"nothing": (JSON, json.dumps({"inputs": ["nothing"]}))},
}

REFUSED: dict[str, dict[str, Case]] = {
    "columns": {
        "no JSON": (JSON, "{"),
        "an empty body": (JSON, ""),
        "a list": (JSON, "[1]"),
        "a number": (JSON, "1"),
        "none of the keys": (JSON, "{}"),
        "V2": (JSON, '{"data": [1]}'),
        "two of the keys": (JSON, '{"inputs": [1], "instances": [1]}'),
        "a missing column": (JSON, json.dumps({"dataframe_records": [{COLUMNS[0]: 1.0}]})),
        "a wrong column": (
            JSON,
            json.dumps({"dataframe_records": [{**RECORDS[0], COLUMNS[1]: "wide"}]}),
        ),
        "a split that is none": (JSON, '{"dataframe_split": [1]}'),
        "records that are none": (JSON, '{"dataframe_records": 5}'),
        "bytes that are no text": (JSON, b'{"inputs": "\xff"}'),
        "another charset": (f"{JSON}; charset=latin-1", "{}"),
        "another parameter": (f"{JSON}; format=pandas-split", "{}"),
        "another type": ("text/plain", "{}"),
        "a type in capitals": ("Application/JSON", "{}"),
        "csv of another frame": (CSV, "a,b\n1,2\n"),
        "csv that is none": (CSV, ""),
        "csv that is no text": (CSV, b"a\n\xff\n"),
        "parquet that is none": (PARQUET, b"PAR1"),
    },
    "matrix": {
        "too few columns": (JSON, json.dumps({"inputs": [[1.0, 2.0]]})),
        "another rank": (JSON, json.dumps({"inputs": [1.0, 2.0, 3.0, 4.0]})),
        "csv, for which it has no types": (CSV, FRAME.to_csv(index=False)),
        "ragged": (JSON, json.dumps({"inputs": [[1.0, 2.0], [1.0]]})),
    },
    "named": {
        "a missing tensor": (JSON, json.dumps({"inputs": {"a": [[1, 2]]}})),
        "another shape": (JSON, json.dumps({"inputs": {"a": [[1, 2, 3]], "b": [1]}})),
    },
    "local": {
        "a param of another type": (
            JSON,
            json.dumps({"inputs": {"x": [1.5]}, "params": {"factor": "much"}}),
        ),
        "params that are none": (JSON, json.dumps({"inputs": {"x": [1.5]}, "params": 5})),
    },
    "plain": {"too few columns": (JSON, json.dumps({"inputs": [[1.0, 2.0]]}))},
}


OTHERS: dict[str, dict[str, Case]] = {
    "columns": {"no content type": (None, "{}")},
    "faulty": {"its own fault": (JSON, json.dumps({"inputs": {"x": [1.0]}}))},
    "results": {"no JSON": (JSON, json.dumps({"inputs": ["set"]}))},
}

Answers = Callable[[str, str], tuple[requests.Response, requests.Response]]


def flat(cases: dict[str, dict[str, Case]]) -> list[Any]:
    return [
        pytest.param(model, case, id=f"{model}: {case}")
        for model, of_model in cases.items()
        for case in of_model
    ]


@pytest.fixture(scope="module")
def answers(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Gives what MLflow's server and ours answered to a case. All cases of a model are asked at once."""
    by_model: dict[str, dict[str, tuple[requests.Response, requests.Response]]] = {}

    def answers(model: str, case: str) -> tuple[requests.Response, requests.Response]:
        if model not in by_model:
            by_model[model] = _ask_both(saved / model, tmp_path_factory.mktemp("served"), _cases(model))
        return by_model[model][case]

    return answers


def _cases(model: str) -> dict[str, Case]:
    return {
        name: case for cases in (ANSWERED, REFUSED, OTHERS) for name, case in cases.get(model, {}).items()
    }


def _ask_both(
    model: Path, home: Path, cases: dict[str, Case]
) -> dict[str, tuple[requests.Response, requests.Response]]:
    settings = {
        "name": model.name,
        "implementation": "mlserver_mlflow.MLflowRuntime",
        "parameters": {"uri": str(model)},
    }
    (home / "model-settings.json").write_text(json.dumps(settings))
    # Some of MLflow's texts list a set.
    seed = {"PYTHONHASHSEED": "0"}
    with scoring_server(model, **seed) as theirs, mlserver(home, **seed) as ours:
        exchanges = {name: (_ask(theirs, *case), _ask(ours, *case)) for name, case in cases.items()}
        for path in PROBES:
            exchanges[path] = theirs.get(path), ours.get(path)
    assert model.name != "faulty" or "swordfish" in ours.log()
    return exchanges


def _ask(server: Server, content_type: str | None, body: bytes | str) -> requests.Response:
    data = body.encode() if isinstance(body, str) else body
    headers = {} if content_type is None else {"content-type": content_type}
    return server.post("/invocations", data=data, headers=headers)


@pytest.mark.parametrize("path", PROBES)
def test_R46_health_and_version(answers: Answers, path: str) -> None:
    expected, got = answers("columns", path)
    assert (got.status_code, got.content) == (expected.status_code, expected.content)
    assert got.headers["content-type"] == expected.headers["content-type"]


@pytest.mark.parametrize(("model", "case"), flat(ANSWERED))
def test_R44_R46_answers_are_the_same_bytes(answers: Answers, model: str, case: str) -> None:
    expected, got = answers(model, case)
    assert expected.status_code == 200, expected.text
    assert got.status_code == 200, got.text
    assert got.content == expected.content
    assert got.headers["content-type"] == expected.headers["content-type"]


@pytest.mark.parametrize(("model", "case"), flat(REFUSED))
def test_R51_refusals_are_the_same_but_for_stack_traces(answers: Answers, model: str, case: str) -> None:
    expected, got = answers(model, case)
    assert 400 <= got.status_code < 500, got.text
    assert "stack_trace" not in got.text and "Traceback" not in got.text and "site-packages" not in got.text
    if expected.status_code >= 500:
        # MLflow's server stumbles; what can be said is said.
        assert got.json()["error_code"] in ("BAD_REQUEST", "INVALID_PARAMETER_VALUE")
        return
    assert got.status_code == expected.status_code
    assert got.headers["content-type"] == expected.headers["content-type"]
    if expected.headers["content-type"] == JSON:
        content = expected.json()
        content.pop("stack_trace", None)
        assert got.content == json.dumps(content).encode()
    else:
        assert got.content == expected.content


def test_no_content_type_at_all(answers: Answers) -> None:
    got = answers("columns", "no content type")[1]
    assert got.status_code == 415 and "Got ''" in got.text


def test_R51_a_missing_column_is_named(answers: Answers) -> None:
    got = answers("columns", "a missing column")[1]
    assert got.status_code == 400 and COLUMNS[1] in got.json()["message"]


@pytest.mark.parametrize(("model", "case"), [("faulty", "its own fault"), ("results", "no JSON")])
def test_faults_of_the_model_have_no_internals(answers: Answers, model: str, case: str) -> None:
    got = answers(model, case)[1]
    assert (got.status_code, got.json()) == (500, {"error": "Internal Server Error"})
