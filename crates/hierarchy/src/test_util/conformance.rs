//! The suites that adapters run.
