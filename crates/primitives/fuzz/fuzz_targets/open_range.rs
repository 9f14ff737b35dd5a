#![no_main]

use std::io::{Cursor, Read, Seek, SeekFrom};

use arbitrary::Arbitrary;
use keystrata_primitives::envelope::{self, Opener, StreamError};
use keystrata_primitives_fuzz::{Account, AnySuite, context, plaintext, seal};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Input {
    suite: AnySuite,
    len: u32,
    /// Cut so many bytes off the end.
    cut: Option<u16>,
    /// Bytes in front of the envelope.
    before: u8,
    calls: Vec<Call>,
}

#[derive(Arbitrary, Debug)]
enum Call {
    Start(u32),
    StartAnywhere(u64),
    Current(i32),
    CurrentAnywhere(i64),
    End(i32),
    EndAnywhere(i64),
    Read(u16),
    Range { start: u32, len: u16 },
    RangeAnywhere { start: u64, end: u64 },
}

fuzz_target!(|input: Input| {
    let account = Account::new(input.suite, 1);
    let kek = account.kek();
    let plaintext = plaintext(input.len);
    let mut bytes = seal(&account, &plaintext);
    let whole = bytes.len();
    if let Some(cut) = input.cut {
        bytes.truncate(whole.saturating_sub(cut.into()));
    }
    let is_whole = bytes.len() == whole;

    let mut file = vec![0; input.before.into()];
    file.extend_from_slice(&bytes);
    let mut reader = Cursor::new(file);
    reader.set_position(input.before.into());
    let Ok(mut opener) = Opener::new(&kek, &context(), reader) else {
        assert!(bytes.len() < envelope::HEADER_LEN, "the header is undamaged");
        return;
    };
    let mut model = Cursor::new(&plaintext);

    for call in input.calls {
        let seek = match call {
            Call::Start(at) => SeekFrom::Start(at.into()),
            Call::StartAnywhere(at) => SeekFrom::Start(at),
            Call::Current(by) => SeekFrom::Current(by.into()),
            Call::CurrentAnywhere(by) => SeekFrom::Current(by),
            Call::End(by) => SeekFrom::End(by.into()),
            Call::EndAnywhere(by) => SeekFrom::End(by),
            Call::Read(len) => {
                let (mut got, mut expected) = (vec![1; len.into()], vec![0; len.into()]);
                match opener.read(&mut got) {
                    Ok(read) => {
                        assert!(read > 0 || len == 0 || (is_whole && model.position() >= plaintext.len() as u64));
                        model.read_exact(&mut expected[..read]).expect("no more bytes than there are");
                        assert_eq!(got[..read], expected[..read]);
                        continue;
                    }
                    Err(error) => return assert_cut(is_whole, &error, &mut opener),
                }
            }
            Call::Range { start, len } => {
                check_range(&account, &bytes, &plaintext, is_whole, start.into(), u64::from(start) + u64::from(len));
                continue;
            }
            Call::RangeAnywhere { start, end } => {
                check_range(&account, &bytes, &plaintext, is_whole, start, end);
                continue;
            }
        };
        match (opener.seek(seek), model.seek(seek)) {
            (Ok(at), Ok(expected)) => assert_eq!(at, expected),
            (Err(error), Err(_)) if StreamError::of(&error).is_none() => {
                assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
            }
            (Err(error), _) => return assert_cut(is_whole, &error, &mut opener),
            (Ok(at), Err(_)) => panic!("{seek:?} went to {at}"),
        }
    }
});

fn assert_cut(is_whole: bool, error: &std::io::Error, opener: &mut Opener<Cursor<Vec<u8>>>) {
    assert!(!is_whole, "{error}");
    assert!(matches!(StreamError::of(error), Some(StreamError::Truncated { .. })), "{error:?}");
    assert!(opener.read(&mut [0]).is_err() && opener.rewind().is_err(), "a failed stream stays failed");
}

fn check_range(account: &Account, bytes: &[u8], plaintext: &[u8], is_whole: bool, start: u64, end: u64) {
    let kek = account.kek();
    let clip = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(plaintext.len());
    match envelope::open_range(&kek, &context(), bytes, start..end) {
        Ok(part) => assert_eq!(part, plaintext[clip(start)..clip(end)]),
        Err(_) => assert!(!is_whole || start > end),
    }
}
