-- Units that were spent where no lease was open. Such a debt is known from two sides: its holder tells the ledger of it, and records cite it. It is
-- booked once, up to the larger of both numbers. `counter_tag` and `lease_tag` are as in records, `period_start` is in whole seconds.
CREATE TABLE debt (
    counter_tag  BLOB    NOT NULL CHECK (length(counter_tag) = 8),
    period_start INTEGER NOT NULL,
    lease_tag    BLOB    NOT NULL CHECK (length(lease_tag) = 8),
    -- Of what is granted and used in its window.
    booked       INTEGER NOT NULL,
    recorded     INTEGER NOT NULL,
    -- When one of the two last grew.
    told_at      INTEGER NOT NULL,
    PRIMARY KEY (counter_tag, period_start, lease_tag)
) STRICT, WITHOUT ROWID;

CREATE INDEX debt_told ON debt (told_at);
