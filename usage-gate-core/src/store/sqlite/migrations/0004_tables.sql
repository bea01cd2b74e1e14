-- A node says by which table of its own it knows what is left of its leases. Null for one that had none: such leases are closed as spent.
ALTER TABLE node ADD COLUMN table_id BLOB CHECK (length(table_id) = 16);

-- What records say was used of a counter in a period. A database that was restored from a backup knows of less, and is healed from here when
-- a window is first touched. `tag` is the first 8 bytes of the SHA-256 of the counter's text.
CREATE TABLE counter_use (
    tag          BLOB    NOT NULL CHECK (length(tag) = 8),
    period_start INTEGER NOT NULL,
    tenant       BLOB    NOT NULL,
    units        INTEGER NOT NULL,
    PRIMARY KEY (tag, period_start)
) STRICT, WITHOUT ROWID;

-- Lives of nodes, counted over all of them, and the life as of which a window was last compared with the records.
ALTER TABLE node ADD COLUMN life INTEGER NOT NULL DEFAULT 0;
ALTER TABLE quota_window ADD COLUMN healed_in INTEGER NOT NULL DEFAULT 0;

-- Units of leases that were closed as spent, because nobody could say what was left of them: used, and perhaps of no record.
ALTER TABLE quota_window ADD COLUMN written_off INTEGER NOT NULL DEFAULT 0;
