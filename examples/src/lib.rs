//! Examples: run one with `cargo run -p keystrata-examples --example NAME`.
#![forbid(unsafe_code)]

/// The value of an environment variable. Where it is missing, the program ends with status 1 and one line that says `what` it
/// needs.
pub fn needed(variable: &str, what: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        eprintln!("this example needs {what}; `cargo xtask test` does all that");
        std::process::exit(1)
    })
}

/// The URL of the PostgreSQL server that an example may make a schema in, as [`needed`].
pub fn postgres() -> String {
    needed(
        "KEYSTRATA_EXAMPLE_POSTGRES",
        "a PostgreSQL server: install one and set KEYSTRATA_EXAMPLE_POSTGRES to \
         postgres://USER:PASSWORD@localhost:5432/DATABASE?sslmode=disable, for a user who may create schemas",
    )
}

/// The README's example compiles and runs as a test.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
