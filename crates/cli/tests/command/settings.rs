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

#[test]
fn a_setting_that_the_command_does_not_use_is_wrong_usage_unless_it_is_around_for_others() {
    let site = Site::new();
    site.write("sealed", &site.ok(&["seal", "--account", "acme"], SECRET));
    let settings = [
        ["--store", "sqlite:keystrata.db"],
        ["--root", "local:keystrata.key"],
        ["--former-root", "local:keystrata.key"],
        ["--kms-rate", "50"],
        ["--kms-burst", "10"],
        ["--config", "keystrata.toml"],
    ];
    let commands: [&[&str]; 3] = [&["inspect", "sealed"], &["completions", "bash"], &["demo", "--objects", "1"]];
    for command in commands {
        for setting in settings {
            for arguments in [[command, &setting].concat(), [&setting, command].concat()] {
                let output = site.run(&arguments, b"");
                let stderr = String::from_utf8(output.stderr).unwrap();
                assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
                assert!(stderr.contains(setting[0]) && output.stdout.is_empty(), "{arguments:?}: {stderr}");
            }
        }
    }
    for command in &commands[..2] {
        let mut command = site.command(command);
        for (variable, value) in [
            ("KEYSTRATA_STORE", "sqlite:keystrata.db"),
            ("KEYSTRATA_ROOT", "local:keystrata.key"),
            ("KEYSTRATA_KMS_RATE", "50"),
            ("KEYSTRATA_KMS_BURST", "10"),
        ] {
            command.env(variable, value);
        }
        command.assert().success();
    }
}
