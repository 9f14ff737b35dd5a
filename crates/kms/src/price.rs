//! What calls cost. The one place for prices; `docs/kms.md` names where they are from.

use keystrata_hierarchy::RootKeyId;

use crate::uri::{AWS, GCP};

/// What a provider charges for a symmetric key and its calls, by its public list, in US dollars.
///
/// An estimate of an order of magnitude: free tiers, discounts, currencies, taxes and differences between regions are not in
/// it, and lists change.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct ListPrice {
    /// The service.
    pub service: &'static str,
    /// For 10,000 calls.
    pub usd_per_10_000_calls: f64,
    /// For a key, or a version of one, and a month.
    pub usd_per_key_month: f64,
    /// From when the list is: `YYYY-MM`.
    pub as_of: &'static str,
}

impl ListPrice {
    /// AWS KMS, key material made by KMS. Each rotation of the key, up to the second, costs as much again as the key.
    pub const AWS_KMS: Self =
        Self { service: "AWS KMS", usd_per_10_000_calls: 0.03, usd_per_key_month: 1.0, as_of: "2026-03" };
    /// Google Cloud KMS, protection level SOFTWARE, for each active version of a key.
    pub const GOOGLE_CLOUD_KMS: Self =
        Self { service: "Google Cloud KMS", usd_per_10_000_calls: 0.03, usd_per_key_month: 0.06, as_of: "2025-03" };

    /// The price of the calls to the root key `id`; `None` where calls have none: Vault, OpenBao, a file.
    pub fn of(id: &RootKeyId) -> Option<Self> {
        let (scheme, _) = id.as_str().split_once(':')?;
        [(&AWS, Self::AWS_KMS), (&GCP, Self::GOOGLE_CLOUD_KMS)]
            .into_iter()
            .find_map(|(of, price)| (of.name == scheme).then_some(price))
    }

    /// What `calls` cost, the key itself not included.
    pub fn of_calls(&self, calls: u64) -> f64 {
        estimated_cost(calls, self.usd_per_10_000_calls)
    }
}

/// What `calls` cost, in the currency of `price_per_10_000_calls`.
#[expect(clippy::cast_precision_loss, reason = "an estimate, exact up to 2^53 calls")]
pub fn estimated_cost(calls: u64, price_per_10_000_calls: f64) -> f64 {
    calls as f64 / 10_000.0 * price_per_10_000_calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_cost_what_the_list_says_where_there_is_one() {
        let of = |id: &str| ListPrice::of(&RootKeyId::new(id).unwrap());
        assert_eq!(of("aws-kms:arn:aws:kms:eu-west-1:111122223333:key/1"), Some(ListPrice::AWS_KMS));
        assert_eq!(of("gcp-kms:projects/p/locations/l/keyRings/r/cryptoKeys/k"), Some(ListPrice::GOOGLE_CLOUD_KMS));
        for free in ["vault-transit:transit/keys/k", "local:0123", "aws:x"] {
            assert_eq!(of(free), None, "{free}");
        }
        assert!((ListPrice::AWS_KMS.of_calls(1_000_000) - 3.0).abs() < 1e-9);
    }
}
