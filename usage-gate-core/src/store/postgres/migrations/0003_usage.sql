-- Usage: how far each journal was taken in, its sums by hour and by day, what proves them, and the request log.

CREATE TABLE stream (
    stream    uuid PRIMARY KEY,
    watermark int8 NOT NULL,
    through   int8 NOT NULL
);

-- Pages ask for one meter of one tenant over days, by key: that is one range of the key, in the order in which it is summed. Absent values are
-- empty ones and nil ids, because a primary key holds no nulls. A month (UTC) is a partition: old ones can be moved or dropped as a whole.
CREATE TABLE rollup_hour (
    tenant      uuid NOT NULL,
    meter       text COLLATE "C" NOT NULL,
    bucket      int8 NOT NULL,
    key         uuid NOT NULL,
    outcome     text COLLATE "C" NOT NULL,
    limit_name  text COLLATE "C" NOT NULL,
    route       text COLLATE "C" NOT NULL,
    environment text COLLATE "C" NOT NULL,
    user_id     uuid NOT NULL,
    units       int8 NOT NULL,
    requests    int8 NOT NULL,
    PRIMARY KEY (tenant, meter, bucket, key, outcome, limit_name, route, environment, user_id)
) PARTITION BY RANGE (bucket);

-- The same by the tenant's day, moved in one transaction with the hours. `bucket` is the day's first instant, never before `since` of its
-- zone below.
CREATE TABLE rollup_day (
    LIKE rollup_hour,
    PRIMARY KEY (tenant, meter, bucket, key, outcome, limit_name, route, environment, user_id)
) PARTITION BY RANGE (bucket);

-- From the hour `since` on, up to the next row's, all of a tenant's usage is in `rollup_day` too, by days of this zone. Who adds usage
-- shares an advisory lock, who begins a zone has it alone: all usage before the zone is seen then, and none is under way.
CREATE TABLE rollup_day_zone (
    tenant uuid NOT NULL,
    since  int8 NOT NULL,
    zone   text NOT NULL,
    PRIMARY KEY (tenant, since)
);

-- Makes the partitions of the month that an instant is in, if they are missing. There is no default partition: with rows in it, it would stand in the
-- way of every later one. A table is made first and attached then, because that lets others read and write meanwhile.
CREATE FUNCTION usage_gate_partition(bucket int8) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    month  timestamp := date_trunc('month', (date '1970-01-01' + floor(bucket::numeric / 86400000000)::int4)::timestamp);
    first  int8 := extract(epoch FROM month)::int8 * 1000000;
    next   int8 := extract(epoch FROM month + interval '1 month')::int8 * 1000000;
    parent text;
    part   text;
BEGIN
    -- One at a time; the number is `usagepar` in ASCII.
    PERFORM pg_advisory_xact_lock(8463215221470683506);
    FOREACH parent IN ARRAY ARRAY['rollup_hour', 'rollup_day'] LOOP
        part := parent || to_char(month, '_YYYY_MM');
        CONTINUE WHEN EXISTS (SELECT FROM pg_inherits WHERE inhparent = parent::regclass AND inhrelid = to_regclass(part));
        -- Sums grow in place: with room in each page for a second version of all its rows they do so without a new entry in the index, however many of them
        -- one batch touches. With less room the table gets larger, not smaller.
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL) WITH (fillfactor = 45)', part, parent);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', parent, part, first, next);
    END LOOP;
END
$$;

-- A request that may be repeated for free: when it was billed, and how many repeats of it were free. -1 while nothing is known of it, which no
-- transaction leaves behind.
CREATE TABLE repeats (
    tag  uuid PRIMARY KEY,
    at   int8 NOT NULL,
    free int2 NOT NULL
) WITH (fillfactor = 45);

CREATE INDEX repeats_at ON repeats (at);

-- Records that were made free as repeats: the journal has them as billed.
CREATE TABLE repeat_free (
    stream   uuid NOT NULL,
    sequence int8 NOT NULL,
    PRIMARY KEY (stream, sequence)
);

-- What was taken in of each segment of a journal: a running hash of its items, and below their sums. It outlives the segment.
CREATE TABLE digest (
    stream  uuid  NOT NULL,
    segment int8  NOT NULL,
    first   int8  NOT NULL,
    last    int8  NOT NULL,
    items   int8  NOT NULL,
    hash    bytea NOT NULL CHECK (length(hash) = 32),
    -- `through` of the batch that was last.
    until   int8  NOT NULL,
    PRIMARY KEY (stream, segment)
);

CREATE INDEX digest_until ON digest (until);

CREATE TABLE digest_total (
    stream   uuid NOT NULL,
    segment  int8 NOT NULL,
    tenant   uuid NOT NULL,
    bucket   int8 NOT NULL,
    meter    text COLLATE "C" NOT NULL,
    outcome  text COLLATE "C" NOT NULL,
    units    int8 NOT NULL,
    requests int8 NOT NULL,
    PRIMARY KEY (stream, segment, tenant, bucket, meter, outcome)
) WITH (fillfactor = 45);

-- The request log: many requests of one tenant a row, in a coding of our own. The newest and the oldest of a row are of one quarter of an hour.
CREATE TABLE request_block (
    id       int8  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant   uuid  NOT NULL,
    at_first int8  NOT NULL,
    at_last  int8  NOT NULL,
    stream   uuid  NOT NULL,
    first    int8  NOT NULL,
    body     bytea NOT NULL
);

-- The coding leaves little to compress.
ALTER TABLE request_block ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE INDEX request_block_tenant ON request_block (tenant, at_last, id);
CREATE INDEX request_block_at ON request_block (at_last, id);
