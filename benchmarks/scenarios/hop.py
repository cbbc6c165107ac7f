"""The way from accept to a worker on an idle system, turns one at a time.

`started_at - created_at` of the turn's row: from the beginning of the accepting transaction to the
beginning of the claim. The commit of the accept is inside; the peers' queues promise no such thing.
"""

from __future__ import annotations

import random
import time

from benchmarks.load import percentile
from benchmarks.plan import Figures, Plan
from benchmarks.servers import fetch
from benchmarks.systems import Side, post

SAMPLES_PER_RUN = 35


def measure(side: Side, plan: Plan) -> list[Figures]:
    with side.start() as system:
        ask = system.submit_ask()
        for number in range(SAMPLES_PER_RUN * plan.runs):
            time.sleep(random.uniform(0.02, 0.12))
            post(system.port, ask.render(number, "hop"))
        time.sleep(0.5)
        rows = fetch(
            system.dsn,
            "select extract(epoch from started_at - created_at)::float8 as hop_s from turns"
            " where started_at is not null order by created_at offset 1",
        )
    hops = [row["hop_s"] for row in rows]
    return [
        {
            "hop p50 ms": percentile(hops, 0.5) * 1000,
            "hop p99 ms": percentile(hops, 0.99) * 1000,
            "samples": float(len(hops)),
        }
    ]
