//! What it takes to bring a store to this release's schema.

/// From which schema to which, and by what steps.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// The schema version that the store has, or had.
    pub from: i32,
    /// The one of this release.
    pub to: i32,
    /// What is done, in order, and what it means for others who use the store. Empty if it is of this release already.
    pub steps: Vec<&'static str>,
}
