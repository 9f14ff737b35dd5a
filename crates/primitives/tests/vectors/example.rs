//! Makes the worked example of the format's page.

use std::fmt::Write as _;

use keystrata_primitives::{
    Context, DerivedKek, KekIdentity, KekRecord, KekState, RootKeyId, WrappedSecret, Wrapper, envelope::HEADER_LEN,
    hazmat,
};

use crate::{
    make::{Fixed, identity, secret},
    schema::hex,
};

pub(crate) const BEGIN: &str = "<!-- example: begin -->\n";
pub(crate) const END: &str = "<!-- example: end -->\n";

/// `N` bytes that count up from `first`.
fn count<const N: usize>(first: u8) -> [u8; N] {
    let mut out = [0; N];
    out.iter_mut().zip(first..).for_each(|(byte, number)| *byte = number);
    out
}

/// The inputs of the example, and what the library makes of them.
pub(crate) struct Example {
    pub(crate) secret: [u8; 32],
    pub(crate) identity: KekIdentity,
    pub(crate) derived: DerivedKek,
    pub(crate) record: KekRecord,
    pub(crate) context: Context,
    pub(crate) plaintext: &'static [u8],
    pub(crate) dek: [u8; 32],
    pub(crate) wrap_nonce: [u8; 24],
    pub(crate) envelope: Vec<u8>,
    pub(crate) child: KekIdentity,
    pub(crate) child_secret: [u8; 32],
    pub(crate) child_nonce: [u8; 24],
    pub(crate) wrapped_child: [u8; 72],
    pub(crate) plain: Vec<u8>,
}

impl Example {
    pub(crate) fn new() -> Self {
        let own_secret = count(0x00);
        let identity = identity_of(0xa0, &["acme"]);
        let derived = identity.derive(&secret(&own_secret));
        let root = Wrapper::Root(RootKeyId::new("example:root").unwrap());
        let record = KekRecord {
            identity: identity.clone(),
            state: KekState::Primary,
            check: derived.check,
            created_at: 1_700_000_000,
            retired_at: 0,
            wraps: vec![WrappedSecret { wrapper: root, ciphertext: b"wrapped".to_vec() }],
        };
        let context = Context::new().with("row", "42");
        let (dek, wrap_nonce) = (count(0x20), count(0x40));
        let mut rng = Fixed::new(&[&dek, &wrap_nonce]);
        let envelope = hazmat::seal_envelope_with_rng(&mut rng, &derived.kek(&identity), &context, b"hello").unwrap();
        let child = identity_of(0xb0, &["acme", "billing"]);
        let (child_secret, child_nonce) = (count(0x60), count(0x80));
        let mut rng = Fixed::new(&[&child_nonce]);
        let wrapped_child =
            hazmat::wrap_child_with_rng(&mut rng, &derived.kek(&identity), &child, &secret(&child_secret)).unwrap();
        let plain = hazmat::seal_simple_with_nonce(&secret(&dek), &wrap_nonce, b"hello").unwrap();
        Self {
            secret: own_secret,
            identity,
            derived,
            record,
            context,
            plaintext: b"hello",
            dek,
            wrap_nonce,
            envelope,
            child,
            child_secret,
            child_nonce,
            wrapped_child,
            plain,
        }
    }

    /// `str(label)`, then the rest: the page's way of writing messages, by hand and not by the library.
    fn labelled(label: &str, rest: &[&[u8]]) -> Vec<u8> {
        let len = u8::try_from(label.len()).unwrap();
        [&[len, 0, 0, 0][..], label.as_bytes(), &rest.concat()].concat()
    }

    pub(crate) fn kek_message(&self) -> Vec<u8> {
        let id = self.identity.id;
        Self::labelled("keystrata v1 kek", &[&[1], &[1, 0, 0, 0], id.as_bytes(), self.identity.path.as_bytes()])
    }

    pub(crate) fn dek_wrap_aad(&self) -> Vec<u8> {
        let id = self.identity.id;
        Self::labelled("keystrata v1 dek wrap", &[&[1], id.as_bytes(), self.identity.path.as_bytes()])
    }

    pub(crate) fn payload_message(&self) -> Vec<u8> {
        let context = self.context.encode().unwrap();
        Self::labelled("keystrata v1 payload", &[&[1], self.identity.path.as_bytes(), &context])
    }

    pub(crate) fn child_wrap_aad(&self) -> Vec<u8> {
        let (parent, child) = (&self.identity, &self.child);
        let parts: [&[u8]; 6] = [
            &[1],
            parent.id.as_bytes(),
            parent.path.as_bytes(),
            child.id.as_bytes(),
            &[1, 0, 0, 0],
            child.path.as_bytes(),
        ];
        Self::labelled("keystrata v1 kek wrap", &parts)
    }

    /// `key(32) ‖ base nonce(12) ‖ commitment(32)`, straight from the hash.
    pub(crate) fn payload(&self) -> [u8; 76] {
        let mut out = [0; 76];
        blake3::Hasher::new_keyed(&self.dek).update(&self.payload_message()).finalize_xof().fill(&mut out);
        out
    }

    /// The block between the marks.
    pub(crate) fn block(&self) -> String {
        use secrecy::ExposeSecret;

        let payload = self.payload();
        let (header, chunk) = self.envelope.split_at(HEADER_LEN);
        let mut block = String::from("```text\n");
        let mut add = |name: &str, bytes: &[u8]| {
            for (i, line) in bytes.chunks(32).enumerate() {
                let name = if i == 0 { name } else { "" };
                writeln!(block, "{name:<18}{}", hex(line)).expect("a String takes any text");
            }
        };
        add("secret", &self.secret);
        add("KEK id", self.identity.id.as_bytes());
        add("path", self.identity.path.as_bytes());
        add("KEK message", &self.kek_message());
        add("KEK", self.derived.expose_secret());
        add("check", self.derived.check.as_bytes());
        add("record", &self.record.encode().unwrap());
        add("context", &self.context.encode().unwrap());
        add("plaintext", self.plaintext);
        add("DEK", &self.dek);
        add("wrap nonce", &self.wrap_nonce);
        add("DEK wrap AAD", &self.dek_wrap_aad());
        add("wrapped DEK", &header[44..92]);
        add("payload message", &self.payload_message());
        add("payload key", &payload[..32]);
        add("base nonce", &payload[32..44]);
        add("commitment", &payload[44..]);
        add("chunk 0", chunk);
        add("envelope", &self.envelope);
        add("child KEK id", self.child.id.as_bytes());
        add("child path", self.child.path.as_bytes());
        add("child secret", &self.child_secret);
        add("child nonce", &self.child_nonce);
        add("child wrap AAD", &self.child_wrap_aad());
        add("wrapped child", &self.wrapped_child);
        add("plain form", &self.plain);
        block.push_str("```\n");
        block
    }
}

fn identity_of(first: u8, path: &[&str]) -> KekIdentity {
    identity(1, &count(first), path)
}
