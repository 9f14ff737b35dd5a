//! Bad input: status 1, one line that says what to do, nothing written.

use std::fs;

use crate::site::{SECRET, Site};

const OPEN: &[&str] = &["open", "--account", "acme"];
const SEAL: &[&str] = &["seal", "--account", "acme"];

/// A site, and an envelope that account `acme` sealed in it for row 42.
fn sealed() -> (Site, Vec<u8>) {
    let site = Site::new();
    let envelope = site.ok(&["seal", "--account", "acme", "--context", "row=42"], SECRET);
    (site, envelope)
}

#[track_caller]
fn assert_has(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "no {part:?} in {line:?}");
    }
}

#[test]
fn account_that_is_no_account() {
    let site = Site::new();
    let long = "x".repeat(129);
    let nine = ["--account", "a"].repeat(9);
    for (command, stdin) in [("seal", SECRET), ("open", b"")] {
        assert_has(&site.refused(&[command, "--account", ""], stdin), &["is empty", "1 to 128 bytes"]);
        assert_has(&site.refused(&[command, "--account", "a", "--account", ""], stdin), &["segment 2"]);
        assert_has(&site.refused(&[command, "--account", &long], stdin), &["129 bytes", "128"]);
        assert_has(&site.refused(&[&[command][..], &nine].concat(), stdin), &["9 segments", "8"]);
    }
    assert_has(&site.refused(&["account", "show", ""], b""), &["is empty"]);
    assert_eq!(site.ok(&["seal", "--account", &"x".repeat(128)], SECRET).len(), 140 + SECRET.len());
}

#[test]
fn context_that_breaks_a_rule() {
    let site = Site::new();
    let long = format!("a={}", "x".repeat(8200));
    for command in [SEAL, OPEN] {
        let refused = |context: &[&str]| {
            let flags: Vec<_> = context.iter().flat_map(|pair| ["--context", pair]).collect();
            site.refused(&[command, &flags].concat(), SECRET)
        };
        assert_has(&refused(&["a=1", "a=1"]), &["\"a\" twice"]);
        assert_has(&refused(&["=1"]), &["empty name"]);
        assert_has(&refused(&[&long]), &["8,192"]);
    }
    let pairs: Vec<_> = (0..65).map(|i| format!("--context={i}=")).collect();
    let pairs: Vec<_> = pairs.iter().map(String::as_str).collect();
    assert_has(&site.refused(&[SEAL, &pairs].concat(), SECRET), &["65 pairs", "64"]);
}

#[test]
fn empty_file_and_what_is_no_envelope() {
    let site = Site::new();
    site.write("empty", b"").write("text", b"Dear Sir or Madam");
    for command in [OPEN, &["inspect"]] {
        let refused = |name| site.refused(&[command, &[name]].concat(), b"");
        assert_has(&refused("empty"), &["empty"]);
        assert_has(&refused("text"), &["not a Keystrata envelope"]);
        assert_has(&refused("missing"), &["missing cannot be opened"]);
        assert_has(&refused("."), &["cannot be read"]);
    }
}

#[test]
fn unknown_version_or_suite() {
    let (site, envelope) = sealed();
    for command in [OPEN, &["inspect"]] {
        let refused = |offset: usize, byte: u8| {
            let mut altered = envelope.clone();
            altered[offset] = byte;
            site.refused(command, &altered)
        };
        assert_has(&refused(2, 2), &["version 2", "newer release"]);
        assert_has(&refused(2, 0), &["version 0"]);
        assert_has(&refused(3, 3), &["suite 3", "newer release"]);
        assert_has(&refused(3, 255), &["suite 255"]);
    }
}

/// Runs `check` for all of `cases`, a few at a time: each starts a process.
fn for_all(cases: std::ops::Range<usize>, check: impl Fn(usize) + Sync) {
    let next = std::sync::atomic::AtomicUsize::new(cases.start);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let case = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if case >= cases.end {
                        break;
                    }
                    check(case);
                }
            });
        }
    });
}

#[test]
fn envelope_cut_to_any_length() {
    let (site, envelope) = sealed();
    let open = &["open", "--account", "acme", "--context", "row=42"];
    for_all(0..envelope.len(), |len| {
        let cut = &envelope[..len];
        let expected = match len {
            0 => "empty".to_owned(),
            1..140 => format!("cut short at {len} bytes"),
            // From here on the length is that of a shorter envelope, and only opening tells.
            _ => "rejected".to_owned(),
        };
        assert_has(&site.refused(open, cut), &[&expected]);
        if len < 140 {
            assert_has(&site.refused(&["inspect"], cut), &[&expected]);
        }
    });
}

#[test]
fn every_flipped_bit() {
    let (site, envelope) = sealed();
    let open = &["open", "--account", "acme", "--context", "row=42"];
    for_all(0..8 * envelope.len(), |bit| {
        let mut altered = envelope.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let expected: &[&str] = match bit / 8 {
            0..2 => &["not a Keystrata envelope"],
            2 => &["version", "newer release"],
            3 => &["suite"],
            4..20 => &["has no KEK", "another account"],
            _ => &["rejected", "altered bytes", "--account", "--context"],
        };
        assert_has(&site.refused(open, &altered), expected);
    });
    let mut longer = envelope;
    longer.push(0);
    assert_has(&site.refused(open, &longer), &["rejected"]);
}

#[test]
fn another_account() {
    let (site, envelope) = sealed();
    site.ok(&["seal", "--account", "other"], b"so that it has a KEK");
    for account in ["other", "nobody", "Acme"] {
        let line = site.refused(&["open", "--account", account, "--context", "row=42"], &envelope);
        assert_has(&line, &[account, "has no KEK", "another account"]);
    }
}

#[test]
fn another_context_and_a_missing_one() {
    let (site, envelope) = sealed();
    for context in [&[][..], &["--context=row=43"], &["--context=Row=42"], &["--context=row=42", "--context=a="]] {
        let line = site.refused(&[OPEN, context].concat(), &envelope);
        assert_has(&line, &["rejected", "--context"]);
    }
}

#[test]
fn kek_that_the_store_does_not_have() {
    let (site, envelope) = sealed();
    let mut altered = envelope.clone();
    altered[4] ^= 1;
    assert_has(&site.refused(OPEN, &altered), &["has no KEK"]);

    let other = Site::new();
    other.ok(SEAL, SECRET);
    assert_has(&other.refused(OPEN, &envelope), &["acme has no KEK", "another store"]);
}

#[test]
fn store_that_is_missing_or_no_store() {
    let (site, envelope) = sealed();
    site.write("text.db", &b"not a database ".repeat(100)).write("empty.db", b"");
    let commands: [(&[&str], &[u8]); 4] =
        [(OPEN, &envelope), (SEAL, SECRET), (&["account", "list"], b""), (&["account", "show", "acme"], b"")];
    for (command, stdin) in commands {
        let refused = |store: &str| site.refused(&[command, &["--store", store]].concat(), stdin);
        assert_has(&refused("sqlite:missing.db"), &["missing.db", "init"]);
        assert_has(&refused("sqlite:no/such/folder/keys.db"), &["keys.db"]);
        assert_has(&refused("sqlite:text.db"), &["text.db"]);
        refused("sqlite:empty.db");
        refused("sqlite:.");
        refused("sqlite:keystrata.toml");
    }
}

#[test]
fn a_store_whose_uri_holds_a_password_is_refused_without_it() {
    let site = Site::new();
    for uri in ["postgres:app:hunter2@db", "postgres://app:hunter2@", "postgresql://app:hunter2@db.example/keys?x"] {
        let output = site.command(&["account", "list"]).env("KEYSTRATA_STORE", uri).output().unwrap();
        let line = site.failure_line(&output);
        assert!(!line.contains("hunter2"), "{line}");
        assert!(!site.refused(&["account", "list", "--store", uri], b"").contains("hunter2"));
    }
    let help = site.command(&["--help"]).env("KEYSTRATA_STORE", "postgres://app:hunter2@db.example/keys").unwrap();
    assert!(!String::from_utf8(help.stdout).unwrap().contains("hunter2"));
}

#[test]
fn store_from_the_future() {
    let (site, envelope) = sealed();
    // The schema's version is SQLite's user_version, 4 bytes at offset 60 of the file.
    let mut database = site.read("keystrata.db");
    database[60..64].copy_from_slice(&9999u32.to_be_bytes());
    site.write("keystrata.db", &database);
    let commands: [(&[&str], &[u8]); 3] = [(OPEN, &envelope), (SEAL, SECRET), (&["account", "list"], b"")];
    for (command, stdin) in commands {
        assert_has(&site.refused(command, stdin), &["keystrata.db", "version 9999", "update keystrata"]);
    }
}

#[test]
fn root_key_that_is_another_one() {
    let (site, envelope) = sealed();
    site.write("keystrata.key", &Site::new().read("keystrata.key"));
    for (command, stdin) in [(OPEN, &envelope[..]), (SEAL, SECRET)] {
        assert_has(&site.refused(command, stdin), &["acme", "wrapped by local:", "root key"]);
    }
}

#[test]
fn root_key_that_is_missing_or_no_root_key() {
    use std::os::unix::fs::PermissionsExt;
    let (site, envelope) = sealed();
    let key = site.read("keystrata.key");
    let mode = |mode| fs::set_permissions(site.path("keystrata.key"), fs::Permissions::from_mode(mode)).unwrap();
    for (command, stdin) in [(OPEN, &envelope[..]), (SEAL, SECRET)] {
        assert_has(&site.refused(&[command, &["--root", "local:missing.key"]].concat(), stdin), &["missing.key"]);
        for altered in [&b""[..], &key[..key.len() - 2], b"Dear Sir or Madam", &[&key[..], b"x"].concat()] {
            site.write("keystrata.key", altered);
            site.refused(command, stdin);
        }
        site.write("keystrata.key", &key);
        mode(0o644);
        assert_has(&site.refused(command, stdin), &["0644", "chmod 600"]);
        mode(0o600);
    }
    assert_eq!(site.ok(&["open", "--account", "acme", "--context", "row=42"], &envelope), SECRET);
}

#[test]
fn wrong_usage_is_status_2() {
    let site = Site::new();
    for arguments in [
        &[][..],
        &["seal"],
        &["open"],
        &["seal", "--account"],
        &["seal", "--account", "acme", "--context", "row"],
        &["seal", "--account", "acme", "--store", "keys.db"],
        &["seal", "--account", "acme", "--root", "root.key"],
        &["seal", "--account", "acme", "one", "two"],
        &["account"],
        &["account", "show"],
        &["completions", "tcsh-and-such"],
        &["no-such-command"],
    ] {
        let output = site.run(arguments, b"");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
}
