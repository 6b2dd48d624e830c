//! Where tests have the daemon die: at the step that `STATE_DIR/cluster/die-at` names, once. It is in programs that check themselves
//! (`debug_assertions`), as those of tests do, and in no others.

use std::path::Path;

/// That step is done.
pub(super) fn reached(dir: &Path, step: &str) {
    if cfg!(debug_assertions) {
        let path = dir.join("die-at");
        if std::fs::read_to_string(&path).is_ok_and(|named| named == step)
            && std::fs::remove_file(&path).is_ok()
        {
            // As by `kill -9`: nothing more is done or told.
            let own = rustix::process::getpid();
            let _ = rustix::process::kill_process(own, rustix::process::Signal::KILL);
        }
    }
}
