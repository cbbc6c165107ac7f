-- A turn and the message it answers as one thing: continued in another thread, or made to disappear.

-- name: copy_exchanges :one tenant
-- Copies the newest messages of a thread, up to a turn of it, into a thread that has none: there no
-- turn has made them. What no turn has made here is where a model sees it, as in `list_histories`, and
-- left out where it came behind the next turn's question. How many, no row = none.
-- $1 tenant  $2 user  $3 from  $4 accept_seq of the turn  $5 to  $6 most
with target as materialized (
    select th.id
    from threads th
    where th.id = $5 and (th.tenant_id = $1 and th.user_id = $2 and th.deleted_at is null) is true
),
next as materialized (
    select own.seq
    from messages own
    where own.thread_id = $3
        and (own.tenant_id = $1) is true
        and own.superseded_at is null
        and own.turn_seq > $4
    order by own.turn_seq, own.seq
    limit 1
),
kept as (
    select
        m.role, m.content, m.format, m.raw_data, m.created_by, m.seq,
        m.turn_seq is null as is_aside,
        coalesce(m.turn_seq, max(m.turn_seq) over (order by m.seq), 0) as place
    from (
        (
            select
                own.role, own.content, own.format, own.raw_data, own.created_by, own.turn_seq,
                own.seq
            from messages own
            where own.thread_id = $3
                and (own.tenant_id = $1) is true
                and own.superseded_at is null
                and own.turn_seq <= $4
            order by own.turn_seq desc, own.seq desc
            limit $6
        )
        union all
        (
            select
                own.role, own.content, own.format, own.raw_data, own.created_by, own.turn_seq,
                own.seq
            from messages own
            where own.thread_id = $3
                and (own.tenant_id = $1) is true
                and own.superseded_at is null
                and own.turn_seq is null
                and (own.seq < (select n.seq from next n)) is not false
            order by own.turn_seq desc, own.seq desc
            limit $6
        )
    ) m
    order by place desc, is_aside desc, m.seq desc
    limit $6
),
copied as (
    insert into messages (id, tenant_id, thread_id, role, content, format, raw_data, created_by)
    select gen_random_uuid(), $1, t.id, k.role, k.content, k.format, k.raw_data, k.created_by
    from kept k
    cross join target t
    order by k.place, k.is_aside, k.seq
    returning id
)
select count(*) as copied from copied having count(*) > 0;

-- name: hide_exchange :one tenant
-- Makes all that a turn said and was asked disappear: those messages; no row = it is gone already.
-- Its thread is locked. $1 tenant  $2 thread  $3 accept_seq
with hidden as (
    update messages m
    set superseded_at = now(), updated_at = now()
    where m.thread_id = $2
        and m.turn_seq = $3
        and m.superseded_at is null
        and (m.tenant_id = $1) is true
    returning m.id
)
select array_agg(h.id) as ids from hidden h having count(*) > 0;

-- name: find_later_message :one tenant
-- A message of a thread that did not come before its first question; no row = there is none.
-- $1 tenant  $2 thread  $3 the question, hidden or not
select m.id
from messages m
where m.tenant_id = $1 and m.thread_id = $2 and m.superseded_at is null
    and (
        m.turn_seq is not null
        or m.seq > (select q.seq from messages q where q.id = $3 and (q.tenant_id = $1) is true)
    ) is true
order by m.seq desc
limit 1;

-- name: list_messages_of_no_turn :many tenant
-- Messages of a thread that no turn has made, in the order they came, up to a question.
-- $1 tenant  $2 thread  $3 before this seq  $4 most
select m.*
from messages m
where m.thread_id = $2
    and m.turn_seq is null
    and m.seq < $3
    and m.superseded_at is null
    and (m.tenant_id = $1) is true
order by m.turn_seq, m.seq
limit $4;

-- name: add_messages :one tenant
-- Messages that no turn has made, in this order, in a thread that is locked or not to be seen yet; how
-- many, no row = no such thread.
-- $1 tenant  $2 user  $3 thread  $4 ids  $5 roles  $6 contents  $7 preview, null: not told of
with thread as materialized (
    select th.id
    from threads th
    where th.id = $3 and (th.tenant_id = $1 and th.user_id = $2 and th.deleted_at is null) is true
),
added as (
    insert into messages (id, tenant_id, thread_id, role, content, format, created_by)
    select
        given.id, $1, t.id, given.role, given.content, 'text',
        case when given.role = 'user' then $2::uuid end
    from thread t
    cross join unnest($4::uuid[], $5::text[], $6::text[])
        with ordinality as given (id, role, content, place)
    order by given.place
    returning id
),
touched as (
    update threads th
    set last_message_at = case when $7::text is null then th.last_message_at else now() end,
        last_message_preview = coalesce($7, th.last_message_preview),
        updated_at = now()
    from thread t
    where th.id = $3 and t.id = th.id
)
select count(*) as added from added having count(*) > 0;
