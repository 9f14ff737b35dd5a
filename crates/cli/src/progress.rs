//! A bar on stderr for work that takes minutes, where a person looks.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use keystrata_hierarchy::{Heads, KekStore};

/// A bar over all accounts of `store`, of which there is none unless stderr is a terminal. Counting them reads their heads.
pub(crate) async fn over_accounts(store: &Arc<dyn KekStore>, what: &'static str) -> Result<ProgressBar> {
    let bar = ProgressBar::new_spinner().with_message(what);
    if bar.is_hidden() {
        return Ok(bar);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    let (mut heads, mut accounts) = (Heads::new(Arc::clone(store), None), 0);
    while heads.next().await?.is_some() {
        accounts += 1;
    }
    set_length(&bar, accounts, "{msg} {wide_bar} {pos}/{len} accounts, {eta} left");
    Ok(bar)
}

/// A count of accounts of whom nobody knows how many there are, where a person looks.
pub(crate) fn counting(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(what);
    if !bar.is_hidden() {
        bar.enable_steady_tick(Duration::from_millis(200));
        set_style(&bar, "{spinner} {msg} {pos} accounts");
    }
    bar
}

/// A bar over so many files, where there is one.
pub(crate) fn over_files(files: usize, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(what);
    if !bar.is_hidden() {
        set_length(&bar, files as u64, "{msg} {wide_bar} {pos}/{len} files, {eta} left");
    }
    bar
}

fn set_length(bar: &ProgressBar, length: u64, style: &str) {
    bar.set_length(length);
    set_style(bar, style);
}

fn set_style(bar: &ProgressBar, style: &str) {
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
}
