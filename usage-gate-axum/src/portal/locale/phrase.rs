//! Sentences with something in them. Word order is each language's own, so a sentence is never put together from words.

use std::borrow::Cow;

use super::{Dates, Html, Language, When, grouped};

/// Text of two languages, of which one is made.
macro_rules! say {
    ($language:expr, $english:expr, $japanese:expr) => {
        match $language {
            Language::English => $english,
            Language::Japanese => $japanese,
        }
    };
}

impl Language {
    /// `Northwind API`'s month, in a title.
    pub(crate) fn title(self, page: &str, brand: &str) -> String {
        format!("{page} · {brand}")
    }

    /// `1 Nov 00:00 to 1 Dec 00:00, Asia/Tokyo (UTC+9).`
    pub(crate) fn between(self, from: &When, to: &When, dates: &Dates, offset: &str) -> Html {
        // UTC is its own offset.
        let zone = match dates.zone() {
            zone if zone == offset => zone.to_owned(),
            zone => say!(self, format!("{zone} ({offset})"), format!("{zone}、{offset}")),
        };
        Html::of(say!(self, format!("{from} to {to}, {zone}."), format!("{from}から{to}まで（{zone}）")))
    }

    pub(crate) fn time_left(self, time: &str) -> String {
        say!(self, format!("{time} left"), format!("残り{time}"))
    }

    pub(crate) fn over_now(self) -> &'static str {
        say!(self, "This period is over.", "この期間は終了しました。")
    }

    pub(crate) fn as_of(self, when: &When) -> Html {
        Html::of(say!(self, format!("As of {when}"), format!("{when}時点")))
    }

    pub(crate) fn as_of_stale(self, when: &When) -> Html {
        Html::of(say!(
            self,
            format!("As of {when}. The store is away; limits still hold."),
            format!("{when}時点。データベースに接続できません。上限は有効です。")
        ))
    }

    /// `Back to Northwind`.
    pub(crate) fn back_to(self, place: &str) -> String {
        say!(self, format!("Back to {place}"), format!("{place}に戻る"))
    }

    /// What a limit says about its period: `per month`, `1か月`.
    pub(crate) fn per(self, per: &str) -> &'static str {
        match per {
            "second" => say!(self, "per second", "1秒"),
            "minute" => say!(self, "per minute", "1分"),
            "hour" => say!(self, "per hour", "1時間"),
            "day" => say!(self, "per day", "1日"),
            "week" => say!(self, "per week", "1週間"),
            "month" => say!(self, "per month", "1か月"),
            "year" => say!(self, "per year", "1年"),
            _ => "",
        }
    }

    /// `50 per second`, `毎秒50`.
    pub(crate) fn rate(self, units: u64, per: &str) -> String {
        let units = grouped(units);
        say!(self, format!("{units} {}", self.per(per)), format!("{}{units}", every(per)))
    }

    /// `on search, items`.
    pub(crate) fn on_routes(self, routes: &str) -> String {
        say!(self, format!("on {routes}"), format!("ルート：{routes}"))
    }

    pub(crate) fn left(self, units: u64) -> String {
        say!(self, format!("{} left", grouped(units)), format!("残り {}", grouped(units)))
    }

    pub(crate) fn over_by(self, units: u64) -> String {
        say!(self, format!("{} over", grouped(units)), format!("超過 {}", grouped(units)))
    }

    pub(crate) fn resets(self, when: &When) -> Html {
        Html::of(say!(self, format!("resets {when}"), format!("{when}にリセット")))
    }

    /// `412,806 used · 7,194 reserved · of 600,000`.
    pub(crate) fn used_of(self, used: u64, reserved: u64, limit: u64) -> String {
        let (used, limit) = (grouped(used), grouped(limit));
        match (self, reserved) {
            (Self::English, 0) => format!("{used} used · of {limit}"),
            (Self::English, _) => format!("{used} used · {} reserved · of {limit}", grouped(reserved)),
            (Self::Japanese, 0) => format!("使用済み {used} · 上限 {limit}"),
            (Self::Japanese, _) => format!("使用済み {used} · 確保中 {} · 上限 {limit}", grouped(reserved)),
        }
    }

    /// `86 used · burst of 100, refills 50 per second`.
    pub(crate) fn used_of_burst(self, used: u64, burst: u64, units: u64, per: &str) -> String {
        let (used, burst, units) = (grouped(used), grouped(burst), grouped(units));
        say!(
            self,
            format!("{used} used · burst of {burst}, refills {units} {}", self.per(per)),
            format!("使用済み {used} · バースト{burst}、{}{units}回復", every(per))
        )
    }

    pub(crate) fn open_now(self, open: u64, limit: u64) -> String {
        let (open, limit) = (grouped(open), grouped(limit));
        say!(self, format!("{open} open now, of {limit}"), format!("{open} 実行中・上限 {limit}"))
    }

    pub(crate) fn on_pace(self, units: u64) -> String {
        let units = grouped(units);
        say!(self, format!("On pace for about {units}"), format!("このペースで約{units}"))
    }

    pub(crate) fn lowest_now(self, subject: &str) -> String {
        let subject = isolated(subject);
        say!(self, format!("lowest now: {subject}"), format!("最少：{subject}"))
    }

    /// What a rule says of a field. The rules speak English; the few that a form can break are known here.
    pub(crate) fn fault(self, detail: &str) -> String {
        if self == Self::English {
            return detail.to_owned();
        }
        let (begin, rest) = detail.split_once(" at most ").unwrap_or((detail, ""));
        match (begin, rest.split_once(' '), detail.split_once("use one of ")) {
            ("must have", Some((most, "characters")), _) => format!("{most}文字以内で入力してください"),
            ("must not be empty", ..) => "入力してください".to_owned(),
            (_, _, Some((_, scopes))) => format!("プランに含まれないスコープがあります。使えるスコープ：{scopes}"),
            _ if detail.contains("control characters") => "制御文字は使えません".to_owned(),
            _ if detail.contains("in the future") => "未来の日時を指定してください".to_owned(),
            _ => detail.to_owned(),
        }
    }

    /// `Released in 2 min.`
    pub(crate) fn released_in(self, seconds: u64) -> String {
        let minutes = seconds.div_ceil(60);
        say!(self, format!("Try again in {minutes} min."), format!("{minutes}分後にもう一度開いてください。"))
    }

    /// `Exports are refused until 00:00`.
    pub(crate) fn refused_until(self, what: &str, when: &When) -> Html {
        Html::of(say!(
            self,
            format!("{}: refused until {when}", Html::escape(what)),
            format!("{}は{when}まで受け付けません", Html::escape(what))
        ))
    }

    pub(crate) fn in_brackets(self, time: &str) -> String {
        say!(self, format!(" (in {time})"), format!("（あと{time}）"))
    }

    pub(crate) fn all_used(self, units: u64, per: &str) -> String {
        let units = grouped(units);
        say!(
            self,
            format!(": all {units} {} are used.", self.per(per)),
            format!("。{}の{units}をすべて使いました。", self.per(per))
        )
    }

    /// `412,806 requests`; the meter's name stands as a heading would write it.
    pub(crate) fn amount(self, units: u64, meter: &str) -> String {
        let units = grouped(units);
        say!(self, format!("{units} {}", lower(meter)), format!("{units} {meter}"))
    }

    /// `+9.7% vs 1–24 Oct, both to 14:00 (376,293)`.
    pub(crate) fn compared(self, change: &str, span: &str, to: Option<&str>, before: u64) -> String {
        let before = grouped(before);
        match (self, to) {
            (Self::English, Some(to)) => format!("{change} vs {span}, both to {to} ({before})"),
            (Self::English, None) => format!("{change} vs {span} ({before})"),
            (Self::Japanese, Some(to)) => format!("{span}（{before}）比 {change}、ともに{to}まで"),
            (Self::Japanese, None) => format!("{span}（{before}）比 {change}"),
        }
    }

    pub(crate) fn nothing_before(self, span: &str) -> String {
        say!(self, format!("nothing in {span} to compare with"), format!("{span}の利用はありません"))
    }

    pub(crate) fn not_billed(self, units: u64) -> String {
        let units = grouped(units);
        say!(self, format!("{units} of them are not counted against limits"), format!("うち{units}は上限の対象外"))
    }

    /// `12 count against limits and are not billed`.
    pub(crate) fn not_charged(self, units: u64) -> String {
        let units = grouped(units);
        say!(
            self,
            format!("{units} of them count against limits and are not billed"),
            format!("うち{units}は上限に数えるが請求の対象外")
        )
    }

    /// `16,144 on 1 Oct`.
    pub(crate) fn on_day(self, units: u64, day: &str) -> String {
        let units = grouped(units);
        say!(self, format!("{units} on {day}"), format!("{day} {units}"))
    }

    /// `7,528 on 24 Oct to 14:00`.
    pub(crate) fn on_day_to(self, units: u64, day: &str, time: &str) -> String {
        let units = grouped(units);
        say!(self, format!("{units} on {day} to {time}"), format!("{day} {time}まで {units}"))
    }

    /// `Requests per day, stacked by key`.
    pub(crate) fn chart(self, meter: &str, by: &str) -> String {
        say!(self, format!("{meter} per day, stacked by {}", lower(by)), format!("日別{meter}、{by}別の積み上げ"))
    }

    pub(crate) fn other_series(self, count: usize) -> String {
        say!(self, format!("Other ({count})"), format!("その他（{count}）"))
    }

    pub(crate) fn change_explained(self, to: &str) -> String {
        say!(self, format!("Change compares both to {to}."), format!("増減はともに{to}までの比較です。"))
    }

    /// `1,594 of 414,400 calls.`
    pub(crate) fn refused_of(self, refused: u64, calls: u64) -> String {
        let (refused, calls) = (grouped(refused), grouped(calls));
        say!(self, format!("{refused} of {calls} calls."), format!("{calls}件中{refused}件。"))
    }

    /// `exports, daily limit`, under the reason.
    pub(crate) fn limit_named(self, limit: &str) -> String {
        say!(self, format!("limit {limit}"), format!("上限 {limit}"))
    }

    /// `A key lets a program call Northwind API as Acme Robotics.`
    pub(crate) fn keys_explained(self, brand: &str, tenant: &str) -> String {
        let tenant = isolated(tenant);
        say!(
            self,
            format!("A key lets a program call {brand} as {tenant}."),
            format!("キーを使うと、プログラムが{tenant}として{brand}を呼び出せます。")
        )
    }

    pub(crate) fn key_count(self, count: usize) -> String {
        say!(
            self,
            if count == 1 { "1 key".to_owned() } else { format!("{} keys", grouped(count as u64)) },
            format!("{}個のキー", grouped(count as u64))
        )
    }

    pub(crate) fn used_at(self, when: &When) -> Html {
        Html::of(say!(self, format!("Used {when}"), format!("最終使用 {when}")))
    }

    pub(crate) fn this_period(self, units: u64) -> String {
        let units = grouped(units);
        say!(self, format!("{units} this period"), format!("この期間 {units}"))
    }

    /// `Old secret …9aZe ends 25 Nov 09:00, used today 03:12`.
    pub(crate) fn old_secret(self, tail: &str, ends: &When, used: Option<&When>) -> Html {
        let tail = Html::escape(tail);
        Html::of(match (self, used) {
            (Self::English, Some(used)) => format!("Old secret …{tail} ends {ends}, used {used}"),
            (Self::English, None) => format!("Old secret …{tail} ends {ends}, never used"),
            (Self::Japanese, Some(used)) => format!("旧シークレット…{tail}の期限 {ends}、最終使用 {used}"),
            (Self::Japanese, None) => format!("旧シークレット…{tail}の期限 {ends}、未使用"),
        })
    }

    pub(crate) fn expires_on(self, when: &When) -> Html {
        Html::of(say!(self, format!("Expires {when}"), format!("期限 {when}")))
    }

    pub(crate) fn in_future(self, time: &str) -> String {
        say!(self, format!("In {time}"), format!("あと{time}"))
    }

    pub(crate) fn copy_now(self, name: &str) -> String {
        let name = isolated(name);
        say!(self, format!("Copy “{name}” now"), format!("「{name}」を今コピーしてください"))
    }

    /// `Rotate ci`, `ciのローテーション`.
    pub(crate) fn rotate_name(self, name: &str) -> String {
        let name = isolated(name);
        say!(self, format!("Rotate {name}"), format!("{name}のローテーション"))
    }

    pub(crate) fn edit_name(self, name: &str) -> String {
        let name = isolated(name);
        say!(self, format!("Edit {name}"), format!("{name}の編集"))
    }

    pub(crate) fn revoke_name(self, name: &str) -> String {
        let name = isolated(name);
        say!(self, format!("Revoke {name}"), format!("{name}を失効"))
    }

    pub(crate) fn revoke_question(self, name: &str) -> String {
        let name = isolated(name);
        say!(self, format!("Revoke {name}?"), format!("{name}を失効しますか？"))
    }

    /// What a key did lately, before it is revoked.
    pub(crate) fn lately(self, when: Option<&When>, requests: u64) -> Html {
        let requests = grouped(requests);
        Html::of(match (self, when) {
            (Self::English, Some(when)) => format!("It was last used {when} and made {requests} requests this period."),
            (Self::English, None) => "It was never used.".to_owned(),
            (Self::Japanese, Some(when)) => format!("最終使用は{when}、この期間のリクエストは{requests}件です。"),
            (Self::Japanese, None) => "一度も使われていません。".to_owned(),
        })
    }

    pub(crate) fn in_days(self, days: u32, date: &str) -> String {
        match (self, days) {
            (Self::English, 365) => format!("In a year, {date}"),
            (Self::English, days) => format!("In {days} days, {date}"),
            (Self::Japanese, 365) => format!("1年後、{date}"),
            (Self::Japanese, days) => format!("{days}日後、{date}"),
        }
    }

    pub(crate) fn all_times_in(self, zone: &str) -> String {
        say!(
            self,
            format!("All days and times in {zone}. A call counts when it ends."),
            format!("日付と時刻はすべて{zone}です。呼び出しは終了時に数えます。")
        )
    }
}

/// A rate's unit of time, as Japanese says it before the number.
fn every(per: &str) -> &'static str {
    match per {
        "second" => "毎秒",
        "minute" => "毎分",
        "hour" => "毎時",
        _ => "毎日",
    }
}

/// A heading inside a sentence: `Output tokens` as `output tokens`.
fn lower(heading: &str) -> String {
    let mut letters = heading.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

/// A name inside a sentence: what is written from right to left, or turns the direction, ends with it (UAX 9, isolates).
fn isolated(name: &str) -> Cow<'_, str> {
    if name.is_ascii() { name.into() } else { format!("\u{2068}{name}\u{2069}").into() }
}
