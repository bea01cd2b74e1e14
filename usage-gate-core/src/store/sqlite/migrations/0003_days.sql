-- Pages ask for one meter of one tenant over days, by key: that is one range of this key, in the order in which it is summed. Before, the
-- key began with the hour and every meter of it had to be read. Absent values are empty ones, because a primary key holds no nulls.
CREATE TABLE rollup_hour (
    tenant      BLOB    NOT NULL,
    meter       TEXT    NOT NULL,
    bucket      INTEGER NOT NULL,
    key         BLOB    NOT NULL,
    outcome     TEXT    NOT NULL,
    limit_name  TEXT    NOT NULL,
    route       TEXT    NOT NULL,
    environment TEXT    NOT NULL,
    user        BLOB    NOT NULL,
    units       INTEGER NOT NULL,
    requests    INTEGER NOT NULL,
    PRIMARY KEY (tenant, meter, bucket, key, outcome, limit_name, route, environment, user)
) STRICT, WITHOUT ROWID;

INSERT INTO rollup_hour (tenant, meter, bucket, key, outcome, limit_name, route, environment, user, units, requests)
SELECT tenant, meter, bucket, key, outcome, limit_name, route, environment, user, units, requests
FROM rollup ORDER BY tenant, meter, bucket, key, outcome, limit_name, route, environment, user;

DROP TABLE rollup;

-- The same by the tenant's day, moved in one transaction with the hours. `bucket` is the day's first instant, never before `since` of its
-- zone below.
CREATE TABLE rollup_day (
    tenant      BLOB    NOT NULL,
    meter       TEXT    NOT NULL,
    bucket      INTEGER NOT NULL,
    key         BLOB    NOT NULL,
    outcome     TEXT    NOT NULL,
    limit_name  TEXT    NOT NULL,
    route       TEXT    NOT NULL,
    environment TEXT    NOT NULL,
    user        BLOB    NOT NULL,
    units       INTEGER NOT NULL,
    requests    INTEGER NOT NULL,
    PRIMARY KEY (tenant, meter, bucket, key, outcome, limit_name, route, environment, user)
) STRICT, WITHOUT ROWID;

-- From the hour `since` on, up to the next row's, all of a tenant's usage is in `rollup_day` too, by days of this zone. Usage from
-- before the first row, such as that of an older program, is in `rollup_hour` alone.
CREATE TABLE rollup_day_zone (
    tenant BLOB    NOT NULL,
    since  INTEGER NOT NULL,
    zone   TEXT    NOT NULL,
    PRIMARY KEY (tenant, since)
) STRICT, WITHOUT ROWID;
