-- Threads for one turn, removed when it is over.

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
