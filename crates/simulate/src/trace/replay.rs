//! The temporary file of a trace, and the requests that come out of it again.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    sync::{Arc, Mutex, PoisonError},
};

use super::BUFFER;
use crate::{error::SimulateError, traffic::Request};

/// Time, account, and process with the highest bit for a seal.
const ENTRY: usize = 16;
const SEAL: u32 = 1 << 31;

/// A request as the file has it.
pub(super) fn entry(request: Request) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..8].copy_from_slice(&request.at.to_le_bytes());
    entry[8..12].copy_from_slice(&request.account.to_le_bytes());
    let flag = if request.is_seal { SEAL } else { 0 };
    entry[12..].copy_from_slice(&(request.process | flag).to_le_bytes());
    entry
}

/// Requests from a trace's temporary file.
#[derive(Debug)]
pub(crate) struct Replay {
    reader: BufReader<File>,
    wanted: Vec<bool>,
    left: u64,
    failure: Failure,
}

impl Replay {
    /// `requests` of `file`, those to `wanted` processes. What goes wrong meanwhile ends them, and is told by the other part.
    pub(super) fn new(file: File, wanted: Vec<bool>, requests: u64) -> (Self, Failure) {
        let failure = Failure::default();
        let reader = BufReader::with_capacity(BUFFER, file);
        (Self { reader, wanted, left: requests, failure: failure.clone() }, failure)
    }
}

/// What went wrong while requests were read.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failure(Arc<Mutex<Option<io::Error>>>);

impl Failure {
    pub(crate) fn take(&self) -> Option<SimulateError> {
        let error = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        error.map(SimulateError::io("the temporary copy of the trace cannot be read"))
    }
}

impl Iterator for Replay {
    type Item = Request;

    fn next(&mut self) -> Option<Request> {
        let mut entry = [0; ENTRY];
        while self.left > 0 {
            self.left -= 1;
            if let Err(error) = self.reader.read_exact(&mut entry) {
                *self.failure.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                return None;
            }
            let (time, rest) = entry.split_at(8);
            let (account, process) = rest.split_at(4);
            let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
            let (flagged, at) =
                (number(process), time.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)));
            let (process, is_seal) = (flagged & !SEAL, flagged & SEAL != 0);
            if self.wanted.get(process as usize).copied().unwrap_or_default() {
                return Some(Request { at, process, account: number(account), is_seal });
            }
        }
        None
    }
}
