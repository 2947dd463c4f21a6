//! The process that holds a pod's namespaces: no libc, no allocation, a few kilobytes. As PID 1 of a shared process
//! namespace it reaps zombies; it ends at TERM or INT. Built by `build.rs` for the target, not as a crate of the workspace.
#![no_std]
#![no_main]

use core::arch::asm;

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(target_arch = "x86_64")]
mod sys {
    pub const SIGPROCMASK: usize = 14;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const WAIT4: usize = 61;
    pub const EXIT_GROUP: usize = 231;
}
#[cfg(target_arch = "aarch64")]
mod sys {
    pub const SIGPROCMASK: usize = 135;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
    pub const EXIT_GROUP: usize = 94;
}

#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, a: isize, b: isize, c: isize, d: isize) -> isize {
    let result: isize;
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, a: isize, b: isize, c: isize, d: isize) -> isize {
    let result: isize;
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, options(nostack));
    }
    result
}

const HUP: u32 = 1;
const INT: u32 = 2;
const TERM: u32 = 15;
const CHLD: u32 = 17;
const WNOHANG: isize = 1;

#[unsafe(no_mangle)]
pub extern "C" fn _start() -> ! {
    // Signals are blocked and waited for: a handler would need a restorer, and PID 1 ignores what it does not handle.
    let set: u64 = [HUP, INT, TERM, CHLD].iter().fold(0, |set, signal| set | 1 << (signal - 1));
    let set_address = &raw const set as isize;
    unsafe {
        call(sys::SIGPROCMASK, 0, set_address, 0, 8);
        loop {
            let signal = call(sys::SIGTIMEDWAIT, set_address, 0, 0, 8);
            if signal == TERM as isize || signal == INT as isize {
                call(sys::EXIT_GROUP, 0, 0, 0, 0);
            }
            while call(sys::WAIT4, -1, 0, WNOHANG, 0) > 0 {}
        }
    }
}
