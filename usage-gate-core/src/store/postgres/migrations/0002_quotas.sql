-- The authority of quotas: what `lease/ledger.rs` says, over the numbers of `lease/window.rs`. A call of a node is one statement that runs one of the functions
-- below; it commits by itself, so that a node which is stopped or cut off in its middle keeps no lock. Calendars are not known here: a node names the periods
-- around the present one, and the function takes the one that holds its own now.
--
-- Order of locks, the same in every function, so that calls of several nodes wait for each other and never in a circle: the node's row, its own leases, windows by
-- counter and start, debts by their key. Calls of one node come one after the other, so that the order of its leases is nobody's concern.
--
-- A plan is made when a table is small and kept while it grows, so that a guess of the planner can cost everybody. Nothing here leaves it a choice: a row is found by
-- the whole key of the one index that has it, and no other index has the same columns. What is asked of many rows is asked in a loop, or fenced by OFFSET 0.

-- The latest life of each node. Lives are counted over all of them, in the order in which they are committed.
CREATE TABLE node (
    node     text COLLATE "C" PRIMARY KEY,
    boot     uuid NOT NULL,
    table_id uuid NOT NULL,
    life     int8 NOT NULL,
    -- The largest number of a call of this life that asked for units: one that is not newer is granted nothing new.
    heard    int8 NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE INDEX node_life ON node (life);

-- A hot window is one row that is written some thousand times a second: room on its page keeps the versions together and out of the indexes.
CREATE TABLE quota_window (
    counter      text COLLATE "C" NOT NULL,
    period_start int8 NOT NULL,
    period_end   int8 NOT NULL,
    tenant       uuid NOT NULL,
    limit_name   text COLLATE "C" NOT NULL,
    meter        text COLLATE "C" NOT NULL,
    per          text COLLATE "C" NOT NULL,
    subject      text COLLATE "C" NOT NULL,
    cap          int8 NOT NULL CHECK (cap >= 0),
    cap_version  int8 NOT NULL,
    ceiling      int8 NOT NULL CHECK (ceiling >= 0),
    granted      int8 NOT NULL DEFAULT 0 CHECK (granted >= 0),
    overrun      int8 NOT NULL DEFAULT 0 CHECK (overrun >= 0),
    used_closed  int8 NOT NULL DEFAULT 0 CHECK (used_closed >= 0),
    -- Units of leases that were closed as spent, because nobody could say what was left of them: used, and perhaps of no record.
    written_off  int8 NOT NULL DEFAULT 0,
    -- The life as of which it was last compared with the records.
    healed_in    int8 NOT NULL DEFAULT 0,
    -- When its open leases were last recalled.
    recalled_at  int8,
    PRIMARY KEY (counter, period_start),
    -- Written so that the sum of the largest numbers does not overflow.
    CONSTRAINT a1 CHECK (granted - ceiling <= overrun)
) WITH (fillfactor = 50);

-- The minus, because a search by counter and start must not take this one.
CREATE INDEX quota_window_subjects ON quota_window (tenant, limit_name, meter, per, (-period_start));
CREATE INDEX quota_window_end ON quota_window (period_end);

CREATE TABLE lease (
    lease_id     uuid PRIMARY KEY,
    counter      text COLLATE "C" NOT NULL,
    period_start int8 NOT NULL,
    node         text COLLATE "C" NOT NULL,
    boot         uuid NOT NULL,
    size         int8 NOT NULL CHECK (size > 0),
    used         int8 NOT NULL CHECK (used >= 0),
    -- Null while the lease is open.
    closed_at    int8,
    FOREIGN KEY (counter, period_start) REFERENCES quota_window (counter, period_start) ON DELETE CASCADE
) WITH (fillfactor = 70);

CREATE INDEX lease_window ON lease (counter, period_start, closed_at);
CREATE INDEX lease_open_of_node ON lease ((CASE WHEN closed_at IS NULL THEN node END));
CREATE INDEX lease_closed ON lease (closed_at, lease_id) WHERE closed_at IS NOT NULL;

-- Open leases that their holders are asked to give back. A table of its own, because rows of leases are written by their holders only: who recalls would wait for
-- a report, and its node for who recalls.
CREATE TABLE lease_recall (
    node     text COLLATE "C" NOT NULL,
    lease_id uuid NOT NULL REFERENCES lease ON DELETE CASCADE,
    PRIMARY KEY (node, lease_id)
);

CREATE INDEX lease_recall_lease ON lease_recall (lease_id);

-- What records say was used of a counter in a period. A database that was restored from a backup knows of less, and is healed from here when
-- a window is first touched. `tag` is the first 8 bytes of the SHA-256 of the counter's text.
CREATE TABLE counter_use (
    tag          bytea NOT NULL CHECK (length(tag) = 8),
    period_start int8 NOT NULL,
    tenant       uuid NOT NULL,
    units        int8 NOT NULL,
    PRIMARY KEY (tag, period_start)
);

CREATE INDEX counter_use_period ON counter_use (period_start);

-- Units that were spent where no lease was open. Such a debt is known from two sides: its holder tells the ledger of it, and records cite it. It is
-- booked once, up to the larger of both numbers. `counter_tag` and `lease_tag` are as in records, `period_start` is in whole seconds.
CREATE TABLE debt (
    counter_tag  bytea NOT NULL CHECK (length(counter_tag) = 8),
    period_start int8 NOT NULL,
    lease_tag    bytea NOT NULL CHECK (length(lease_tag) = 8),
    -- Of what is granted and used in its window.
    booked       int8 NOT NULL,
    recorded     int8 NOT NULL,
    -- When one of the two last grew.
    told_at      int8 NOT NULL,
    PRIMARY KEY (counter_tag, period_start, lease_tag)
);

CREATE INDEX debt_told ON debt (told_at);

-- When an incarnation of a rate store was first seen.
CREATE TABLE incarnation (
    id         text COLLATE "C" PRIMARY KEY,
    first_seen int8 NOT NULL
);

CREATE INDEX incarnation_seen ON incarnation (first_seen, id);

-- The authority's clock: microseconds after 1970. A test brings its own.
CREATE FUNCTION usage_gate_now(p_clock int8) RETURNS int8 LANGUAGE sql VOLATILE AS $$
    SELECT coalesce(p_clock, floor(extract(epoch FROM clock_timestamp()) * 1000000)::int8)
$$;

-- `CounterId::tag`.
CREATE FUNCTION usage_gate_tag(p_counter text) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT substring(sha256(convert_to(p_counter, 'UTF8')) FROM 1 FOR 8)
$$;

-- `Timestamp::floor_seconds`.
CREATE FUNCTION usage_gate_second(p_instant int8) RETURNS int8 LANGUAGE sql IMMUTABLE AS $$
    SELECT p_instant - ((p_instant % 1000000) + 1000000) % 1000000
$$;

-- Of the three periods around the present one that each question names, the last one that holds so far ahead of now; nulls where none does.
CREATE FUNCTION usage_gate_periods(
    p_now int8, p_ahead int8[], p_starts int8[], p_ends int8[], OUT a_starts int8[], OUT a_ends int8[]
) LANGUAGE plpgsql STABLE AS $$
DECLARE
    v_at int8;
    v_last int4;
BEGIN
    a_starts := '{}';
    a_ends := '{}';
    FOR i IN 1 .. cardinality(p_ahead) LOOP
        v_at := p_now + p_ahead[i];
        v_last := 3 * i;
        WHILE v_last > 3 * i - 3 AND NOT (p_starts[v_last] <= v_at AND v_at < p_ends[v_last]) LOOP
            v_last := v_last - 1;
        END LOOP;
        a_starts[i] := CASE WHEN v_last > 3 * i - 3 THEN p_starts[v_last] END;
        a_ends[i] := CASE WHEN v_last > 3 * i - 3 THEN p_ends[v_last] END;
    END LOOP;
END $$;

-- `WindowRow::close` of a window that is locked: gives back what was not used of so many units, or books the debt. Gives the use that is booked.
CREATE FUNCTION usage_gate_close(p_counter text, p_start int8, p_size int8, p_used int8) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    c_most CONSTANT int8 := 9223372036854775807;
    w quota_window;
    v_debt int8;
    v_booked int8;
BEGIN
    SELECT * INTO w FROM quota_window WHERE counter = p_counter AND period_start = p_start;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'a window was forgotten while it was closed';
    END IF;
    IF p_used <= p_size THEN
        w.granted := greatest(w.granted - (p_size - p_used), 0);
        v_booked := p_used;
    ELSE
        v_debt := least(p_used - p_size, c_most - w.granted);
        w.granted := w.granted + v_debt;
        w.overrun := w.overrun + least(v_debt, c_most - w.overrun);
        v_booked := p_size + v_debt;
    END IF;
    UPDATE quota_window SET granted = w.granted, overrun = w.overrun, used_closed = used_closed + v_booked
    WHERE counter = p_counter AND period_start = p_start;
    RETURN v_booked;
END $$;

-- Compares a window that is locked with the records, as `WindowRow::heal` says: when it is first touched after a life of a node began, or after late records of a
-- dead one.
CREATE FUNCTION usage_gate_heal(p_counter text, p_start int8, p_life int8) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    c_most CONSTANT int8 := 9223372036854775807;
    v_tag CONSTANT bytea := usage_gate_tag(p_counter);
    -- Records name a period by whole seconds.
    v_second CONSTANT int8 := usage_gate_second(p_start);
    w quota_window;
    -- Sums may be more than a column holds.
    v_recorded numeric;
    v_of_debts record;
    v_owed numeric;
    v_missing int8;
BEGIN
    UPDATE quota_window SET healed_in = p_life WHERE counter = p_counter AND period_start = p_start;
    SELECT units INTO v_recorded FROM counter_use WHERE tag = v_tag AND period_start = v_second;
    IF NOT FOUND THEN RETURN; END IF;
    -- What a reboot made a node forget to tell. A living node may be about to tell it: then it is known already, by its lease.
    SELECT coalesce(sum(booked), 0) AS booked, coalesce(sum(recorded), 0) AS recorded,
           coalesce(sum(greatest(recorded::numeric - booked, 0)), 0) AS missing
    INTO v_of_debts
    FROM (
        SELECT booked, recorded FROM debt WHERE counter_tag = v_tag AND period_start = v_second ORDER BY lease_tag FOR UPDATE
    ) AS debts;
    IF v_of_debts.missing > 0 THEN
        UPDATE debt SET booked = recorded WHERE counter_tag = v_tag AND period_start = v_second AND recorded > booked;
        PERFORM usage_gate_close(p_counter, p_start, 0, least(v_of_debts.missing, c_most)::int8);
    END IF;
    -- Of leases the sums are compared, since records may be of any that ever were; with what is booked of debts in place of what is recorded of them. Below zero
    -- are credits of leases that were counted elsewhere: nothing to heal.
    v_recorded := greatest(v_recorded - v_of_debts.recorded + v_of_debts.booked, 0) + v_of_debts.missing;
    SELECT coalesce(sum(used - size), 0) INTO v_owed FROM lease
    WHERE counter = p_counter AND period_start = p_start AND closed_at IS NULL AND used > size;
    SELECT * INTO w FROM quota_window WHERE counter = p_counter AND period_start = p_start;
    v_missing := least(greatest(v_recorded - w.granted - v_owed, 0), c_most - w.granted)::int8;
    UPDATE quota_window SET
        granted = w.granted + v_missing,
        used_closed = w.used_closed + v_missing,
        overrun = greatest(w.overrun, w.granted + v_missing - w.ceiling)
    WHERE counter = p_counter AND period_start = p_start;
END $$;

-- `Ledger::register`: a new life of a node, and what it has open.
CREATE FUNCTION usage_gate_register(p_node text, p_boot uuid, p_table uuid, p_clock int8)
RETURNS TABLE (lease_id uuid, size int8, used int8, period_start int8, period_end int8) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    c_most CONSTANT int8 := 9223372036854775807;
    v_former node;
    v_place record;
    v_now int8;
BEGIN
    -- `usaglif` in ASCII. Lives are committed in the order of their numbers: a window that was healed in the last one has seen all of them.
    PERFORM pg_advisory_xact_lock(x'757361676c6966'::int8);
    -- Waits for the calls of the former life that are under way; later ones find another boot.
    SELECT * INTO v_former FROM node WHERE node = p_node FOR UPDATE;
    IF v_former.boot IS DISTINCT FROM p_boot THEN
        IF v_former.table_id = p_table THEN
            UPDATE lease AS l SET boot = p_boot WHERE CASE WHEN l.closed_at IS NULL THEN l.node END = p_node;
        ELSE
            -- A6: what was left of them nobody knows. They are closed with their size, or the use that was reported if that is more.
            FOR v_place IN SELECT DISTINCT l.counter, l.period_start FROM lease AS l WHERE CASE WHEN l.closed_at IS NULL THEN l.node END = p_node ORDER BY 1, 2 LOOP
                PERFORM 1 FROM quota_window AS w WHERE w.counter = v_place.counter AND w.period_start = v_place.period_start FOR NO KEY UPDATE;
            END LOOP;
            v_now := usage_gate_now(p_clock);
            UPDATE quota_window AS w SET
                granted = w.granted + least(ended.debt, c_most - w.granted)::int8,
                overrun = least(w.overrun + least(ended.debt, c_most - w.granted), c_most)::int8,
                used_closed = (w.used_closed + ended.size + least(ended.debt, c_most - w.granted))::int8,
                written_off = least(w.written_off + ended.unknown, c_most)::int8
            FROM (
                SELECT l.counter, l.period_start, sum(l.size) AS size, sum(greatest(l.used - l.size, 0)) AS debt,
                       sum(greatest(l.size - l.used, 0)) AS unknown
                FROM lease AS l WHERE CASE WHEN l.closed_at IS NULL THEN l.node END = p_node GROUP BY l.counter, l.period_start
            ) AS ended
            WHERE w.counter = ended.counter AND w.period_start = ended.period_start;
            UPDATE lease AS l SET used = greatest(l.size, l.used), closed_at = v_now WHERE CASE WHEN l.closed_at IS NULL THEN l.node END = p_node;
            DELETE FROM lease_recall AS r WHERE r.node = p_node;
        END IF;
        INSERT INTO node (node, boot, table_id, life)
        VALUES (p_node, p_boot, p_table, (SELECT coalesce(max(n.life), 0) + 1 FROM node AS n))
        ON CONFLICT (node) DO UPDATE SET boot = excluded.boot, table_id = excluded.table_id, life = excluded.life, heard = 0;
    END IF;
    RETURN QUERY
        SELECT l.lease_id, l.size, l.used, w.period_start, w.period_end
        FROM lease AS l JOIN quota_window AS w USING (counter, period_start)
        WHERE CASE WHEN l.closed_at IS NULL THEN l.node END = p_node ORDER BY l.lease_id;
END $$;

-- `Ledger::lease`: everything a node tells and asks. Debts (d_) and requests (q_) name their counter by its place among the counters (c_). `q_starts` and `q_ends`
-- are three for each request. The kept ones say how far before now what is closed, told or ended is forgotten, `p_most` how many of each.
--
-- Answers nothing but the time where the periods of a request do not hold it: the node names others then.
CREATE FUNCTION usage_gate_lease(
    p_node text, p_boot uuid, p_number int8, p_clock int8,
    p_most int8, p_leases_kept int8, p_debts_kept int8, p_windows_kept int8,
    c_counter text[], c_tenant uuid[], c_limit text[], c_meter text[], c_per text[], c_subject text[],
    r_lease uuid[], r_used int8[],
    e_lease uuid[], e_used int8[],
    d_lease bytea[], d_counter int4[], d_start int8[], d_end int8[], d_cap int8[], d_version int8[], d_used int8[],
    q_lease uuid[], q_counter int4[], q_ahead int8[], q_starts int8[], q_ends int8[],
    q_cap int8[], q_version int8[], q_want int8[], q_beyond bool[], q_needed int8[],
    OUT a_now int8, OUT a_active_nodes int8, OUT a_recalled uuid[], OUT a_units int8[],
    OUT a_starts int8[], OUT a_ends int8[], OUT a_caps int8[], OUT a_granted int8[], OUT a_used text[]
) LANGUAGE plpgsql
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    c_most CONSTANT int8 := 9223372036854775807;
    v_starts int8[];
    v_ends int8[];
    v_present record;
    v_heard int8;
    v_life int8;
    v_healed int8;
    -- Windows that are yet to be compared with records, as debts name them.
    v_tags bytea[] := '{}';
    v_seconds int8[] := '{}';
    v_counters text[] := '{}';
    v_places int8[] := '{}';
    place record;
    told record;
    asked record;
    w quota_window;
    v_lease lease;
    v_nodes int8;
    v_remaining int8;
    v_units int8;
BEGIN
    -- 1. The node's life. Held to the end, so that a later one, which registers now, knows of all that is granted here, and so that another copy of this call
    -- comes after it.
    SELECT heard INTO v_heard FROM node WHERE node = p_node AND boot = p_boot FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION USING ERRCODE = 'UG001', MESSAGE = 'a later life of this node has registered';
    END IF;

    -- 2. Reports raise what is known of open leases of this node (A5: of no other).
    FOR told IN SELECT r.id, r.used FROM unnest(r_lease, r_used) AS r (id, used) LOOP
        UPDATE lease SET used = told.used WHERE lease_id = told.id AND node = p_node AND closed_at IS NULL AND used < told.used;
    END LOOP;

    -- All windows that this call may change, made if there are none, and locked in order. A debt that is booked already makes none, nor does a repeated request.
    SELECT max(life) INTO v_life FROM node;
    a_now := usage_gate_now(p_clock);
    SELECT * INTO v_starts, v_ends FROM usage_gate_periods(a_now, q_ahead, q_starts, q_ends);
    IF array_position(v_starts, NULL) IS NOT NULL THEN RETURN; END IF;
    FOR place IN
        SELECT DISTINCT ON (p.counter COLLATE "C", p.period_start) p.*
        FROM (
            SELECT l.counter, l.period_start, NULL AS period_end, NULL AS place, NULL AS cap, NULL AS version, false AS new, e.n
            FROM unnest(e_lease) WITH ORDINALITY AS e (id, n)
            CROSS JOIN LATERAL (SELECT counter, period_start FROM lease WHERE lease_id = e.id AND node = p_node AND closed_at IS NULL OFFSET 0) AS l
            UNION ALL
            SELECT c_counter[d.place], d.period_start, d.period_end, d.place, d.cap, d.version, d.period_end >= a_now + p_windows_kept AND d.used > coalesce((
                SELECT booked FROM debt
                WHERE counter_tag = usage_gate_tag(c_counter[d.place]) AND debt.period_start = usage_gate_second(d.period_start)
                  AND debt.lease_tag = d.lease_tag), 0), d.n
            FROM unnest(d_lease, d_counter, d_start, d_end, d_cap, d_version, d_used) WITH ORDINALITY
                AS d (lease_tag, place, period_start, period_end, cap, version, used, n)
            UNION ALL
            -- After the debts.
            SELECT c_counter[q.place], q.period_start, q.period_end, q.place, q.cap, q.version,
                   p_number > v_heard AND (SELECT lease_id FROM lease WHERE lease_id = q.lease) IS NULL,
                   q.n + cardinality(d_lease)
            FROM unnest(q_lease, q_counter, v_starts, v_ends, q_cap, q_version) WITH ORDINALITY AS q (lease, place, period_start, period_end, cap, version, n)
        ) AS p
        ORDER BY p.counter COLLATE "C", p.period_start, p.new DESC, p.n
    LOOP
        SELECT healed_in INTO v_healed FROM quota_window
        WHERE counter = place.counter AND period_start = place.period_start FOR NO KEY UPDATE;
        IF NOT FOUND AND place.new THEN
            INSERT INTO quota_window (counter, period_start, period_end, tenant, limit_name, meter, per, subject, cap, cap_version, ceiling)
            VALUES (place.counter, place.period_start, place.period_end, c_tenant[place.place], c_limit[place.place], c_meter[place.place],
                    c_per[place.place], c_subject[place.place], place.cap, place.version, place.cap)
            ON CONFLICT DO NOTHING;
            -- Somebody else made it meanwhile.
            SELECT healed_in INTO v_healed FROM quota_window
            WHERE counter = place.counter AND period_start = place.period_start FOR NO KEY UPDATE;
        END IF;
        IF v_healed < v_life THEN
            v_tags := v_tags || usage_gate_tag(place.counter);
            v_seconds := v_seconds || usage_gate_second(place.period_start);
        END IF;
    END LOOP;

    -- All debts that it may change, made and locked in the order of their keys, as it is done where records of them are taken in.
    IF cardinality(d_lease) + cardinality(v_tags) > 0 THEN
        FOR told IN
            SELECT usage_gate_tag(c_counter[d.place]) AS tag, usage_gate_second(d.period_start) AS second, d.lease_tag
            FROM unnest(d_lease, d_counter, d_start, d_end, d_used) AS d (lease_tag, place, period_start, period_end, used)
            WHERE d.used > 0 AND d.period_end >= a_now + p_windows_kept
            UNION
            SELECT k.counter_tag, k.period_start, k.lease_tag FROM unnest(v_tags, v_seconds) AS u (tag, second)
            JOIN LATERAL (SELECT * FROM debt WHERE counter_tag = u.tag AND debt.period_start = u.second OFFSET 0) AS k ON true
            ORDER BY 1, 2, 3
        LOOP
            INSERT INTO debt (counter_tag, period_start, lease_tag, booked, recorded, told_at)
            VALUES (told.tag, told.second, told.lease_tag, 0, 0, a_now)
            ON CONFLICT (counter_tag, period_start, lease_tag) DO UPDATE SET booked = debt.booked;
        END LOOP;
    END IF;

    -- The instant of the call: read while nobody else can change its windows. A period may have ended while it waited for them.
    a_now := usage_gate_now(p_clock);
    SELECT * INTO v_present FROM usage_gate_periods(a_now, q_ahead, q_starts, q_ends);
    IF v_present.a_starts IS DISTINCT FROM v_starts THEN RETURN; END IF;

    -- 3. Returns. The last word of its holder, which may be less than was reported: units that were held at that time have come back.
    FOR told IN SELECT e.id, e.used FROM unnest(e_lease, e_used) WITH ORDINALITY AS e (id, used, n) ORDER BY e.n LOOP
        SELECT * INTO v_lease FROM lease WHERE lease_id = told.id AND node = p_node AND closed_at IS NULL;
        CONTINUE WHEN NOT FOUND;
        v_units := usage_gate_close(v_lease.counter, v_lease.period_start, v_lease.size, told.used);
        UPDATE lease SET used = v_units, closed_at = a_now WHERE lease_id = told.id;
        DELETE FROM lease_recall WHERE node = p_node AND lease_id = told.id;
    END LOOP;

    -- 4. Debts: what is not booked yet of each.
    FOR told IN
        SELECT d.lease_tag, c_counter[d.counter] AS counter, usage_gate_tag(c_counter[d.counter]) AS tag, d.period_start,
               usage_gate_second(d.period_start) AS second, d.period_end, d.used
        FROM unnest(d_lease, d_counter, d_start, d_end, d_used) WITH ORDINALITY AS d (lease_tag, counter, period_start, period_end, used, n) ORDER BY d.n
    LOOP
        SELECT booked INTO v_units FROM debt WHERE counter_tag = told.tag AND period_start = told.second AND lease_tag = told.lease_tag;
        CONTINUE WHEN NOT FOUND OR told.used <= v_units OR told.period_end < a_now + p_windows_kept;
        PERFORM usage_gate_close(told.counter, told.period_start, 0, told.used - v_units);
        UPDATE debt SET booked = told.used, told_at = a_now
        WHERE counter_tag = told.tag AND period_start = told.second AND lease_tag = told.lease_tag;
    END LOOP;

    -- 5. Requests.
    a_active_nodes := 1;
    a_units := '{}';
    IF p_number > v_heard AND cardinality(q_lease) > 0 THEN
        UPDATE node SET heard = p_number WHERE node = p_node;
    END IF;
    FOR asked IN
        SELECT q.*, c_counter[q.counter_place] AS counter
        FROM unnest(q_lease, q_counter, v_starts, v_ends, q_cap, q_version, q_want, q_beyond, q_needed) WITH ORDINALITY
            AS q (lease, counter_place, period_start, period_end, cap, version, want, beyond, needed, n)
        ORDER BY q.n
    LOOP
        SELECT * INTO v_lease FROM lease WHERE lease_id = asked.lease;
        IF NOT FOUND THEN
            v_lease.counter := asked.counter;
            v_lease.period_start := asked.period_start;
        END IF;
        -- Nodes that hold open leases of the window, and this one.
        SELECT count(DISTINCT node) + 1 INTO v_nodes FROM lease
        WHERE counter = v_lease.counter AND period_start = v_lease.period_start AND closed_at IS NULL AND node <> p_node;
        a_active_nodes := greatest(a_active_nodes, v_nodes);
        IF v_lease.lease_id IS NULL AND p_number <= v_heard THEN
            -- Another copy of this call was granted nothing, or a later call was heard: nobody would know of what is granted here.
            v_units := 0;
        ELSIF v_lease.lease_id IS NULL THEN
            SELECT * INTO w FROM quota_window WHERE counter = asked.counter AND period_start = asked.period_start;
            IF NOT FOUND THEN
                RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'a window was forgotten while it was asked for';
            END IF;
            IF w.healed_in < v_life THEN
                PERFORM usage_gate_heal(asked.counter, asked.period_start, v_life);
                SELECT * INTO w FROM quota_window WHERE counter = asked.counter AND period_start = asked.period_start;
            END IF;
            -- `WindowRow::refresh`. A change of calendar may have cut the running period.
            w.period_end := asked.period_end;
            IF asked.version >= w.cap_version THEN
                w.cap_version := asked.version;
                IF asked.cap <> w.cap THEN
                    w.cap := asked.cap;
                    w.ceiling := greatest(w.cap, w.granted - w.overrun);
                END IF;
            END IF;
            -- `WindowRow::grant`.
            v_remaining := greatest(w.cap - w.granted, 0);
            v_units := CASE
                WHEN asked.beyond THEN least(asked.want, c_most - w.granted)
                WHEN v_nodes > 1 THEN least(asked.want, greatest(v_remaining / (v_nodes * 2), asked.needed, 1), v_remaining)
                ELSE least(asked.want, v_remaining)
            END;
            w.granted := w.granted + v_units;
            w.overrun := w.overrun + least(greatest(v_units - v_remaining, 0), c_most - w.overrun);
            -- `WindowRow::recall`, before the new lease is there, which is not meant.
            IF v_units < asked.needed AND NOT asked.beyond AND v_nodes > 1
                AND NOT coalesce(w.recalled_at <= a_now AND a_now < w.recalled_at + 250000, false)
            THEN
                w.recalled_at := a_now;
                INSERT INTO lease_recall (node, lease_id)
                SELECT node, lease_id FROM lease WHERE counter = asked.counter AND period_start = asked.period_start AND closed_at IS NULL
                ON CONFLICT DO NOTHING;
                PERFORM pg_notify('usage_gate', 'recall');
            END IF;
            IF v_units > 0 THEN
                INSERT INTO lease (lease_id, counter, period_start, node, boot, size, used)
                VALUES (asked.lease, asked.counter, asked.period_start, p_node, p_boot, v_units, 0);
            END IF;
            UPDATE quota_window SET
                period_end = w.period_end, cap = w.cap, cap_version = w.cap_version, ceiling = w.ceiling,
                granted = w.granted, overrun = w.overrun, recalled_at = w.recalled_at
            WHERE counter = asked.counter AND period_start = asked.period_start;
        ELSE
            v_units := v_lease.size;
        END IF;
        a_units := a_units || v_units;
        v_counters := v_counters || v_lease.counter;
        v_places := v_places || v_lease.period_start;
    END LOOP;

    -- The state after the whole call, also where it asks twice for one counter. What is reported of open leases may sum up to more than a column holds.
    -- A call that is granted nothing new makes no window.
    SELECT coalesce(array_agg(asked_for.period_start ORDER BY asked_for.n), '{}'),
           coalesce(array_agg(coalesce(s.period_end, asked_for.period_end) ORDER BY asked_for.n), '{}'),
           coalesce(array_agg(coalesce(s.cap, asked_for.cap) ORDER BY asked_for.n), '{}'),
           coalesce(array_agg(coalesce(s.granted, 0) ORDER BY asked_for.n), '{}'), coalesce(array_agg(coalesce(s.used, '0') ORDER BY asked_for.n), '{}')
    INTO a_starts, a_ends, a_caps, a_granted, a_used
    FROM unnest(v_counters, v_places, v_ends, q_cap) WITH ORDINALITY AS asked_for (counter, period_start, period_end, cap, n)
    LEFT JOIN LATERAL (
        SELECT q.period_end, q.cap, q.granted, (q.used_closed + coalesce((
            SELECT sum(l.used) FROM lease AS l
            WHERE l.counter = q.counter AND l.period_start = q.period_start AND l.closed_at IS NULL), 0))::text AS used
        FROM quota_window AS q WHERE q.counter = asked_for.counter AND q.period_start = asked_for.period_start OFFSET 0
    ) AS s ON true;
    SELECT coalesce(array_agg(lease_id ORDER BY lease_id), '{}') INTO a_recalled FROM lease_recall WHERE node = p_node;

    PERFORM usage_gate_forget(p_most, a_now + p_leases_kept, a_now + p_debts_kept, a_now + p_windows_kept);
END $$;

-- `Ledger::forget`: some of what nobody will ask for again. What another call has in hand is passed over: it is not worth waiting for.
CREATE FUNCTION usage_gate_forget(p_most int8, p_closed_before int8, p_told_before int8, p_ended_before int8) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM lease WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM lease WHERE closed_at < p_closed_before ORDER BY closed_at, lease_id LIMIT p_most FOR UPDATE SKIP LOCKED));
    DELETE FROM debt WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM debt WHERE told_at < p_told_before
        ORDER BY told_at, counter_tag, period_start, lease_tag LIMIT p_most FOR UPDATE SKIP LOCKED));
    -- Leases and all.
    DELETE FROM quota_window WHERE ctid = ANY (ARRAY(
        SELECT ctid FROM quota_window WHERE period_end < p_ended_before
        ORDER BY period_end, counter, period_start LIMIT p_most FOR UPDATE SKIP LOCKED));
END $$;

-- `Ledger::windows`: present use of counters, in the order asked; no cap where nothing has used the window yet. Nulls where the periods do not hold now.
CREATE FUNCTION usage_gate_windows(p_clock int8, q_counter text[], q_ahead int8[], q_starts int8[], q_ends int8[])
RETURNS TABLE (at int8, began int8, ends int8, cap int8, granted int8, used text) LANGUAGE plpgsql STABLE
SET enable_seqscan = off SET plan_cache_mode = force_generic_plan
AS $$
#variable_conflict use_column
DECLARE
    v_now CONSTANT int8 := usage_gate_now(p_clock);
    v_present record;
BEGIN
    SELECT * INTO v_present FROM usage_gate_periods(v_now, q_ahead, q_starts, q_ends);
    RETURN QUERY
        SELECT v_now, asked.began, asked.ends, w.cap, w.granted, (w.used_closed + coalesce((
            SELECT sum(l.used) FROM lease AS l WHERE l.counter = w.counter AND l.period_start = w.period_start AND l.closed_at IS NULL), 0))::text
        FROM unnest(q_counter, v_present.a_starts, v_present.a_ends) WITH ORDINALITY AS asked (counter, began, ends, n)
        LEFT JOIN LATERAL (SELECT * FROM quota_window AS q WHERE q.counter = asked.counter AND q.period_start = asked.began OFFSET 0) AS w ON true
        ORDER BY asked.n;
END $$;

-- `Ledger::subjects`: subjects of a limit in the present period, those with most granted first. One row with nulls where the periods do not hold now.
CREATE FUNCTION usage_gate_subjects(
    p_clock int8, p_tenant uuid, p_limit text, p_meter text, p_per text, p_most int8, q_ahead int8[], q_starts int8[], q_ends int8[]
)
RETURNS TABLE (at int8, began int8, ends int8, cap int8, granted int8, used text, subject text) LANGUAGE plpgsql STABLE AS $$
#variable_conflict use_column
DECLARE
    v_now CONSTANT int8 := usage_gate_now(p_clock);
    v_present record;
BEGIN
    SELECT a_starts[1] AS began, a_ends[1] AS ends INTO v_present FROM usage_gate_periods(v_now, q_ahead, q_starts, q_ends);
    RETURN QUERY
        SELECT v_now, v_present.began, v_present.ends, w.cap, w.granted, (w.used_closed + coalesce((
            SELECT sum(l.used) FROM lease AS l WHERE l.counter = w.counter AND l.period_start = w.period_start AND l.closed_at IS NULL), 0))::text, w.subject
        FROM (SELECT 1) AS present
        LEFT JOIN LATERAL (
            SELECT * FROM quota_window AS q
            WHERE q.tenant = p_tenant AND q.limit_name = p_limit AND q.meter = p_meter AND q.per = p_per AND -q.period_start = -v_present.began
            ORDER BY q.granted DESC, q.counter LIMIT p_most
        ) AS w ON true;
END $$;

-- `Incarnations::age`: microseconds since the first question, which is noted. The first of all counts as `p_first_ever` old.
CREATE FUNCTION usage_gate_incarnation_age(
    p_id text, p_clock int8, p_kept int8, p_most_old int8, p_first_ever int8
) RETURNS int8 LANGUAGE plpgsql AS $$
DECLARE
    v_now CONSTANT int8 := usage_gate_now(p_clock);
    v_first int8;
BEGIN
    SELECT first_seen INTO v_first FROM incarnation WHERE id = p_id;
    IF FOUND THEN
        RETURN greatest(v_now - v_first, 0);
    END IF;
    -- A new one is rare: of several nodes that ask about one, or about the first of all, one notes it.
    LOCK TABLE incarnation IN EXCLUSIVE MODE;
    SELECT first_seen INTO v_first FROM incarnation WHERE id = p_id;
    IF FOUND THEN
        RETURN greatest(v_now - v_first, 0);
    END IF;
    v_first := v_now - CASE WHEN EXISTS (SELECT 1 FROM incarnation) THEN 0 ELSE p_first_ever END;
    INSERT INTO incarnation (id, first_seen) VALUES (p_id, v_first);
    DELETE FROM incarnation WHERE first_seen < v_now + p_kept
        AND id IN (SELECT id FROM incarnation ORDER BY first_seen DESC, id DESC OFFSET p_most_old);
    RETURN v_now - v_first;
END $$;
