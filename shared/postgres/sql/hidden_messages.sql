-- What follows where messages of a thread were hidden. The thread is locked.

-- name: retell_last_message :one tenant
-- Makes a thread tell of the newest message that is left. $1 thread  $2 tenant  $3 owner
update threads th
set last_message_at = newest.created_at,
    last_message_preview = newest.said,
    updated_at = now()
from (
    select
        max(n.created_at) as created_at,
        max(
            case
                when char_length(n.said) > 140 then left(n.said, 139) || '…'
                else nullif(n.said, '')
            end
        ) as said
    from (
        select m.created_at, btrim(regexp_replace(left(m.content, 2800), '\s+', ' ', 'g')) as said
        from messages m
        where m.thread_id = $1 and m.superseded_at is null
            and (m.tenant_id = $2 and m.role in ('user', 'assistant') and m.content ~ '\S') is true
        order by m.seq desc
        limit 1
    ) n
) newest
where th.id = $1 and (th.tenant_id = $2 and th.user_id = $3 and th.deleted_at is null) is true
returning th.id;

-- name: retell_last_turn :one tenant
-- Makes a thread tell of the newest turn of which a message is still there. $1 thread  $2 tenant  $3 owner
update threads th
set last_turn_id = (
        select t.id
        from turns t
        where t.thread_id = $1
            and (t.tenant_id = $2) is true
            and exists (
                select from messages m
                where m.thread_id = $1
                    and m.turn_seq = t.accept_seq
                    and m.superseded_at is null
                    and (m.tenant_id = $2) is true
            )
        order by t.accept_seq desc
        limit 1
    ),
    updated_at = now()
where th.id = $1 and (th.tenant_id = $2 and th.user_id = $3 and th.deleted_at is null) is true
returning th.id;

-- name: detach_from_messages :one tenant
-- Removes what is attached to messages of a locked thread; no row = nothing is.
-- $1 tenant  $2 thread  $3 messages, null: all of the thread
with detached as (
    update attachments at
    set deleted_at = now(), updated_at = now()
    where at.thread_id = $2
        and at.deleted_at is null
        and (at.tenant_id = $1) is true
        and (at.message_id = any($3::uuid []) or ($3 is null and at.message_id is not null)) is true
    returning at.id
)
update threads th
set attachment_count = th.attachment_count - (select count(*) from detached)
where th.id = $2 and (th.tenant_id = $1) is true and exists (select from detached)
returning th.id;
