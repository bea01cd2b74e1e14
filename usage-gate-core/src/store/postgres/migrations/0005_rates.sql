-- The authority of rates and of requests open at once: what `rates/bucket.rs` and `rates/slots.rs` say, in the same order. A call of a node is one statement that runs the
-- function below and commits by itself. Nothing is forgotten here, so that there are no incarnations: what is absent was never used.

-- A bucket that is used is written some times a second: room on its page keeps the versions together. For the same reason no index is on what changes each time: rows
-- that are as good as absent are found by the hour after theirs.
CREATE TABLE rate_bucket (
    counter   text COLLATE "C" PRIMARY KEY,
    -- In parts of a unit; as many as `scale` are one.
    level     numeric NOT NULL,
    scale     int8 NOT NULL,
    last      int8 NOT NULL,
    forgotten int8 NOT NULL,
    gone_hour int8 NOT NULL,
    -- Leases, in the order of their ends.
    lease     uuid[] NOT NULL,
    units     int8[] NOT NULL,
    spent     int8[] NOT NULL,
    ends      int8[] NOT NULL
) WITH (fillfactor = 50);

CREATE INDEX rate_bucket_gone ON rate_bucket (gone_hour);

CREATE TABLE open_slots (
    counter   text COLLATE "C" PRIMARY KEY,
    gone_hour int8 NOT NULL,
    node      text[] NOT NULL,
    places    int8[] NOT NULL,
    sequence  int8[] NOT NULL,
    ends      int8[] NOT NULL
) WITH (fillfactor = 50);

CREATE INDEX open_slots_gone ON open_slots (gone_hour);

-- When each node was last heard of.
CREATE TABLE rate_node (
    node  text COLLATE "C" PRIMARY KEY,
    heard int8 NOT NULL
) WITH (fillfactor = 50);

CREATE FUNCTION usage_gate_hour_after(p_instant int8) RETURNS int8 LANGUAGE sql IMMUTABLE AS $$
    SELECT p_instant / 3600000000 + 1
$$;

-- What the burst leaves beside what is lent.
CREATE FUNCTION usage_gate_rate_room(p_burst int8, p_units int8[], p_spent int8[], p_scale int8) RETURNS numeric
LANGUAGE sql IMMUTABLE AS $$
    SELECT greatest(0, p_burst - (SELECT coalesce(sum(u - s), 0) FROM unnest(p_units, p_spent) AS lent (u, s))) * p_scale
$$;

-- Rates are named by `p_counter`, in order; `p_spent_of` and `p_returned_of` say to which of them a report belongs. Slots are named by `p_open`, in order.
CREATE FUNCTION usage_gate_rates(
    p_clock int8, p_node text,
    p_counter text[], p_lease_time int8[], p_idle int8[], p_scale int8[], p_rate int8[], p_burst int8[], p_lease uuid[], p_want int8[],
    p_spent_of int4[], p_spent_lease uuid[], p_spent int8[], p_returned_of int4[], p_returned_lease uuid[], p_returned int8[],
    p_open text[], p_sequence int8[], p_limit int8[], p_keep int8[], p_more int8[], p_slot_time int8,
    OUT a_units int8[], OUT a_level int8[], OUT a_outstanding int8[], OUT a_next_in int8[],
    OUT a_slots int8[], OUT a_elsewhere int8[], OUT a_nodes int8
) LANGUAGE plpgsql AS $$
DECLARE
    b rate_bucket;
    o open_slots;
    v_now int8;
    v_at int4;
    v_step int4;
    v_until int8;
    v_millionths numeric;
    v_before int8;
    v_units int8;
    v_rest numeric;
    v_next numeric;
    v_free int8;
    v_own int4;
    v_held int8;
BEGIN
    a_units := '{}'; a_level := '{}'; a_outstanding := '{}'; a_next_in := '{}'; a_slots := '{}'; a_elsewhere := '{}';
    FOR i IN 1 .. cardinality(p_counter) LOOP
        SELECT * INTO b FROM rate_bucket WHERE counter = p_counter[i] FOR UPDATE;
        IF NOT FOUND THEN
            INSERT INTO rate_bucket VALUES (p_counter[i], 0, 1, 0, 0, 0, '{}', '{}', '{}', '{}') ON CONFLICT DO NOTHING;
            SELECT * INTO b FROM rate_bucket WHERE counter = p_counter[i] FOR UPDATE;
        END IF;
        -- Read with the row held: the order of instants is the order of decisions.
        v_now := usage_gate_now(p_clock);
        -- 1. What is absent or forgotten begins.
        IF v_now >= b.forgotten THEN
            b.level := p_burst[i]::numeric * p_scale[i];
            b.scale := p_scale[i];
            b.last := v_now;
            b.lease := '{}'; b.units := '{}'; b.spent := '{}'; b.ends := '{}';
        END IF;
        -- 2. In the new parts, by way of millionths, rounded down.
        IF b.scale <> p_scale[i] THEN
            v_millionths := div(b.level % b.scale * 1000000, b.scale);
            b.level := div(b.level, b.scale) * p_scale[i] + div(v_millionths * p_scale[i], 1000000);
            b.scale := p_scale[i];
        END IF;
        -- 3. Leases end in the order of time, with the refill until each end before it; 4. and until now.
        LOOP
            v_until := CASE WHEN b.ends[1] <= v_now THEN b.ends[1] ELSE v_now END;
            b.level := least(
                b.level + greatest(0, v_until - b.last)::numeric * p_rate[i],
                usage_gate_rate_room(p_burst[i], b.units, b.spent, b.scale)
            );
            b.last := greatest(b.last, v_until);
            EXIT WHEN b.ends[1] IS NULL OR b.ends[1] > v_now;
            b.lease := b.lease[2:]; b.units := b.units[2:]; b.spent := b.spent[2:]; b.ends := b.ends[2:];
        END LOOP;
        -- 5. Reports, then returns.
        FOR v_step IN 1 .. cardinality(p_spent_of) LOOP
            CONTINUE WHEN p_spent_of[v_step] <> i;
            v_at := array_position(b.lease, p_spent_lease[v_step]);
            IF v_at IS NOT NULL THEN
                b.spent[v_at] := greatest(b.spent[v_at], least(p_spent[v_step], b.units[v_at]));
            END IF;
        END LOOP;
        FOR v_step IN 1 .. cardinality(p_returned_of) LOOP
            CONTINUE WHEN p_returned_of[v_step] <> i;
            v_at := array_position(b.lease, p_returned_lease[v_step]);
            IF v_at IS NOT NULL THEN
                v_rest := (b.units[v_at] - greatest(b.spent[v_at], least(p_returned[v_step], b.units[v_at])))::numeric * b.scale;
                b.lease := b.lease[: v_at - 1] || b.lease[v_at + 1 :];
                b.units := b.units[: v_at - 1] || b.units[v_at + 1 :];
                b.spent := b.spent[: v_at - 1] || b.spent[v_at + 1 :];
                b.ends := b.ends[: v_at - 1] || b.ends[v_at + 1 :];
                b.level := least(b.level + v_rest, usage_gate_rate_room(p_burst[i], b.units, b.spent, b.scale));
            END IF;
        END LOOP;
        -- 6. What is wished for.
        v_at := array_position(b.lease, p_lease[i]);
        IF v_at IS NOT NULL THEN
            v_units := b.units[v_at];
        ELSE
            v_units := least(p_want[i], div(b.level, b.scale));
            IF v_units > 0 THEN
                b.level := b.level - v_units::numeric * b.scale;
                v_until := v_now + p_lease_time[i];
                -- After those that end at the same instant.
                v_at := 1;
                WHILE b.ends[v_at] <= v_until LOOP v_at := v_at + 1; END LOOP;
                b.lease := b.lease[: v_at - 1] || p_lease[i] || b.lease[v_at :];
                b.units := b.units[: v_at - 1] || v_units || b.units[v_at :];
                b.spent := b.spent[: v_at - 1] || 0::int8 || b.spent[v_at :];
                b.ends := b.ends[: v_at - 1] || v_until || b.ends[v_at :];
            END IF;
        END IF;
        b.forgotten := least(b.last::numeric + p_idle[i], 9223372036854775807);
        UPDATE rate_bucket SET level = b.level, scale = b.scale, last = b.last, forgotten = b.forgotten,
            gone_hour = usage_gate_hour_after(b.forgotten), lease = b.lease, units = b.units, spent = b.spent, ends = b.ends
        WHERE counter = p_counter[i];

        a_units[i] := v_units;
        a_level[i] := least(div(b.level, b.scale), 9223372036854775807);
        a_outstanding[i] := (SELECT coalesce(sum(u - s), 0) FROM unnest(b.units, b.spent) AS lent (u, s));
        v_next := (div(b.level, b.scale) + 1) * b.scale;
        IF v_next <= usage_gate_rate_room(p_burst[i], b.units, b.spent, b.scale) THEN
            a_next_in[i] := least(greatest(0, b.last - v_now) + ceil((v_next - b.level) / p_rate[i]), 9223372036854775807);
        ELSE
            a_next_in[i] := (
                SELECT greatest(0, min(e) - v_now) FROM unnest(b.units, b.spent, b.ends) AS lent (u, s, e) WHERE s < u
            );
            a_next_in[i] := coalesce(a_next_in[i], 0);
        END IF;
    END LOOP;

    FOR i IN 1 .. cardinality(p_open) LOOP
        SELECT * INTO o FROM open_slots WHERE counter = p_open[i] FOR UPDATE;
        IF NOT FOUND THEN
            INSERT INTO open_slots VALUES (p_open[i], 0, '{}', '{}', '{}', '{}') ON CONFLICT DO NOTHING;
            SELECT * INTO o FROM open_slots WHERE counter = p_open[i] FOR UPDATE;
        END IF;
        v_now := usage_gate_now(p_clock);
        -- Nodes that were not heard of for too long.
        SELECT coalesce(array_agg(n), '{}'), coalesce(array_agg(p), '{}'), coalesce(array_agg(s), '{}'), coalesce(array_agg(e), '{}')
        INTO o.node, o.places, o.sequence, o.ends
        FROM unnest(o.node, o.places, o.sequence, o.ends) AS holder (n, p, s, e) WHERE e > v_now;
        v_own := array_position(o.node, p_node);
        a_elsewhere[i] := (
            SELECT coalesce(sum(p), 0) FROM unnest(o.node, o.places) AS holder (n, p) WHERE n <> p_node
        );
        IF o.sequence[v_own] >= p_sequence[i] THEN
            -- A late call changes nothing, nor does the same one again, which gets the same answer.
            a_slots[i] := CASE WHEN o.sequence[v_own] = p_sequence[i] THEN o.places[v_own]
                ELSE least(o.places[v_own], p_keep[i]) END;
        ELSE
            v_free := greatest(0, p_limit[i] - a_elsewhere[i]);
            v_held := p_keep[i] + least(p_more[i], greatest(0, v_free - p_keep[i]));
            v_own := coalesce(v_own, cardinality(o.node) + 1);
            o.node[v_own] := p_node;
            o.places[v_own] := v_held;
            o.sequence[v_own] := p_sequence[i];
            o.ends[v_own] := v_now + p_slot_time;
            a_slots[i] := v_held;
        END IF;
        UPDATE open_slots SET node = o.node, places = o.places, sequence = o.sequence, ends = o.ends,
            gone_hour = usage_gate_hour_after(v_now + p_slot_time)
        WHERE counter = p_open[i];
    END LOOP;

    v_now := usage_gate_now(p_clock);
    INSERT INTO rate_node VALUES (p_node, v_now) ON CONFLICT (node) DO UPDATE SET heard = v_now;
    a_nodes := (SELECT count(*) FROM rate_node WHERE heard > v_now - 60000000);
    -- Now and then, some of what is as good as absent. What another call holds is left to it.
    IF random() < 0.01 THEN
        DELETE FROM rate_bucket WHERE counter IN (
            SELECT counter FROM rate_bucket WHERE gone_hour <= v_now / 3600000000 LIMIT 1000 FOR UPDATE SKIP LOCKED
        );
        DELETE FROM open_slots WHERE counter IN (
            SELECT counter FROM open_slots WHERE gone_hour <= v_now / 3600000000 LIMIT 1000 FOR UPDATE SKIP LOCKED
        );
        DELETE FROM rate_node WHERE heard < v_now - 3600000000;
    END IF;
END $$;
