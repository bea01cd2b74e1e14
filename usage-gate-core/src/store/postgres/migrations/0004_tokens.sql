-- Tokens of operators, each under its SHA-256.
CREATE TABLE admin_token (
    hash       bytea PRIMARY KEY CHECK (length(hash) = 32),
    role       text COLLATE "C" NOT NULL CHECK (role IN ('full', 'read')),
    name       text NOT NULL,
    created_at int8 NOT NULL
);

-- The fingerprint of the pepper that keys in here are hashed with: one row.
CREATE TABLE pepper (
    one         bool PRIMARY KEY DEFAULT true CHECK (one),
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 8)
);
