"""Requests are counted by route template, so that no client can make a new time series."""

from __future__ import annotations

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from api.metrics import CountRequests, RequestCounter, serve_metrics
from api.openapi import Operation, routes_from
from api.problems import EXCEPTION_HANDLERS
from shared.errors import PostgresUnavailable
from shared.metrics import Metrics


async def answer(_: Request) -> Response:
    """Answers."""
    return Response(status_code=204)


async def fail(_: Request) -> Response:
    """Fails."""
    raise PostgresUnavailable("away")


def make_client(metrics: Metrics) -> httpx.AsyncClient:
    app = Starlette(
        routes=[
            *routes_from([Operation("GET", "/things/{thing_id}", answer, "t", "s")]),
            Route("/fail", fail),
            Route("/metrics", serve_metrics),
        ],
        exception_handlers=dict(EXCEPTION_HANDLERS),
    )
    app.state.metrics = metrics
    app.add_middleware(CountRequests, counter=RequestCounter(metrics))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


def count(metrics: Metrics, method: str, route: str, status: int) -> float:
    labels = {"method": method, "route": route, "status": str(status)}
    return metrics.registry.get_sample_value("turnkeep_http_requests_total", labels) or 0


async def test_counts_by_template() -> None:
    metrics = Metrics()
    async with make_client(metrics) as client:
        for number in range(3):
            await client.get(f"/things/{number}")
        await client.post("/things/1")
        await client.get("/no/such/place")
        await client.request("BREW", "/things/1")
        shown = (await client.get("/metrics")).text
    assert count(metrics, "GET", "/things/{thing_id}", 204) == 3
    assert count(metrics, "POST", "/things/{thing_id}", 405) == 1
    assert count(metrics, "GET", "unknown", 404) == 1
    assert count(metrics, "other", "/things/{thing_id}", 405) == 1
    assert 'turnkeep_http_request_duration_seconds_count{method="GET"' in shown
    assert "/no/such/place" not in shown
    assert "/things/1" not in shown


async def test_counts_what_is_away() -> None:
    metrics = Metrics()
    async with make_client(metrics) as client:
        assert (await client.get("/fail")).status_code == 503
    labels = {"code": "postgres_unavailable"}
    assert metrics.registry.get_sample_value("turnkeep_dependency_errors_total", labels) == 1


async def test_every_metric_bears_our_name() -> None:
    metrics = Metrics()
    async with make_client(metrics) as client:
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    names = {line.split()[2] for line in answer.text.splitlines() if line.startswith("# TYPE")}
    assert names
    assert all(name.startswith(("turnkeep_", "process_")) for name in names)
