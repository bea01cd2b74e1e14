-- What leases were spent on, as records say it: compared with the ledger (B9).
CREATE TABLE IF NOT EXISTS counter_use (
    tag          BLOB    NOT NULL,
    period_start INTEGER NOT NULL,
    tenant       BLOB    NOT NULL,
    units        INTEGER NOT NULL,
    PRIMARY KEY (tag, period_start)
) STRICT, WITHOUT ROWID;

CREATE INDEX counter_use_period ON counter_use (period_start);

-- A request that may be repeated for free: when it was billed, and how many repeats of it were free.
CREATE TABLE repeats (
    tag  BLOB    NOT NULL PRIMARY KEY CHECK (length(tag) = 16),
    at   INTEGER NOT NULL,
    free INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX repeats_at ON repeats (at);

-- Records that were made free as repeats: the journal has them as billed.
CREATE TABLE repeat_free (
    stream   BLOB    NOT NULL CHECK (length(stream) = 16),
    sequence INTEGER NOT NULL,
    PRIMARY KEY (stream, sequence)
) STRICT, WITHOUT ROWID;

-- What was taken in of each segment of a journal: a running hash of its items, and below their sums. It outlives the segment.
CREATE TABLE digest (
    stream  BLOB    NOT NULL CHECK (length(stream) = 16),
    segment INTEGER NOT NULL,
    first   INTEGER NOT NULL,
    last    INTEGER NOT NULL,
    items   INTEGER NOT NULL,
    hash    BLOB    NOT NULL CHECK (length(hash) = 32),
    -- `through` of the batch that was last.
    until   INTEGER NOT NULL,
    PRIMARY KEY (stream, segment)
) STRICT, WITHOUT ROWID;

CREATE INDEX digest_until ON digest (until);

CREATE TABLE digest_total (
    stream   BLOB    NOT NULL,
    segment  INTEGER NOT NULL,
    tenant   BLOB    NOT NULL,
    bucket   INTEGER NOT NULL,
    meter    TEXT    NOT NULL,
    outcome  TEXT    NOT NULL,
    units    INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    PRIMARY KEY (stream, segment, tenant, bucket, meter, outcome)
) STRICT, WITHOUT ROWID;

-- Usage from before there were digests is the segment 0 of the nil stream: what is proved begins here.
INSERT INTO digest (stream, segment, first, last, items, hash, until)
SELECT zeroblob(16), 0, 0, 0, 0, zeroblob(32), max(bucket) FROM rollup_hour HAVING count(*) > 0;
INSERT INTO digest_total (stream, segment, tenant, bucket, meter, outcome, units, requests)
SELECT zeroblob(16), 0, tenant, bucket, meter, outcome, sum(units), sum(requests)
FROM rollup_hour GROUP BY tenant, bucket, meter, outcome;

-- The request log: many requests of one tenant a row, in a coding of our own. The newest and the oldest of a row are of one quarter of an hour.
CREATE TABLE request_block (
    id       INTEGER PRIMARY KEY,
    tenant   BLOB    NOT NULL,
    at_first INTEGER NOT NULL,
    at_last  INTEGER NOT NULL,
    stream   BLOB    NOT NULL,
    first    INTEGER NOT NULL,
    body     BLOB    NOT NULL
) STRICT;

CREATE INDEX request_block_tenant ON request_block (tenant, at_last, at_first);
CREATE INDEX request_block_at ON request_block (at_last, at_first);

-- What was granted before records said what was taken of a quota. It counts as taken: leases from before then have no table that says what is
-- left of them, so that they are closed as spent.
CREATE TABLE quota_before (
    counter      TEXT    NOT NULL,
    period_start INTEGER NOT NULL,
    units        INTEGER NOT NULL,
    PRIMARY KEY (counter, period_start)
) STRICT, WITHOUT ROWID;

INSERT INTO quota_before (counter, period_start, units)
SELECT counter, period_start, granted FROM quota_window WHERE granted > 0;
