//! The kernel's own `getrandom` in user space, with a state for each thread.

mod elf;
mod function;
mod states;

#[cfg(test)]
pub(super) use self::states::mapped as mapped_states;
pub(super) use self::{function::is_available, states::fill};
