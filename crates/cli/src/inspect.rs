//! `keystrata inspect`: the header of an envelope, without any key.

use anyhow::Result;
use keystrata_primitives::envelope::{self, CHUNK_LEN, EnvelopeError, HEADER_LEN, Header};
use serde_json::json;

use crate::{args::InspectArgs, failure, input::Input, output};

pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let mut start = [0; HEADER_LEN];
    let len = Input::open(&args.input)?.measure(&mut start)?;
    // The data is measured, not kept: an envelope larger than memory can be looked at too.
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let header = Header::parse_start(&start[..len.min(HEADER_LEN)]).map_err(failure::of_envelope)?;
    let plaintext = envelope::plaintext_len(len).ok_or(EnvelopeError::Truncated { len })?;
    let chunks = plaintext / CHUNK_LEN + 1;
    let (version, suite, kek_id) = (header.version(), header.suite(), header.kek_id());
    if args.json {
        return output::print_json(&json!({
            "version": version,
            "suite": suite.to_byte(),
            "suite_name": suite.to_string(),
            "kek_id": kek_id.to_string(),
            "envelope_bytes": len,
            "plaintext_bytes": plaintext,
            "chunks": chunks,
        }));
    }
    output::print(&format!(
        "version    {version}\n\
         suite      {} ({suite})\n\
         KEK id     {kek_id}\n\
         envelope   {len} bytes\n\
         plaintext  {plaintext} bytes in {chunks} chunk{}\n",
        suite.to_byte(),
        if chunks == 1 { "" } else { "s" },
    ))
}
