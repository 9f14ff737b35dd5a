//! Several processes at once, and ones that are killed.

use std::{
    io::Write,
    process::{Child, Stdio},
};

use crate::site::{SECRET, Site};

fn start_sealing(site: &Site, output: &str) -> Child {
    let arguments = ["seal", "--account", "acme", "--output", output];
    site.process(&arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn processes_that_seal_for_a_new_account_at_once_end_with_one_kek() {
    let site = Site::new();
    let names: Vec<_> = (0..8).map(|i| format!("sealed-{i}")).collect();
    let mut children: Vec<_> = names.iter().map(|name| start_sealing(&site, name)).collect();
    // All of them have started before the first has anything to seal.
    for child in &mut children {
        child.stdin.take().unwrap().write_all(SECRET).unwrap();
    }
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let shown = site.json(&["account", "show", "acme", "--json"]);
    assert_eq!(shown["keks"].as_array().unwrap().len(), 1);
    for name in &names {
        assert_eq!(site.ok(&["open", "--account", "acme", name], b""), SECRET);
        assert_eq!(site.json(&["inspect", name, "--json"])["kek_id"], shown["keks"][0]["kek_id"]);
    }
}

#[test]
fn killed_while_sealing_leaves_no_output_and_nothing_that_hinders() {
    let site = Site::new();
    for _ in 0..5 {
        let mut child = start_sealing(&site, "sealed");
        // It waits for the end of its input, which does not come.
        child.stdin.as_mut().unwrap().write_all(SECRET).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!site.path("sealed").exists());
    }
    site.ok(&["seal", "--account", "acme", "--output", "sealed"], SECRET);
    assert_eq!(site.ok(&["open", "--account", "acme", "sealed"], b""), SECRET);
}
