-- Automations: recorded or written steps that are run again without a model. A tenant's, not a
-- user's. What was written is never changed: each change of the steps is a version, and a run keeps
-- the one it was started with.

-- Whether a message holds the result of a tool call that succeeded. Those of a thread tell whether it
-- can be crystallized. The index reads `messages` once, while writers wait, and holds next to nothing.
create function holds_action(raw_data jsonb) returns boolean
language sql immutable parallel safe as $$
    select jsonb_path_exists(
        raw_data,
        '$.parts[*] ? (@.part_kind == "tool-return" && (!exists(@.outcome) || @.outcome == "success"))'
    )
$$;
create index messages_actions on messages (thread_id, turn_seq)
where role = 'tool' and superseded_at is null and holds_action(raw_data);

create type automation_run_status as enum (
    'pending', 'running', 'awaiting_approval', 'completed', 'failed', 'cancelled'
);
create type automation_step_status as enum (
    'pending', 'running', 'awaiting_approval', 'completed', 'failed', 'denied', 'skipped', 'cancelled'
);

create table automations (
    id uuid primary key,
    tenant_id uuid not null references tenants (id),
    name text not null,
    description text,
    status text not null default 'draft' check (status in ('draft', 'active', 'paused')),
    -- the newest one, and the one that runs; the second lags behind while somebody writes the next
    version integer not null default 1 check (version > 0),
    active_version integer,
    source_type text not null check (source_type in ('manual', 'thread')),
    source_thread_id uuid,
    source_agent_spec_id uuid,
    created_at timestamptz not null default now(),
    created_by uuid,
    updated_at timestamptz not null default now(),
    updated_by uuid,
    deleted_at timestamptz,
    check ((status = 'draft') = (active_version is null)),
    check (active_version <= version)
);
create index automations_by_time on automations (tenant_id, created_at desc, id desc)
where deleted_at is null;

create table automation_versions (
    automation_id uuid not null references automations (id),
    version integer not null,
    tenant_id uuid not null,
    config jsonb not null,
    config_bytes integer not null,
    created_at timestamptz not null default now(),
    created_by uuid,
    primary key (automation_id, version)
);

create table automation_runs (
    id uuid primary key,
    tenant_id uuid not null references tenants (id),
    automation_id uuid not null references automations (id),
    version integer not null,
    -- in whose name the steps are made
    user_id uuid not null references users (id),
    status automation_run_status not null default 'pending',
    -- attempt is the fencing token: every claim raises it, every write of a worker names it
    attempt integer not null default 0,
    -- workers lost since a step was last finished
    crash_count integer not null default 0,
    -- pending: not to be claimed before; running: lost when not over by then; awaiting approval: the
    -- clock decides then
    due_at timestamptz default now(),
    error_code text,
    error_message text,
    started_at timestamptz,
    ended_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    check ((ended_at is not null) = (status in ('completed', 'failed', 'cancelled'))),
    check ((due_at is null) = (ended_at is not null))
);
create index automation_runs_open on automation_runs (tenant_id, due_at) where due_at is not null;
create index automation_runs_by_time on automation_runs (tenant_id, created_at desc, id desc);
create index automation_runs_by_automation on automation_runs
(automation_id, created_at desc, id desc);

-- place is the order of execution: a step stands behind all that it depends on.
create table automation_run_steps (
    run_id uuid not null references automation_runs (id),
    place integer not null,
    tenant_id uuid not null,
    step_id text not null,
    kind text not null,
    name text,
    input jsonb not null,
    depends_on jsonb not null,
    is_deterministic boolean not null,
    source jsonb,
    status automation_step_status not null default 'pending',
    output jsonb,
    error text,
    expires_at timestamptz,
    approved boolean,
    reason text,
    decided_by uuid,
    decided_at timestamptz,
    started_at timestamptz,
    ended_at timestamptz,
    primary key (run_id, place),
    check ((approved is null) = (decided_at is null)),
    check ((ended_at is null) = (status in ('pending', 'running', 'awaiting_approval'))),
    check ((status = 'awaiting_approval') <= (expires_at is not null))
);

do $$
declare
    name text;
begin
    foreach name in array array[
        'automations', 'automation_versions', 'automation_runs', 'automation_run_steps'
    ] loop
        execute format('alter table %I enable row level security', name);
        execute format('create policy all_rows on %I to turnkeep_engine using (true)', name);
        execute format('grant select, insert, update, delete on %I to turnkeep_engine', name);
        execute format(
            'create policy own_rows on %I to turnkeep_tenant using (('
            'tenant_id = (select nullif(current_setting(''app.tenant'', true), '''')::uuid)'
            ') is true)',
            name
        );
    end loop;
end
$$;

-- What the tenant statements do, and nothing more. What a step gave is written by the engine.
grant select on
automations, automation_versions, automation_runs, automation_run_steps
to turnkeep_tenant;
grant insert (
    id, tenant_id, name, description, source_type, source_thread_id, source_agent_spec_id,
    created_by, updated_by
) on automations to turnkeep_tenant;
grant update (
    name, description, status, version, active_version, updated_at, updated_by, deleted_at
) on automations to turnkeep_tenant;
grant insert (
    automation_id, version, tenant_id, config, config_bytes, created_by
) on automation_versions to turnkeep_tenant;
grant insert (
    id, tenant_id, automation_id, version, user_id
) on automation_runs to turnkeep_tenant;
grant update (
    status, attempt, crash_count, due_at, ended_at, updated_at
) on automation_runs to turnkeep_tenant;
grant insert (
    run_id, place, tenant_id, step_id, kind, name, input, depends_on, is_deterministic, source
) on automation_run_steps to turnkeep_tenant;
grant update (
    status, approved, reason, decided_by, decided_at, ended_at
) on automation_run_steps to turnkeep_tenant;
