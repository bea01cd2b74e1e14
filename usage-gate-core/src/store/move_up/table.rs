//! What is moved: every table with its columns, as SQLite has them and as PostgreSQL has them. A test compares this list with both schemas.

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Kind {
    /// 16 bytes: a blob here, a `uuid` there. What is absent is an empty blob here and nil there.
    Id,
    Int,
    Text,
    Bytes,
    /// A JSON array of texts here, `text[]` there.
    Texts,
}

/// A column of both.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Column {
    /// Its name in PostgreSQL.
    pub(in crate::store) name: &'static str,
    /// Its name in SQLite. Outside of the key it may be an expression.
    pub(in crate::store) source: &'static str,
    pub(in crate::store) kind: Kind,
}

/// A table of both.
#[derive(Debug)]
pub(in crate::store) struct Table {
    /// Its name in PostgreSQL.
    pub(in crate::store) name: &'static str,
    /// Its name in SQLite.
    pub(in crate::store) source: &'static str,
    /// Which rows of the table in SQLite.
    pub(in crate::store) only: Option<&'static str>,
    /// What people call its rows.
    pub(in crate::store) what: &'static str,
    /// Those of the primary key first.
    pub(in crate::store) columns: &'static [Column],
    /// How many columns are the key. Its order is the same in both: numbers, and the bytes of what is none.
    pub(in crate::store) key: usize,
}

impl Table {
    pub(in crate::store) fn key_columns(&self) -> &'static [Column] {
        self.columns.get(..self.key).unwrap_or(self.columns)
    }

    /// Where the instant is that says to which partition a row belongs, if there are any.
    pub(in crate::store) fn partitioned_by(&self) -> Option<usize> {
        let is_partitioned = self.name == "rollup_hour" || self.name == "rollup_day";
        self.columns.iter().position(|column| is_partitioned && column.name == "bucket")
    }
}

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, source: name, kind }
}

const fn id(name: &'static str) -> Column {
    column(name, Kind::Id)
}

const fn int(name: &'static str) -> Column {
    column(name, Kind::Int)
}

const fn text(name: &'static str) -> Column {
    column(name, Kind::Text)
}

const fn bytes(name: &'static str) -> Column {
    column(name, Kind::Bytes)
}

const fn texts(name: &'static str) -> Column {
    column(name, Kind::Texts)
}

/// A column that SQLite has under another name.
const fn from(source: &'static str, column: Column) -> Column {
    Column { source, ..column }
}

const fn table(name: &'static str, what: &'static str, key: usize, columns: &'static [Column]) -> Table {
    Table { name, source: name, only: None, what, columns, key }
}

/// Sums of usage, by the hour and by the day.
const SUMS: &[Column] = &[
    id("tenant"),
    text("meter"),
    int("bucket"),
    id("key"),
    text("outcome"),
    text("limit_name"),
    text("route"),
    text("environment"),
    from("user", id("user_id")),
    int("units"),
    int("requests"),
];

/// Usage by the hour, whose sums are shown.
pub(in crate::store) const HOURS: &str = "rollup_hour";

/// All of them, so that a row comes after those that it refers to.
///
/// Not the feed of changes: whoever has cached something is told that everything changed.
pub(in crate::store) static TABLES: [Table; 25] = [
    table("plan", "plans", 2, &[text("id"), int("version"), text("document")]),
    table(
        "tenant",
        "tenants",
        1,
        &[
            id("id"),
            text("external_id"),
            text("name"),
            text("status"),
            text("plan"),
            int("plan_version"),
            text("zone"),
            int("anchor"),
            text("next_zone"),
            int("next_anchor"),
            int("next_at"),
            int("since"),
            text("metadata"),
            int("created_at"),
            int("deleted_at"),
        ],
    ),
    Table {
        source: "user",
        ..table(
            "account_user",
            "users",
            1,
            &[
                id("id"),
                id("tenant"),
                text("external_id"),
                text("email"),
                text("email_folded"),
                text("name"),
                text("role"),
                int("created_at"),
                int("deleted_at"),
            ],
        )
    },
    table(
        "api_key",
        "keys",
        1,
        &[
            id("id"),
            id("tenant"),
            from("user", id("account_user")),
            text("name"),
            text("environment"),
            texts("scopes"),
            texts("allowed_addresses"),
            int("expires_at"),
            int("revoked_at"),
            text("revoke_reason"),
            int("created_at"),
        ],
    ),
    table(
        "secret",
        "secrets of keys, hashed",
        1,
        &[
            text("credential"),
            id("key"),
            int("position"),
            bytes("hash"),
            text("hint"),
            int("created_at"),
            int("expires_at"),
            int("last_used_at"),
        ],
    ),
    table(
        "portal_link",
        "links to the portal",
        1,
        &[bytes("hash"), from("user", id("account_user")), text("return_url"), int("expires_at"), int("used_at")],
    ),
    table(
        "portal_session",
        "sessions of the portal",
        1,
        &[
            bytes("hash"),
            from("user", id("account_user")),
            text("return_url"),
            int("created_at"),
            int("last_seen_at"),
            int("ends_at"),
        ],
    ),
    table(
        "admin_token",
        "tokens of operators, hashed",
        1,
        &[bytes("hash"), text("role"), text("name"), int("created_at")],
    ),
    table("pepper", "fingerprint of the pepper", 1, &[bytes("fingerprint")]),
    table(
        "node",
        "nodes",
        1,
        // Who had no table is nobody's successor: nil is no table's id.
        &[text("node"), id("boot"), from("coalesce(table_id, zeroblob(16))", id("table_id")), int("life"), int("heard")],
    ),
    table(
        "quota_window",
        "quotas by period",
        2,
        &[
            text("counter"),
            int("period_start"),
            int("period_end"),
            id("tenant"),
            text("limit_name"),
            text("meter"),
            text("per"),
            text("subject"),
            int("cap"),
            int("cap_version"),
            int("ceiling"),
            int("granted"),
            int("overrun"),
            int("used_closed"),
            // What was granted before records said what was taken: used, and of no record.
            from(
                "written_off + coalesce((SELECT units FROM quota_before WHERE quota_before.counter = quota_window.counter
                     AND quota_before.period_start = quota_window.period_start), 0)",
                int("written_off"),
            ),
            int("healed_in"),
            int("recalled_at"),
        ],
    ),
    table(
        "lease",
        "leases",
        1,
        &[
            id("lease_id"),
            text("counter"),
            int("period_start"),
            text("node"),
            id("boot"),
            int("size"),
            int("used"),
            int("closed_at"),
        ],
    ),
    Table {
        source: "lease",
        only: Some("recalled <> 0 AND closed_at IS NULL"),
        ..table("lease_recall", "leases that are called back", 2, &[text("node"), id("lease_id")])
    },
    table(
        "counter_use",
        "use of quotas by records",
        2,
        &[bytes("tag"), int("period_start"), id("tenant"), int("units")],
    ),
    table(
        "debt",
        "debts",
        3,
        &[
            bytes("counter_tag"),
            int("period_start"),
            bytes("lease_tag"),
            int("booked"),
            int("recorded"),
            int("told_at"),
        ],
    ),
    table("incarnation", "incarnations of rate stores", 1, &[text("id"), int("first_seen")]),
    table("stream", "journals, and how far they are in", 1, &[id("stream"), int("watermark"), int("through")]),
    table("rollup_day_zone", "zones of days", 2, &[id("tenant"), int("since"), text("zone")]),
    table(HOURS, "usage by the hour", 9, SUMS),
    table("rollup_day", "usage by the day", 9, SUMS),
    table("repeats", "requests that may be repeated", 1, &[id("tag"), int("at"), int("free")]),
    table("repeat_free", "repeats that were free", 2, &[id("stream"), int("sequence")]),
    table(
        "digest",
        "digests of journals",
        2,
        &[
            id("stream"),
            int("segment"),
            int("first"),
            int("last"),
            int("items"),
            bytes("hash"),
            int("until"),
        ],
    ),
    table(
        "digest_total",
        "sums of digests",
        6,
        &[
            id("stream"),
            int("segment"),
            id("tenant"),
            int("bucket"),
            text("meter"),
            text("outcome"),
            int("units"),
            int("requests"),
        ],
    ),
    table(
        "request_block",
        "blocks of the request log",
        1,
        &[
            int("id"),
            id("tenant"),
            int("at_first"),
            int("at_last"),
            id("stream"),
            int("first"),
            bytes("body"),
        ],
    ),
];
