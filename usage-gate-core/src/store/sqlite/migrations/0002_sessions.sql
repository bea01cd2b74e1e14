-- The portal: one-time links and sessions, each under the SHA-256 of its token. Users are not referenced: a host may keep them elsewhere.

CREATE TABLE portal_link (
    hash       BLOB    NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    user       BLOB    NOT NULL CHECK (length(user) = 16),
    return_url TEXT,
    expires_at INTEGER NOT NULL,
    -- Null until it is used.
    used_at    INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX portal_link_end ON portal_link (expires_at);

CREATE TABLE portal_session (
    hash         BLOB    NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    user         BLOB    NOT NULL CHECK (length(user) = 16),
    return_url   TEXT,
    created_at   INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    ends_at      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX portal_session_end ON portal_session (ends_at);
