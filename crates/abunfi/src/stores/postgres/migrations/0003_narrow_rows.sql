-- Narrower rows, and checks that cost a batch little.

-- Nobody writes while the rows move: a key that an older program commits between the copy and the DROP would be
-- lost, and its retry would post twice. All that is changed here is locked at once, in the order in which postings
-- lock, so that neither waits for the other. What comes afterwards sees what was committed before.
SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
DO $$
BEGIN
    LOCK TABLE accounts, transactions, entries, audit, idempotency_keys IN ACCESS EXCLUSIVE MODE;
EXCEPTION WHEN feature_not_supported THEN
    -- A server without such locks: there all older instances must have been stopped, as everywhere.
    NULL;
END;
$$;

-- Answers to requests on one user. Most answers are what two rows that never change again say, the finished
-- transaction and the audit row that finished it: then answer is null and they are named instead, and a
-- replay is put together from them. key_hash is the first half of SHA-256 over principal, scope and key with
-- a NUL between, so that a long key costs no more than a short one.
CREATE TABLE narrow_keys (
    user_id        uuid        NOT NULL,
    key_hash       uuid        NOT NULL,
    transaction_id uuid,
    seq            bigint,
    created_at     timestamptz NOT NULL,
    fingerprint    bytea       NOT NULL,
    answer         text,
    CONSTRAINT narrow_keys_pkey PRIMARY KEY (user_id, key_hash),
    CONSTRAINT idempotency_keys_answer_check
        CHECK ((answer IS NULL) = (transaction_id IS NOT NULL) AND (answer IS NULL) = (seq IS NOT NULL))
);
INSERT INTO narrow_keys (user_id, key_hash, created_at, fingerprint, answer)
SELECT user_id,
       encode(substring(sha256(convert_to(principal, 'UTF8') || '\x00'::bytea || convert_to(scope, 'UTF8')
                               || '\x00'::bytea || convert_to(key, 'UTF8')) FROM 1 FOR 16), 'hex')::uuid,
       created_at, fingerprint, answer
FROM idempotency_keys;
DROP TABLE idempotency_keys;
ALTER TABLE narrow_keys RENAME TO idempotency_keys;
ALTER TABLE idempotency_keys RENAME CONSTRAINT narrow_keys_pkey TO idempotency_keys_pkey;
CREATE INDEX idempotency_keys_created_idx ON idempotency_keys (created_at);

-- What the two foreign keys of a posting demand, checked for all rows of a statement at once: a foreign key
-- looks up and locks its row one by one, which was the largest part of writing a batch. The rows that they
-- refer to can neither be deleted while they are referred to nor renamed. Looking once, when a row is written, is
-- enough for writers that lock the account first, as the program does; it is not for one that deletes an account
-- while another one, without that lock, writes the account's first transaction.
CREATE FUNCTION abunfi_check_entries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM written AS w
        WHERE (SELECT true FROM transactions AS t
               WHERE t.user_id = w.user_id AND t.transaction_id = w.transaction_id) IS NULL
    ) THEN
        RAISE EXCEPTION 'an entry without its transaction'
            USING ERRCODE = 'foreign_key_violation', TABLE = 'entries', CONSTRAINT = 'entries_transaction_fkey';
    END IF;
    RETURN NULL;
END;
$$;
CREATE FUNCTION abunfi_check_transactions() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM written AS w
        WHERE (SELECT true FROM accounts AS a WHERE a.user_id = w.user_id AND a.asset = w.asset) IS NULL
    ) THEN
        RAISE EXCEPTION 'a transaction without its account'
            USING ERRCODE = 'foreign_key_violation', TABLE = 'transactions', CONSTRAINT = 'transactions_account_fkey';
    END IF;
    RETURN NULL;
END;
$$;
CREATE FUNCTION abunfi_keep_account() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' OR EXISTS (
        SELECT FROM transactions AS t WHERE t.user_id = OLD.user_id AND t.asset = OLD.asset
    ) THEN
        RAISE EXCEPTION 'an account is not renamed, nor deleted while it has transactions'
            USING ERRCODE = 'foreign_key_violation', TABLE = 'transactions', CONSTRAINT = 'transactions_account_fkey';
    END IF;
    RETURN OLD;
END;
$$;
CREATE FUNCTION abunfi_keep_transaction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' OR EXISTS (
        SELECT FROM entries AS e WHERE e.user_id = OLD.user_id AND e.transaction_id = OLD.transaction_id
    ) THEN
        RAISE EXCEPTION 'a transaction is not renamed, nor deleted while it has entries'
            USING ERRCODE = 'foreign_key_violation', TABLE = 'entries', CONSTRAINT = 'entries_transaction_fkey';
    END IF;
    RETURN OLD;
END;
$$;
-- They look in the program's own tables, whatever the writer's search path and temporary tables are, and with the
-- owner's rights, so that who may only insert can.
DO $$
DECLARE
    home text := (SELECT relnamespace::regnamespace::text FROM pg_class WHERE oid = 'accounts'::regclass);
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['abunfi_check_entries', 'abunfi_check_transactions', 'abunfi_keep_account',
                                'abunfi_keep_transaction']
    LOOP
        EXECUTE format('ALTER FUNCTION %I() SECURITY DEFINER SET search_path = pg_catalog, %s, pg_temp', name, home);
        EXECUTE format('REVOKE ALL ON FUNCTION %I() FROM PUBLIC', name);
    END LOOP;
END;
$$;
-- As text, since a server without transition tables does not even read it: there the foreign keys stay.
DO $$
BEGIN
    EXECUTE 'CREATE TRIGGER entries_transaction_fkey AFTER INSERT ON entries
        REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION abunfi_check_entries()';
    EXECUTE 'CREATE TRIGGER transactions_account_fkey AFTER INSERT ON transactions
        REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION abunfi_check_transactions()';
    ALTER TABLE entries DROP CONSTRAINT entries_transaction_fkey;
    ALTER TABLE transactions DROP CONSTRAINT transactions_account_fkey;
EXCEPTION WHEN feature_not_supported OR syntax_error THEN
    NULL;
END;
$$;
CREATE TRIGGER transactions_keep_identity BEFORE DELETE OR UPDATE OF user_id, transaction_id, asset ON transactions
    FOR EACH ROW EXECUTE FUNCTION abunfi_keep_transaction();
CREATE TRIGGER transactions_no_truncate BEFORE TRUNCATE ON transactions
    FOR EACH STATEMENT EXECUTE FUNCTION abunfi_refuse_change();
CREATE TRIGGER accounts_keep_identity BEFORE DELETE OR UPDATE OF user_id, asset ON accounts
    FOR EACH ROW EXECUTE FUNCTION abunfi_keep_account();
CREATE TRIGGER accounts_no_truncate BEFORE TRUNCATE ON accounts
    FOR EACH STATEMENT EXECUTE FUNCTION abunfi_refuse_change();

-- Each index for what it is for. A plan that is made while the table is empty takes any index that begins with
-- the user for a way to one row, and then reads all rows of a user for as long as the plan is used. So the lists'
-- indexes are partial, with a condition that is always true and that only the lists state.
DROP INDEX transactions_created_idx;
CREATE INDEX transactions_created_idx ON transactions (user_id, created_at DESC) WHERE created_at > '-infinity';
DROP INDEX audit_transaction_idx;
CREATE INDEX audit_transaction_idx ON audit (user_id, transaction_id) WHERE transaction_id IS NOT NULL;
DROP INDEX audit_at_idx;
CREATE INDEX audit_at_idx ON audit (user_id, at DESC) WHERE at > '-infinity';
