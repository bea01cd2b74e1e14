//! Every fixed word of the pages, in both languages side by side.

macro_rules! words {
    ($($name:ident = $english:literal, $japanese:literal;)*) => {
        /// The words of a language.
        #[derive(Debug)]
        pub(crate) struct Words { $(pub(crate) $name: &'static str,)* }

        pub(super) static ENGLISH: Words = Words { $($name: $english,)* };
        pub(super) static JAPANESE: Words = Words { $($name: $japanese,)* };

        #[cfg(test)]
        pub(super) const TABLE: &[(&str, &str, &str)] = &[$((stringify!($name), $english, $japanese),)*];
    };
}

words! {
    // The frame.
    skip = "Skip to content", "本文へ移動";
    pages = "Pages", "ページ";
    month = "Month", "利用状況";
    keys = "Keys", "APIキー";
    sign_out = "Sign out", "サインアウト";
    theme = "Theme", "配色";
    system = "System", "自動";
    light = "Light", "ライト";
    dark = "Dark", "ダーク";
    language = "Language", "言語";
    owner = "owner", "オーナー";
    admin = "admin", "管理者";
    member = "member", "メンバー";
    viewer = "viewer", "閲覧者";

    // Dates.
    today_in_sentence = "today", "今日";
    yesterday_in_sentence = "yesterday", "昨日";
    today = "Today", "今日";
    so_far = "so far", "現在まで";
    period = "Period", "期間";

    // Limits.
    limits = "Limits", "上限";
    used = "used", "使用済み";
    reserved = "reserved", "確保中";
    time_passed = "time passed", "経過した時間";
    low = "Low", "残りわずか";
    full = "Full", "上限に到達";
    over = "Over", "超過";
    right_now = "right now", "現在";
    refused_until_reset = "refused until it resets", "リセットまで拒否します";
    counted_on = "served, and counted on", "提供を続け、超過分も数えます";
    reserved_explained = "Reserved units are set aside for calls that run or are about to. What they do not use comes back.",
        "確保中は、実行中またはこれから届く呼び出しのために取り置いた分です。使わなかった分は戻ります。";
    no_limits = "This plan has no limits.", "このプランに上限はありません。";
    whole_team = "whole team", "チーム全体";
    each_user = "each user", "ユーザーごと";
    each_key = "each key", "キーごと";
    each_address = "each address", "アドレスごと";
    calls_at_once = "Calls at once", "同時実行";
    everything_else_works = "Everything else works.", "ほかの呼び出しは使えます。";
    see_refusals = "See refusals", "拒否の内訳";
    suspended_title = "This account is suspended.", "このアカウントは停止中です。";
    suspended_text = "Calls are refused until the provider resumes it. Nothing is lost: keys and usage stay as they are.",
        "提供者が再開するまで呼び出しは拒否されます。キーと利用状況はそのまま残ります。";

    // Use by day.
    use_by_day = "Use by day", "日別の利用";
    meter = "Meter", "指標";
    stacked_by = "Stacked by", "内訳";
    key = "Key", "キー";
    route = "Route", "ルート";
    outcome = "Outcome", "結果";
    share = "Share", "割合";
    change = "Change", "増減";
    total = "Total", "合計";
    day = "Day", "日付";
    day_by_day = "Day by day", "日別の一覧";
    new = "new", "新規";
    no_route = "No route", "ルートなし";
    nothing_used = "Nothing was used in this period.", "この期間の利用はありません。";
    first_call = "No calls yet. Make the first one:", "まだ呼び出しがありません。最初の呼び出し：";
    create_a_key_first = "Create a key first", "先にキーを作成する";
    billed = "Served", "提供";
    unbilled = "Not counted", "対象外";
    aborted = "Broken off", "中断";
    indeterminate = "Unknown end", "結果不明";
    forfeited = "Lost in a restart", "再起動で失効";
    test_calls = "Test", "テスト";
    foreign_keys = "Keys of others", "ほかの人のキー";

    // Refusals.
    refused_calls = "Refused calls", "拒否された呼び出し";
    they_cost_nothing = "They cost nothing.", "料金はかかりません。";
    none_refused = "None of the calls was refused.", "拒否された呼び出しはありません。";
    reason = "Reason", "理由";
    calls = "Calls", "件数";
    mostly = "Mostly", "主なキー";
    too_fast = "Too fast", "レート超過";
    too_fast_advice = "wait as long as Retry-After says", "Retry-Afterの時間だけ待ってください";
    limit_reached = "Limit reached", "上限に到達";
    too_many_at_once = "Too many at once", "同時実行の超過";
    too_many_advice = "wait for one to end, then send the next", "1件の終了を待って次を送ってください";
    scope_missing = "Scope missing", "スコープ不足";
    scope_missing_advice = "give the key the scope, or use another", "キーにスコープを追加するか、別のキーを使ってください";
    key_revoked = "Key revoked", "失効したキー";
    use_another_key = "use another key", "別のキーを使ってください";
    key_expired = "Key expired", "期限切れのキー";
    address_refused = "Address not allowed", "許可されていないアドレス";
    address_advice = "call from an allowed address, or change the key", "許可されたアドレスから呼び出すか、キーを変更してください";
    suspended = "Account suspended", "アカウント停止中";
    suspended_advice = "ask the provider", "提供者に問い合わせてください";
    no_such_route = "No such path or method", "存在しないパスまたはメソッド";
    no_such_route_advice = "compare with the documentation", "ドキュメントを確認してください";
    too_large = "Request too large", "リクエストが大きすぎます";
    too_large_advice = "send less at once", "分割して送ってください";
    not_now = "Not possible just then", "一時的に処理不可";
    not_now_advice = "ask again", "もう一度送ってください";
    other_reason = "Other", "その他";

    // Keys.
    last_use_exact = "Last use is exact to a minute.", "最終使用は分単位です。";
    create_key = "Create key", "キーを作成";
    create_a_key = "Create a key", "キーを作成";
    never_used = "Never used", "未使用";
    no_requests = "No requests this period", "この期間の利用なし";
    not_counted = "Not counted", "集計なし";
    no_owner = "No owner", "所有者なし";
    all_routes = "no scopes", "スコープなし";
    active = "Active", "有効";
    rotating = "Rotating", "ローテーション中";
    expired = "Expired", "期限切れ";
    revoked = "Revoked", "失効";
    test = "Test", "テスト";
    never_billed = "Never billed", "請求なし";
    no_expiry = "No expiry", "無期限";
    edit = "Edit", "編集";
    rotate = "Rotate", "ローテーション";
    revoke_dots = "Revoke…", "失効…";
    more_keys = "More keys", "続きのキー";
    no_keys = "No keys yet.", "キーはまだありません。";
    no_keys_advice = "Create the first one below. It is shown once, then only its fingerprint is kept.",
        "下のフォームで最初のキーを作成してください。表示は一度だけで、以後は照合用の値だけを保存します。";
    no_keys_to_see = "There are no keys that you may see.", "表示できるキーはありません。";
    only_time = "This is the only time it is shown. We keep a fingerprint, not the key.",
        "表示されるのは今回だけです。保存するのは照合用の値だけです。";
    try_it = "Try it:", "試す：";
    copy = "Copy", "コピー";
    copied = "Copied", "コピーしました";
    stored_it = "I have stored it", "保管しました";
    already_shown_title = "This form was sent already", "このフォームは送信済みです";
    already_shown = "The key was made and shown once. It is in the list below; if you did not store it, rotate it.",
        "キーは作成済みで、表示は一度だけです。下の一覧にあります。保管していない場合はローテーションしてください。";
    name = "Name", "名前";
    environment = "Environment", "環境";
    live = "Live", "本番";
    test_never_billed = "Test, never billed", "テスト（請求なし）";
    scopes = "Scopes", "スコープ";
    no_scopes_to_give = "The plan has no scopes to give; a key may call every route that asks for none.",
        "付与できるスコープはありません。スコープ不要のルートを呼び出せます。";
    expires = "Expires", "期限";
    never = "Never", "無期限";
    as_it_is = "As it is", "変更しない";
    save = "Save", "保存";
    cancel = "Cancel", "やめる";
    keep_it = "Keep it", "やめる";
    edit_explained = "A change holds within a second, everywhere.", "変更は1秒以内にすべての場所で有効になります。";
    rotate_explained = "The key gets a new secret. Its name, scopes, limits and usage stay.",
        "新しいシークレットを発行します。名前、スコープ、上限、利用状況はそのままです。";
    old_secret_ends = "The old secret ends", "旧シークレットの期限";
    end_now = "Now", "今すぐ";
    end_hour = "In 1 hour", "1時間後";
    end_day = "In 24 hours", "24時間後";
    end_week = "In 7 days", "7日後";
    new_secret = "Make the new secret", "新しいシークレットを発行";
    cannot_be_undone = "This cannot be undone.", "元に戻せません。";
    within_a_second = "Calls with it are refused within a second.", "このキーでの呼び出しは1秒以内に拒否されます。";

    // Messages.
    ended_title = "You are not signed in", "サインインしていません";
    ended_text = "The session has ended, or this browser has none. Nothing is lost.", "セッションが終了したか、このブラウザーにはセッションがありません。データは失われていません。";
    ended_advice = "Open the portal again from the site that brought you here.", "元のサイトからもう一度開いてください。";
    link_title = "This link does not work any more", "このリンクは使えません";
    link_text = "A link works once, for 15 minutes.", "リンクは1回だけ、15分間有効です。";
    blocked_title = "Too many wrong tries", "試行回数が多すぎます";
    blocked_text = "Too many keys or links that do not exist were tried from this network.", "存在しないキーまたはリンクが、このネットワークから何度も使われました。";
    signed_out_title = "You are signed out", "サインアウトしました";
    signed_out_text = "This browser can no longer see this account.", "このブラウザーからはアカウントを表示できません。";
    not_found_title = "There is nothing here", "ページが見つかりません";
    not_found_text = "The address may be wrong, or what it named is gone or not yours to see.",
        "アドレスが違うか、対象が削除されたか、表示する権限がありません。";
    away_title = "This cannot be shown right now", "現在表示できません";
    away_text = "A store is away. Limits still hold, calls are still served, and nothing is lost.",
        "データベースに接続できません。上限は有効で、呼び出しは処理されており、データは失われていません。";
    try_again = "Try again", "再読み込み";
    forbidden_title = "Your role does not permit this", "この操作は許可されていません";
    forbidden_text = "Ask an owner or admin of your team.", "チームのオーナーまたは管理者に依頼してください。";
    invalid_title = "This cannot be done", "実行できません";
    request_id = "Request", "リクエストID";
    to_month = "To the month", "利用状況へ";
    to_keys = "To the keys", "キー一覧へ";
    correct_it = "Correct what is marked; nothing was changed.", "印のある項目を修正してください。何も変更されていません。";
}

#[cfg(test)]
mod tests {
    use super::TABLE;

    #[test]
    fn every_word_is_there_in_both_languages() {
        for (name, english, japanese) in TABLE {
            assert!(!english.is_empty() && !japanese.is_empty(), "{name}");
            // Guide: no "please", no "successfully"; Japanese punctuation is full-width.
            assert!(!english.to_lowercase().contains("please") && !english.contains("success"), "{name}");
            assert!(!japanese.contains(['(', ')', '!', '?']), "{name}");
        }
    }
}
