-- Turns whose message is still there, with what was asked and said in them.
-- A list is read in either direction behind a place; who lists backwards turns the page around.

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
