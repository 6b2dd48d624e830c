//! What an accept(2) that failed means for who listens.

use coracle_sys::accept::Missed;
use std::io;

#[test]
fn what_an_error_means() {
    let of = |code| Missed::of(&io::Error::from_raw_os_error(code));
    // One connection is gone, or the network, which comes again.
    for code in [libc::ECONNABORTED, libc::ENETDOWN, libc::EHOSTUNREACH] {
        assert_eq!(of(code), Missed::One);
    }
    for code in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
        assert_eq!(of(code), Missed::Room);
    }
    for code in [libc::EBADF, libc::EINVAL, libc::ENOTSOCK] {
        assert_eq!(of(code), Missed::All);
    }
    assert_eq!(Missed::of(&io::Error::other("?")), Missed::All);
}
