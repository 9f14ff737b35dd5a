//! How often the crate allocates, counted by the allocator itself. AWS-LC, which is C, keeps its key schedules in a heap
//! of its own; that is not counted here.

mod common;

use common::{Account, CHUNK, HEADER, context, plaintext};
use keystrata_memory::test_util::CountingAllocator;
use keystrata_primitives::{Suite, envelope};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn the_counter_counts() {
    assert_eq!(CountingAllocator::count(|| Box::new([1_u8; 64])).0, 1);
    assert_eq!(CountingAllocator::count(|| vec![0_u8; 64]).0, 1);
    assert_eq!(CountingAllocator::count(|| ()).0, 0);
}

#[test]
fn one_allocation_or_none() {
    let context = context();
    for suite in Suite::ALL {
        let account = Account::new(suite, 1);
        let kek = account.kek();
        for len in [0, 64, CHUNK, 3 * CHUNK + 5] {
            let plaintext = plaintext(len);
            let mut buffer = vec![0; envelope::sealed_len(len).unwrap()];
            // Whatever a backend or the kernel's interface sets up once in a process.
            envelope::seal_into(&kek, &context, &plaintext, &mut buffer).unwrap();

            let (count, sealed) = CountingAllocator::count(|| envelope::seal(&kek, &context, &plaintext));
            assert_eq!(count, 1, "{suite}, {len}: seal");
            let sealed = sealed.unwrap();
            let (count, opened) = CountingAllocator::count(|| envelope::open(&kek, &context, &sealed));
            assert_eq!(count, usize::from(len > 0), "{suite}, {len}: open"); // no bytes need none
            assert!(opened.unwrap() == plaintext);

            let (count, result) =
                CountingAllocator::count(|| envelope::seal_into(&kek, &context, &plaintext, &mut buffer));
            assert_eq!(count, 0, "{suite}, {len}: seal_into");
            result.unwrap();
            let (count, opened) = CountingAllocator::count(|| {
                envelope::open_in_place(&kek, &context, &mut buffer).map(|open| open.len())
            });
            assert_eq!(count, 0, "{suite}, {len}: open_in_place");
            assert_eq!(opened, Ok(len));
            let (count, result) = CountingAllocator::count(|| envelope::seal_in_place(&kek, &context, &mut buffer));
            assert_eq!(count, 0, "{suite}, {len}: seal_in_place");
            result.unwrap();

            let header = buffer.first_chunk::<HEADER>().unwrap();
            let (count, rewrapped) = CountingAllocator::count(|| envelope::rewrap(&kek, &kek, header));
            assert_eq!(count, 0, "{suite}, {len}: rewrap");
            assert!(rewrapped.is_ok());
        }
    }
}
