-- Takes up to `most` ready turns, earliest virtual start first, and tells the generation: the
-- caller must know it before it claims in Postgres. Without a generation nothing is taken.
--
-- KEYS: generation ready clock
-- ARGV: most ttl_s
-- Returns {generation, id, …}, or {} when Redis has lost its state and must be rebuilt.
local present = redis.call('GET', generation)
if not present then
  return {}
end
local popped = redis.call('ZPOPMIN', ready, most)
local answer = {present}
for i = 1, #popped, 2 do
  answer[#answer + 1] = popped[i]
end
if #popped > 0 then
  redis.call('SET', clock, popped[#popped], 'EX', ttl_s)
end
return answer
