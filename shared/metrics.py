"""Prometheus metrics of one process: one registry, built once and passed around."""

from __future__ import annotations

from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector


class Metrics:
    """All metrics by name. Labels are bounded: words, statuses, route templates; never ids."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.http_requests = counter(
            "turnkeep_http_requests", "Requests answered", ["method", "route", "status"]
        )
        self.http_duration = histogram(
            "turnkeep_http_request_duration_seconds",
            "Time to the end of the response headers",
            ["method", "route"],
        )
        self.open_streams = gauge("turnkeep_open_streams", "SSE responses being sent")
        self.turns_accepted = counter("turnkeep_turns_accepted", "Turns written down", ["replayed"])
        self.turns_ended = counter(
            "turnkeep_turns_ended", "Turns that reached a terminal status", ["status"]
        )
        self.held_turns = gauge("turnkeep_held_turns", "Turns this worker runs now")
        self.queue_wait = histogram("turnkeep_queue_wait_seconds", "From accept to claim")
        self.first_delta = histogram(
            "turnkeep_first_delta_seconds", "From the model's start to its first event"
        )
        self.log_writes = counter(
            "turnkeep_log_writes", "Answers of the event log to writers", ["word"]
        )
        self.fenced_commits = counter(
            "turnkeep_fenced_commits", "Results refused because the attempt was over"
        )
        self.takeovers = counter("turnkeep_takeovers", "Turns taken from lost workers", ["cause"])
        self.ingestions = counter(
            "turnkeep_ingestions", "Files whose text was to be read", ["outcome"]
        )
        self.automation_runs = counter(
            "turnkeep_automation_runs", "Runs of automations that ended or were parked", ["status"]
        )
        self.rebuilds = counter("turnkeep_redis_rebuilds", "Rebuilds of Redis from Postgres")
        self.cancels = counter("turnkeep_cancels", "Cancels that ended a turn", ["how"])
        """`how`: pending (nobody ran it), graceful (its worker ended it), forced (it did not)."""
        self.dependency_errors = counter(
            "turnkeep_dependency_errors",
            "Requests refused because something of ours is away",
            ["code"],
        )
        self.refusals = counter(
            "turnkeep_refusals", "Requests refused early, to serve what was accepted", ["reason"]
        )
        self.queued_turns = gauge(
            "turnkeep_queued_turns", "Turns that wait, of the whole deployment"
        )
        self.queue_outflow = gauge(
            "turnkeep_queue_outflow", "Turns a second that leave the queue of the whole deployment"
        )
        self.open_polls = gauge("turnkeep_open_polls", "Requests held by `Prefer: wait`")
        self.loop_lag = gauge(
            "turnkeep_loop_lag_seconds", "How late this process does what is due, smoothed"
        )
        self.commit_wait = gauge(
            "turnkeep_commit_wait_seconds", "Of the submit that has waited longest for its batch"
        )
        self.stalled_connections = counter(
            "turnkeep_stalled_connections", "Closed because the client did not take its answer"
        )
        self.approvals = counter(
            "turnkeep_approvals", "Tool calls that somebody must approve", ["what"]
        )
        """`what`: asked, approved, denied; a turn whose time to decide was over: expired."""
        ProcessCollector(registry=self.registry)
