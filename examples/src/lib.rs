//! Examples: run one with `cargo run -p keystrata-examples --example NAME`.
#![forbid(unsafe_code)]
