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

-- All that a credential leads to. A function, because the server keeps its plan of the question, which takes ten times as long to make as the answer does.
-- The columns of the key with its secrets, of its user, if it has one, and of its tenant; the plan; and the number of the last change before all of this.
CREATE FUNCTION resolve(wanted text) RETURNS TABLE (
    key_id uuid, key_tenant uuid, key_account_user uuid, key_name text, key_environment text, key_scopes text[],
    key_allowed_addresses text[], key_expires_at int8, key_revoked_at int8, key_revoke_reason text, key_created_at int8,
    secret_credential text[], secret_hash bytea[], secret_hint text[], secret_created_at int8[], secret_expires_at int8[],
    secret_last_used_at int8[],
    user_id uuid, user_tenant uuid, user_external_id text, user_email text, user_name text, user_role text,
    user_created_at int8, user_deleted_at int8,
    tenant_id uuid, tenant_external_id text, tenant_name text, tenant_status text, tenant_plan text,
    tenant_plan_version int8, tenant_zone text, tenant_anchor int2, tenant_next_zone text, tenant_next_anchor int2,
    tenant_next_at int8, tenant_since int8, tenant_metadata text, tenant_created_at int8, tenant_deleted_at int8,
    plan_document text, last_change int8
) LANGUAGE plpgsql STABLE AS $$
BEGIN
    -- One statement: nothing of it is of another moment.
    RETURN QUERY
    SELECT key.id, key.tenant, key.account_user, key.name, key.environment, key.scopes,
           key.allowed_addresses, key.expires_at, key.revoked_at, key.revoke_reason, key.created_at,
           secrets.credential, secrets.hash, secrets.hint, secrets.created_at, secrets.expires_at, secrets.last_used_at,
           owner.id, owner.tenant, owner.external_id, owner.email, owner.name, owner.role,
           owner.created_at, owner.deleted_at,
           tenant.id, tenant.external_id, tenant.name, tenant.status, tenant.plan,
           tenant.plan_version, tenant.zone, tenant.anchor, tenant.next_zone, tenant.next_anchor,
           tenant.next_at, tenant.since, tenant.metadata, tenant.created_at, tenant.deleted_at,
           plan.document, (SELECT max(seq) FROM change)
    FROM secret AS presented
    JOIN api_key AS key ON key.id = presented.key
    CROSS JOIN LATERAL (
        SELECT array_agg(secret.credential ORDER BY position) AS credential, array_agg(secret.hash ORDER BY position) AS hash,
               array_agg(secret.hint ORDER BY position) AS hint,
               array_agg(secret.created_at ORDER BY position) AS created_at,
               array_agg(secret.expires_at ORDER BY position) AS expires_at,
               array_agg(secret.last_used_at ORDER BY position) AS last_used_at
        FROM secret WHERE secret.key = presented.key
    ) AS secrets
    LEFT JOIN account_user AS owner ON owner.id = key.account_user
    JOIN tenant ON tenant.id = key.tenant
    JOIN plan ON plan.id = tenant.plan AND plan.version = tenant.plan_version
    WHERE presented.credential = wanted;
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
