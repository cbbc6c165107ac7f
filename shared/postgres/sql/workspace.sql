-- Projects with their threads, interactions and artifacts, as a workspace surface lists them.
-- A thread without a project belongs to the default one. A list is read in either direction behind a
-- place; who lists backwards turns the page around.
-- An interaction is a turn whose message is still there, and whose answer was not replaced.

-- name: list_projects :many tenant
-- A page of the projects that a user may see. $1 tenant  $2 user  $3 behind this time?  $4 and this id?
-- $5 newest first  $6 skipped  $7 most
select p.*
from projects p
where p.tenant_id = $1 and p.deleted_at is null
    and (p.visibility = 'shared' or p.created_by = $2) is true
    and (
        $3::timestamptz is null
        or case
            when $5::boolean then (p.created_at, p.id) < ($3, $4::uuid)
            else (p.created_at, p.id) > ($3, $4)
        end
    )
order by
    case when $5 then p.created_at end desc, case when $5 then p.id end desc, p.created_at, p.id
offset $6
limit $7;

-- name: count_projects :one tenant
-- How many projects a user may see. $1 tenant  $2 user
select count(*) as total
from projects p
where p.tenant_id = $1 and p.deleted_at is null
    and (p.visibility = 'shared' or p.created_by = $2) is true;

-- name: create_workspace_thread :one tenant
-- A thread of a project. What is shared in a private project is shared in it alone.
-- $1 id  $2 tenant  $3 user  $4 title  $5 visibility  $6 project, null: default
insert into threads (id, tenant_id, user_id, title, visibility, project_id)
values (
    $1, $2, $3, $4,
    case
        when $5 = 'shared' and (
            select p.visibility = 'private'
            from projects p
            where p.id = $6 and (p.tenant_id = $2) is true
        ) then 'project'
        else $5
    end,
    $6
)
returning *;

-- name: find_workspace_thread :one tenant
-- A thread that a user may use, in a project that they may see. $1 thread  $2 tenant  $3 user
select th.*
from threads th
where th.id = $1
    and (
        th.tenant_id = $2
        and (th.user_id = $3 or th.visibility = 'shared')
        and th.deleted_at is null
        and not th.is_transient
    ) is true
    and (
        th.project_id is null
        or (
            select (p.visibility = 'shared' or p.created_by = $3) and p.deleted_at is null
            from projects p
            where p.id = th.project_id and (p.tenant_id = $2) is true
        )
    ) is true;

-- name: list_user_names :many engine
-- Names of users of a tenant, for colleagues who see what they share. $1 tenant  $2 users
select u.id, u.name
from users u
where u.id = any($2::uuid[]) and (u.tenant_id = $1) is true;

-- name: update_workspace_thread :one tenant
-- Changes what is given. $1 thread  $2 tenant  $3 owner  $4 title?  $5 visibility?
update threads th
set title = coalesce($4, th.title),
    visibility = case
        when $5 = 'shared' and (
            select p.visibility = 'private'
            from projects p
            where p.id = th.project_id and (p.tenant_id = $2) is true
        ) then 'project'
        else coalesce($5, th.visibility)
    end,
    updated_at = now()
where th.id = $1 and (th.tenant_id = $2 and th.user_id = $3 and th.deleted_at is null) is true
returning th.id;

-- name: list_project_threads :many tenant
-- A page of a project's threads: a user's own, and what others share. $1 tenant  $2 user
-- $3 project, null: default  $4 behind this time?  $5 and this id?  $6 newest first  $7 skipped  $8 most
select th.*
from (
    select f.id, f.created_at
    from (
        select own.id, own.created_at
        from threads own
        where own.tenant_id = $1 and own.user_id = $2 and own.deleted_at is null
            and (own.project_id is not distinct from $3::uuid and not own.is_transient) is true
        union all
        select others.id, others.created_at
        from threads others
        where others.tenant_id = $1
            and case
                when others.project_id is null then '00000000-0000-0000-0000-000000000000'
                else others.project_id
            end = coalesce($3, '00000000-0000-0000-0000-000000000000')
            and others.visibility = 'shared'
            and others.deleted_at is null
            and not others.is_transient
            and (others.user_id <> $2) is true
    ) f
    where $4::timestamptz is null
        or case
            when $6::boolean then (f.created_at, f.id) < ($4, $5::uuid)
            else (f.created_at, f.id) > ($4, $5)
        end
    order by
        case when $6 then f.created_at end desc, case when $6 then f.id end desc, f.created_at, f.id
    offset $7
    limit $8
) page
join lateral (select own.* from threads own where own.id = page.id limit 1) th on true
order by
    case when $6 then page.created_at end desc, case when $6 then page.id end desc,
    page.created_at, page.id;

-- name: count_project_threads :one tenant
-- How many threads `list_project_threads` pages through. $1 tenant  $2 user  $3 project, null: default
select
    (
        select count(*)
        from threads own
        where own.tenant_id = $1 and own.user_id = $2 and own.deleted_at is null
            and (own.project_id is not distinct from $3::uuid and not own.is_transient) is true
    ) + (
        select count(*)
        from threads others
        where others.tenant_id = $1
            and case
                when others.project_id is null then '00000000-0000-0000-0000-000000000000'
                else others.project_id
            end = coalesce($3, '00000000-0000-0000-0000-000000000000')
            and others.visibility = 'shared'
            and others.deleted_at is null
            and not others.is_transient
            and (others.user_id <> $2) is true
    ) as total;

-- name: find_interaction :one tenant
-- A turn that a user may see, and where it belongs. $1 turn  $2 tenant  $3 user
select
    t.*,
    th.project_id,
    case
        when t.status = {target:park} then open_approvals(t.id, t.parked_count, t.expires_at)
    end as approvals
from turns t
join lateral (
    select own.project_id
    from threads own
    where own.id = t.thread_id
        and (
            own.tenant_id = $2
            and (own.user_id = $3 or own.visibility = 'shared')
            and own.deleted_at is null
            and not own.is_transient
        ) is true
        and (
            own.project_id is null
            or (
                select (p.visibility = 'shared' or p.created_by = $3) and p.deleted_at is null
                from projects p
                where p.id = own.project_id and (p.tenant_id = $2) is true
            )
        ) is true
    limit 1
) th on true
where t.id = $1
    and (t.tenant_id = $2) is true
    and (select i.superseded_at is null from messages i where i.id = t.input_message_id)
    and (
        t.output_message_id is null
        or (select o.superseded_at is null from messages o where o.id = t.output_message_id)
    ) is true;

-- name: list_interactions :many tenant
-- A page of the interactions of a thread that the caller may use. $1 tenant  $2 thread
-- $3 behind this accept_seq?  $4 newest first  $5 skipped  $6 most
select
    t.*,
    case
        when t.status = {target:park} then open_approvals(t.id, t.parked_count, t.expires_at)
    end as approvals
from (
    select n.id, n.accept_seq
    from turns n
    where n.thread_id = $2
        and (n.tenant_id = $1) is true
        and (
            $3::bigint is null
            or case when $4::boolean then n.accept_seq < $3 else n.accept_seq > $3 end
        )
        and (select i.superseded_at is null from messages i where i.id = n.input_message_id)
        and (
            n.output_message_id is null
            or (select o.superseded_at is null from messages o where o.id = n.output_message_id)
        ) is true
    order by case when $4 then -n.accept_seq else n.accept_seq end
    offset $5
    limit $6
) page
join lateral (select own.* from turns own where own.id = page.id limit 1) t on true
order by case when $4 then -page.accept_seq else page.accept_seq end;

-- name: count_interactions :one tenant
-- How many interactions `list_interactions` pages through. $1 tenant  $2 thread
select count(*) as total
from turns n
where n.thread_id = $2
    and (n.tenant_id = $1) is true
    and (select i.superseded_at is null from messages i where i.id = n.input_message_id)
    and (
        n.output_message_id is null
        or (select o.superseded_at is null from messages o where o.id = n.output_message_id)
    ) is true;

-- name: list_messages_of_turns :many tenant
-- What was said in these turns of a thread, in order. $1 tenant  $2 thread  $3 accept_seqs
-- Turn by turn: asked for as one list, a plan made before there were statistics reads the whole thread.
select said.id, said.turn_seq, said.role, said.content, said.raw_data
from unnest($3::bigint[]) as asked (turn_seq)
cross join lateral (
    select m.id, m.turn_seq, m.role, m.content, m.raw_data, m.seq
    from messages m
    where m.thread_id = $2
        and m.turn_seq = asked.turn_seq
        and m.superseded_at is null
        and (m.tenant_id = $1) is true
    order by m.turn_seq, m.seq
    offset 0
) said
order by said.turn_seq, said.seq;

-- name: begin_ingestion :one tenant
-- Has the text of an artifact's file read, if anybody can and nobody has. $1 artifact  $2 tenant
update stored_files f
set ingestion_status = {ingestion:pending},
    ingestion_attempt = 0,
    ingestion_due_at = now(),
    ingestion_reason = null,
    ingestion_changed_at = now()
from artifacts a
where a.id = $1
    and f.tenant_id = $2 and f.sha256 = a.sha256
    and (
        f.reader is not null
        and (
            f.ingestion_status = {ingestion:none}
            or f.ingestion_status = {ingestion:failed} and f.ingestion_reason in ({retried})
        )
    ) is true
returning a.id;

-- name: get_project_artifact :one tenant
-- An artifact of a project that a user may see, and how far its text was read. $1 artifact  $2 tenant
-- $3 user
select a.*, f.reader, f.ingestion_status
from artifacts a
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
where a.id = $1
    and (
        a.tenant_id = $2 and (not a.is_private or a.created_by = $3) and a.deleted_at is null
        and a.project_id is not null
    ) is true;

-- name: list_project_artifacts :many tenant
-- A page of the artifacts of a project that the caller may see. $1 tenant  $2 user  $3 project
-- $4 behind this time?  $5 and this id?  $6 newest first  $7 skipped  $8 most
select a.*, f.reader, f.ingestion_status
from (
    select k.id, k.created_at
    from artifacts k
    where k.project_id = $3
        and (
            k.tenant_id = $1 and (not k.is_private or k.created_by = $2) and k.deleted_at is null
        ) is true
        and (
            $4::timestamptz is null
            or case
                when $6::boolean then (k.created_at, k.id) < ($4, $5::uuid)
                else (k.created_at, k.id) > ($4, $5)
            end
        )
    order by
        case when $6 then k.created_at end desc, case when $6 then k.id end desc, k.created_at, k.id
    offset $7
    limit $8
) page
join artifacts a on a.id = page.id
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
order by
    case when $6 then page.created_at end desc, case when $6 then page.id end desc,
    page.created_at, page.id;

-- name: count_project_artifacts :one tenant
-- How many artifacts `list_project_artifacts` pages through. $1 tenant  $2 user  $3 project
select count(*) as total
from artifacts k
where k.project_id = $3
    and (
        k.tenant_id = $1 and (not k.is_private or k.created_by = $2) and k.deleted_at is null
    ) is true;

-- name: find_named_artifacts :many tenant
-- Which of these artifacts a user may see, and how far their texts were read. $1 tenant  $2 user
-- $3 artifacts
select a.id, a.kind, f.reader, f.ingestion_status
from artifacts a
left join stored_files f on f.tenant_id = a.tenant_id and f.sha256 = a.sha256
where a.id = any($3::uuid[])
    and (
        a.tenant_id = $1 and (not a.is_private or a.created_by = $2) and a.deleted_at is null
    ) is true;

-- name: attach_message_artifacts :many engine
-- Attaches artifacts to a message that has just been accepted: those that its thread's user may see.
-- $1 tenant  $2 user  $3 thread  $4 message  $5 attachments  $6 artifacts, one for each
with held as materialized (
    select a.id, asked.attachment_id
    from unnest($5::uuid[], $6::uuid[]) as asked (attachment_id, artifact_id)
    join artifacts a on a.id = asked.artifact_id
    where a.id = any($6::uuid[])
        and (
            a.tenant_id = $1 and (not a.is_private or a.created_by = $2) and a.deleted_at is null
        ) is true
    for share of a
),
attached as (
    insert into attachments (id, tenant_id, thread_id, artifact_id, message_id, created_by)
    select h.attachment_id, $1, $3, h.id, $4, $2
    from held h
    returning id
),
counted as (
    update threads th
    set attachment_count = th.attachment_count + (select count(*) from held)
    where th.id = $3 and (th.tenant_id = $1) is true
)
select at.id
from attached at;

-- name: name_author :one engine
-- Writes down who has said a message that was just accepted, where it is not its thread's user.
-- $1 message  $2 tenant  $3 who
update messages m
set created_by = $3
where m.id = $1 and (m.tenant_id = $2) is true
returning m.id;

-- name: give_turn_agent :one engine
-- Lets another agent spec than its thread's serve a turn that has just been accepted; no row = it is
-- gone. $1 turn  $2 tenant  $3 agent spec  $4 the model where the spec names none
update turns t
set agent_spec_id = s.id,
    agent_spec_version = s.version,
    model_id = coalesce(s.model_id, $4)
from agent_specs s
where t.id = $1
    and s.id = $3
    and (t.tenant_id = $2 and s.tenant_id = $2 and s.deleted_at is null) is true
returning t.model_id, t.agent_spec_id, t.agent_spec_version;

-- name: create_transient_thread :one tenant
-- A thread that no list shows, for one turn. $1 id  $2 tenant  $3 user
insert into threads (id, tenant_id, user_id, is_transient)
values ($1, $2, $3, true)
returning id;

-- name: list_over_transient_threads :many engine
-- Transient threads whose turn ended so long ago, or that never got one. $1 s  $2 most
-- -- scope: system
select th.id
from threads th
where th.is_transient and th.deleted_at is null
    and th.created_at < now() - make_interval(secs => $1)
    and (
        select t.id
        from turns t
        where t.thread_id = th.id
            and (t.ended_at is null or t.ended_at > now() - make_interval(secs => $1)) is true
        limit 1
    ) is null
order by th.created_at
limit $2;

-- name: lock_transient_threads :many engine
-- Lets no turn be accepted in these transient threads until the commit. $1 threads
-- -- scope: system
select th.id
from threads th
where th.id = any($1::uuid[]) and (th.is_transient and th.deleted_at is null) is true
order by th.id
for update;

-- name: remove_transient_threads :many engine
-- Removes what was said in transient threads whose turns are over, and hides them; what was used stays.
-- They are locked by now: only so all their turns are seen. $1 threads   -- scope: system
with over as materialized (
    select th.id
    from threads th
    where th.id = any($1::uuid[])
        and (th.is_transient and th.deleted_at is null) is true
        and (
            select t.id from turns t where t.thread_id = th.id and (t.ended_at is null) is true limit 1
        ) is null
),
silenced as (
    -- none of theirs was ever superseded, and the index knows no others
    delete from messages m
    where m.thread_id = any($1::uuid[])
        and m.superseded_at is null
        and (m.thread_id in (select o.id from over o)) is true
),
blanked as (
    update turns t
    set settings = '{}', system_prompt = null
    where t.thread_id = any($1::uuid[]) and (t.thread_id in (select o.id from over o)) is true
    returning t.id
),
unasked as (
    -- which tool calls had to be approved, with their arguments
    delete from turn_approvals ta
    where ta.turn_id = any(array(select b.id from blanked b))
)
update threads th
set deleted_at = now(), updated_at = now(), title = null, last_message_preview = null
where th.id = any($1::uuid[]) and (th.id in (select o.id from over o)) is true
returning th.id;
