-- Ids sort by the microsecond that they were made in, so the primary key lists a user's transactions by time.
DROP INDEX transactions_created_idx;
