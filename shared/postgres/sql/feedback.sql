-- name: find_feedback_target :one tenant
-- What a thread has under these ids; no row = the thread is not the user's.
-- $1 tenant  $2 user  $3 thread  $4 message?  $5 turn?
select
    m.id as message_id, m.role as message_role, m.turn_id as message_turn_id, t.id as turn_id
from threads th
left join messages m
    on m.id = $4 and (m.tenant_id = $1 and m.thread_id = th.id and m.superseded_at is null) is true
left join turns t on t.id = $5 and (t.tenant_id = $1 and t.thread_id = th.id) is true
where th.id = $3
    and (th.tenant_id = $1 and th.user_id = $2 and th.deleted_at is null) is true;

-- name: put_feedback :one tenant
-- Writes down a user's opinion of one target, or puts it in place of their earlier one.
-- $1 id  $2 tenant  $3 user  $4 thread  $5 turn?  $6 message?  $7 rating  $8 comment?
insert into feedback as f (id, tenant_id, user_id, thread_id, turn_id, message_id, rating, comment)
values ($1, $2, $3, $4, $5, $6, $7, $8)
on conflict (
    thread_id, user_id,
    (coalesce(message_id, '00000000-0000-0000-0000-000000000000')),
    (coalesce(turn_id, '00000000-0000-0000-0000-000000000000'))
) do update
set rating = excluded.rating, comment = excluded.comment, updated_at = now()
returning f.*;

-- name: list_feedback :many tenant
-- A user's opinions, newest first, behind a place. $1 tenant  $2 user  $3 thread?  $4 turn?
-- $5 message?  $6 rating?  $7 from  $8 before  $9 place: time  $10 place: id  $11 most
-- Times and place are never null: see `list_messages`.
select f.*
from feedback f
where f.tenant_id = $1 and f.user_id = $2
    and f.created_at >= $7 and f.created_at < $8
    and (f.created_at, f.id) < ($9, $10)
    and ($3::uuid is null or f.thread_id = $3)
    and ($4::uuid is null or f.turn_id = $4)
    and ($5::uuid is null or f.message_id = $5)
    and ($6::text is null or f.rating = $6)
    and (select th.deleted_at is null from threads th where th.id = f.thread_id)
order by f.created_at desc, f.id desc
limit $11;
