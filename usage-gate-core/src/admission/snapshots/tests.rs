//! What is on disk after any end of the process, and what is never served from there.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::conformance;
use crate::model::{KeyId, TenantId};
use crate::period::AnchorDay;

const PEPPER: u64 = 7;
const HOUR: Duration = Duration::from_secs(3_600);

/// A folder that is gone afterwards.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("usage-gate-callers-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn begin(&self) -> Snapshots {
        Snapshots::begin(self.0.clone(), PEPPER, heard(1)).unwrap()
    }

    fn read(&self) -> Option<KnownCallers> {
        Snapshots::read(&self.0, PEPPER, second(100), HOUR)
    }

    /// Keys of the callers that a start would serve.
    fn keys(&self) -> Vec<KeyId> {
        let mut keys: Vec<_> = self.read().into_iter().flat_map(|known| known.callers).collect();
        keys.sort_by_key(|(_, resolved)| resolved.key.id);
        keys.into_iter().map(|(_, resolved)| resolved.key.id).collect()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn second(second: i64) -> Timestamp {
    Timestamp::from_seconds(1_800_000_000 + second)
}

fn heard(at: i64) -> Heard {
    Heard { position: FeedPosition(at.unsigned_abs()), at: second(at), nodes: 3 }
}

/// Callers of one tenant each, sorted by key.
fn callers(count: usize) -> Vec<Known> {
    let plan = conformance::plan("starter");
    let caller = |_| {
        let tenant = conformance::tenant(&plan);
        let user = conformance::user(&tenant, "ada@example.com");
        let key = conformance::key(&tenant, Some(&user));
        let credential = key.secrets[0].credential;
        let (plan, position) = (Arc::new(plan.clone()), FeedPosition(1));
        (credential, Arc::new(ResolvedKey { key, user: Some(user), tenant, plan, position }))
    };
    let mut callers: Vec<Known> = (0..count).map(caller).collect();
    callers.sort_by_key(|(_, resolved)| resolved.key.id);
    callers
}

/// Somebody is new: all who are known are written.
fn anybody() -> CredentialId {
    callers(1)[0].0
}

/// These are new, and are added.
fn add(disk: &Snapshots, known: &[Known]) {
    known.iter().for_each(|(credential, _)| disk.filled(*credential));
    disk.add(|new| {
        assert_eq!(new.len(), known.len());
        known.to_vec()
    });
}

fn ids(callers: &[Known]) -> Vec<KeyId> {
    callers.iter().map(|(_, resolved)| resolved.key.id).collect()
}

#[test]
fn what_is_read_is_what_was_known() {
    let folder = Folder::new();
    let disk = folder.begin();
    let mut known = callers(1);
    let resolved = Arc::get_mut(&mut known[0].1).unwrap();
    resolved.tenant.calendar =
        resolved.tenant.calendar.changed("Asia/Kolkata".parse().unwrap(), AnchorDay::new(31).unwrap(), second(0));
    resolved.key.allowed_addresses = vec!["192.0.2.0/24".parse().unwrap()];
    resolved.key.expires_at = Some(second(9).plus_micros(1));
    disk.filled(anybody());
    disk.keep(|| known.clone());
    let read = folder.read().unwrap();
    assert_eq!(read.heard, heard(1));
    let [(credential, found)] = &read.callers[..] else { panic!("{read:?}") };
    assert_eq!(*credential, known[0].0);
    // Secret hashes do not show themselves.
    assert_eq!(format!("{found:?}"), format!("{:?}", known[0].1));
    assert_eq!(found.key.secrets[0].hash.0, known[0].1.key.secrets[0].hash.0);
    for name in ["callers.snapshot", "callers.changes"] {
        let mode = std::fs::metadata(folder.file(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_change_that_was_applied_is_there_after_a_kill_at_any_moment() {
    let folder = Folder::new();
    let disk = folder.begin();
    let known = callers(4);
    disk.filled(anybody());
    disk.keep(|| known.clone());
    assert_eq!(folder.keys(), ids(&known));
    let key = Changed::Key(known[0].1.key.id);
    disk.apply(&key, || assert_eq!(folder.keys(), ids(&known[1..]), "it is on disk before it is applied"));
    disk.apply(&Changed::Tenant(known[1].1.tenant.id), || {});
    disk.apply(&Changed::Tenant(TenantId::generate()), || {});
    assert_eq!(folder.keys(), ids(&known[2..]));
    // Callers are written, and one changes while they are: whether they have it or not, they are not served with it.
    disk.keep(|| {
        disk.apply(&Changed::Key(known[2].1.key.id), || {});
        known[2..].to_vec()
    });
    assert_eq!(folder.keys(), ids(&known[3..]));
    // A kill between the callers and the new log: lines of before are passed over.
    let log = std::fs::read(folder.file("callers.changes")).unwrap();
    disk.filled(anybody());
    disk.keep(|| known[2..].to_vec());
    std::fs::write(folder.file("callers.changes"), log).unwrap();
    assert_eq!(folder.keys(), ids(&known[2..]), "it was resolved again after the change");
    let disk = folder.begin();
    disk.filled(anybody());
    disk.keep(|| known.clone());
    disk.apply(&Changed::All, || {});
    assert_eq!(folder.keys(), []);
}

#[test]
fn who_is_new_is_added_and_goes_with_the_next_change() {
    let folder = Folder::new();
    let disk = folder.begin();
    let known = callers(5);
    disk.filled(anybody());
    disk.keep(|| known[..1].to_vec());
    add(&disk, &known[1..3]);
    assert_eq!(folder.keys(), ids(&known[..3]));
    disk.add(|_| panic!("nobody is new"));
    // One that changes while it is written down is not served; once it was resolved again it is.
    disk.filled(known[3].0);
    disk.add(|_| {
        disk.apply(&Changed::Key(known[3].1.key.id), || {});
        known[3..4].to_vec()
    });
    assert_eq!(folder.keys(), ids(&known[..3]));
    add(&disk, &known[3..4]);
    assert_eq!(folder.keys(), ids(&known[..4]));
    disk.apply(&Changed::Tenant(known[1].1.tenant.id), || {});
    let left = [&known[..1], &known[2..4]].concat();
    assert_eq!(folder.keys(), ids(&left));
    // Filled again, it is there once, as it was last.
    let mut again = known[2].clone();
    Arc::make_mut(&mut again.1).tenant.name = "renamed".into();
    add(&disk, &[again]);
    let read = folder.read().unwrap();
    assert_eq!(read.callers.len(), 3);
    assert!(read.callers.iter().any(|(credential, found)| *credential == known[2].0 && found.tenant.name == "renamed"));
    // A kill between the callers and the new log: who was added is of before, and judged by all that came after it.
    let log = std::fs::read(folder.file("callers.changes")).unwrap();
    disk.filled(anybody());
    disk.keep(|| known[4..].to_vec());
    assert_eq!(folder.keys(), ids(&known[4..]));
    std::fs::write(folder.file("callers.changes"), log).unwrap();
    assert_eq!(folder.keys(), ids(&known[2..]));
}

#[test]
fn what_changes_while_callers_are_written_is_all_that_the_next_log_has() {
    let folder = Folder::new();
    let disk = folder.begin();
    let known = callers(3);
    disk.filled(anybody());
    disk.keep(|| known.clone());
    disk.apply(&Changed::Key(known[0].1.key.id), || {});
    disk.filled(anybody());
    disk.keep(|| {
        disk.apply(&Changed::Key(known[1].1.key.id), || {});
        known.clone()
    });
    let [gone, kept] = [1, 2].map(|at| known[at].1.key.id);
    assert_eq!(folder.keys(), [known[0].1.key.id, kept], "the first was resolved again");
    let log = std::fs::read_to_string(folder.file("callers.changes")).unwrap();
    assert_eq!(log.matches("changed ").count(), 1);
    assert!(log.contains(&gone.to_string()), "{log}");
    // And it goes on.
    disk.apply(&Changed::Key(kept), || {});
    assert_eq!(folder.keys(), [known[0].1.key.id]);
}

#[test]
fn a_kill_while_somebody_is_added_leaves_the_others() {
    let folder = Folder::new();
    let disk = folder.begin();
    let known = callers(3);
    disk.filled(anybody());
    disk.keep(|| known[..1].to_vec());
    add(&disk, &known[1..2]);
    let name = folder.file("callers.changes");
    let before = std::fs::read(&name).unwrap().len();
    add(&disk, &known[2..]);
    drop(disk);
    let whole = std::fs::read(&name).unwrap();
    for end in before..whole.len() {
        std::fs::write(&name, &whole[..end]).unwrap();
        assert_eq!(folder.keys(), ids(&known[..2]), "cut off at {end}");
        // The next process goes on behind the last whole line.
        let read = folder.read().unwrap();
        let disk = Snapshots::go_on(folder.0.clone(), PEPPER, &read).unwrap();
        disk.apply(&Changed::Key(known[0].1.key.id), || {});
        assert_eq!(folder.keys(), ids(&known[1..2]), "cut off at {end}");
    }
}

#[test]
fn the_log_goes_on_where_an_earlier_process_ended() {
    let folder = Folder::new();
    let disk = folder.begin();
    let known = callers(3);
    disk.filled(anybody());
    disk.keep(|| known.clone());
    disk.apply(&Changed::Key(known[0].1.key.id), || {});
    disk.heard(heard(20));
    drop(disk);
    let read = folder.read().unwrap();
    assert_eq!(read.heard, heard(20));
    let disk = Snapshots::go_on(folder.0.clone(), PEPPER, &read).unwrap();
    disk.apply(&Changed::Key(known[1].1.key.id), || {});
    assert_eq!(folder.keys(), ids(&known[2..]));
    disk.keep(|| known[2..].to_vec());
    disk.heard(heard(21));
    let read = folder.read().unwrap();
    assert_eq!((read.heard, read.callers.len()), (heard(21), 1));
    drop(folder.begin());
    assert_eq!(folder.keys(), [], "a process that asked the store begins anew");
}

#[test]
fn nothing_is_served_from_files_that_are_damaged_old_or_of_another_pepper() {
    let folder = Folder::new();
    let disk = folder.begin();
    let known = callers(2);
    disk.filled(anybody());
    disk.keep(|| known.clone());
    disk.apply(&Changed::Key(KeyId::generate()), || {});
    let whole = ["callers.snapshot", "callers.changes"].map(|name| (name, std::fs::read(folder.file(name)).unwrap()));
    let restore = || whole.iter().for_each(|(name, bytes)| std::fs::write(folder.file(name), bytes).unwrap());
    for (name, bytes) in &whole {
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            std::fs::write(folder.file(name), damaged).unwrap();
            assert!(folder.read().is_none(), "{name}, byte {at}");
        }
        // Cut off behind a line the log is one of earlier.
        for at in (0..bytes.len()).filter(|at| *at == 0 || bytes[at - 1] != b'\n') {
            std::fs::write(folder.file(name), &bytes[..at]).unwrap();
            assert!(folder.read().is_none(), "{name}, cut off at {at}");
        }
        std::fs::remove_file(folder.file(name)).unwrap();
        assert!(folder.read().is_none(), "without {name}");
        restore();
    }
    assert_eq!(folder.keys(), ids(&known));
    let read = |pepper, at: i64| Snapshots::read(&folder.0, pepper, second(at), HOUR).is_some();
    assert!(!read(PEPPER + 1, 100), "another pepper");
    assert!(read(PEPPER, 1) && read(PEPPER, 3_601), "up to max_stale since the feed was heard of");
    assert!(!read(PEPPER, 3_602), "too old");
    assert!(!read(PEPPER, 0), "the clock was set back");
}

#[test]
fn callers_go_where_a_change_cannot_be_written() {
    let folder = Folder::new();
    let disk = folder.begin();
    let known = callers(2);
    disk.filled(anybody());
    disk.keep(|| known.clone());
    // Every write to it fails.
    disk.following().log = Some(ChangeLog::of(std::fs::File::options().write(true).open("/dev/full").unwrap()));
    let mut applied = false;
    disk.apply(&Changed::Key(known[0].1.key.id), || applied = true);
    assert!(applied);
    assert_eq!(folder.keys(), []);
    disk.keep(|| known[1..].to_vec());
    assert_eq!(folder.keys(), ids(&known[1..]), "and come back when it can");
}

#[test]
fn a_node_that_hears_nothing_new_keeps_a_short_log() {
    let folder = Folder::new();
    let disk = folder.begin();
    disk.filled(anybody());
    for second in 2..100_000 {
        disk.heard(Heard { at: super::tests::second(second), ..heard(1) });
        if second % 10 == 0 {
            disk.keep(Vec::new);
        }
    }
    let length = std::fs::metadata(folder.file("callers.changes")).unwrap().len();
    assert!(length < 2 * LONGEST_LOG, "{length} bytes");
}
