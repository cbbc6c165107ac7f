-- name: list_actions :many tenant
-- What a thread's completed turns have called, and which of these calls gave a result: messages in
-- the order of turns. $1 tenant  $2 thread  $3 most turns
with acting as materialized (
    select distinct m.turn_seq
    from messages m
    where m.thread_id = $2 and m.role = 'tool' and m.superseded_at is null
        and holds_action(m.raw_data)
        and (m.tenant_id = $1) is true
        and (select t.status = {target:complete} from turns t where t.id = m.turn_id)
    order by m.turn_seq
    limit $3
)
select
    m.turn_id,
    (select t.input_message_id from turns t where t.id = m.turn_id) as input_message_id,
    jsonb_path_query_array(m.raw_data, '$.parts[*] ? (@.part_kind == "tool-call")') as calls,
    jsonb_path_query_array(
        m.raw_data,
        '$.parts[*] ? (
            @.part_kind == "tool-return" && (!exists(@.outcome) || @.outcome == "success")
        ).tool_call_id'
    ) as succeeded,
    array(
        select a.tool_call_id
        from turn_approvals a
        where a.turn_id = m.turn_id and (a.tenant_id = $1 and a.approved) is true
    ) as approved
from acting
cross join lateral (
    select said.turn_id, said.turn_seq, said.seq, said.raw_data
    from messages said
    where said.thread_id = $2 and said.turn_seq = acting.turn_seq and said.superseded_at is null
        and (said.tenant_id = $1 and said.role in ('assistant', 'tool')) is true
    order by said.turn_seq, said.seq
) m
order by m.turn_seq, m.seq;

-- name: create_automation :one tenant
-- A new automation and its first version. $1 id  $2 tenant  $3 name  $4 description
-- $5 kind of source  $6 thread  $7 agent spec  $8 user  $9 config  $10 its size in bytes
with made as (
    insert into automations (
        id, tenant_id, name, description, source_type, source_thread_id, source_agent_spec_id,
        created_by, updated_by
    )
    values ($1, $2, $3, $4, $5, $6, $7, $8::uuid, $8)
    returning id, version
)
insert into automation_versions (automation_id, version, tenant_id, config, config_bytes, created_by)
select m.id, m.version, $2, $9::jsonb, $10, $8
from made m
returning automation_id as id;

-- name: get_automation :one tenant
-- One automation with its newest version and its latest run. $1 automation  $2 tenant
select
    a.*, v.config,
    latest.id as run_id, latest.status as run_status, latest.started_at as run_started_at,
    latest.ended_at as run_ended_at, latest.version as run_version
from automations a
left join automation_versions v on v.automation_id = a.id and v.version = a.version
left join lateral (
    select r.id, r.status, r.started_at, r.ended_at, r.version
    from automation_runs r
    where r.automation_id = a.id
    order by r.created_at desc, r.id desc
    limit 1
) latest on true
where a.id = $1 and (a.tenant_id = $2 and a.deleted_at is null) is true;

-- name: list_automations :many tenant
-- A page of the tenant's automations, newest first, each with how many there are in all; a long config
-- is left out. $1 tenant  $2 status?  $3 offset  $4 most  $5 bytes of a long config
select
    a.*, case when v.config_bytes <= $5 then v.config end as config, page.total,
    latest.id as run_id, latest.status as run_status, latest.started_at as run_started_at,
    latest.ended_at as run_ended_at, latest.version as run_version
from (
    select k.id, k.created_at, count(*) over () as total
    from automations k
    where k.tenant_id = $1 and k.deleted_at is null and ($2::text is null or k.status = $2)
    order by k.created_at desc, k.id desc
    offset $3
    limit $4
) page
join automations a on a.id = page.id
left join automation_versions v on v.automation_id = a.id and v.version = a.version
left join lateral (
    select r.id, r.status, r.started_at, r.ended_at, r.version
    from automation_runs r
    where r.automation_id = a.id
    order by r.created_at desc, r.id desc
    limit 1
) latest on true
order by page.created_at desc, page.id desc;

-- name: lock_automation :one tenant
-- One automation until the commit, with its newest version. $1 automation  $2 tenant
select a.*, v.config
from automations a
left join automation_versions v on v.automation_id = a.id and v.version = a.version
where a.id = $1 and (a.tenant_id = $2 and a.deleted_at is null) is true
for no key update of a;

-- name: get_automation_version :one tenant
-- The steps of one version. $1 automation  $2 tenant  $3 version
select v.config
from automation_versions v
where v.automation_id = $1 and v.version = $3 and (v.tenant_id = $2) is true;

-- name: update_automation :one tenant
-- What an automation, whose lock the caller holds, is from now on. $1 automation  $2 tenant  $3 name
-- $4 description  $5 status  $6 newest version  $7 active version?  $8 user
update automations a
set name = $3,
    description = $4,
    status = $5,
    version = $6,
    active_version = $7,
    updated_at = now(),
    updated_by = $8
where a.id = $1 and (a.tenant_id = $2 and a.deleted_at is null) is true
returning a.id;

-- name: add_automation_version :one tenant
-- Another version of an automation. $1 automation  $2 tenant  $3 version  $4 config
-- $5 its size in bytes  $6 user
insert into automation_versions (automation_id, version, tenant_id, config, config_bytes, created_by)
values ($1, $3, $2, $4::jsonb, $5, $6)
returning version;

-- name: delete_automation :one tenant
-- Hides an automation with its runs. $1 automation  $2 tenant  $3 user
update automations a
set deleted_at = now(), updated_at = now(), updated_by = $3
where a.id = $1 and (a.tenant_id = $2 and a.deleted_at is null) is true
returning a.id;

-- name: count_open_runs :one tenant
-- Runs of the tenant that are not over, counted to a limit. $1 tenant  $2 limit
select count(*) as total
from (
    select 1
    from automation_runs r
    where r.tenant_id = $1 and r.due_at is not null
    limit $2
) counted;

-- name: create_automation_run :one tenant
-- A run of one version, with its steps in the order of execution. $1 id  $2 tenant  $3 automation
-- $4 version  $5 user  $6 steps as the config has them
with made as (
    insert into automation_runs (id, tenant_id, automation_id, version, user_id)
    values ($1, $2, $3, $4, $5)
    returning *
),
planned as (
    insert into automation_run_steps (
        run_id, place, tenant_id, step_id, kind, name, input, depends_on, is_deterministic, source
    )
    select
        m.id, s.place, m.tenant_id, s.id, s.kind, s.name, s.input, s.depends_on, s.deterministic,
        nullif(s.source, 'null'::jsonb)
    from made m
    cross join rows from (
        jsonb_to_recordset($6::jsonb) as (
            id text, kind text, name text, input jsonb, depends_on jsonb, deterministic boolean,
            source jsonb
        )
    ) with ordinality as s (id, kind, name, input, depends_on, deterministic, source, place)
)
select m.* from made m;

-- name: get_automation_run :one tenant
-- One run of a living automation. $1 run  $2 tenant
select r.*
from automation_runs r
where r.id = $1 and (r.tenant_id = $2) is true
    and (select a.deleted_at is null from automations a where a.id = r.automation_id);

-- name: list_automation_runs :many tenant
-- A page of the tenant's runs, newest first, each with how many there are in all.
-- $1 tenant  $2 status?  $3 automation?  $4 offset  $5 most
select r.*, count(*) over () as total
from automation_runs r
join automations a on a.id = r.automation_id
where r.tenant_id = $1
    and (a.deleted_at is null) is true
    and ($2::text is null or r.status = $2::text::automation_run_status)
    and ($3::uuid is null or r.automation_id = $3)
order by r.created_at desc, r.id desc
offset $4
limit $5;

-- name: list_run_steps :many tenant
-- The steps of a run in the order of execution. $1 run  $2 tenant
select s.*
from automation_run_steps s
where s.run_id = $1 and (s.tenant_id = $2) is true
order by s.place;

-- name: lock_automation_run :one tenant
-- One run of a living automation, held until the commit: of two who decide, one is the second.
-- $1 run  $2 tenant
select r.*
from automation_runs r
where r.id = $1 and (r.tenant_id = $2) is true
    and (select a.deleted_at is null from automations a where a.id = r.automation_id)
for no key update of r;

-- name: decide_gates :many tenant
-- Writes a person's decisions on open gates down. $1 run  $2 tenant  $3 user  $4 steps  $5 approved
-- $6 reasons
update automation_run_steps s
set status = case when d.approved then {step:completed} else {step:denied} end,
    approved = d.approved,
    reason = d.reason,
    decided_by = $3,
    decided_at = now(),
    ended_at = now()
from unnest($4::text[], $5::boolean[], $6::text[]) as d (step_id, approved, reason)
where s.run_id = $1
    and (s.tenant_id = $2 and s.status = {step:awaiting_approval}) is true
    and s.step_id = d.step_id
returning s.step_id;

-- name: resume_automation_run :one tenant
-- A parked run of which something was decided waits for a worker again. $1 run  $2 tenant
update automation_runs r
set status = {run:pending}, due_at = now(), updated_at = now()
where r.id = $1 and (r.tenant_id = $2 and r.status = {run:awaiting_approval}) is true
returning r.*;

-- name: cancel_automation_run :one tenant
-- Ends a run that is not over; its worker, if there is one, is fenced. $1 run  $2 tenant
with ended as (
    update automation_runs r
    set status = {run:cancelled},
        attempt = r.attempt + 1,
        due_at = null,
        ended_at = now(),
        updated_at = now()
    where r.id = $1 and (r.tenant_id = $2 and r.ended_at is null) is true
    returning r.*
),
left_alone as (
    update automation_run_steps s
    set status = case
            when s.status = {step:running} then {step:cancelled} else {step:skipped}
        end,
        ended_at = now()
    from ended e
    where s.run_id = $1 and s.run_id = e.id and (s.tenant_id = $2 and s.ended_at is null) is true
)
select e.* from ended e;

-- name: list_open_runs :many tenant
-- Runs of an automation that are not over. $1 tenant  $2 automation
select r.id
from automation_runs r
where r.tenant_id = $1 and r.due_at is not null and (r.automation_id = $2) is true
order by r.id;

-- name: claim_automation_run :one engine
-- Takes a run that waits, was lost, or on which nobody has decided in time: of a tenant drawn by lot,
-- the one that has waited longest. One that has cost too many workers fails here.
-- $1 lease in s  $2 most workers lost   -- scope: system
with recursive tenant (id) as (
    (
        select r.tenant_id
        from automation_runs r
        where r.due_at is not null
        order by r.tenant_id
        limit 1
    )
    union all
    select (
        select r.tenant_id
        from automation_runs r
        where r.due_at is not null and r.tenant_id > t.id
        order by r.tenant_id
        limit 1
    )
    from tenant t
    where t.id is not null
),
chosen as materialized (
    select due.id
    from (select t.id from tenant t where t.id is not null limit 1000) waiting
    cross join lateral (
        select r.id
        from automation_runs r
        where r.tenant_id = waiting.id and r.due_at is not null and r.due_at <= now()
        order by r.due_at
        limit 1
    ) due
    order by random()
    limit 1
),
next as (
    select r.id, (r.status = {run:running} and r.crash_count + 1 >= $2) as is_poison
    from automation_runs r
    join chosen c on c.id = r.id
    where (r.due_at <= now()) is true
    for no key update of r skip locked
),
claimed as (
    update automation_runs r
    set status = case when n.is_poison then {run:failed} else {run:running} end,
        attempt = r.attempt + 1,
        crash_count = r.crash_count + (r.status = {run:running})::integer,
        due_at = case when not n.is_poison then now() + make_interval(secs => $1) end,
        error_code = case when n.is_poison then 'poison' end,
        error_message = case
            when n.is_poison
                then 'The workers that ran this were lost ' || (r.crash_count + 1) || ' times'
        end,
        started_at = coalesce(r.started_at, now()),
        ended_at = case when n.is_poison then now() end,
        updated_at = now()
    from next n
    where r.id = n.id
    returning r.*
),
left_alone as (
    update automation_run_steps s
    set status = case when s.status = {step:running} then {step:failed} else {step:skipped} end,
        error = case when s.status = {step:running} then c.error_message end,
        ended_at = now()
    from claimed c
    where s.run_id = c.id and (c.ended_at is not null and s.ended_at is null) is true
)
select
    c.id, c.tenant_id, c.automation_id, c.version, c.user_id, c.attempt, c.status, c.created_at,
    c.error_code,
    (
        select v.created_by
        from automation_versions v
        where v.automation_id = c.automation_id and v.version = c.version
    ) as author_id,
    (select u.timezone from users u where u.id = c.user_id) as timezone
from claimed c;

-- name: list_claimed_steps :many engine
-- How far the steps of a run are, without what they gave. $1 run  $2 tenant
select
    s.place, s.step_id, s.kind, s.input, s.depends_on, s.source, s.status,
    coalesce(octet_length(s.output::text), 0) as output_bytes,
    s.status = {step:awaiting_approval} and s.expires_at <= now() as is_expired
from automation_run_steps s
where s.run_id = $1 and (s.tenant_id = $2) is true
order by s.place;

-- name: begin_automation_step :one engine
-- A step is about to be made. No row = fenced. $1 run  $2 tenant  $3 attempt  $4 lease in s  $5 place
with fenced as (
    update automation_runs r
    set due_at = now() + make_interval(secs => $4), updated_at = now()
    where r.id = $1 and (r.tenant_id = $2 and r.attempt = $3 and r.status = {run:running}) is true
    returning r.id
),
begun as (
    update automation_run_steps s
    set status = {step:running}, started_at = now()
    from fenced f
    where s.run_id = $1 and s.run_id = f.id and s.place = $5 and (s.ended_at is null) is true
)
select f.id from fenced f;

-- name: finish_automation_step :one engine
-- What came of a step, and those that can no longer be made. No row = fenced.
-- $1 run  $2 tenant  $3 attempt  $4 lease in s  $5 place, null: none  $6 status  $7 output  $8 error
-- $9 places of skipped steps
with fenced as (
    update automation_runs r
    set due_at = now() + make_interval(secs => $4), crash_count = 0, updated_at = now()
    where r.id = $1 and (r.tenant_id = $2 and r.attempt = $3 and r.status = {run:running}) is true
    returning r.id
),
written as (
    update automation_run_steps s
    set status = case
            when s.place = $5::integer then $6::text::automation_step_status else {step:skipped}
        end,
        output = case when s.place = $5 then $7::jsonb end,
        error = case when s.place = $5 then $8::text end,
        ended_at = now()
    from fenced f
    where s.run_id = $1 and s.run_id = f.id
        and s.place = any(array_append($9::integer[], $5))
        and (s.ended_at is null) is true
)
select f.id from fenced f;

-- name: renew_automation_run :one engine
-- A step takes its time. No row = fenced. $1 run  $2 tenant  $3 attempt  $4 lease in s
update automation_runs r
set due_at = now() + make_interval(secs => $4)
where r.id = $1 and (r.tenant_id = $2 and r.attempt = $3 and r.status = {run:running}) is true
returning r.id;

-- name: expire_automation_gates :many engine
-- Denies the gates of a run on which nobody has decided in time.
-- $1 run  $2 tenant  $3 attempt  $4 reason
update automation_run_steps s
set status = {step:denied}, approved = false, reason = $4, decided_at = now(), ended_at = now()
from automation_runs r
where r.id = $1
    and (r.tenant_id = $2 and r.attempt = $3 and r.status = {run:running}) is true
    and s.run_id = $1
    and (s.status = {step:awaiting_approval} and s.expires_at <= now()) is true
returning s.place;

-- name: park_automation_run :one engine
-- Puts a run away until somebody decides on its gates. No row = fenced.
-- $1 run  $2 tenant  $3 attempt  $4 places of gates that open now  $5 time to decide in s
with fenced as (
    update automation_runs r
    set status = {run:awaiting_approval},
        crash_count = 0,
        due_at = least(
            now() + make_interval(secs => $5),
            (
                select min(s.expires_at)
                from automation_run_steps s
                where s.run_id = $1 and (s.status = {step:awaiting_approval}) is true
            )
        ),
        updated_at = now()
    where r.id = $1 and (r.tenant_id = $2 and r.attempt = $3 and r.status = {run:running}) is true
    returning r.id
),
asked as (
    update automation_run_steps s
    set status = {step:awaiting_approval},
        started_at = now(),
        expires_at = now() + make_interval(secs => $5)
    from fenced f
    where s.run_id = $1 and s.run_id = f.id and s.place = any($4::integer[])
        and (s.ended_at is null) is true
)
select f.id from fenced f;

-- name: end_automation_run :one engine
-- All steps of a run are over. No row = fenced. $1 run  $2 tenant  $3 attempt  $4 status
-- $5 error code  $6 error message
update automation_runs r
set status = $4::text::automation_run_status,
    error_code = $5,
    error_message = $6,
    due_at = null,
    ended_at = now(),
    updated_at = now()
where r.id = $1 and (r.tenant_id = $2 and r.attempt = $3 and r.status = {run:running}) is true
returning r.id;

-- name: hand_back_automation_run :one engine
-- A worker that leaves returns a run; a step under way is made again. $1 run  $2 tenant  $3 attempt
with handed as (
    update automation_runs r
    set status = {run:pending}, due_at = now(), updated_at = now()
    where r.id = $1 and (r.tenant_id = $2 and r.attempt = $3 and r.status = {run:running}) is true
    returning r.id
),
undone as (
    update automation_run_steps s
    set status = {step:pending}, started_at = null
    from handed h
    where s.run_id = $1 and s.run_id = h.id and (s.status = {step:running}) is true
)
select h.id from handed h;
