-- A lease whose units a request of another node waits for, and when a window last asked for its leases.
ALTER TABLE lease ADD COLUMN recalled INTEGER NOT NULL DEFAULT 0;
ALTER TABLE quota_window ADD COLUMN recalled_at INTEGER;

CREATE INDEX lease_recalled ON lease (node, lease_id) WHERE recalled <> 0 AND closed_at IS NULL;

-- When an incarnation of a rate store was first seen.
CREATE TABLE incarnation (
    id         TEXT    NOT NULL PRIMARY KEY,
    first_seen INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX incarnation_seen ON incarnation (first_seen, id);
