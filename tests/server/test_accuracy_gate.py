"""The accuracy gate: adapters whose answers int8 weights change are refused, at their upload and at their first use."""

from __future__ import annotations

from typing import Any

import pytest

from prefixrack.errors import AccuracyTooLow
from prefixrack_server.accuracy_gate import AccuracyBounds
from prefixrack_server.agreement import drift
from prefixrack_server.messages import RowFailure

GOOD = {"label": "good", "score": 0.7, "scores": [{"label": "good", "score": 0.7}, {"label": "bad", "score": 0.3}]}
LESS = {"label": "good", "score": 0.6, "scores": [{"label": "good", "score": 0.6}, {"label": "bad", "score": 0.4}]}
BAD = {"label": "bad", "score": 0.9, "scores": [{"label": "bad", "score": 0.9}, {"label": "good", "score": 0.1}]}


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [
        (GOOD, LESS, 0.1),
        (GOOD, BAD, 0.6),
        ({"choice": 0, "scores": [0.8, 0.2]}, {"choice": 0, "scores": [0.75, 0.25]}, 0.05),
        ({"value": 3.0}, {"value": 3.25}, 0.25),
        ({"embedding": [1.0, 0.0]}, {"embedding": [0.0, 2.0]}, 1.0),
        (
            {"spans": [{"start": 0, "end": 2, "label": "X", "score": 0.9}]},
            {"spans": [{"start": 0, "end": 2, "label": "X", "score": 0.8}, {"start": 4, "end": 5, "label": "X"}][:1]},
            0.1,
        ),
        (
            {"answer": None, "no_answer_score": 0.5, "answers": [{"start": 1, "end": 2, "score": 0.4}]},
            {"answer": None, "no_answer_score": 0.7, "answers": [{"start": 1, "end": 2, "score": 0.3}]},
            0.2,
        ),
        ({"error": {"code": "empty_input"}}, {"error": {"code": "empty_input"}}, 0.0),
    ],
)
def test_drift_is_the_largest_difference_of_a_score(one: Any, other: Any, wanted: float) -> None:
    assert drift(one, other) == pytest.approx(wanted)
    assert drift(one, one) == pytest.approx(0.0)


def test_both_numbers_are_held_to_their_bounds_and_named() -> None:
    AccuracyBounds(0.5, 0.1).check([GOOD, GOOD], [GOOD, LESS])
    with pytest.raises(
        AccuracyTooLow, match=r"int8 weights 0\.500 of the adapter's 2 examples .*0\.9 is.*by 0\.300, at"
    ):
        AccuracyBounds(0.9, 1.0).check([GOOD, GOOD], [GOOD, BAD])
    with pytest.raises(
        AccuracyTooLow, match=r"1\.000 of the adapter's 1 examples .*differ by 0\.100, at most 0\.05 is"
    ):
        AccuracyBounds(0.9, 0.05).check([GOOD], [LESS])


def num_exact(server: Any) -> int:
    return sum(work.is_exact for submitted in server.engine.submitted for work in submitted)


async def test_an_upload_is_compared_on_its_own_examples_and_once(serving: Any, bundles: Any) -> None:
    async with serving(backbone={"dtype": "int8"}) as server:
        response = await server.upload(bundles("intent", examples=["hello", "good world", "bad"]))
        assert response.status_code == 201, response.text
        assert num_exact(server) == 3
        for _ in range(2):
            assert (await server.predict("intent", ["hello", "bad"])).status_code == 200
        assert num_exact(server) == 3


async def test_an_upload_whose_answers_change_is_refused_and_leaves_nothing(serving: Any, bundles: Any) -> None:
    async with serving(backbone={"dtype": "int8"}) as server:
        server.engine.drifting = True
        refused = await server.upload(bundles("intent", examples=["hello"]))
        assert (refused.status_code, refused.json()["code"]) == (422, "accuracy_gate"), refused.text
        assert "0.000 of the adapter's 1 examples" in refused.json()["detail"]
        assert await server.names() == []


async def test_what_was_uploaded_in_another_dtype_is_compared_before_its_first_rows(serving: Any, bundles: Any) -> None:
    async with serving() as server:
        for name in ("intent", "other"):
            assert (await server.upload(bundles(name))).status_code == 201
        assert num_exact(server) == 0
    async with serving(backbone={"dtype": "int8"}) as server:
        assert (await server.predict("other", "hello")).status_code == 200
        server.engine.drifting = True
        for _ in range(2):  # found once, told every time
            refused = await server.predict("intent", "hello")
            assert (refused.status_code, refused.json()["code"]) == (422, "accuracy_gate"), refused.text
        assert num_exact(server) == 2
        fan_out = await server.client.post("/v1/predict", json={"adapters": ["intent", "other"], "inputs": "hello"})
        results = fan_out.json()["results"]
        assert results["intent@1"]["error"]["code"] == "accuracy_gate"
        assert "outputs" in results["other@1"]


async def test_what_kept_the_examples_from_being_computed_is_no_verdict(serving: Any, bundles: Any) -> None:
    async with serving() as server:
        assert (await server.upload(bundles("intent"))).status_code == 201
    async with serving(backbone={"dtype": "int8"}) as server:
        server.engine.failures[""] = RowFailure("server_overloaded", "too much is queued", 1.0)
        assert (await server.predict("intent", "hello")).status_code == 503
        server.engine.failures.clear()
        assert (await server.predict("intent", "hello")).status_code == 200


async def test_an_example_that_is_no_input_is_refused(serving: Any, bundles: Any) -> None:
    async with serving(backbone={"dtype": "int8"}) as server:
        refused = await server.upload(bundles("intent", examples=["hello", {"question": "no text"}]))
        assert (refused.status_code, refused.json()["code"]) == (422, "probe_failed"), refused.text
        assert "`examples` is not usable" in refused.json()["detail"]
