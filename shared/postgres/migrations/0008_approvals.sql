-- Turns that wait for a person: parked without a worker, until somebody or the clock decides.
--
-- A parked turn keeps its slot on its concurrency key, so that nobody passes it unasked: slots are
-- held by what runs and by what is parked. The old rule was stricter, so old rows keep the new one.
-- The two indexes hold next to nothing, and yet each reads the table once, while writers wait.
alter table turns
add column parked_count integer not null default 0,
drop constraint turns_check1,
add constraint turns_slot_held check (
    (status in ('running', 'awaiting_approval')) = (slot is not null)
) not valid;

create unique index turns_slot on turns (tenant_id, concurrency_key, slot)
where slot is not null;
drop index turns_running_slot;
-- Of a parked turn, expires_at is when nobody has decided in time.
create index turns_parked on turns (expires_at) where status = 'awaiting_approval';

-- One row per tool call that somebody must approve. round is the turn's parked_count when it was
-- asked, outcome what an approved call gave, once it has run. The key holds for all rounds: were an id
-- used again, a decision that is sent twice could be taken for one on a call that nobody has seen.
create table turn_approvals (
    turn_id uuid not null references turns (id),
    tenant_id uuid not null references tenants (id),
    round integer not null,
    place integer not null,
    tool_call_id text not null,
    tool_name text not null,
    args jsonb not null,
    asked_at timestamptz not null default now(),
    approved boolean,
    reason text,
    decided_by uuid,
    decided_at timestamptz,
    outcome jsonb,
    primary key (turn_id, tool_call_id),
    check ((approved is null) = (decided_at is null)),
    check (outcome is null or approved)
);

-- The open calls of a parked turn as readers see them.
create function open_approvals(turn uuid, asked_round integer, until timestamptz) returns jsonb
language sql stable as $$
    select jsonb_agg(
        jsonb_build_object(
            'toolCallId', a.tool_call_id,
            'toolName', a.tool_name,
            'args', a.args,
            'askedAt', a.asked_at,
            'expiresAt', until
        )
        order by a.place
    )
    from turn_approvals a
    where a.turn_id = turn and a.round = asked_round and a.decided_at is null
$$;

-- What a turn that was parked had said until then: its answer, should it be cancelled before it
-- says more.
create function said_when_parked(thread uuid, seq_of_turn bigint) returns uuid
language sql stable as $$
    select m.id
    from messages m
    where m.thread_id = thread
        and m.turn_seq = seq_of_turn
        and m.superseded_at is null
        and (m.role = 'assistant' and m.content <> '') is true
    order by m.seq desc
    limit 1
$$;

alter table turn_approvals enable row level security;
create policy all_rows on turn_approvals to turnkeep_engine using (true);
create policy own_rows on turn_approvals to turnkeep_tenant using (
    (tenant_id = (select nullif(current_setting('app.tenant', true), '')::uuid)) is true
);
grant select, insert, update, delete on turn_approvals to turnkeep_engine;
grant select on turn_approvals to turnkeep_tenant;
grant update (approved, reason, decided_by, decided_at) on turn_approvals to turnkeep_tenant;
