//! Page-aligned memory from the system, and the protections asked for one by one, so that each can be reported.

#[cfg(not(unix))]
pub(crate) use self::heap::{Mapping, lock_limit_bytes, page_bytes};
#[cfg(unix)]
pub(crate) use self::unix::{Mapping, lock_limit_bytes, page_bytes};

#[cfg(unix)]
mod unix {
    use std::{io, ptr::NonNull};

    /// Pages of this process, all zero at first, unmapped on drop.
    #[derive(Debug)]
    pub(crate) struct Mapping {
        start: NonNull<u8>,
        len: usize,
    }

    // SAFETY: a mapping belongs to the process, not to a thread; the struct only names it.
    unsafe impl Send for Mapping {}

    impl Mapping {
        /// Maps `len` bytes of ordinary memory, a multiple of the page size.
        pub(crate) fn private(len: usize) -> io::Result<Self> {
            Self::map(len, libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANON, -1)
        }

        /// Maps `len` bytes, a multiple of the page size, that only this process can read: locked in RAM, out of core
        /// dumps, out of the kernel's own map of memory, and not mapped in a child.
        #[cfg(target_os = "linux")]
        pub(crate) fn secret(len: usize) -> io::Result<Self> {
            use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

            // SAFETY: makes a new file descriptor or fails.
            let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
            let fd = RawFd::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
            // SAFETY: new, and nobody else's.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            let size = len.try_into().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            // SAFETY: sets the size of a file of this function's own.
            check(unsafe { libc::ftruncate(fd.as_raw_fd(), size) })?;
            // Not accessible at first: the memory is shared with a child that another thread forks before the advice.
            let mapping = Self::map(len, libc::PROT_NONE, libc::MAP_SHARED, fd.as_raw_fd())?;
            mapping.advise(libc::MADV_DONTFORK)?;
            // SAFETY: the range is this mapping, which nobody knows of yet.
            check(unsafe { libc::mprotect(mapping.start.as_ptr().cast(), len, libc::PROT_READ | libc::PROT_WRITE) })?;
            Ok(mapping)
        }

        #[cfg(not(target_os = "linux"))]
        pub(crate) fn secret(_len: usize) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        fn map(len: usize, protection: libc::c_int, flags: libc::c_int, file: libc::c_int) -> io::Result<Self> {
            // SAFETY: a fresh mapping at an address of the kernel's choice replaces no memory in use.
            let start = unsafe { libc::mmap(std::ptr::null_mut(), len, protection, flags, file, 0) };
            if start == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
            Ok(Self { start, len })
        }

        pub(crate) fn start(&self) -> NonNull<u8> {
            self.start
        }

        pub(crate) fn len(&self) -> usize {
            self.len
        }

        /// Keeps the pages out of swap.
        pub(crate) fn lock(&self) -> io::Result<()> {
            // SAFETY: the range is this mapping; locking changes no byte.
            check(unsafe { libc::mlock(self.start.as_ptr().cast(), self.len) })
        }

        /// Leaves the pages out of core dumps.
        pub(crate) fn keep_out_of_core_dumps(&self) -> io::Result<()> {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            return self.advise(libc::MADV_DONTDUMP);
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            Err(io::ErrorKind::Unsupported.into())
        }

        /// Makes the pages read as zero in a child forked from now on.
        pub(crate) fn wipe_on_fork(&self) -> io::Result<()> {
            #[cfg(any(target_os = "linux", target_os = "android"))]
            return self.advise(libc::MADV_WIPEONFORK);
            #[cfg(not(any(target_os = "linux", target_os = "android")))]
            Err(io::ErrorKind::Unsupported.into())
        }

        #[cfg(any(target_os = "linux", target_os = "android"))]
        fn advise(&self, advice: libc::c_int) -> io::Result<()> {
            // SAFETY: the range is this mapping, and no advice given here changes a byte in this process.
            check(unsafe { libc::madvise(self.start.as_ptr().cast(), self.len, advice) })
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            #[cfg(test)]
            super::probe::before_unmap(self.start, self.len);
            // SAFETY: the mapping is this value's own; owners drop it when no reference into it is left.
            unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
        }
    }

    fn check(result: libc::c_int) -> io::Result<()> {
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    pub(crate) fn page_bytes() -> usize {
        // SAFETY: reads a constant of the system.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        usize::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
    }

    /// The soft limit on locked memory; `None` if unlimited or unknown.
    pub(crate) fn lock_limit_bytes() -> Option<u64> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is a valid place for the answer.
        let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
        #[allow(clippy::unnecessary_cast, clippy::useless_conversion)]
        // rlim_t is signed on some systems
        (result == 0 && limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur as u64)
    }
}

/// What a mapping held when it went back to the system.
#[cfg(all(test, unix))]
pub(crate) mod probe {
    use std::{cell::Cell, ptr::NonNull};

    use crate::raw::RawSlot;

    thread_local! {
        /// Bytes not zero in the mapping that this thread unmapped last, if it held slots: their generations are no secret.
        static REMAINS: Cell<Option<usize>> = const { Cell::new(None) };
    }

    pub(super) fn before_unmap(start: NonNull<u8>, len: usize) {
        // SAFETY: still mapped, and its owner is being dropped, so nobody writes to it.
        let bytes = unsafe { std::slice::from_raw_parts(start.as_ptr(), len) };
        let keys = bytes.chunks(size_of::<RawSlot>()).flat_map(|slot| &slot[size_of::<u64>().min(slot.len())..]);
        REMAINS.set(Some(keys.filter(|byte| **byte != 0).count()));
    }

    /// The answer since the last call; `None` if this thread has unmapped nothing.
    pub(crate) fn take_remains() -> Option<usize> {
        REMAINS.take()
    }
}

#[cfg(not(unix))]
mod heap {
    use std::{
        alloc::{Layout, alloc_zeroed, dealloc},
        io,
        ptr::NonNull,
    };

    /// Heap memory, all zero at first: no protection is known here, and each is refused so that the report says so.
    #[derive(Debug)]
    pub(crate) struct Mapping {
        start: NonNull<u8>,
        layout: Layout,
    }

    // SAFETY: heap memory belongs to the process, not to a thread.
    unsafe impl Send for Mapping {}

    impl Mapping {
        pub(crate) fn secret(_len: usize) -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn private(len: usize) -> io::Result<Self> {
            let layout = Layout::from_size_align(len, page_bytes()).map_err(io::Error::other)?;
            if len == 0 {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            // SAFETY: the size is not zero.
            let start = unsafe { alloc_zeroed(layout) };
            let start = NonNull::new(start).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
            Ok(Self { start, layout })
        }

        pub(crate) fn start(&self) -> NonNull<u8> {
            self.start
        }

        pub(crate) fn len(&self) -> usize {
            self.layout.size()
        }

        pub(crate) fn lock(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn keep_out_of_core_dumps(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }

        /// Without fork there is no child to leak to.
        pub(crate) fn wipe_on_fork(&self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Drop for Mapping {
        fn drop(&mut self) {
            // SAFETY: allocated in `new` with this layout; owners drop it when no reference into it is left.
            unsafe { dealloc(self.start.as_ptr(), self.layout) };
        }
    }

    pub(crate) fn page_bytes() -> usize {
        4096
    }

    pub(crate) fn lock_limit_bytes() -> Option<u64> {
        None
    }
}
