//! Is the store one that does one thing at a time, whoever asks and however often it is killed?
//!
//! Clients ask for random things at once, while the server is killed again and again; what they asked, what they were
//! answered and when is kept, and an order is looked for in which all answers are right (see [`search`]). A watch that
//! goes on after each crash tells each change once, in that order. The same is asked of the real etcd.
//!
//! [`search`]: linearizable::search
#![allow(clippy::unwrap_used)]

mod common;
mod linearizable {
    mod all_orders;
    mod by_hand;
    pub mod check;
    pub mod history;
    pub mod model;
    pub mod search;
}
