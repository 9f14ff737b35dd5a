//! ARNs of KMS keys.

use std::fmt;

/// `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyArn {
    partition: String,
    region: String,
    account: String,
    key: String,
}

/// What stands for the region in the id of a key that is in several.
const ANY_REGION: &str = "*";

impl KeyArn {
    /// The ARN of a key in one region; an alias is none.
    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::parse_id(text).filter(|arn| arn.region != ANY_REGION)
    }

    /// As [`parse`](Self::parse), or without a region for a multi-region key.
    pub(super) fn parse_id(text: &str) -> Option<Self> {
        let (partition, region, account, resource) = parts(text)?;
        let key = resource.strip_prefix("key/")?;
        let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let has_region = is_plain(region) || (region == ANY_REGION && is_multi_region(key));
        let is_whole = has_region && is_plain(partition) && is_plain(account) && is_plain(key);
        is_whole.then(|| Self {
            partition: partition.into(),
            region: region.into(),
            account: account.into(),
            key: key.into(),
        })
    }

    /// Whether both name one key: equal, or related multi-region keys, which share their key id and their material.
    pub(super) fn is_same_key(&self, other: &Self) -> bool {
        self.without_region_if_shared() == other.without_region_if_shared()
    }

    /// The name that all regions of a multi-region key share; of another key, its own.
    pub(super) fn without_region_if_shared(&self) -> Self {
        let region = if is_multi_region(&self.key) { ANY_REGION } else { &self.region };
        Self { region: region.to_owned(), ..self.clone() }
    }

    /// This key where `other` is, since one request stays within a region; `None` if it is not there.
    pub(super) fn in_region_of(self, other: &Self) -> Option<Self> {
        let is_there = self.region == other.region || is_multi_region(&self.key);
        (is_there && self.partition == other.partition).then(|| Self { region: other.region.clone(), ..self })
    }
}

impl fmt::Display for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { partition, region, account, key } = self;
        write!(f, "arn:{partition}:kms:{region}:{account}:key/{key}")
    }
}

/// The region in the ARN of a key or an alias.
pub(super) fn region_of(arn: &str) -> Option<&str> {
    let (_, region, _, resource) = parts(arn)?;
    let names_one =
        resource.strip_prefix("key/").or_else(|| resource.strip_prefix("alias/")).is_some_and(|name| !name.is_empty());
    (names_one && !region.is_empty() && region != ANY_REGION).then_some(region)
}

fn parts(arn: &str) -> Option<(&str, &str, &str, &str)> {
    let mut parts = arn.splitn(6, ':');
    let (arn, partition, service) = (parts.next()?, parts.next()?, parts.next()?);
    let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
    (arn == "arn" && service == "kms").then_some((partition, region, account, resource))
}

fn is_multi_region(key: &str) -> bool {
    key.starts_with("mrk-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arn(text: &str) -> KeyArn {
        KeyArn::parse(text).unwrap()
    }

    #[test]
    fn a_key_is_the_same_in_its_own_region_only_unless_it_is_multi_region() {
        let plain = arn("arn:aws:kms:eu-west-1:111122223333:key/1234");
        assert!(plain.is_same_key(&plain));
        for other in [
            "arn:aws:kms:us-east-1:111122223333:key/1234",
            "arn:aws:kms:eu-west-1:444455556666:key/1234",
            "arn:aws:kms:eu-west-1:111122223333:key/1235",
            "arn:aws-cn:kms:eu-west-1:111122223333:key/1234",
        ] {
            assert!(!plain.is_same_key(&arn(other)), "{other}");
        }
        let shared = arn("arn:aws:kms:eu-west-1:111122223333:key/mrk-1234");
        assert!(shared.is_same_key(&arn("arn:aws:kms:us-east-1:111122223333:key/mrk-1234")));
        assert!(!shared.is_same_key(&arn("arn:aws:kms:us-east-1:444455556666:key/mrk-1234")));
        assert!(!shared.is_same_key(&arn("arn:aws:kms:eu-west-1:111122223333:key/mrk-1235")));
        assert_eq!(shared.without_region_if_shared().to_string(), "arn:aws:kms:*:111122223333:key/mrk-1234");
        assert_eq!(plain.without_region_if_shared(), plain);
    }

    #[test]
    fn a_source_key_is_looked_for_in_the_region_of_the_request() {
        let here = arn("arn:aws:kms:eu-west-1:111122223333:key/1234");
        let id = |text: &str| KeyArn::parse_id(text).unwrap();
        let shared = id("arn:aws:kms:*:111122223333:key/mrk-9").in_region_of(&here).unwrap();
        assert_eq!(shared.to_string(), "arn:aws:kms:eu-west-1:111122223333:key/mrk-9");
        assert_eq!(id("arn:aws:kms:us-east-1:111122223333:key/9").in_region_of(&here), None);
        assert_eq!(id("arn:aws-cn:kms:*:111122223333:key/mrk-9").in_region_of(&here), None);
    }

    #[test]
    fn what_is_not_a_key_arn_is_none() {
        for text in [
            "",
            "arn:aws:kms:eu-west-1:111122223333:alias/x",
            "arn:aws:kms:eu-west-1:111122223333:key/",
            "arn:aws:kms:*:111122223333:key/1234",
            "arn:aws:s3:eu-west-1:111122223333:key/1234",
            "arn:aws:kms:eu-west-1:111122223333:key/1234/5",
            "arn:aws:kms:eu-west-1:111122223333",
        ] {
            assert_eq!(KeyArn::parse_id(text), None, "{text}");
        }
        assert_eq!(KeyArn::parse("arn:aws:kms:*:111122223333:key/mrk-1"), None);
        assert_eq!(region_of("arn:aws:kms:eu-west-1:111122223333:alias/x"), Some("eu-west-1"));
    }
}
