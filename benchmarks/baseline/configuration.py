"""The baseline's variables and its one table."""

import os

PG_DSN = os.environ.get("PG_DSN", "postgresql://postgres@127.0.0.1:5432/postgres")
REDIS_HOST = os.environ.get("REDIS_HOST", "127.0.0.1")
REDIS_PORT = int(os.environ.get("RPORT", "6379"))
DELTAS = int(os.environ.get("DELTAS", "50"))
GAP_S = float(os.environ.get("GAP", "0"))
MAX_JOBS = int(os.environ.get("MAX_JOBS", "100"))
POLL_S = float(os.environ.get("POLL", "0.5"))
DDL = """create table if not exists turns(
 id text primary key, conversation_id text not null, status text not null, input text not null,
 output text, created_at timestamptz not null default now(), started_at timestamptz,
 finished_at timestamptz)"""
