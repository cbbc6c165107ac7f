-- Every claim, every end and every renewal of a lease wrote this index. Two rare questions could use
-- it, what a lost worker held and what a lost reply has claimed, and an index of running turns, of
-- which there are thousands at most, answers them in a millisecond.

drop index turns_by_worker;
