#![no_main]

use std::io::Read;

use arbitrary::Arbitrary;
use keystrata_primitives::envelope::{self, Opener};
use keystrata_primitives_fuzz::{Account, AnySuite, Damage, context, plaintext, seal};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
enum Input {
    Raw(AnySuite, Vec<u8>),
    Damaged { suite: AnySuite, len: u32, damage: Vec<Damage> },
}

fuzz_target!(|input: Input| {
    let (Input::Raw(suite, _) | Input::Damaged { suite, .. }) = &input;
    let account = Account::new(*suite, 1);
    let kek = account.kek();
    let (bytes, good) = match input {
        Input::Raw(_, bytes) => (bytes, None),
        Input::Damaged { len, damage, .. } => {
            let plaintext = plaintext(len);
            let good = seal(&account, &plaintext);
            let mut bytes = good.clone();
            damage.iter().for_each(|damage| damage.apply(&mut bytes));
            let same = bytes == good;
            (bytes, same.then_some(plaintext))
        }
    };

    let opened = envelope::open(&kek, &context(), &bytes).ok();
    assert_eq!(opened, good, "only the undamaged envelope opens");

    let mut buffer = bytes.clone();
    let in_place = envelope::open_in_place(&kek, &context(), &mut buffer).ok().map(|plaintext| plaintext.to_vec());
    assert_eq!(in_place, opened);
    assert!(opened.is_some() || buffer.iter().all(|byte| *byte == 0), "nothing is left after a refusal");

    let mut streamed = Vec::new();
    let read = Opener::new(&kek, &context(), &bytes[..]).map(|mut opener| opener.read_to_end(&mut streamed));
    assert_eq!(read.is_ok_and(|read| read.is_ok()).then_some(streamed), opened);
});
