"""Prometheus metrics of one process: one registry, built once and passed around."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector


class Metrics:
    """All metrics by name. Labels are bounded: words, statuses, route templates; never ids."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.http_requests = Counter(
            "turnkeep_http_requests",
            "Requests answered",
            ["method", "route", "status"],
            registry=registry,
        )
        self.http_duration = Histogram(
            "turnkeep_http_request_duration_seconds",
            "Time to the end of the response headers",
            ["method", "route"],
            registry=registry,
        )
        self.open_streams = Gauge(
            "turnkeep_open_streams", "SSE responses being sent", registry=registry
        )
        self.turns_accepted = Counter(
            "turnkeep_turns_accepted", "Turns written down", ["replayed"], registry=registry
        )
        self.turns_ended = Counter(
            "turnkeep_turns_ended", "Turns that reached a terminal status", ["status"],
            registry=registry,
        )  # fmt: skip
        self.held_turns = Gauge(
            "turnkeep_held_turns", "Turns this worker runs now", registry=registry
        )
        self.queue_wait = Histogram(
            "turnkeep_queue_wait_seconds", "From accept to claim", registry=registry
        )
        self.first_delta = Histogram(
            "turnkeep_first_delta_seconds", "From the model's start to its first event",
            registry=registry,
        )  # fmt: skip
        self.log_writes = Counter(
            "turnkeep_log_writes", "Answers of the event log to writers", ["word"],
            registry=registry,
        )  # fmt: skip
        self.fenced_commits = Counter(
            "turnkeep_fenced_commits", "Results refused because the attempt was over",
            registry=registry,
        )  # fmt: skip
        self.takeovers = Counter(
            "turnkeep_takeovers", "Turns taken from lost workers", ["cause"], registry=registry
        )
        self.rebuilds = Counter(
            "turnkeep_redis_rebuilds", "Rebuilds of Redis from Postgres", registry=registry
        )
        self.cancels = Counter(
            "turnkeep_cancels", "Cancels that ended a turn", ["how"], registry=registry
        )
        """`how`: pending (nobody ran it), graceful (its worker ended it), forced (it did not)."""
        self.dependency_errors = Counter(
            "turnkeep_dependency_errors", "Requests refused because something of ours is away",
            ["code"], registry=registry,
        )  # fmt: skip
        self.refusals = Counter(
            "turnkeep_refusals", "Requests refused early, to serve what was accepted", ["reason"],
            registry=registry,
        )  # fmt: skip
        self.queued_turns = Gauge(
            "turnkeep_queued_turns", "Turns that wait, of the whole deployment", registry=registry
        )
        self.queue_outflow = Gauge(
            "turnkeep_queue_outflow", "Turns a second that leave the queue of the whole deployment",
            registry=registry,
        )  # fmt: skip
        self.open_polls = Gauge(
            "turnkeep_open_polls", "Requests held by `Prefer: wait`", registry=registry
        )
        self.loop_lag = Gauge(
            "turnkeep_loop_lag_seconds", "How late this process does what is due, smoothed",
            registry=registry,
        )  # fmt: skip
        self.commit_wait = Gauge(
            "turnkeep_commit_wait_seconds", "Of the submit that has waited longest for its batch",
            registry=registry,
        )  # fmt: skip
        self.stalled_connections = Counter(
            "turnkeep_stalled_connections", "Closed because the client did not take its answer",
            registry=registry,
        )  # fmt: skip
        self.approvals = Counter(
            "turnkeep_approvals", "Tool calls that somebody must approve", ["what"],
            registry=registry,
        )  # fmt: skip
        """`what`: asked, approved, denied; a turn whose time to decide was over: expired."""
        ProcessCollector(registry=registry)
