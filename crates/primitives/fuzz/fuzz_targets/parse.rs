#![no_main]

use keystrata_primitives::{
    KekRecord, KeyPath,
    envelope::{self, Header},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(header) = Header::parse(data) {
        let len = envelope::plaintext_len(data.len()).expect("a parsed envelope has a plaintext length");
        assert_eq!(envelope::sealed_len(len), Some(data.len()));
        assert_eq!(header.suite().to_byte(), data[3]);
        assert_eq!(header.kek_id().as_bytes()[..], data[4..20]);
    }
    if Header::parse_start(data).is_err() {
        assert!(Header::parse(data).is_err());
    }
    if let Ok(record) = KekRecord::parse(data) {
        assert_eq!(record.encode().as_deref(), Ok(data));
    }
    if let Ok(path) = KeyPath::from_bytes(data) {
        assert_eq!(path.as_bytes(), data);
        assert_eq!(KeyPath::new(path.segments()), Ok(path.clone()));
    }
});
