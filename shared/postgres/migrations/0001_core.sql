-- The core schema: tenants, users, keys, threads, messages, turns and what hangs on them.
-- Postgres is the truth: limits, order and single results are enforced here, never in Redis.

create type turn_status as enum (
    'pending', 'running', 'awaiting_approval', 'completed', 'failed', 'cancelled', 'expired'
);

create table tenants (
    id uuid primary key,
    name text not null,
    created_at timestamptz not null default now()
);

create table users (
    id uuid primary key,
    tenant_id uuid not null references tenants (id),
    email text not null,
    name text not null,
    timezone text,
    created_at timestamptz not null default now(),
    unique (tenant_id, email)
);

-- The secret itself is never stored: key_hash is HMAC-SHA256 under the deployment's pepper.
create table api_keys (
    id uuid primary key,
    tenant_id uuid not null references tenants (id),
    user_id uuid not null references users (id),
    key_hash bytea not null unique,
    prefix text not null,
    name text not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz
);

create table threads (
    id uuid primary key,
    tenant_id uuid not null references tenants (id),
    user_id uuid not null references users (id),
    title text,
    system_prompt text,
    agent_spec_id uuid,
    metadata jsonb not null default '{}',
    last_message_at timestamptz,
    last_message_preview text,
    last_turn_id uuid,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    deleted_at timestamptz
);

-- The list of a user's threads, newest activity first.
create index threads_by_activity on threads
(tenant_id, user_id, (coalesce(last_message_at, created_at)) desc, id desc)
where deleted_at is null;

create table turns (
    id uuid primary key,
    tenant_id uuid not null references tenants (id),
    user_id uuid not null references users (id),
    thread_id uuid not null references threads (id),
    accept_seq bigint generated always as identity,
    status turn_status not null default 'pending',
    -- attempt is the fencing token: every claim raises it, every write of a worker names it.
    attempt integer not null default 0,
    crash_count integer not null default 0,
    concurrency_key text not null,
    -- how many turns of the key may run at once, as it was when the turn was accepted
    max_running integer not null default 1,
    slot integer,
    worker_id text,
    lease_until timestamptz,
    input_message_id uuid not null,
    planned_output_message_id uuid not null,
    output_message_id uuid,
    model_id text not null,
    settings jsonb not null default '{}',
    system_prompt text,
    idempotency_key text,
    usage jsonb,
    error_code text,
    error_message text,
    last_seq integer not null default 0,
    cancel_requested_at timestamptz,
    expires_at timestamptz not null,
    started_at timestamptz,
    ended_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check ((ended_at is not null) = (status in ('completed', 'failed', 'cancelled', 'expired'))),
    check ((status = 'running') = (slot is not null)),
    check ((status = 'running') = (worker_id is not null and lease_until is not null))
)
with (fillfactor = 80);

-- At most `limit` running turns per concurrency key: each holds a slot of its own.
create unique index turns_running_slot on turns (tenant_id, concurrency_key, slot)
where status = 'running';
-- First in, first out per key: the head of a line is the lowest accept_seq.
create index turns_line on turns (tenant_id, concurrency_key, accept_seq)
where status in ('pending', 'running', 'awaiting_approval');
create index turns_pending on turns (accept_seq) where status = 'pending';
create index turns_pending_expiry on turns (expires_at) where status = 'pending';
create index turns_leases on turns (lease_until) where status = 'running';
create index turns_by_worker on turns (worker_id) where status = 'running';
create index turns_by_thread on turns (thread_id, accept_seq desc);
create index turns_by_user on turns (tenant_id, user_id, accept_seq desc);

-- How many turns of one key may run at once. Without a row: 1.
create table concurrency_limits (
    tenant_id uuid not null references tenants (id),
    concurrency_key text not null,
    max_running integer not null check (max_running between 1 and 1000),
    primary key (tenant_id, concurrency_key)
);

create table idempotency_keys (
    tenant_id uuid not null references tenants (id),
    scope text not null,
    key text not null,
    fingerprint bytea not null,
    turn_id uuid not null,
    created_at timestamptz not null default now(),
    primary key (tenant_id, scope, key)
);
create index idempotency_keys_by_turn on idempotency_keys (turn_id);

create table messages (
    id uuid primary key,
    tenant_id uuid not null references tenants (id),
    thread_id uuid not null references threads (id),
    -- seq is the order of arrival in the thread; turn_seq the accept order of the turn it belongs to.
    seq bigint generated always as identity,
    turn_id uuid references turns (id),
    turn_seq bigint,
    role text not null check (role in ('user', 'assistant', 'system', 'tool')),
    content text not null,
    format text not null check (format in ('pydantic_ai', 'text')),
    raw_data jsonb,
    created_by uuid,
    superseded_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);
create index messages_by_thread on messages (thread_id, seq) where superseded_at is null;
create index messages_by_turn on messages (thread_id, turn_seq, seq) where superseded_at is null;

-- Billed once: one row per turn, written in the commit that ends it.
create table usage (
    turn_id uuid primary key references turns (id),
    tenant_id uuid not null references tenants (id),
    model_id text not null,
    input_tokens bigint not null,
    output_tokens bigint not null,
    cached_input_tokens bigint not null,
    total_cost numeric,
    created_at timestamptz not null default now()
);
create index usage_by_tenant on usage (tenant_id, created_at);

-- Effects that must follow a commit. One row per (turn, attempt, kind), removed when done.
create table outbox (
    id bigint generated always as identity primary key,
    tenant_id uuid not null references tenants (id),
    turn_id uuid not null references turns (id),
    attempt integer not null,
    kind text not null,
    payload jsonb not null,
    next_at timestamptz not null default now(),
    attempts integer not null default 0,
    created_at timestamptz not null default now(),
    unique (turn_id, attempt, kind)
);
create index outbox_due on outbox (next_at);
