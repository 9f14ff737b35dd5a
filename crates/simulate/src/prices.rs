//! Prices and quotas, from one dated file.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::SimulateError;

const BUILT_IN: &str = include_str!("prices.toml");

/// Prices and quotas of the providers of KMSs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// From when they are: `YYYY-MM`.
    pub as_of: String,
    /// One for each provider.
    pub provider: Vec<Provider>,
}

/// What one provider charges and allows.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// The name in settings.
    pub name: String,
    /// The name in reports.
    pub title: String,
    /// For 10,000 calls.
    pub usd_per_10_000_calls: f64,
    /// For a root key and a month.
    pub usd_per_key_month: f64,
    /// How many calls a second it answers; none: as many as come.
    pub calls_per_second: Option<f64>,
}

impl Prices {
    /// Those that come with this crate.
    ///
    /// # Errors
    /// None, unless the file that was built in is broken.
    pub fn built_in() -> Result<Self, SimulateError> {
        Self::parse(BUILT_IN).map_err(|message| SimulateError::File { file: "prices.toml".into(), message })
    }

    /// Those of a file of the same form.
    ///
    /// # Errors
    /// [`SimulateError`] if it cannot be read, or holds something else.
    pub fn read(file: &Path) -> Result<Self, SimulateError> {
        let text = std::fs::read_to_string(file)
            .map_err(SimulateError::io(format!("the prices cannot be read from {}", file.display())))?;
        Self::parse(&text).map_err(|message| SimulateError::File { file: file.to_owned(), message })
    }

    fn parse(text: &str) -> Result<Self, String> {
        let prices: Self = toml::from_str(text).map_err(|error| crate::draft::toml_message(&error, text))?;
        let is_amount = |amount: f64| amount.is_finite() && amount >= 0.0;
        for provider in &prices.provider {
            let Provider { name, usd_per_10_000_calls, usd_per_key_month, calls_per_second, .. } = provider;
            if !is_amount(*usd_per_10_000_calls) || !is_amount(*usd_per_key_month) {
                return Err(format!("provider `{name}`: a price is zero or more"));
            }
            if calls_per_second.is_some_and(|quota| !is_amount(quota) || quota < 1.0) {
                return Err(format!("provider `{name}`: calls_per_second is 1 or more, or left out"));
            }
        }
        Ok(prices)
    }

    /// The provider of this name.
    ///
    /// # Errors
    /// [`SimulateError`] if there is none; it names those that there are.
    pub fn provider(&self, name: &str) -> Result<&Provider, SimulateError> {
        self.provider.iter().find(|provider| provider.name == name).ok_or_else(|| {
            let known: Vec<_> = self.provider.iter().map(|provider| provider.name.as_str()).collect();
            SimulateError::setting("provider", format!("`{name}` has no prices: choose one of {}", known.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests {
    use keystrata_kms::ListPrice;

    use super::*;

    #[test]
    fn the_built_in_prices_are_those_of_the_adapters() {
        let prices = Prices::built_in().unwrap();
        for (name, price) in [("aws", ListPrice::AWS_KMS), ("gcp", ListPrice::GOOGLE_CLOUD_KMS)] {
            let provider = prices.provider(name).unwrap();
            assert!((provider.usd_per_10_000_calls - price.usd_per_10_000_calls).abs() < 1e-9);
            assert!((provider.usd_per_key_month - price.usd_per_key_month).abs() < 1e-9);
        }
        assert!(prices.provider("acme").unwrap_err().to_string().contains("aws, gcp, azure"));
    }

    #[test]
    fn prices_that_are_none_are_refused() {
        let priced = |price: &str| {
            Prices::parse(&format!(
                "as_of = \"2026-01\"\n[[provider]]\nname = \"x\"\ntitle = \"X\"\nusd_per_10_000_calls = {price}\n\
                 usd_per_key_month = 0.0"
            ))
        };
        assert!(priced("0.03").is_ok());
        assert!(priced("-1.0").unwrap_err().contains("zero or more"));
        assert!(priced("nan").is_err());
        assert!(Prices::parse("as_of = 3").unwrap_err().contains("line 1"));
    }
}
