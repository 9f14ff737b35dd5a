//! Looks for bytes in the memory of another process, as root or a debugger would.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
};

const BLOCK_BYTES: usize = 1 << 20;

/// Bytes to look for, kept under a mask so that what looks for them is not what is found.
#[derive(Debug, Clone)]
pub struct Needle(Vec<u8>);

const MASK: u8 = 0xa7;

impl Needle {
    /// # Panics
    /// If `bytes` is shorter than 8, which random memory may hold by chance.
    pub fn new(bytes: impl IntoIterator<Item = u8>) -> Self {
        let masked: Vec<_> = bytes.into_iter().map(|byte| byte ^ MASK).collect();
        assert!(masked.len() >= 8, "too short to be told from chance");
        Self(masked)
    }

    fn count_in(&self, haystack: &[u8]) -> usize {
        let Self(masked) = self;
        let starts = haystack.iter().zip(0..).filter(|(byte, _)| **byte ^ MASK == masked[0]).map(|(_, start)| start);
        starts
            .filter(|start: &usize| {
                let found = haystack.get(*start..start + masked.len());
                found.is_some_and(|found| found.iter().zip(masked).all(|(byte, masked)| byte ^ MASK == *masked))
            })
            .count()
    }
}

/// How often each of `needles` is in the memory of process `pid`, which should be waiting for something meanwhile.
///
/// Reads `/proc/PID/maps` and `/proc/PID/mem`, so it takes the rights of a debugger: a parent's are enough for a child, in
/// most set-ups. Memory that cannot be read this way (secret memory is such) counts as holding nothing: look for something
/// that is there, first. Do not scan a forked child of a process that holds the needles unmasked.
///
/// # Errors
/// If the process is not there or may not be read.
pub fn count_in_process(pid: u32, needles: &[Needle]) -> io::Result<Vec<usize>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let overlap = needles.iter().map(|needle| needle.0.len()).max().unwrap_or(1) - 1;
    let mut counts = vec![0; needles.len()];
    let mut block = vec![0; BLOCK_BYTES];
    for line in maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with('r'))) {
        let bounds = line.split(' ').next().and_then(|range| range.split_once('-'));
        let hex = |hex| u64::from_str_radix(hex, 16).map_err(io::Error::other);
        let Some((start, end)) = bounds else { continue };
        let (mut at, end) = (hex(start)?, hex(end)?);
        // The end of the block before, so that a needle across two blocks is found, once.
        let mut kept = 0;
        while at < end {
            let room = usize::try_from(end - at).unwrap_or(usize::MAX).min(BLOCK_BYTES - kept);
            // Fails for the kernel's own pages and for secret memory.
            let Ok(read @ 1..) = memory.read_at(&mut block[kept..kept + room], at) else { break };
            at += read as u64;
            let filled = kept + read;
            for (count, needle) in counts.iter_mut().zip(needles) {
                // What lies within the kept part alone was counted with the block before.
                let from = (kept + 1).saturating_sub(needle.0.len());
                *count += needle.count_in(&block[from..filled]);
            }
            kept = overlap.min(filled);
            block.copy_within(filled - kept..filled, 0);
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_copy_is_counted_once_wherever_it_lies() {
        let needle = Needle::new(*b"a needle of length 21");
        let mut haystack = b"a needle of length 21, a needle of length 2, ".to_vec();
        assert_eq!(needle.count_in(&haystack), 1);
        haystack.extend_from_slice(b"a needle of length 21");
        assert_eq!(needle.count_in(&haystack), 2);
        assert_eq!(needle.count_in(&haystack[1..haystack.len() - 1]), 0);
    }

    #[test]
    fn copies_across_the_ends_of_blocks_are_found_in_this_process() {
        let seed = u8::try_from(std::process::id() % 251).unwrap();
        let byte = |i: u8| i.wrapping_mul(37) ^ std::hint::black_box(seed);
        let needle = Needle::new((0..32).map(byte));
        let before = count_in_process(std::process::id(), std::slice::from_ref(&needle)).unwrap()[0];
        let mut bytes = vec![0; 3 * BLOCK_BYTES];
        for copy in 0..5 {
            let place = &mut bytes[copy * (BLOCK_BYTES / 2 + 13)..][..32];
            place.iter_mut().zip(0..).for_each(|(place, i)| *place = byte(i));
        }
        // One at each place relative to a block of the scan, whatever the allocation's address.
        let after = count_in_process(std::process::id(), std::slice::from_ref(&needle)).unwrap()[0];
        assert!(after >= before + 5, "{before} before, {after} after");
        drop(std::hint::black_box(bytes));
    }
}
