//! What the tests share: records, and children that are this same program.
#![allow(dead_code)] // no test uses all of it

pub(crate) mod contest;

use std::{
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Child, Command, Stdio},
};

use keystrata_hierarchy::{
    Creation, KekId, KekRecord, KekState, KekStore, KekVersion, KeyPath, Raise, RootKeyId, Rotation, Shred, StoreError,
    Update, WrapperQuery,
};
use keystrata_primitives::{KekCheck, KekIdentity, Suite, WrappedSecret, Wrapper};

/// Tells a child which store to use.
pub(crate) const STORE: &str = "KEYSTRATA_TEST_STORE";

pub(crate) fn path(account: &str) -> KeyPath {
    KeyPath::account(account).unwrap()
}

pub(crate) fn record(account: &str) -> KekRecord {
    KekRecord {
        identity: KekIdentity {
            suite: Suite::default(),
            version: KekVersion::FIRST,
            id: KekId::generate().unwrap(),
            path: path(account),
        },
        state: KekState::Primary,
        check: KekCheck::from_bytes([0xc5; KekCheck::LEN]),
        created_at: 1_800_000_000,
        retired_at: 0,
        wraps: vec![WrappedSecret {
            wrapper: Wrapper::Root(RootKeyId::new("test:root").unwrap()),
            ciphertext: vec![0x5a; 73],
        }],
    }
}

/// A process of its own that runs the ignored test `name` of `program` on `store`.
pub(crate) fn child(program: &Path, name: &str, store: &Path) -> Command {
    let mut child = Command::new(program);
    child.args(["--ignored", "--exact", "--nocapture", name]).env(STORE, store).stdout(Stdio::piped());
    child
}

fn wrapped_by(root: &str) -> Vec<WrappedSecret> {
    let wrapper = Wrapper::Root(RootKeyId::new(root).unwrap());
    vec![WrappedSecret { wrapper, ciphertext: root.as_bytes().repeat(9) }]
}

/// Leads accounts through their lives for ever, and prints what it has done of each as `did NAME NUMBER`.
pub(crate) async fn live(store: &impl KekStore) {
    // Not the process's id, which another of thousands may have had.
    let own = KekId::generate().unwrap();
    for account in 0_u32.. {
        let name = format!("{own}-{account}");
        let did = |number: u32| println!("\ndid {name} {number}");
        let first = record(&name);
        assert_eq!(store.create(&first).await.unwrap(), Creation::Created);
        did(1);
        let mut second = record(&name);
        second.identity.version = KekVersion::new(2).unwrap();
        assert_eq!(store.rotate(first.identity.id, &second).await.unwrap(), Rotation::Rotated);
        did(2);
        let moved = KekRecord { wraps: wrapped_by("test:new"), ..second.clone() };
        assert_eq!(store.update(&second, &moved).await.unwrap(), Update::Updated);
        did(3);
        assert_eq!(store.raise_min_version(&path(&name), second.identity.version).await.unwrap(), Raise::Raised);
        did(4);
        let retired = store.records(&path(&name)).await.unwrap().swap_remove(0);
        let destroyed = KekRecord { state: KekState::Destroyed, wraps: Vec::new(), ..retired.clone() };
        assert_eq!(store.update(&retired, &destroyed).await.unwrap(), Update::Updated);
        did(5);
        if account % 2 == 1 {
            assert!(matches!(store.shred(&path(&name), 7).await.unwrap(), Shred::Shredded(_)));
            did(6);
        }
    }
}

/// How far [`live`] has come with an account, by what is stored: more than was printed, and nothing in between.
pub(crate) async fn progress(store: &impl KekStore, name: &str) -> u32 {
    let Some(copy) = store.export(&path(name)).await.unwrap() else { return 0 };
    let is_moved = |record: &KekRecord| record.wraps == wrapped_by("test:new");
    match (copy.tombstone, &copy.records[..]) {
        (Some(_), _) => 6,
        (None, [_]) => 1,
        (None, [first, _]) if first.state == KekState::Destroyed => 5,
        (None, _) if copy.min_version.get() == 2 => 4,
        (None, [_, second]) if is_moved(second) => 3,
        (None, [_, _]) => 2,
        other => panic!("{other:?}"),
    }
}

/// Panics unless every account keeps the rules of a copy, and the index of wrappers finds what it should and no more.
pub(crate) async fn is_sound(store: &impl KekStore) {
    let roots = ["test:root", "test:new"].map(|root| RootKeyId::new(root).unwrap());
    let mut expected = [Vec::new(), Vec::new()];
    let mut after = None;
    loop {
        let page = store.accounts(after.as_ref(), 100).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.path.clone());
        for head in page {
            let copy = store.export(&head.path).await.unwrap().unwrap();
            assert_eq!(copy.head(), head);
            assert!(copy.primary.is_some() != copy.tombstone.is_some(), "{copy:?}");
            StoreError::check_copy(&copy).unwrap();
            for record in copy.records {
                for (root, expected) in roots.iter().zip(&mut expected) {
                    let is_by = |wrap: &WrappedSecret| wrap.wrapper == Wrapper::Root(root.clone());
                    expected.extend(record.wraps.iter().any(is_by).then(|| record.clone()));
                }
            }
        }
    }
    for (root, mut expected) in roots.into_iter().zip(expected) {
        expected.sort_by_key(|record| (record.identity.path.clone(), *record.identity.id.as_bytes()));
        let found = store.by_wrapper(&WrapperQuery::Root(root), None, usize::MAX).await.unwrap();
        assert!(found == expected, "{} records are found by what wraps them, of {}", found.len(), expected.len());
    }
}

/// Kills `child`, which runs [`live`], once it has printed `lines` lines, and gives what it printed of each account.
pub(crate) fn kill_after(mut child: Child, lines: usize) -> Vec<(String, u32)> {
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut printed = Vec::new();
    let mut line = String::new();
    while printed.len() < lines {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the child ended by itself");
        printed.extend(line.strip_suffix('\n').map(str::to_owned).filter(|line| line.starts_with("did ")));
    }
    child.kill().unwrap(); // SIGKILL, wherever it is
    child.wait().unwrap();
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    // The last line may be cut.
    let whole = rest.rfind('\n').map_or("", |end| &rest[..end]);
    printed.extend(whole.lines().filter(|line| line.starts_with("did ")).map(str::to_owned));
    let read = |line: String| {
        let (name, number) = line.strip_prefix("did ")?.split_once(' ')?;
        Some((name.to_owned(), number.parse().unwrap()))
    };
    printed.into_iter().filter_map(read).collect()
}

/// Rounds of killing: a few, unless `KEYSTRATA_KILLS` says how many.
pub(crate) fn kills() -> usize {
    std::env::var("KEYSTRATA_KILLS").map_or(6, |rounds| rounds.parse().unwrap())
}

/// After the kill of this round: all that was printed is stored; now and then, and at the end, all that is stored is sound.
pub(crate) async fn has_survived(store: &impl KekStore, round: usize, printed: &[(String, u32)]) {
    for (name, number) in printed {
        assert!(progress(store, name).await >= *number, "{name} {number} was reported and is lost");
    }
    // Each look takes longer than the last: the store grows.
    if round.is_multiple_of(50) || round + 1 == kills() {
        is_sound(store).await;
    }
}
