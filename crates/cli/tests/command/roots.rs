//! `keystrata root verify`, and root keys of before.

use serde_json::{Value, json};

use crate::site::{SECRET, Site};

#[test]
fn verify_names_each_root_key_and_whether_it_works() {
    let site = Site::new();
    assert_eq!(site.text(&["root", "verify"]), "works   local:keystrata.key\n");
    let facts = site.json(&["root", "verify", "--json"]);
    let root = &facts["roots"][0];
    assert_eq!((&root["works"], &root["error"], &root["kms"]), (&json!(true), &Value::Null, &Value::Null));
    assert!(root["id"].as_str().unwrap().starts_with("local:"));

    site.write("broken.key", b"Dear Sir or Madam");
    let arguments = ["root", "verify", "--former-root", "local:broken.key", "--former-root", "local:missing.key"];
    let text = String::from_utf8(site.findings(&arguments)).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(lines[0].starts_with("works   local:keystrata.key"), "{text}");
    assert!(lines[1].starts_with("fails   local:broken.key: ") && lines[2].contains("missing.key"), "{text}");

    let facts: Value = serde_json::from_slice(&site.findings(&[&arguments[..], &["--json"]].concat())).unwrap();
    let works: Vec<_> = facts["roots"].as_array().unwrap().iter().map(|root| &root["works"]).collect();
    assert_eq!(works, [&json!(true), &json!(false), &json!(false)]);
    assert!(facts["roots"][1]["error"].is_string() && facts["roots"][1]["id"].is_null());
}

#[test]
fn a_root_key_that_is_not_configured_is_refused_in_one_line() {
    let site = Site::empty();
    let line = site.refused(&["root", "verify"], b"");
    assert!(line.contains("no root key is named"), "{line}");
    let line = site.refused(&["root", "verify", "--root", "aws-kms:alias/k"], b"");
    assert!(line.contains("--kms-rate"), "{line}");
}

#[test]
fn what_a_former_root_key_wrapped_opens_and_nothing_new_is_wrapped_by_it() {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme"], SECRET);
    site.ok(&["init", "--config", "second.toml", "--root", "local:new.key", "--store", "sqlite:new.db"], b"");
    let new = ["--root", "local:new.key"];
    site.refused(&[&["open", "--account", "acme"], &new[..]].concat(), &sealed);
    let former = [&new[..], &["--former-root", "local:keystrata.key"]].concat();
    assert_eq!(site.ok(&[&["open", "--account", "acme"], &former[..]].concat(), &sealed), SECRET);

    site.write(
        "keystrata.toml",
        b"store = \"sqlite:keystrata.db\"\nroot = \"local:new.key\"\nformer_roots = [\"local:keystrata.key\"]\n",
    );
    assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), SECRET);
    site.ok(&["account", "rotate", "acme"], b"");
    let roots = site.json(&["root", "verify", "--json"]);
    let keks = site.json(&["account", "show", "acme", "--json"]);
    assert_eq!(keks["keks"][0]["wrapped_by"], json!([roots["roots"][1]["id"]]));
    assert_eq!(keks["keks"][1]["wrapped_by"], json!([roots["roots"][0]["id"]]));
}

#[test]
fn a_former_root_key_of_the_settings_may_be_the_current_one_of_a_flag() {
    let site = Site::new();
    site.root_key("new.key");
    let settings = [&site.read("keystrata.toml")[..], b"former_roots = [\"local:new.key\"]\n"].concat();
    site.write("keystrata.toml", &settings);
    let swapped = ["--root", "local:new.key", "--former-root", "local:keystrata.key"];
    for roots in [&swapped[..2], &swapped[..]] {
        assert!(site.text(&[&["root", "verify"], roots].concat()).starts_with("works   local:new.key\n"));
    }
    let line = site.refused(&["seal", "--account", "acme", "--former-root", "local:keystrata.key"], SECRET);
    assert!(line.contains("twice"), "{line}");
}
