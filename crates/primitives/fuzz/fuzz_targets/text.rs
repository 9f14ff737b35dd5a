#![no_main]

use keystrata_primitives::envelope;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let text = envelope::to_text(data);
    assert_eq!(envelope::from_text(&text).as_deref(), Ok(data));
    let Ok(text) = std::str::from_utf8(data) else { return };
    for text in [text.to_owned(), format!("{}{text}", envelope::TEXT_PREFIX)] {
        if let Ok(bytes) = envelope::from_text(&text) {
            assert_eq!(envelope::to_text(&bytes), text, "one text for the same bytes");
        }
    }
});
