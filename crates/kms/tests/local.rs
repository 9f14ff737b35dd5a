//! The root key in a file: what it takes, what it refuses, what it counts.
#![allow(clippy::unwrap_used)] // a test that cannot go on should say where

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Barrier},
    time::Duration,
};

use keystrata_hierarchy::{RootContext, RootKey, RootKeyError, SecretKey, test_util::conformance};
use keystrata_kms::{LocalRootKey, LocalRootKeyError};
use tempfile::TempDir;

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("root.key");
    (folder, path)
}

fn names_in(folder: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn refusal(path: &Path) -> LocalRootKeyError {
    let error = LocalRootKey::open(path).unwrap_err();
    let message = error.to_string();
    assert!(!message.contains('\n') && message.contains("root.key"), "{message}");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms() {
    let (_folder, path) = folder();
    LocalRootKey::create(&path).unwrap();
    conformance::root_key(async || LocalRootKey::open(&path).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_conforms_when_shared() {
    let (_folder, path) = folder();
    LocalRootKey::create(&path).unwrap();
    conformance::root_key(async || Arc::new(LocalRootKey::open(&path).unwrap()) as Arc<dyn RootKey>).await;
}

#[tokio::test]
async fn a_moved_file_is_the_same_key_and_another_file_is_not() {
    let (folder, path) = folder();
    let created = LocalRootKey::create(&path).unwrap();
    let wrapped = created.wrap_key(&SecretKey::generate().unwrap(), &RootContext::none()).await.unwrap();
    let moved = folder.path().join("moved.key");
    std::fs::rename(&path, &moved).unwrap();
    let reopened = LocalRootKey::open(&moved).unwrap();
    assert_eq!(reopened.id(), created.id());
    assert!(reopened.unwrap_key(&wrapped, &RootContext::none()).await.is_ok());

    let other = LocalRootKey::create(&path).unwrap();
    assert_ne!(other.id(), created.id());
    let refused = other.unwrap_key(&wrapped, &RootContext::none()).await;
    assert!(matches!(refused, Err(RootKeyError::Rejected)));
}

#[test]
fn the_id_is_a_name_that_a_record_can_hold() {
    let (_folder, path) = folder();
    let root = LocalRootKey::create(&path).unwrap();
    let digits = root.id().as_str().strip_prefix("local:").unwrap();
    assert!(digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()), "{digits}");
}

#[test]
fn create_leaves_what_is_there() {
    let (folder, path) = folder();
    let first = LocalRootKey::create(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let error = LocalRootKey::create(&path).unwrap_err();
    assert!(matches!(&error, LocalRootKeyError::AlreadyExists { path: named } if *named == path), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    assert_eq!(LocalRootKey::open(&path).unwrap().id(), first.id());
    assert!(matches!(LocalRootKey::create(folder.path()), Err(LocalRootKeyError::AlreadyExists { .. })));
    assert_eq!(names_in(&folder), ["root.key"], "nothing is left over");
}

#[test]
fn of_eight_creators_at_once_one_wins_and_the_file_is_whole() {
    let (folder, path) = folder();
    let start = Barrier::new(8);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let create = || {
            start.wait();
            LocalRootKey::create(&path)
        };
        let creators: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
        creators.into_iter().map(|creator| creator.join().unwrap()).collect()
    });
    let winners: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
    assert_eq!(winners.len(), 1);
    assert_eq!(LocalRootKey::open(&path).unwrap().id(), winners[0].id());
    let losers = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
    for error in losers {
        assert!(matches!(error, LocalRootKeyError::AlreadyExists { .. }), "{error}");
    }
    assert_eq!(names_in(&folder), ["root.key"]);
}

#[test]
fn create_needs_a_folder_and_a_name() {
    let (_folder, path) = folder();
    let nested = path.join("root.key");
    assert!(matches!(LocalRootKey::create(&nested), Err(LocalRootKeyError::Unwritable { .. })));
    assert!(!path.exists());
    for no_name in ["", "/", ".."] {
        assert!(matches!(LocalRootKey::create(no_name), Err(LocalRootKeyError::NotAFile { .. })), "{no_name:?}");
    }
}

#[test]
fn a_missing_file_names_the_command_that_makes_one() {
    let (folder, path) = folder();
    let error = refusal(&path);
    assert!(matches!(error, LocalRootKeyError::Missing { .. }));
    assert!(error.to_string().contains("keystrata init"), "{error}");
    assert!(names_in(&folder).is_empty(), "opening makes nothing");
}

#[test]
fn a_folder_is_not_a_key_file() {
    let (_folder, path) = folder();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(refusal(&path), LocalRootKeyError::NotAFile { .. }));
}

#[test]
fn broken_files_are_told_apart() {
    let (_folder, path) = folder();
    LocalRootKey::create(&path).unwrap();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, b"").unwrap();
    assert!(matches!(refusal(&path), LocalRootKeyError::Empty { .. }));
    std::fs::write(&path, &whole[..40]).unwrap();
    assert!(matches!(refusal(&path), LocalRootKeyError::TooShort { .. }));
    std::fs::write(&path, [&whole[..], &whole[..]].concat()).unwrap();
    assert!(matches!(refusal(&path), LocalRootKeyError::TooLong { .. }));
    std::fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
    assert!(matches!(refusal(&path), LocalRootKeyError::NotAKeyFile { .. }));
    std::fs::write(&path, b"keystrata-local-root-v4000000000:x\n").unwrap();
    assert!(matches!(refusal(&path), LocalRootKeyError::UnknownVersion { version: 4_000_000_000, .. }));
}

#[test]
fn errors_and_debug_show_no_key() {
    let (_folder, path) = folder();
    let root = LocalRootKey::create(&path).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let key = text.trim_end().rsplit(':').next().unwrap();
    let shown = format!("{root:?}");
    assert!(shown.contains(root.id().as_str()) && shown.contains("calls: 0"), "{shown}");
    assert!(!shown.contains(key));
    std::fs::write(&path, text.replacen(key, &format!("!{}", &key[1..]), 1)).unwrap();
    let error = refusal(&path);
    let shown = format!("{error} {error:?}");
    assert!(!shown.contains(&key[1..]), "{shown}");
}

#[tokio::test]
async fn each_attempt_is_one_call() {
    let (_folder, path) = folder();
    let root = LocalRootKey::create(&path).unwrap();
    let context = RootContext::none();
    let generated = root.generate_key(&context).await.unwrap();
    assert_eq!(root.calls(), 1);
    root.wrap_key(&generated.secret, &context).await.unwrap();
    assert_eq!(root.calls(), 2);
    root.unwrap_key(&generated.wrapped, &context).await.unwrap();
    assert_eq!(root.calls(), 3);
    root.unwrap_key(b"", &context).await.unwrap_err();
    assert_eq!(root.calls(), 4);
}

#[tokio::test(start_paused = true)]
async fn each_call_takes_its_latency() {
    let (_folder, path) = folder();
    let latency = Duration::from_millis(20);
    let root = LocalRootKey::create(&path).unwrap().with_latency(latency);
    let context = RootContext::none();
    let start = tokio::time::Instant::now();
    let generated = root.generate_key(&context).await.unwrap();
    assert!((latency..latency * 2).contains(&start.elapsed()));
    root.wrap_key(&generated.secret, &context).await.unwrap();
    root.unwrap_key(&generated.wrapped, &context).await.unwrap();
    assert!((latency * 3..latency * 4).contains(&start.elapsed()));
    assert_eq!(root.calls(), 3);
}

#[cfg(unix)]
mod permissions {
    use std::{
        fs::Permissions,
        os::unix::{
            fs::{PermissionsExt, symlink},
            process::CommandExt,
        },
        process::Command,
    };

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_new_file_is_private() {
        let (_folder, path) = folder();
        LocalRootKey::create(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    }

    #[test]
    fn a_file_that_is_open_to_others_is_refused() {
        let (_folder, path) = folder();
        LocalRootKey::create(&path).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o602, 0o644, 0o777] {
            set_mode(&path, mode);
            let error = refusal(&path);
            assert!(matches!(error, LocalRootKeyError::NotPrivate { mode: shown, .. } if shown == mode), "{error}");
            assert!(error.to_string().contains(&format!("`chmod 600 {path:?}`")), "{error}");
        }
        for mode in [0o600, 0o400] {
            set_mode(&path, mode);
            assert!(LocalRootKey::open(&path).is_ok(), "{mode:o}");
        }
    }

    #[test]
    fn a_link_is_followed_and_what_it_leads_to_is_judged() {
        let (folder, path) = folder();
        let link = folder.path().join("link to root.key");
        LocalRootKey::create(&path).unwrap();
        symlink(&path, &link).unwrap();
        assert_eq!(LocalRootKey::open(&link).unwrap().id(), LocalRootKey::open(&path).unwrap().id());
        set_mode(&path, 0o644);
        assert!(matches!(refusal(&link), LocalRootKeyError::NotPrivate { .. }));
    }

    #[test]
    fn create_does_not_write_through_a_link() {
        let (folder, path) = folder();
        let target = folder.path().join("elsewhere");
        symlink(&target, &path).unwrap();
        assert!(matches!(LocalRootKey::create(&path), Err(LocalRootKeyError::AlreadyExists { .. })));
        assert!(!target.exists());
        assert!(matches!(refusal(&path), LocalRootKeyError::Missing { .. }), "the link leads nowhere");
    }

    #[test]
    fn a_pipe_is_refused_without_waiting_for_its_writer() {
        let (_folder, path) = folder();
        assert!(Command::new("mkfifo").arg("-m600").arg(&path).status().unwrap().success());
        assert!(matches!(refusal(&path), LocalRootKeyError::NotAFile { .. }));
    }

    /// What the next test runs.
    #[test]
    #[ignore = "run by another test, as another user"]
    fn child_without_permission() {
        let Some(path) = std::env::var_os("KEYSTRATA_TEST_ROOT_KEY") else { return };
        let path = Path::new(&path);
        assert!(matches!(refusal(path), LocalRootKeyError::Unreadable { .. }));
        let beside = path.with_file_name("beside.key");
        assert!(matches!(LocalRootKey::create(beside), Err(LocalRootKeyError::Unwritable { .. })));
    }

    #[test]
    fn a_file_of_another_user_is_unreadable_and_his_folder_unwritable() {
        let (folder, path) = folder();
        LocalRootKey::create(&path).unwrap();
        // The superuser may do anything, so a child that is not the superuser looks.
        let program = folder.path().join("test");
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        set_mode(&program, 0o755);
        set_mode(folder.path(), 0o555);
        let mut child = Command::new(&program);
        child.args(["--ignored", "--exact", "permissions::child_without_permission"]);
        child.env("KEYSTRATA_TEST_ROOT_KEY", &path).current_dir("/");
        if is_superuser() {
            child.uid(65_534).gid(65_534);
        } else {
            set_mode(&path, 0o000);
        }
        let output = child.output().unwrap();
        set_mode(folder.path(), 0o700);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
    }

    fn is_superuser() -> bool {
        use std::os::unix::fs::MetadataExt;
        // The owner of what this process makes is its user.
        tempfile::tempfile().unwrap().metadata().unwrap().uid() == 0
    }
}
