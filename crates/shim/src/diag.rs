//! What libcontainer complains of in its children, which only its tracing says in full.
//!
//! Errors go to the holder's log and, while a container is being made or started, over the report socket, so that
//! the reason that a person gets is "no such device" and not "failed to prepare rootfs".

use crate::error::note;
use rustix::net::{SendFlags, send};
use std::{
    fmt::{self, Write},
    os::fd::{BorrowedFd, RawFd},
    sync::atomic::{AtomicI32, Ordering},
};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
    span,
};

static REPORT: AtomicI32 = AtomicI32::new(-1);

/// First byte of a complaint on the report socket.
pub const MARK: u8 = b'd';

/// Sends complaints there from now on; a negative number sends them nowhere.
pub fn report_to(fd: RawFd) {
    REPORT.store(fd, Ordering::Relaxed);
}

/// Listens to this process's tracing from now on.
pub fn install() {
    // Fails only when somebody listens already, which serves as well.
    let _ = tracing::subscriber::set_global_default(Diag);
}

struct Diag;

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let space = if self.0.is_empty() { "" } else { " " };
        let _ = match field.name() {
            "message" => write!(self.0, "{space}{value:?}"),
            name => write!(self.0, "{space}{name}={value:?}"),
        };
    }
}

impl Subscriber for Diag {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::ERROR
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::ERROR)
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        note("runtime", &line.0);
        let fd = REPORT.load(Ordering::Relaxed);
        if fd >= 0 {
            let mut message = vec![MARK];
            message.extend_from_slice(line.0.as_bytes());
            message.truncate(2048);
            // SAFETY: whoever set the number keeps the descriptor open until it sets another; in a child it is a copy
            // that stays open until exec.
            let socket = unsafe { BorrowedFd::borrow_raw(fd) };
            let _ = send(socket, &message, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
        }
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}
