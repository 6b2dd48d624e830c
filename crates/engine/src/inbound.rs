//! Connections that others have to a container's ports, as its network namespace has them: `/proc/<pid>/net/tcp` and `tcp6`
//! (proc_pid_net(5)).

use crate::Engine;
use std::collections::BTreeSet;

/// States of a TCP socket in these files (include/net/tcp_states.h).
const ESTABLISHED: &str = "01";
const CLOSE_WAIT: &str = "08";
const LISTEN: &str = "0A";

impl Engine {
    /// How many TCP connections others have to ports that a container listens to, or listened to just before; nothing if that cannot be said: it
    /// does not run, or has no network of its own. `before` are the ports of the last look.
    pub fn inbound(&self, key: &str, before: &mut BTreeSet<u16>) -> Option<usize> {
        let container = self.find(key).ok()?;
        let (pid, own_network) = container.read(|r| (r.state.pid, !r.state.endpoints.is_empty()));
        if !own_network || pid == 0 {
            return None;
        }
        let read = |file| std::fs::read_to_string(format!("/proc/{pid}/net/{file}"));
        let sockets = [read("tcp").ok()?, read("tcp6").unwrap_or_default()];
        let sockets: Vec<(u16, &str)> = sockets.iter().flat_map(|text| sockets_of(text)).collect();
        let listens = sockets.iter().filter(|(_, state)| *state == LISTEN);
        before.extend(listens.map(|(port, _)| *port));
        let open = |(port, state): &&(u16, &str)| {
            before.contains(port) && matches!(*state, ESTABLISHED | CLOSE_WAIT)
        };
        Some(sockets.iter().filter(open).count())
    }
}

/// Local port and state of each socket.
fn sockets_of(text: &str) -> impl Iterator<Item = (u16, &str)> {
    text.lines().skip(1).filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let (local, _, state) = (words.next()?, words.next()?, words.next()?);
        let (_, port) = local.rsplit_once(':')?;
        Some((u16::from_str_radix(port, 16).ok()?, state))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_of_sockets() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1 0 100 0 0 10 0\n   \
             1: 0200D20A:0050 0100D20A:C350 01 00000000:00000000 00:00000000 00000000     0        0 2 1 0 20 4 30 10 -1\n\
             what is no line\n";
        let found: Vec<_> = sockets_of(text).collect();
        assert_eq!(found, [(80, LISTEN), (80, ESTABLISHED)]);
    }
}
