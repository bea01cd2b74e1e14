-- Of tenants and quotas what usage touches.

CREATE TABLE plan (
    id       text COLLATE "C" NOT NULL,
    version  int4 NOT NULL,
    document text NOT NULL,
    PRIMARY KEY (id, version)
);

CREATE TABLE tenant (
    id           uuid PRIMARY KEY,
    external_id  text COLLATE "C",
    name         text NOT NULL,
    status       text NOT NULL,
    plan         text NOT NULL,
    plan_version int4 NOT NULL,
    zone         text NOT NULL,
    anchor       int2 NOT NULL,
    next_zone    text,
    next_anchor  int2,
    next_at      int8,
    since        int8,
    metadata     text NOT NULL,
    created_at   int8 NOT NULL,
    deleted_at   int8
);

CREATE TABLE node (
    node     text COLLATE "C" PRIMARY KEY,
    boot     uuid NOT NULL,
    table_id uuid,
    life     int8 NOT NULL DEFAULT 0
);

CREATE TABLE quota_window (
    counter      text COLLATE "C" NOT NULL,
    period_start int8 NOT NULL,
    period_end   int8 NOT NULL,
    tenant       uuid NOT NULL,
    limit_name   text NOT NULL,
    meter        text NOT NULL,
    per          text NOT NULL,
    subject      text NOT NULL,
    cap          int8 NOT NULL,
    cap_version  int8 NOT NULL,
    ceiling      int8 NOT NULL,
    granted      int8 NOT NULL,
    overrun      int8 NOT NULL,
    used_closed  int8 NOT NULL,
    healed_in    int8 NOT NULL DEFAULT 0,
    written_off  int8 NOT NULL DEFAULT 0,
    PRIMARY KEY (counter, period_start)
);

CREATE TABLE lease (
    lease_id     uuid PRIMARY KEY,
    counter      text COLLATE "C" NOT NULL,
    period_start int8 NOT NULL,
    node         text NOT NULL,
    boot         uuid NOT NULL,
    size         int8 NOT NULL,
    used         int8 NOT NULL,
    closed_at    int8
);

CREATE INDEX lease_window ON lease (counter, period_start, closed_at);

CREATE TABLE counter_use (
    tag          bytea NOT NULL,
    period_start int8  NOT NULL,
    tenant       uuid  NOT NULL,
    units        int8  NOT NULL,
    PRIMARY KEY (tag, period_start)
);

CREATE INDEX counter_use_period ON counter_use (period_start);

CREATE TABLE debt (
    counter_tag  bytea NOT NULL,
    period_start int8  NOT NULL,
    lease_tag    bytea NOT NULL,
    booked       int8  NOT NULL,
    recorded     int8  NOT NULL,
    told_at      int8  NOT NULL,
    PRIMARY KEY (counter_tag, period_start, lease_tag)
);
