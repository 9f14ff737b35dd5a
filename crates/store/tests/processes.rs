//! Several processes on one store: races, kills, and a user who may not write.
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

mod support;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::{Child, Command},
};

use keystrata_hierarchy::{Creation, KekStore};
use keystrata_store::SqliteKekStore;

use self::support::{STORE, child, has_survived, kill_after, kills, live, record};

const PROCESSES: usize = 6;

fn spawn(name: &str, store: &std::path::Path) -> Child {
    child(&std::env::current_exe().unwrap(), name, store).spawn().unwrap()
}

/// The store that a child is to use; `None` if this is no child.
fn store_of_child() -> Option<PathBuf> {
    std::env::var_os(STORE).map(PathBuf::from)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a child of another test"]
async fn child_creates_the_same_accounts() {
    let Some(file) = store_of_child() else { return };
    for account in 0..20 {
        // Opened anew each time, as the command does: opening and closing race too.
        let store = SqliteKekStore::open(&file).await.unwrap();
        let own = record(&format!("account-{account}"));
        let creation = store.create(&own).await.unwrap();
        let primary = store.primary(&own.identity.path).await.unwrap().unwrap();
        assert_eq!(primary == own, creation == Creation::Created);
        println!("kek {account} {} {creation:?}", primary.identity.id);
    }
}

#[tokio::test]
async fn processes_that_create_the_same_accounts_end_with_one_winner_each() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    let children: Vec<_> = (0..PROCESSES).map(|_| spawn("child_creates_the_same_accounts", &file)).collect();
    let mut seen = BTreeSet::new();
    let mut created = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        for line in text.lines().filter_map(|line| line.split_once("kek ").map(|(_, line)| line)) {
            let (kek, creation) = line.rsplit_once(' ').unwrap();
            seen.insert(kek.to_owned());
            created += usize::from(creation == "Created");
        }
    }
    assert_eq!(created, 20, "one process created each account");
    assert_eq!(seen.len(), 20, "all processes saw one KEK of each account: {seen:?}");
    let store = SqliteKekStore::open_existing(&file).await.unwrap();
    assert_eq!(store.primaries(None, 100).await.unwrap().len(), 20);
}

#[tokio::test]
#[ignore = "a child of another test"]
async fn child_lives_until_killed() {
    let Some(file) = store_of_child() else { return };
    live(&SqliteKekStore::open(&file).await.unwrap()).await;
}

#[tokio::test]
async fn what_was_reported_done_survives_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys.db");
    for round in 0..kills() {
        // Another place each time, in the file's life and in an account's.
        let printed = kill_after(spawn("child_lives_until_killed", &file), 7 + round % 23);
        has_survived(&SqliteKekStore::open_existing(&file).await.unwrap(), round, &printed).await;
    }
}

#[cfg(unix)]
mod permissions {
    use std::{
        fs::Permissions,
        os::unix::{
            fs::{MetadataExt, PermissionsExt},
            process::CommandExt,
        },
        path::Path,
    };

    use keystrata_hierarchy::StoreError;

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o7777
    }

    #[tokio::test]
    async fn a_new_store_and_the_files_beside_it_are_private() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.db");
        let store = SqliteKekStore::open(&file).await.unwrap();
        store.create(&record("acme")).await.unwrap();
        for name in ["keys.db", "keys.db-wal", "keys.db-shm"] {
            assert_eq!(mode(&folder.path().join(name)), 0o600, "{name}");
        }
    }

    #[tokio::test]
    #[ignore = "a child of another test"]
    async fn child_that_may_not_write() {
        let Some(file) = store_of_child() else { return };
        let error = match SqliteKekStore::open(&file).await {
            Err(error) => error,
            Ok(store) => store.primaries(None, 1).await.unwrap_err(),
        };
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        println!("\nrefused {error}");
    }

    /// What the child says of `file`. The superuser may write anywhere, so the child is somebody else.
    fn refusal(folder: &Path, file: &Path) -> String {
        let program = folder.join("test");
        let mut child: Command = child(&program, "permissions::child_that_may_not_write", file);
        child.current_dir("/");
        if folder.metadata().unwrap().uid() == 0 {
            child.uid(65_534).gid(65_534);
        }
        let output = child.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        text.lines().find_map(|line| line.strip_prefix("refused ")).unwrap().to_owned()
    }

    #[tokio::test]
    async fn read_only_files_and_folders_are_unavailable() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("test");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        set_mode(&program, 0o755);
        let file = folder.path().join("keys.db");
        SqliteKekStore::open(&file).await.unwrap().create(&record("acme")).await.unwrap();

        set_mode(folder.path(), 0o555);
        set_mode(&file, 0o444);
        let read_only = refusal(folder.path(), &file);
        assert!(read_only.contains("must be able to write"), "{read_only}");
        set_mode(&file, 0o666);
        let folder_read_only = refusal(folder.path(), &file);
        assert!(folder_read_only.contains("its folder"), "{folder_read_only}");
        set_mode(&file, 0o000);
        let unreadable = refusal(folder.path(), &file);
        assert!(unreadable.contains("must be able to read and write"), "{unreadable}");
        let new = refusal(folder.path(), &folder.path().join("new.db"));
        assert!(new.contains("read-only"), "{new}");
        set_mode(folder.path(), 0o700);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing was made");
    }
}
