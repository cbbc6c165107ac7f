-- Personal tokens and sessions by when they are over: what was so long ago is forgotten. Keys are few,
-- and stay.
create index api_keys_over on api_keys (least(revoked_at, expires_at))
where token_type <> 'api_key';
