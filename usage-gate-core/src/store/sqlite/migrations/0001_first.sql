-- Ids are 16 bytes, big-endian. Instants are microseconds after 1970. Numbers of units are at most 2^63-1.

CREATE TABLE plan (
    id       TEXT    NOT NULL,
    version  INTEGER NOT NULL CHECK (version > 0),
    document TEXT    NOT NULL,
    PRIMARY KEY (id, version)
) STRICT, WITHOUT ROWID;

CREATE TABLE tenant (
    id           BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    external_id  TEXT,
    name         TEXT    NOT NULL,
    status       TEXT    NOT NULL CHECK (status IN ('active', 'suspended')),
    plan         TEXT    NOT NULL,
    plan_version INTEGER NOT NULL,
    zone         TEXT    NOT NULL,
    anchor       INTEGER NOT NULL CHECK (anchor BETWEEN 1 AND 31),
    next_zone    TEXT,
    next_anchor  INTEGER CHECK (next_anchor BETWEEN 1 AND 31),
    next_at      INTEGER,
    since        INTEGER,
    metadata     TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    deleted_at   INTEGER,
    FOREIGN KEY (plan, plan_version) REFERENCES plan (id, version),
    CHECK ((next_zone IS NULL) = (next_at IS NULL) AND (next_anchor IS NULL) = (next_at IS NULL))
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX tenant_external_id ON tenant (external_id) WHERE external_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX tenant_plan ON tenant (plan, plan_version);

CREATE TABLE user (
    id           BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    tenant       BLOB    NOT NULL REFERENCES tenant (id),
    external_id  TEXT,
    email        TEXT    NOT NULL,
    -- The email in lower case by the rules of Unicode, which SQLite does not know.
    email_folded TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    role         TEXT    NOT NULL CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
    created_at   INTEGER NOT NULL,
    deleted_at   INTEGER
) STRICT, WITHOUT ROWID;

CREATE UNIQUE INDEX user_external_id ON user (external_id) WHERE external_id IS NOT NULL AND deleted_at IS NULL;
CREATE UNIQUE INDEX user_email ON user (tenant, email_folded) WHERE deleted_at IS NULL;
CREATE INDEX user_tenant ON user (tenant, id);

CREATE TABLE api_key (
    id                BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    tenant            BLOB    NOT NULL REFERENCES tenant (id),
    user              BLOB    REFERENCES user (id),
    name              TEXT    NOT NULL,
    environment       TEXT    NOT NULL CHECK (environment IN ('live', 'test')),
    -- JSON arrays of strings.
    scopes            TEXT    NOT NULL,
    allowed_addresses TEXT    NOT NULL,
    expires_at        INTEGER,
    revoked_at        INTEGER,
    revoke_reason     TEXT,
    created_at        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX api_key_tenant ON api_key (tenant, id);
CREATE INDEX api_key_user ON api_key (user, id) WHERE user IS NOT NULL;

CREATE TABLE secret (
    credential   TEXT    NOT NULL PRIMARY KEY,
    key          BLOB    NOT NULL REFERENCES api_key (id) ON DELETE CASCADE,
    -- 0 for the newest.
    position     INTEGER NOT NULL,
    hash         BLOB    NOT NULL CHECK (length(hash) = 32),
    hint         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    last_used_at INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX secret_key ON secret (key, position);

-- The feed of changes: what cached callers have to be resolved anew. AUTOINCREMENT, because a number is never used again.
CREATE TABLE change (
    seq  INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL CHECK (kind IN ('key', 'tenant', 'all')),
    id   BLOB
) STRICT;

CREATE TABLE node (
    node TEXT NOT NULL PRIMARY KEY,
    boot BLOB NOT NULL CHECK (length(boot) = 16)
) STRICT, WITHOUT ROWID;

CREATE TABLE quota_window (
    counter      TEXT    NOT NULL,
    period_start INTEGER NOT NULL,
    period_end   INTEGER NOT NULL,
    tenant       BLOB    NOT NULL,
    limit_name   TEXT    NOT NULL,
    meter        TEXT    NOT NULL,
    per          TEXT    NOT NULL,
    subject      TEXT    NOT NULL,
    cap          INTEGER NOT NULL CHECK (cap >= 0),
    cap_version  INTEGER NOT NULL,
    ceiling      INTEGER NOT NULL,
    granted      INTEGER NOT NULL CHECK (granted >= 0),
    overrun      INTEGER NOT NULL CHECK (overrun >= 0),
    used_closed  INTEGER NOT NULL CHECK (used_closed >= 0),
    PRIMARY KEY (counter, period_start),
    CONSTRAINT a1 CHECK (granted <= ceiling + overrun)
) STRICT, WITHOUT ROWID;

CREATE INDEX quota_window_subjects ON quota_window (tenant, limit_name, meter, per, period_start);
CREATE INDEX quota_window_end ON quota_window (period_end);

CREATE TABLE lease (
    lease_id     BLOB    NOT NULL PRIMARY KEY CHECK (length(lease_id) = 16),
    counter      TEXT    NOT NULL,
    period_start INTEGER NOT NULL,
    node         TEXT    NOT NULL,
    boot         BLOB    NOT NULL,
    size         INTEGER NOT NULL CHECK (size > 0),
    used         INTEGER NOT NULL CHECK (used >= 0),
    -- Null while the lease is open.
    closed_at    INTEGER,
    FOREIGN KEY (counter, period_start) REFERENCES quota_window (counter, period_start) ON DELETE CASCADE
) STRICT, WITHOUT ROWID;

CREATE INDEX lease_window ON lease (counter, period_start, closed_at);
CREATE INDEX lease_open_of_node ON lease (node) WHERE closed_at IS NULL;
CREATE INDEX lease_closed ON lease (closed_at, lease_id) WHERE closed_at IS NOT NULL;

CREATE TABLE stream (
    stream    BLOB    NOT NULL PRIMARY KEY CHECK (length(stream) = 16),
    watermark INTEGER NOT NULL,
    through   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The key serves reads of one tenant's time range. Absent values are empty ones, because a primary key holds no nulls.
CREATE TABLE rollup (
    tenant      BLOB    NOT NULL,
    bucket      INTEGER NOT NULL,
    user        BLOB    NOT NULL,
    key         BLOB    NOT NULL,
    environment TEXT    NOT NULL,
    route       TEXT    NOT NULL,
    meter       TEXT    NOT NULL,
    outcome     TEXT    NOT NULL,
    limit_name  TEXT    NOT NULL,
    units       INTEGER NOT NULL,
    requests    INTEGER NOT NULL,
    PRIMARY KEY (tenant, bucket, user, key, environment, route, meter, outcome, limit_name)
) STRICT, WITHOUT ROWID;
