-- Drops a generation made under another server process: a restart or a promotion may have taken
-- Redis back to an older state, and nothing of that state may be trusted.
--
-- KEYS: generation
-- ARGV: run_id
-- Returns 1 when a stale generation was dropped.
local present = redis.call('GET', generation)
if present and string.sub(present, 1, #run_id) ~= run_id then
  return redis.call('DEL', generation)
end
return 0
