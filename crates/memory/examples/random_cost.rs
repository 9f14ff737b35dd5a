//! What 56 random bytes cost, a DEK and a nonce, with and without the system call:
//!
//! `cargo run --release -p keystrata-memory --features test-util --example random_cost`

use std::{hint::black_box, time::Instant};

use keystrata_memory::{random, test_util::fill_by_system_call};

fn main() -> Result<(), random::RandomError> {
    println!("the kernel's function is in user space: {}", random::is_in_user_space());
    for len in [24, 32, 56, 256] {
        let fastest = |fill: fn(&mut [u8]) -> Result<(), random::RandomError>| {
            const CALLS: u32 = 20_000;
            let mut bytes = vec![0; len];
            let mut fastest = f64::INFINITY;
            for _ in 0..40 {
                let start = Instant::now();
                for _ in 0..CALLS {
                    fill(black_box(&mut bytes))?;
                }
                fastest = fastest.min(start.elapsed().as_secs_f64() * 1e9 / f64::from(CALLS));
            }
            Ok(fastest)
        };
        let (fill, system_call) = (fastest(random::fill)?, fastest(fill_by_system_call)?);
        println!("{len:>4} bytes: {fill:>6.1} ns, by system call {system_call:>6.1} ns");
    }
    Ok(())
}
