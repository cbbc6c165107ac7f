-- The same index over the same values, written so that the tenants' role can use all of it: Postgres
-- takes a coalesce() for something that could leak what a policy hides, and a case for nothing of the
-- kind. With the former a later page of a list read every thread before it.
drop index threads_by_activity;
create index threads_by_activity on threads (
    tenant_id,
    user_id,
    (case when last_message_at is null then created_at else last_message_at end) desc,
    id desc
)
where deleted_at is null;
