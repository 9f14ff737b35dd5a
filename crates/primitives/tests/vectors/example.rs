//! Makes the worked example of the format's page.

use std::fmt::Write as _;

use keystrata_primitives::{
    Context, DerivedKek, KekIdentity, KekRecord, KekState, RootKeyId, Suite, WrappedSecret, Wrapper,
    envelope::{self, HEADER_LEN},
    hazmat,
};

use crate::{
    independent,
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
    pub(crate) plain_nonce: Vec<u8>,
    pub(crate) new_kek_id: [u8; 16],
    pub(crate) new_kek: [u8; 32],
    pub(crate) new_nonce: [u8; 24],
    pub(crate) rewrapped: [u8; HEADER_LEN],
}

impl Example {
    pub(crate) fn new(suite: Suite) -> Self {
        let own_secret = count(0x00);
        let identity = identity_of(suite, 0xa0, &["acme"]);
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
        let child = identity_of(suite, 0xb0, &["acme", "billing"]);
        let (child_secret, child_nonce) = (count(0x60), count(0x80));
        let mut rng = Fixed::new(&[&child_nonce]);
        let wrapped_child =
            hazmat::wrap_child_with_rng(&mut rng, &derived.kek(&identity), &child, &secret(&child_secret)).unwrap();
        let plain_key = secret(&dek);
        let (plain, plain_nonce) = if suite == Suite::Aes256Gcm {
            let nonce = count(0x40);
            (hazmat::seal_simple_aes256_gcm_with_nonce(&plain_key, &nonce, b"hello"), nonce.to_vec())
        } else {
            (hazmat::seal_simple_with_nonce(&plain_key, &wrap_nonce, b"hello"), wrap_nonce.to_vec())
        };
        let plain = plain.unwrap();
        let (new_kek, new_nonce) = (count(0xd0), count(0x98));
        let next = identity_of(suite, 0xc0, &["acme"]);
        let rewrapped = hazmat::rewrap_with_rng(
            &mut Fixed::new(&[&new_nonce]),
            &derived.kek(&identity),
            &keystrata_primitives::Kek::new(&new_kek, &next),
            envelope.first_chunk().unwrap(),
        )
        .unwrap();
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
            plain_nonce,
            new_kek_id: *next.id.as_bytes(),
            new_kek,
            new_nonce,
            rewrapped,
        }
    }

    fn suite(&self) -> Suite {
        self.identity.suite
    }

    /// `str(label)`, then the rest: the page's way of writing messages, by hand and not by the library.
    fn labelled(label: &str, rest: &[&[u8]]) -> Vec<u8> {
        let len = u8::try_from(label.len()).unwrap();
        [&[len, 0, 0, 0][..], label.as_bytes(), &rest.concat()].concat()
    }

    pub(crate) fn kek_message(&self) -> Vec<u8> {
        let id = self.identity.id;
        Self::labelled(
            "keystrata v1 kek",
            &[&[self.suite().to_byte()], &[1, 0, 0, 0], id.as_bytes(), self.identity.path.as_bytes()],
        )
    }

    pub(crate) fn dek_wrap_aad(&self) -> Vec<u8> {
        let id = self.identity.id;
        Self::labelled(
            "keystrata v1 dek wrap",
            &[&[self.suite().to_byte()], id.as_bytes(), self.identity.path.as_bytes()],
        )
    }

    pub(crate) fn payload_message(&self) -> Vec<u8> {
        let context = self.context.encode().unwrap();
        Self::labelled("keystrata v1 payload", &[&[self.suite().to_byte()], self.identity.path.as_bytes(), &context])
    }

    pub(crate) fn child_wrap_aad(&self) -> Vec<u8> {
        let (parent, child) = (&self.identity, &self.child);
        let parts: [&[u8]; 6] = [
            &[self.suite().to_byte()],
            parent.id.as_bytes(),
            parent.path.as_bytes(),
            child.id.as_bytes(),
            &[1, 0, 0, 0],
            child.path.as_bytes(),
        ];
        Self::labelled("keystrata v1 kek wrap", &parts)
    }

    /// `key(32) ‖ commitment(32)`, straight from the hash.
    pub(crate) fn payload(&self) -> [u8; 64] {
        independent::kdf(self.suite(), &self.dek, &self.payload_message())
    }

    /// The blocks between the marks.
    pub(crate) fn blocks() -> String {
        let [one, two] = Suite::ALL.map(|suite| Self::new(suite).block());
        format!("{one}\nThe same of suite 2:\n\n{two}")
    }

    fn block(&self) -> String {
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
        if self.suite() == Suite::Aes256Gcm {
            let [l, k1, m1, m2] = independent::xaes_blocks(self.derived.expose_secret(), &self.wrap_nonce);
            add("L", &l);
            add("K1", &k1);
            add("M1", &m1);
            add("M2", &m2);
            add("wrap subkey", &independent::xaes_subkey(self.derived.expose_secret(), &self.wrap_nonce));
        }
        add("wrapped DEK", &header[44..92]);
        add("payload message", &self.payload_message());
        add("payload key", &payload[..32]);
        add("commitment", &payload[32..]);
        add("chunk nonce", &[0; 12]);
        add("chunk 0", chunk);
        add("envelope", &self.envelope);
        add("new KEK", &self.new_kek);
        add("new KEK id", &self.new_kek_id);
        add("new wrap nonce", &self.new_nonce);
        add("new header", &self.rewrapped);
        add("child KEK id", self.child.id.as_bytes());
        add("child path", self.child.path.as_bytes());
        add("child secret", &self.child_secret);
        add("child nonce", &self.child_nonce);
        add("child wrap AAD", &self.child_wrap_aad());
        add("wrapped child", &self.wrapped_child);
        add("plain nonce", &self.plain_nonce);
        add("plain form", &self.plain);
        let text = envelope::to_text(&self.envelope);
        for (i, line) in text.as_bytes().chunks(64).enumerate() {
            let name = if i == 0 { "text form" } else { "" };
            let line = str::from_utf8(line).expect("base64url is ASCII");
            writeln!(block, "{name:<18}{line}").expect("a String takes any text");
        }
        block.push_str("```\n");
        block
    }
}

fn identity_of(suite: Suite, first: u8, path: &[&str]) -> KekIdentity {
    identity(suite, 1, &count(first), path)
}
