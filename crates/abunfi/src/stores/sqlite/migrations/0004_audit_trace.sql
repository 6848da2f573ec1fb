-- The trace that a change was a part of (W3C Trace Context), where its request named one: a mark to find the
-- row by. It is no part of the row's hash, whose format stays as it is.
ALTER TABLE audit ADD COLUMN trace_id TEXT;
