//! The tables, in Markdown and as JSON.

use std::fmt::{Display, Write};

use serde::Serialize;

use crate::{
    about::{self, About},
    calls::{self, Calls},
    memory,
    speed::{Cell, Nanos, Row},
};

/// All that one run measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Where.
    pub machine: Machine,
    /// Rounds of each timed case.
    pub rounds: usize,
    /// Times.
    pub speed: Vec<Row>,
    /// Calls of the KMS.
    pub calls: Vec<Calls>,
    /// Memory for a tenant.
    pub memory: Vec<Memory>,
    /// What Keystrata set out to reach beside the others.
    pub aims: Vec<Aim>,
}

/// What the figures were measured on.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// As the kernel calls it.
    pub processor: String,
    /// Those this process may use.
    pub cores: usize,
    /// Processes that wanted a core, over the last minute, before and after.
    pub load: [f64; 2],
    /// Libraries and their versions.
    pub versions: Vec<(&'static str, &'static str)>,
}

/// Memory for a tenant in one library.
#[derive(Debug, Serialize)]
pub struct Memory {
    /// The library and its mode.
    pub name: &'static str,
    /// What a tenant takes.
    #[serde(flatten)]
    pub bytes: memory::Bytes,
}

/// One aim and what was measured.
#[derive(Debug, Serialize)]
pub struct Aim {
    /// What is wanted.
    pub aim: String,
    /// What is.
    pub measured: String,
    /// Whether that will do.
    pub met: bool,
}

impl Report {
    /// The tables of `docs/benchmarks.md`.
    pub fn markdown(&self) -> String {
        let mut out = String::new();
        self.conditions(&mut out);
        self.times(&mut out, "Least nanoseconds of one call", |nanos| nanos.min);
        self.times(&mut out, "The same, median of the rounds", |nanos| nanos.median);
        self.ratios(&mut out);
        self.counts(&mut out);
        does(&mut out);
        self.aims_table(&mut out);
        out
    }

    fn conditions(&self, out: &mut String) {
        let Machine { processor, cores, load: [before, after], versions } = &self.machine;
        let versions: Vec<_> = versions.iter().map(|(name, version)| format!("`{name}` {version}")).collect();
        line(
            out,
            &format!(
                "{processor}, {cores} cores, load {before} to {after}, {} rounds. {}.\n",
                self.rounds,
                versions.join(", ")
            ),
        );
    }

    fn times(&self, out: &mut String, title: &str, of: impl Fn(Nanos) -> f64) {
        line(out, &format!("{title}:\n"));
        self.grid(out, |cell, _| [of(cell.seal), of(cell.open)].map(grouped));
    }

    /// How many times as long as Keystrata's suite 2 each takes.
    fn ratios(&self, out: &mut String) {
        line(out, "Times what Keystrata's suite 2 takes (above 1: slower than it), of the least:\n");
        self.grid(out, |cell, ours| {
            [cell.seal.min / ours.seal.min, cell.open.min / ours.open.min].map(|ratio| format!("{ratio:.2}"))
        });
    }

    fn grid(&self, out: &mut String, cells: impl Fn(&Cell, &Cell) -> [String; 2]) {
        let Some(ours) = self.row(about::SUITE_2) else { return };
        let mut head = String::from("| |");
        for cell in &ours.sizes {
            let _ = write!(head, " seal {0} | open {0} |", size(cell.bytes));
        }
        line(out, &head);
        line(out, &format!("|---|{}", "---:|".repeat(2 * ours.sizes.len())));
        for row in &self.speed {
            let mut text = format!("| {} |", row.name);
            for (cell, ours) in row.sizes.iter().zip(&ours.sizes) {
                let [seal, open] = cells(cell, ours);
                let _ = write!(text, " {seal} | {open} |");
            }
            line(out, &text);
        }
        line(out, "");
    }

    fn counts(&self, out: &mut String) {
        let title = format!(
            "| | KMS calls, {} cold callers | KMS calls, {} operations over {} tenants | bytes of memory a tenant \
             | of them locked | bytes stored beside 64 B | beside 64 KiB |",
            calls::COLD_CALLERS,
            grouped(calls::OPERATIONS),
            calls::TENANTS,
        );
        line(out, &title);
        line(out, "|---|---:|---:|---:|---:|---:|---:|");
        for calls in &self.calls {
            let memory = self.memory.iter().find(|memory| memory.name == calls.name);
            let [all, locked] = memory.map_or(["", ""].map(str::to_owned), |memory| {
                [memory.bytes.heap + memory.bytes.locked, memory.bytes.locked].map(|bytes| bytes.to_string())
            });
            let stored = |at: usize| {
                let cell = self.row(calls.name).and_then(|row| row.sizes.iter().find(|cell| cell.bytes == at));
                cell.map_or_else(String::new, |cell| grouped(cell.overhead))
            };
            let late = || format!("none in {} s", calls::PATIENCE.as_secs());
            let text = format!(
                "| {} | {} | {} | {all} | {locked} | {} | {} |",
                calls.name,
                calls.cold_callers.map_or_else(late, grouped),
                calls.operations.map_or_else(String::new, grouped),
                stored(64),
                stored(64 * 1024),
            );
            line(out, &text);
        }
        line(out, "");
    }

    fn aims_table(&self, out: &mut String) {
        line(out, "| aim | measured | |");
        line(out, "|---|---|---|");
        for Aim { aim, measured, met } in &self.aims {
            line(out, &format!("| {aim} | {measured} | {} |", if *met { "met" } else { "**missed**" }));
        }
    }

    /// The times of one library.
    pub fn row(&self, name: &str) -> Option<&Row> {
        self.speed.iter().find(|row| row.name == name)
    }
}

fn does(out: &mut String) {
    line(
        out,
        "| | levels | cipher | commits to the key | context authenticated | tenant bound in the DEK's wrap | tenant's key in memory | besides |",
    );
    line(out, "|---|---|---|---|---|---|---|---|");
    for About { name, levels, cipher, commits, context, tenant, memory, note, .. } in about::ALL {
        line(out, &format!("| {name} | {levels} | {cipher} | {commits} | {context} | {tenant} | {memory} | {note} |"));
    }
    line(out, "");
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

pub(crate) fn size(bytes: usize) -> String {
    match bytes {
        0..1_024 => format!("{bytes} B"),
        1_024..1_048_576 => format!("{} KiB", bytes / 1024),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}

/// `12345.6` as `12,346`.
fn grouped(number: impl Display) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::new();
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!([0.4, 999.0, 1_000.0, 1_234_567.8].map(grouped), ["0", "999", "1,000", "1,234,568"]);
        assert_eq!([64, 1024, 64 * 1024, 1_048_576].map(size), ["64 B", "1 KiB", "64 KiB", "1 MiB"]);
    }
}
