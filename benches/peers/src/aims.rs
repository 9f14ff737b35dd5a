//! What Keystrata set out to reach beside the others.

use crate::{
    about,
    report::{Aim, Report, size},
    speed::Row,
};

/// Judges a run.
pub fn judge(report: &Report) -> Vec<Aim> {
    let mut aims = Vec::new();
    let Some(ours) = report.row(about::SUITE_2) else { return aims };
    let bare = report.row(about::BARE_2);
    if let Some(asherah) = report.row(about::ASHERAH) {
        aims.extend([(0, 1.2), (1, 1.0)].into_iter().flat_map(|(at, limit)| at_most(ours, asherah, at, limit)));
        aims.extend([2, 3].into_iter().flat_map(|at| at_least(ours, asherah, bare, at, 1.7)));
    }
    aims.extend(report.row(about::ASHERAH_SAFER).map(|peer| ahead(ours, peer)));
    aims.extend(
        bare.into_iter().flat_map(|bare| [2, 3].into_iter().flat_map(|at| at_least(ours, bare, None, at, 0.9))),
    );
    for name in [about::ASHERAH_WIRE, about::AWS_ESDK, about::KMS_AEAD, about::TINK] {
        aims.extend(report.row(name).map(|peer| ahead(ours, peer)));
    }
    if let Some(calls) = report.calls.iter().find(|calls| calls.name == about::SUITE_2) {
        aims.push(exactly("KMS calls of 64 cold callers", calls.cold_callers, 1));
        aims.push(exactly("KMS calls of 10,000 operations over 100 tenants", calls.operations, 100));
    }
    if let Some(memory) = report.memory.iter().find(|memory| memory.name == about::SUITE_2) {
        let bytes = memory.bytes.heap + memory.bytes.locked;
        aims.push(Aim { aim: "at most 500 bytes a tenant".into(), measured: bytes.to_string(), met: bytes <= 500 });
    }
    aims
}

/// Seal and open: their time over ours.
fn speeds(ours: &Row, theirs: &Row, at: usize) -> [f64; 2] {
    let (ours, theirs) = (&ours.sizes[at], &theirs.sizes[at]);
    [theirs.seal.min / ours.seal.min, theirs.open.min / ours.open.min]
}

fn at_most(ours: &Row, theirs: &Row, at: usize, limit: f64) -> [Aim; 2] {
    let aim = |(operation, speed): (&str, f64)| Aim {
        aim: format!("{operation} {} in at most {limit} × the time of {}", size(ours.sizes[at].bytes), theirs.name),
        measured: format!("{:.2} ×", speed.recip()),
        met: speed.recip() <= limit,
    };
    let [seal, open] = speeds(ours, theirs, at);
    [("seal", seal), ("open", open)].map(aim)
}

/// With `bound`, also what that one reaches, whom nobody can be faster than.
fn at_least(ours: &Row, theirs: &Row, bound: Option<&Row>, at: usize, limit: f64) -> [Aim; 2] {
    let bounds = bound.map(|bound| speeds(bound, theirs, at));
    let [seal, open] = speeds(ours, theirs, at);
    [("seal", seal, 0), ("open", open, 1)].map(|(operation, speed, of)| Aim {
        aim: format!("{operation} {} at {limit} × the speed of {} or more", size(ours.sizes[at].bytes), theirs.name),
        measured: match bounds {
            Some(bounds) => format!("{speed:.2} × (the bare cipher: {:.2} ×)", bounds[of]),
            None => format!("{speed:.2} ×"),
        },
        met: speed >= limit,
    })
}

fn ahead(ours: &Row, theirs: &Row) -> Aim {
    let mut behind = Vec::new();
    for (at, cell) in ours.sizes.iter().enumerate() {
        for (operation, speed) in ["seal", "open"].into_iter().zip(speeds(ours, theirs, at)) {
            if speed <= 1.0 {
                behind.push(format!("{operation} {} ({speed:.2} ×)", size(cell.bytes)));
            }
        }
    }
    Aim {
        aim: format!("ahead of {} at every size", theirs.name),
        met: behind.is_empty(),
        measured: if behind.is_empty() { "yes".into() } else { format!("behind at {}", behind.join(", ")) },
    }
}

fn exactly(what: &str, calls: Option<u64>, wanted: u64) -> Aim {
    let measured = calls.map_or_else(|| "no answer".into(), |calls| calls.to_string());
    Aim { aim: format!("{what}: {wanted}"), measured, met: calls == Some(wanted) }
}
