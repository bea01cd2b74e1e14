-- Ids are 16 bytes, in the order of their number. Instants are microseconds after 1970. Numbers of units are at most 2^63-1. Texts that are compared or
-- paged have the collation "C": the order of their bytes, as in every other store.

CREATE TABLE plan (
    id       text COLLATE "C" NOT NULL,
    version  int8 NOT NULL CHECK (version > 0),
    document text NOT NULL,
    PRIMARY KEY (id, version)
);

CREATE TABLE tenant (
    id           uuid PRIMARY KEY,
    external_id  text COLLATE "C",
    name         text NOT NULL,
    status       text NOT NULL CHECK (status IN ('active', 'suspended')),
    plan         text COLLATE "C" NOT NULL,
    plan_version int8 NOT NULL,
    zone         text NOT NULL,
    anchor       int2 NOT NULL CHECK (anchor BETWEEN 1 AND 31),
    next_zone    text,
    next_anchor  int2 CHECK (next_anchor BETWEEN 1 AND 31),
    next_at      int8,
    since        int8,
    -- JSON, kept byte for byte.
    metadata     text NOT NULL,
    created_at   int8 NOT NULL,
    deleted_at   int8,
    FOREIGN KEY (plan, plan_version) REFERENCES plan (id, version),
    CHECK ((next_zone IS NULL) = (next_at IS NULL) AND (next_anchor IS NULL) = (next_at IS NULL))
);

CREATE UNIQUE INDEX tenant_external_id ON tenant (external_id) WHERE external_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX tenant_plan ON tenant (plan, plan_version);

CREATE TABLE account_user (
    id           uuid PRIMARY KEY,
    tenant       uuid NOT NULL REFERENCES tenant (id),
    external_id  text COLLATE "C",
    email        text NOT NULL,
    -- The email in lower case by the rules of Unicode, not by those of the server's locale.
    email_folded text COLLATE "C" NOT NULL,
    name         text NOT NULL,
    role         text NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    created_at   int8 NOT NULL,
    deleted_at   int8
);

CREATE UNIQUE INDEX account_user_external_id ON account_user (external_id) WHERE external_id IS NOT NULL AND deleted_at IS NULL;
CREATE UNIQUE INDEX account_user_email ON account_user (tenant, email_folded) WHERE deleted_at IS NULL;
CREATE INDEX account_user_tenant ON account_user (tenant, id);

CREATE TABLE api_key (
    id                uuid PRIMARY KEY,
    tenant            uuid NOT NULL REFERENCES tenant (id),
    account_user      uuid REFERENCES account_user (id),
    name              text NOT NULL,
    environment       text NOT NULL CHECK (environment IN ('live', 'test')),
    scopes            text[] NOT NULL,
    allowed_addresses text[] NOT NULL,
    expires_at        int8,
    revoked_at        int8,
    revoke_reason     text,
    created_at        int8 NOT NULL
);

CREATE INDEX api_key_tenant ON api_key (tenant, id);
CREATE INDEX api_key_account_user ON api_key (account_user, id) WHERE account_user IS NOT NULL;

CREATE TABLE secret (
    credential   text COLLATE "C" PRIMARY KEY,
    key          uuid NOT NULL REFERENCES api_key (id) ON DELETE CASCADE,
    -- 0 for the newest.
    position     int4 NOT NULL,
    hash         bytea NOT NULL CHECK (length(hash) = 32),
    hint         text NOT NULL,
    created_at   int8 NOT NULL,
    expires_at   int8,
    last_used_at int8
);

CREATE INDEX secret_key ON secret (key, position);

-- The feed of changes: what cached callers have to be resolved anew. Numbers have no gaps and are never used again.
CREATE TABLE change (
    seq  int8 PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('key', 'tenant', 'all')),
    id   uuid
);

-- Appends changes and wakes who listens, at the commit of the transaction that calls it; of the feed as many changes are kept as `kept` says.
-- To be called last: the lock is held until the commit, so that none commits before one of a lower number, and while it is held nothing else is waited for.
CREATE FUNCTION feed(kinds text[], ids uuid[], kept int8) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    last int8;
BEGIN
    -- `feed` in ASCII.
    PERFORM pg_advisory_xact_lock(1717921124);
    -- A statement after that of the lock: it sees what the holder before has committed.
    SELECT coalesce(max(seq), 0) INTO last FROM change;
    INSERT INTO change (seq, kind, id)
    SELECT last + fed.number, fed.kind, fed.id FROM unnest(kinds, ids) WITH ORDINALITY AS fed (kind, id, number);
    -- The last one always stays: its number is the feed's position.
    DELETE FROM change WHERE seq <= last + cardinality(kinds) - kept;
    PERFORM pg_notify('usage_gate', 'change');
END
$$;

-- The portal: one-time links and sessions, each under the SHA-256 of its token. Users are not referenced: a host may keep them elsewhere.

CREATE TABLE portal_link (
    hash         bytea PRIMARY KEY CHECK (length(hash) = 32),
    account_user uuid NOT NULL,
    return_url   text,
    expires_at   int8 NOT NULL,
    -- Null until it is used.
    used_at      int8
);

CREATE INDEX portal_link_end ON portal_link (expires_at);

CREATE TABLE portal_session (
    hash         bytea PRIMARY KEY CHECK (length(hash) = 32),
    account_user uuid NOT NULL,
    return_url   text,
    created_at   int8 NOT NULL,
    last_seen_at int8 NOT NULL,
    ends_at      int8 NOT NULL
);

CREATE INDEX portal_session_end ON portal_session (ends_at);
