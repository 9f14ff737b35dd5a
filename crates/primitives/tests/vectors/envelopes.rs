//! Makes `envelope_open.json`.

use keystrata_primitives::{Context, Suite, hazmat};

use crate::{
    make::{Fixed, bytes, flip, identity, other_suite, prefix, put, strings},
    schema::{Base64, EnvelopeBytes, File, Hex, OpenEnvelope, Opened, Refusal, Slice},
};

type Pairs<'a> = &'a [(&'a str, &'a str)];

/// One way of opening: the KEK, whose it is, and the context. What a vector changes, it says.
#[derive(Clone, Copy)]
struct Opener<'a> {
    suite: Suite,
    kek: &'a str,
    kek_id: &'a str,
    path: &'a [&'a str],
    context: Pairs<'a>,
}

const fn acme(suite: Suite) -> Opener<'static> {
    Opener { suite, kek: "acme kek", kek_id: "acme kek id", path: &["acme"], context: &[("row", "42")] }
}

impl Opener<'_> {
    /// Seals with a DEK and nonce of its own for each `object`.
    fn seal(&self, object: &str, plaintext: &[u8]) -> Vec<u8> {
        let prefix = prefix(self.suite);
        let dek: [u8; 32] = bytes(&format!("{prefix}{object} dek"));
        let nonce: [u8; 24] = bytes(&format!("{prefix}{object} nonce"));
        let identity = identity(self.suite, 1, &bytes(self.kek_id), self.path);
        let kek: [u8; 32] = bytes(self.kek);
        let kek = keystrata_primitives::Kek::new(&kek, &identity);
        let context: Context = self.context.iter().copied().collect();
        hazmat::seal_envelope_with_rng(&mut Fixed::new(&[&dek, &nonce]), &kek, &context, plaintext).unwrap()
    }

    fn vector(&self, name: &str, comment: &str, envelope: EnvelopeBytes, expected: Opened) -> OpenEnvelope {
        OpenEnvelope {
            name: name.into(),
            comment: comment.into(),
            kek: Hex::of(bytes::<32>(self.kek)),
            suite: self.suite.to_byte(),
            kek_id: Hex::of(bytes::<16>(self.kek_id)),
            path: strings(self.path),
            context: self.context.iter().map(|(name, value)| (Hex::of(name), Hex::of(value))).collect(),
            envelope,
            expected,
        }
    }
}

/// Makes the vectors of one suite.
struct Maker {
    acme: Opener<'static>,
    vectors: Vec<OpenEnvelope>,
}

impl Maker {
    fn name(&self, name: &str) -> String {
        format!("{}{name}", prefix(self.acme.suite))
    }

    fn opens(&mut self, opener: Opener<'_>, name: &str, comment: &str, plaintext: &[u8]) -> Vec<u8> {
        let envelope = opener.seal(name, plaintext);
        let expected = Opened::Plaintext(Hex::of(plaintext));
        self.vectors.push(opener.vector(&self.name(name), comment, EnvelopeBytes::Hex(Hex::of(&envelope)), expected));
        envelope
    }

    fn opens_long(&mut self, name: &str, comment: &str, len: usize) {
        let pattern = b"keystrata ";
        let plaintext: Vec<u8> = pattern.iter().copied().cycle().take(len).collect();
        let envelope = self.acme.seal(name, &plaintext);
        let blake3 = Hex::of(blake3::hash(&plaintext).as_bytes());
        let expected = Opened::PlaintextRepeat { pattern: Hex::of(pattern), len, blake3 };
        self.vectors.push(self.acme.vector(
            &self.name(name),
            comment,
            EnvelopeBytes::Base64(Base64(envelope)),
            expected,
        ));
    }

    fn refuses(&mut self, opener: Opener<'_>, refusal: Refusal, name: &str, comment: &str, envelope: &[u8]) {
        let envelope = EnvelopeBytes::Hex(Hex::of(envelope));
        self.vectors.push(opener.vector(&self.name(name), comment, envelope, Opened::Error(refusal)));
    }

    fn refuses_slices(&mut self, refusal: Refusal, name: &str, comment: &str, slices: &[(&str, usize, usize)]) {
        let slices =
            slices.iter().map(|&(vector, start, end)| Slice { vector: self.name(vector), start, end }).collect();
        self.vectors.push(self.acme.vector(
            &self.name(name),
            comment,
            EnvelopeBytes::Slices(slices),
            Opened::Error(refusal),
        ));
    }
}

pub(crate) fn file() -> File<OpenEnvelope> {
    let mut vectors = Vec::new();
    for suite in Suite::ALL {
        let mut maker = Maker { acme: acme(suite), vectors };
        let small = maker.acme.seal("small", b"five!");
        valid(&mut maker);
        if suite == Suite::ALL[0] {
            context_limits(&mut maker, &small);
            not_envelopes(&mut maker, &small);
        }
        headers(&mut maker, &small);
        openers(&mut maker, &small);
        suites(&mut maker, &small);
        contexts(&mut maker, &small);
        chunks(&mut maker, &small);
        vectors = maker.vectors;
    }
    File { operation: "open an envelope".into(), vectors }
}

fn valid(maker: &mut Maker) {
    let acme = maker.acme;
    maker.opens(acme, "empty_plaintext", "The shortest envelope: one empty chunk.", b"");
    maker.opens(acme, "one_byte", "One byte of plaintext.", b"x");
    maker.opens(acme, "small", "The envelope that most refusals below are made from.", b"five!");
    maker.opens(acme, "other_object", "Another object of the same account and context.", b"eight!!!");
    maker.opens(Opener { context: &[], ..acme }, "no_context", "An empty context is encoded as the count 0.", b"five!");
    let two = Opener { context: &[("table", "cards"), ("row", "42")], ..acme };
    maker.opens(two, "context_in_another_order", "Given unsorted; encoded sorted by name.", b"five!");
    let prefix = Opener { context: &[("rows", ""), ("row", "1"), ("rox", "2")], ..acme };
    maker.opens(
        prefix,
        "context_names_share_a_beginning",
        "row, rows, rox: the shorter name first; one empty value.",
        b"five!",
    );
    let umlaut = Opener { context: &[("größe", "\u{0}")], path: &["größe", "a/b", "nul\u{0}"], ..acme };
    maker.opens(
        umlaut,
        "unusual_characters",
        "UTF-8, a slash and a NUL in the path; UTF-8 and a NUL in the context.",
        b"five!",
    );
    let segment = "s".repeat(128);
    let deep = Opener { path: &[segment.as_str(); 8], ..acme };
    maker.opens(deep, "longest_path", "Eight segments of 128 bytes.", b"five!");
    maker.opens_long("one_less_than_a_chunk", "The longest object of one chunk.", 16_383);
    maker.opens_long("exactly_one_chunk", "A full chunk, then an empty one.", 16_384);
    maker.opens_long("one_more_than_a_chunk", "A full chunk, then one of one byte.", 16_385);
    maker.opens_long("three_chunks", "Two full chunks and five bytes: chunk numbers 0, 1 and 2.", 32_773);
}

/// What the suite has no part in.
fn context_limits(maker: &mut Maker, small: &[u8]) {
    use Refusal::{ContextEmptyName, ContextTooLong, ContextTooManyPairs};
    let acme = maker.acme;
    let names: Vec<String> = (0..64).map(|i| format!("{i:02}")).collect();
    let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), "v")).collect();
    maker.opens(Opener { context: &pairs, ..acme }, "most_pairs", "64 pairs of context.", b"five!");
    let value = "v".repeat(8192 - 13);
    let longest = Opener { context: &[("n", &value)], ..acme };
    maker.opens(longest, "longest_context", "8,192 bytes of encoded context.", b"five!");
    let mut add = |refusal, name: &str, comment: &str, context: Pairs<'_>| {
        maker.refuses(Opener { context, ..acme }, refusal, name, comment, small);
    };
    let more = |name| [&pairs[..], &[(name, "v")]].concat();
    add(ContextTooManyPairs, "one_pair_too_many", "65 pairs.", &more("64"));
    let comment = "Of two faults of one pair, its name decides before the number of pairs.";
    add(ContextEmptyName, "empty_name_of_one_pair_too_many", comment, &more(""));
    let too_long = "v".repeat(8193 - 13);
    add(ContextTooLong, "context_one_byte_too_long", "8,193 bytes encoded.", &[("n", &too_long)]);
}

fn not_envelopes(maker: &mut Maker, small: &[u8]) {
    use Refusal::{Empty, NotAnEnvelope, Truncated, UnknownSuite, UnknownVersion};
    let acme = maker.acme;
    let mut add =
        |refusal, name: &str, comment: &str, envelope: &[u8]| maker.refuses(acme, refusal, name, comment, envelope);
    add(Empty, "no_bytes", "Nothing at all.", b"");
    add(NotAnEnvelope, "text", "Not the magic.", b"hello, world");
    add(NotAnEnvelope, "one_other_byte", "The first byte alone rules it out.", b"X");
    add(NotAnEnvelope, "magic_byte_0_flipped", "The first byte of the magic.", &flip(small, 0));
    add(NotAnEnvelope, "magic_byte_1_flipped", "The second byte of the magic.", &flip(small, 1));
    add(NotAnEnvelope, "magic_of_a_record", "A KEK record is not an envelope.", &put(small, 0, b"KR"));
    add(UnknownVersion, "version_0", "There is no version 0.", &put(small, 2, &[0]));
    add(UnknownVersion, "version_2", "A later version.", &put(small, 2, &[2]));
    add(UnknownVersion, "version_2_cut_short", "The version decides before the length.", b"KS\x02");
    add(UnknownSuite, "suite_0", "There is no suite 0.", &put(small, 3, &[0]));
    add(UnknownSuite, "suite_3", "A suite of the future.", &put(small, 3, &[3]));
    add(UnknownSuite, "suite_255_cut_short", "The suite decides before the length.", b"KS\x01\xff");
    for len in [1, 2, 3, 4, 19, 20, 43, 44, 91, 92, 123, 124, 139] {
        let comment = match len {
            1 => "Half the magic: the beginning of an envelope.",
            124 => "The header alone: the last chunk is never absent.",
            139 => "One byte less than the shortest envelope.",
            _ => "Cut inside or at the end of a field of the header.",
        };
        add(Truncated, &format!("cut_at_{len}"), comment, &small[..len]);
    }
}

fn headers(maker: &mut Maker, small: &[u8]) {
    let acme = maker.acme;
    let fields = [
        ("kek_id_first_byte", 4, "An id that is not the KEK's."),
        ("kek_id_last_byte", 19, "An id that is not the KEK's."),
        ("wrap_nonce_first_byte", 20, "The DEK does not unwrap."),
        ("wrap_nonce_last_byte", 43, "The DEK does not unwrap."),
        ("wrapped_dek_first_byte", 44, "The DEK does not unwrap."),
        ("wrapped_dek_last_byte", 75, "The DEK does not unwrap."),
        ("wrap_tag_first_byte", 76, "The DEK does not unwrap."),
        ("wrap_tag_last_byte", 91, "The DEK does not unwrap."),
        ("commitment_first_byte", 92, "The commitment differs in its first byte."),
        ("commitment_last_byte", 123, "The commitment differs in its last byte."),
    ];
    for (field, offset, comment) in fields {
        maker.refuses(acme, Refusal::Rejected, &format!("{field}_flipped"), comment, &flip(small, offset));
    }
    maker.refuses_slices(
        Refusal::Rejected,
        "wrapped_dek_of_another_object",
        "Wrap nonce and wrapped DEK of another envelope of the same KEK: they unwrap, the commitment differs.",
        &[("small", 0, 20), ("other_object", 20, 92), ("small", 92, 145)],
    );
    maker.refuses_slices(
        Refusal::Rejected,
        "commitment_of_another_object",
        "The commitment of another envelope.",
        &[("small", 0, 92), ("other_object", 92, 124), ("small", 124, 145)],
    );
    maker.refuses_slices(
        Refusal::Rejected,
        "chunks_of_another_object",
        "The header of one envelope, the chunks of another: only the chunk's tag tells.",
        &[("small", 0, 124), ("other_object", 124, 148)],
    );
}

fn openers(maker: &mut Maker, small: &[u8]) {
    let acme = maker.acme;
    let mut add = |name, comment, opener| maker.refuses(opener, Refusal::Rejected, name, comment, small);
    add(
        "other_account",
        "The same KEK under another path: the wrap is bound to the path.",
        Opener { path: &["acne"], ..acme },
    );
    add("inner_account", "A path inside the account.", Opener { path: &["acme", "acme"], ..acme });
    add("segments_split", "The same letters in two segments.", Opener { path: &["ac", "me"], ..acme });
    add("other_case", "Paths are compared byte for byte.", Opener { path: &["Acme"], ..acme });
    add("other_kek", "Another key under the same id.", Opener { kek: "other kek", ..acme });
    add("other_kek_id", "The right key under another id: it is not tried.", Opener { kek_id: "other kek id", ..acme });
}

/// The suite of the envelope beside that of the KEK.
fn suites(maker: &mut Maker, small: &[u8]) {
    use Refusal::{ContextEmptyName, Rejected, SuiteMismatch, Truncated};
    let acme = maker.acme;
    let other = Opener { suite: other_suite(acme.suite), ..acme };
    let moved = put(small, 3, &[other.suite.to_byte()]);
    let mut add = |refusal, name: &str, comment: &str, opener, envelope: &[u8]| {
        maker.refuses(opener, refusal, name, comment, envelope);
    };
    add(SuiteMismatch, "kek_of_another_suite", "The envelope is fine, the KEK of the other suite.", other, small);
    add(SuiteMismatch, "suite_byte_of_another_suite", "The other suite's byte in the header.", acme, &moved);
    add(
        Rejected,
        "suite_byte_and_kek_of_another_suite",
        "The same 32 bytes as a KEK of the other suite: nothing unwraps.",
        other,
        &moved,
    );
    let stranger = Opener { kek_id: "other kek id", ..other };
    add(SuiteMismatch, "suite_before_kek_id", "The suite decides before the KEK id.", stranger, small);
    add(Truncated, "shape_before_suite", "The envelope's shape decides before the suite.", other, &small[..130]);
    let nameless = Opener { context: &[("", "")], ..other };
    add(ContextEmptyName, "context_before_suite", "The context decides before the suite.", nameless, small);
}

fn contexts(maker: &mut Maker, small: &[u8]) {
    use Refusal::{ContextDuplicateName, ContextEmptyName, Rejected, Truncated};
    let acme = maker.acme;
    let mut add = |refusal, name: &str, comment: &str, context: Pairs<'_>, envelope: &[u8]| {
        maker.refuses(Opener { context, ..acme }, refusal, name, comment, envelope);
    };
    add(Rejected, "missing_context", "Sealed with a context, opened with none.", &[], small);
    add(Rejected, "other_value", "Another row.", &[("row", "43")], small);
    add(Rejected, "other_name", "Another name.", &[("rows", "42")], small);
    add(Rejected, "one_pair_more", "A pair that it was not sealed with.", &[("row", "42"), ("table", "cards")], small);
    add(Rejected, "name_and_value_run_together", "The same letters, cut elsewhere.", &[("row4", "2")], small);
    add(Rejected, "name_and_value_exchanged", "Value as name.", &[("42", "row")], small);
    add(ContextEmptyName, "empty_name", "Names have at least one byte.", &[("", "42")], small);
    add(ContextDuplicateName, "name_given_twice", "Also with the same value.", &[("row", "42"), ("row", "42")], small);
    let unlike: Pairs<'_> = &[("row", "42"), ("a", ""), ("row", "43")];
    add(ContextDuplicateName, "name_given_two_values", "Names are unique.", unlike, small);
    let both: Pairs<'_> = &[("row", "1"), ("row", "2"), ("", "")];
    let comment = "Pairs are taken in the order given: the first fault decides.";
    add(ContextDuplicateName, "name_given_twice_before_an_empty_name", comment, both, small);
    let both: Pairs<'_> = &[("row", "1"), ("", ""), ("row", "2")];
    add(ContextEmptyName, "empty_name_before_a_name_given_twice", comment, both, small);
    add(
        Truncated,
        "envelope_before_context",
        "The envelope's shape decides before the context.",
        &[("", "")],
        &small[..130],
    );
    let wrong: Pairs<'_> = &[("", "")];
    add(ContextEmptyName, "context_before_key", "The context decides before a key is used.", wrong, &flip(small, 44));
}

fn chunks(maker: &mut Maker, small: &[u8]) {
    const FULL: usize = 16_400;
    const FIRST: usize = 124 + FULL;
    const SECOND: usize = FIRST + FULL;
    let acme = maker.acme;
    let (rejected, truncated) = (Refusal::Rejected, Refusal::Truncated);
    let mut longer = small.to_vec();
    longer.push(0);
    maker.refuses(acme, rejected, "ciphertext_flipped", "The first byte of the chunk.", &flip(small, 124));
    maker.refuses(acme, rejected, "chunk_tag_flipped", "The last byte of the envelope.", &flip(small, small.len() - 1));
    maker.refuses(acme, rejected, "last_byte_cut", "A length that an envelope can have.", &small[..small.len() - 1]);
    maker.refuses(acme, rejected, "one_byte_more", "A length that an envelope can have.", &longer);

    let three = "three_chunks";
    let len = SECOND + 5 + 16;
    let mut add = |refusal, name, comment, slices: &[_]| maker.refuses_slices(refusal, name, comment, slices);
    let reordered = [(three, 0, 124), (three, FIRST, SECOND), (three, 124, FIRST), (three, SECOND, len)];
    add(rejected, "chunks_reordered", "Chunks 0 and 1 exchanged.", &reordered);
    add(rejected, "first_chunk_dropped", "Chunk 1 stands where 0 should.", &[(three, 0, 124), (three, FIRST, len)]);
    add(
        rejected,
        "middle_chunk_dropped",
        "The last chunk moves up by one.",
        &[(three, 0, FIRST), (three, SECOND, len)],
    );
    let doubled = [(three, 0, FIRST), (three, 124, FIRST), (three, SECOND, len)];
    add(rejected, "chunk_in_place_of_another", "Chunk 0 twice, chunk 1 gone.", &doubled);
    add(rejected, "chunk_duplicated", "Chunk 0 twice, all others moved.", &[(three, 0, FIRST), (three, 124, len)]);
    add(truncated, "last_chunk_cut", "Two full chunks: a full chunk is never the last.", &[(three, 0, SECOND)]);
    add(truncated, "last_two_chunks_cut", "One full chunk: a full chunk is never the last.", &[(three, 0, FIRST)]);
    add(truncated, "cut_inside_the_last_tag", "15 bytes after a full chunk hold no tag.", &[(three, 0, SECOND + 15)]);
    add(
        rejected,
        "cut_inside_a_full_chunk",
        "It looks like a short last chunk and fails its tag.",
        &[(three, 0, FIRST + 100)],
    );
    let exact = "exactly_one_chunk";
    add(truncated, "empty_last_chunk_cut", "The last full chunk must not look like the end.", &[(exact, 0, FIRST)]);
    let borrowed = [(three, 0, FIRST), (exact, FIRST, FIRST + 16)];
    add(rejected, "end_of_another_object", "An empty last chunk of another object put behind chunk 0.", &borrowed);
    let only_end = [(exact, 0, 124), (exact, FIRST, FIRST + 16)];
    add(rejected, "only_the_empty_last_chunk", "It is chunk 1, and stands where 0 should.", &only_end);
    add(
        rejected,
        "trailing_bytes",
        "20 bytes after the end: they take the last chunk's place.",
        &[(three, 0, len), (three, 0, 20)],
    );
}
