-- With what a credential ends: a token that was made with an API key with that key.

alter table api_keys
    add column parent_id uuid references api_keys (id) on delete cascade;
-- For the reference: sessions are deleted all the time, and each would look for its children.
create index api_keys_by_parent on api_keys (parent_id) where parent_id is not null;
grant select (parent_id), insert (parent_id) on api_keys to turnkeep_tenant;
