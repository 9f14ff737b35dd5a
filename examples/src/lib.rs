//! Examples: run one with `cargo run -p keystrata-examples --example NAME`.
#![forbid(unsafe_code)]

/// The README's example compiles and runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
