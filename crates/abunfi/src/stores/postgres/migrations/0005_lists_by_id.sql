-- Ids sort by the microsecond that they were made in, so the primary key lists a user's transactions by time.
-- Who reads for long is not waited for with all postings behind: the start fails, and may be repeated.
SET LOCAL lock_timeout = '5s';
DROP INDEX transactions_created_idx;
