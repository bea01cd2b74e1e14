-- Tokens of operators, each under its SHA-256.
CREATE TABLE admin_token (
    hash       BLOB    NOT NULL PRIMARY KEY CHECK (length(hash) = 32),
    role       TEXT    NOT NULL CHECK (role IN ('full', 'read')),
    name       TEXT    NOT NULL,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The fingerprint of the pepper that keys in here are hashed with: one row.
CREATE TABLE pepper (
    fingerprint BLOB NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;
