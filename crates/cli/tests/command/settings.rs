//! Which store and root key are used: flag before environment before file.

use crate::site::{SECRET, Site};

/// A site whose file, environment and flags can name three different stores, each with an account of its name.
fn three_stores() -> Site {
    let site = Site::empty();
    for name in ["file", "env", "flag"] {
        let store = format!("sqlite:{name}.db");
        site.ok(&["init", "--config", &format!("{name}.toml"), "--store", &store], b"");
        site.ok(&["seal", "--account", name, "--config", &format!("{name}.toml")], SECRET);
    }
    std::fs::copy(site.path("file.toml"), site.path("keystrata.toml")).unwrap();
    site
}

/// The one account that the store in use has.
#[track_caller]
fn account(command: &mut assert_cmd::Command) -> String {
    let facts: serde_json::Value = serde_json::from_slice(&command.unwrap().stdout).unwrap();
    facts["accounts"][0]["account"][0].as_str().unwrap().to_owned()
}

#[test]
fn flag_goes_before_environment_and_environment_before_file() {
    let site = three_stores();
    let list = &["account", "list", "--json"];
    let with_flag = &["account", "list", "--json", "--store", "sqlite:flag.db"];
    assert_eq!(account(&mut site.command(list)), "file");
    assert_eq!(account(site.command(list).env("KEYSTRATA_STORE", "sqlite:env.db")), "env");
    assert_eq!(account(site.command(with_flag).env("KEYSTRATA_STORE", "sqlite:env.db")), "flag");
    assert_eq!(account(&mut site.command(&["--config", "env.toml", "account", "list", "--json"])), "env");
}

#[test]
fn root_key_has_the_same_order() {
    let site = three_stores();
    let sealed = site.ok(&["seal", "--account", "file"], SECRET);
    let open = |variable: &str, flag: &[&str]| {
        let arguments = [&["open", "--account", "file"], flag].concat();
        let output =
            site.command(&arguments).env("KEYSTRATA_ROOT", variable).write_stdin(&sealed[..]).output().unwrap();
        output.status.success()
    };
    assert!(open("local:keystrata.key", &[]));
    assert!(!open("local:missing.key", &[]));
    assert!(open("local:missing.key", &["--root", "local:keystrata.key"]));
}

#[test]
fn nothing_named_says_what_to_name() {
    let site = Site::empty();
    let line = site.refused(&["seal", "--account", "acme"], SECRET);
    for part in ["--root", "KEYSTRATA_ROOT", "keystrata init"] {
        assert!(line.contains(part), "{line}");
    }
    let line = site.refused(&["account", "list"], b"");
    for part in ["--store", "KEYSTRATA_STORE", "keystrata init"] {
        assert!(line.contains(part), "{line}");
    }
    let line = site.refused(&["account", "list", "--config", "missing.toml"], b"");
    assert!(line.contains("missing.toml"), "{line}");
}

#[test]
fn broken_settings_file_is_refused_where_it_is_needed() {
    let site = Site::new();
    for text in ["stroe = \"sqlite:keystrata.db\"", "store = 1", "store = \"mysql:x\"", "store", "\u{0}"] {
        site.write("keystrata.toml", text.as_bytes());
        let line = site.refused(&["account", "list"], b"");
        assert!(line.contains("keystrata.toml"), "{line}");
        site.ok(&["account", "list", "--store", "sqlite:keystrata.db"], b"");
    }
    site.write("keystrata.toml", b"\xff");
    site.refused(&["account", "list"], b"");
}

#[test]
fn value_of_a_variable_that_is_no_location_is_wrong_usage() {
    let site = Site::new();
    for value in ["", "keystrata.db", "sqlite::memory:"] {
        let output = site.command(&["account", "list"]).env("KEYSTRATA_STORE", value).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{value}");
    }
}
