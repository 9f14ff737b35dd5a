//! What was sealed opens again.

use crate::site::{SECRET, Site};

#[test]
fn init_seal_and_open_need_no_flags_but_the_account() {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme"], SECRET);
    assert_ne!(sealed, SECRET);
    assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), SECRET);
}

#[test]
fn lengths_around_a_chunk_come_back_whole() {
    let site = Site::new();
    for len in [0usize, 1, 16_383, 16_384, 16_385, 65_535, 65_536, 200_000] {
        let data: Vec<u8> = (0..=250u8).cycle().take(len).collect();
        let sealed = site.ok(&["seal", "--account", "acme"], &data);
        assert_eq!(sealed.len(), 124 + len + 16 * (len / 16_384 + 1));
        assert_eq!(site.ok(&["open", "--account", "acme"], &sealed), data);
    }
}

#[test]
fn files_are_read_and_written_by_name() {
    let site = Site::new();
    site.write("card.txt", SECRET);
    site.ok(&["seal", "--account", "acme", "card.txt", "--output", "card.sealed"], b"not read");
    site.ok(&["open", "--account", "acme", "--output", "again.txt", "card.sealed"], b"not read");
    assert_eq!(site.read("again.txt"), SECRET);

    // In place, since all is read before anything is written.
    site.ok(&["seal", "--account", "acme", "card.txt", "--output", "card.txt"], b"");
    assert_eq!(site.ok(&["open", "--account", "acme", "card.txt", "--output", "-"], b""), SECRET);
    assert_eq!(site.ok(&["open", "--account", "acme", "-"], &site.read("card.txt")), SECRET);
}

#[test]
fn context_pairs_may_come_in_any_order_and_hold_any_text() {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme", "--context", "row=4=2", "--context", "größe="], SECRET);
    let opened = site.ok(&["open", "--account", "acme", "--context", "größe=", "--context", "row=4=2"], &sealed);
    assert_eq!(opened, SECRET);
}

#[test]
fn account_is_a_path_of_one_segment_for_each_flag() {
    let site = Site::new();
    let sealed = site.ok(&["seal", "--account", "acme", "--account", "billing"], SECRET);
    assert_eq!(site.ok(&["open", "--account", "acme", "--account", "billing"], &sealed), SECRET);
    for other in [&["--account", "billing", "--account", "acme"][..], &["--account", "acme/billing"]] {
        site.refused(&[&["open"], other].concat(), &sealed);
    }
    // Any character will do, and a leading dash is no flag where a value is due.
    for name in ["größe/50%\n", " ", "-", "--x"] {
        let flag = format!("--account={name}");
        let sealed = site.ok(&["seal", &flag], SECRET);
        assert_eq!(site.ok(&["open", &flag], &sealed), SECRET);
    }
}

#[test]
fn same_plaintext_never_gives_the_same_envelope() {
    let site = Site::new();
    let seal = || site.ok(&["seal", "--account", "acme"], SECRET);
    assert_ne!(seal(), seal());
}
