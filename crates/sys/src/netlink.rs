//! Route netlink, request and answer.
