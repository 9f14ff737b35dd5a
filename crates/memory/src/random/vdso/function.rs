//! Finds the vDSO's function once, and what it wants to be given.

use std::{
    ffi::{c_int, c_uint, c_void},
    ptr::NonNull,
    sync::atomic::{AtomicPtr, Ordering},
};

use super::elf;
use crate::map::page_bytes;

#[cfg(target_arch = "x86_64")]
const NAME: (&[u8], &[u8]) = (b"__vdso_getrandom", b"LINUX_2.6");
#[cfg(target_arch = "aarch64")]
const NAME: (&[u8], &[u8]) = (b"__kernel_getrandom", b"LINUX_2.6.39");

/// `AT_SYSINFO_EHDR`, which the `libc` crate does not have on every target.
const VDSO_ADDRESS: libc::c_ulong = 33;

/// Some ten times what a vDSO takes: what claims to be larger is not one.
const MAX_IMAGE_BYTES: usize = 1 << 20;

type GetRandom = unsafe extern "C" fn(*mut c_void, usize, c_uint, *mut c_void, usize) -> isize;

/// `struct vgetrandom_opaque_params` of the kernel.
#[repr(C)]
#[derive(Default)]
struct Params {
    state_bytes: u32,
    mmap_prot: u32,
    mmap_flags: u32,
    reserved: [u32; 13],
}

/// The function and how to make states for it.
pub(super) struct Function {
    call: GetRandom,
    pub(super) state_bytes: usize,
    mmap_prot: c_int,
    mmap_flags: c_int,
}

/// The answer; null until first asked. A `OnceLock` would hang in a child forked while another thread fills it.
static FOUND: AtomicPtr<Function> = AtomicPtr::new(std::ptr::null_mut());

/// Stands in for the answer where there is no such function; only its address is used.
static NONE: AtomicPtr<Function> = AtomicPtr::new(std::ptr::null_mut());

/// The function, where the kernel has it.
pub(super) fn get() -> Option<&'static Function> {
    let mut found = FOUND.load(Ordering::Acquire);
    if found.is_null() {
        found = find_and_publish();
    }
    let is_none = std::ptr::eq(found.cast_const().cast(), &raw const NONE);
    // SAFETY: any other pointer in `FOUND` came from a box that was leaked for it.
    (!is_none).then(|| unsafe { &*found })
}

pub(in crate::random) fn is_available() -> bool {
    get().is_some()
}

#[cold]
fn find_and_publish() -> *mut Function {
    let none = (&raw const NONE).cast_mut().cast();
    let fresh = find().map_or(none, |function| Box::into_raw(Box::new(function)));
    match FOUND.compare_exchange(std::ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => fresh,
        Err(theirs) => {
            if fresh != none {
                // SAFETY: made by `Box::into_raw` above and not published.
                drop(unsafe { Box::from_raw(fresh) });
            }
            theirs
        }
    }
}

fn find() -> Option<Function> {
    let image = image()?;
    let offset = elf::function(image, NAME.0, NAME.1)?;
    // SAFETY: a function of this name and version in a kernel's vDSO has this signature; part of the kernel's stable
    // interface to programs.
    let call: GetRandom = unsafe { std::mem::transmute(image.as_ptr().add(offset)) };
    let mut params = Params::default();
    // SAFETY: asked this way the function writes its needs to the parameters and does nothing else.
    let answer = unsafe { call(std::ptr::null_mut(), 0, 0, (&raw mut params).cast(), usize::MAX) };
    let state_bytes = usize::try_from(params.state_bytes).ok()?;
    let function = Function {
        call,
        state_bytes,
        mmap_prot: params.mmap_prot.cast_signed(),
        mmap_flags: params.mmap_flags.cast_signed(),
    };
    (answer == 0 && (1..=page_bytes()).contains(&state_bytes) && function.works()).then_some(function)
}

/// The vDSO that the kernel mapped into this process.
pub(super) fn image() -> Option<&'static [u8]> {
    // SAFETY: reads a value that the kernel gave to this process at its start.
    let address = unsafe { libc::getauxval(VDSO_ADDRESS) };
    let start = NonNull::new(std::ptr::with_exposed_provenance_mut::<u8>(usize::try_from(address).ok()?))?;
    // SAFETY: the kernel maps the vDSO there for the life of the process, read-only and in whole pages, so the first page
    // is there.
    let first_page = unsafe { std::slice::from_raw_parts(start.as_ptr(), page_bytes()) };
    let len = elf::image_len(first_page).filter(|len| *len <= MAX_IMAGE_BYTES)?;
    // SAFETY: as above; the header says that so many bytes are mapped from there.
    Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), len) })
}

impl Function {
    /// Writes at most `bytes.len()` random bytes and returns how many, or the negative number of an error.
    ///
    /// # Safety
    /// `state` lies on a page of [`map_page`](Self::map_page), not across its end, and no other thread uses it meanwhile.
    /// (A signal handler of this thread may: the kernel's code notices.)
    pub(super) unsafe fn call(&self, bytes: &mut [u8], state: NonNull<u8>) -> isize {
        // SAFETY: the buffer is writable for its length, and the caller vouches for the state.
        unsafe { (self.call)(bytes.as_mut_ptr().cast(), bytes.len(), 0, state.as_ptr().cast(), self.state_bytes) }
    }

    /// Maps one page for states, the way the function wants it: so that the kernel empties it in a forked child.
    pub(super) fn map_page(&self) -> Option<NonNull<u8>> {
        // SAFETY: a fresh mapping at an address of the kernel's choice replaces no memory in use. (Were `MAP_FIXED` among
        // the flags, the address 0 would be refused.)
        let page = unsafe { libc::mmap(std::ptr::null_mut(), page_bytes(), self.mmap_prot, self.mmap_flags, -1, 0) };
        if page == libc::MAP_FAILED { None } else { NonNull::new(page.cast()) }
    }

    /// Draws twice from a state of its own, so that a function which says that it wrote and did not is never relied on.
    fn works(&self) -> bool {
        let Some(page) = self.map_page() else { return false };
        let draw = || {
            let mut bytes = [0; 32];
            // SAFETY: nobody else knows the page, and a state fits in it.
            let written = unsafe { self.call(&mut bytes, page) };
            (written == 32).then_some(bytes)
        };
        let (first, second) = (draw(), draw());
        // SAFETY: mapped above, and the state on it is not used any more.
        unsafe { libc::munmap(page.as_ptr().cast(), page_bytes()) };
        first.is_some() && second.is_some() && first != second && ![first, second].contains(&Some([0; 32]))
    }
}
