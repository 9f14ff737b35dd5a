#![no_main]

use arbitrary::Arbitrary;
use keystrata_primitives::envelope::{self, HEADER_LEN};
use keystrata_primitives_fuzz::{Account, AnySuite, context, seal};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Input {
    Raw(AnySuite, [u8; HEADER_LEN]),
    Damaged { suite: AnySuite, flips: Vec<u16>, to_itself: bool },
}

/// The bytes before the commitment, which a rewrap cannot check and does not change.
const KEY_FIELDS: usize = 92;

fuzz_target!(|input: Input| {
    let (Input::Raw(suite, _) | Input::Damaged { suite, .. }) = &input;
    let (old, other) = (Account::new(*suite, 1), Account::new(*suite, 2));
    let good = seal(&old, b"plaintext");
    let (header, new) = match input {
        Input::Raw(_, header) => (header, &other),
        Input::Damaged { flips, to_itself, .. } => {
            let mut header: [u8; HEADER_LEN] = *good.first_chunk().expect("an envelope begins with its header");
            for flip in flips {
                header[flip as usize / 8 % HEADER_LEN] ^= 1 << (flip % 8);
            }
            (header, if to_itself { &old } else { &other })
        }
    };
    let good_fields = header[..KEY_FIELDS] == good[..KEY_FIELDS];
    match envelope::rewrap(&old.kek(), &new.kek(), &header) {
        Err(_) => assert!(!good_fields),
        Ok(rewrapped) => {
            assert!(good_fields, "only an authentic header is rewrapped");
            assert_eq!(rewrapped[KEY_FIELDS..], header[KEY_FIELDS..]);
            let mut moved = good.clone();
            moved[..HEADER_LEN].copy_from_slice(&rewrapped);
            let opened = envelope::open(&new.kek(), &context(), &moved);
            assert_eq!(opened.is_ok(), header[..] == good[..HEADER_LEN]);
        }
    }
});
